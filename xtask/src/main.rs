//! `cargo xtask`: checks, generated files and images of Trunkline's own tree.

mod images;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Composes the container images as OCI archives.
    Images(images::ImagesArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Images(args) => images::run(&args),
    }
}
