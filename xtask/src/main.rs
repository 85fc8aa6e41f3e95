//! `cargo xtask`: checks, generated files and images of Trunkline's own tree.

mod crds;
mod images;
mod lint;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Writes the CRDs under manifests/ from the types in api/.
    Crds(crds::CrdsArgs),
    /// Checks everything that can be checked without running Trunkline.
    Lint(lint::LintArgs),
    /// Composes the container images as OCI archives.
    Images(images::ImagesArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Crds(args) => crds::run(&root()?, &args),
        Verb::Lint(args) => lint::run(&root()?, &args),
        Verb::Images(args) => images::run(&args),
    }
}

/// The workspace's root, wherever the binary was called.
fn root() -> anyhow::Result<PathBuf> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    PathBuf::from(manifest).parent().map(PathBuf::from).context("xtask has no parent folder")
}
