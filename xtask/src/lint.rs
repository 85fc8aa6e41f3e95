//! `cargo xtask lint`: everything that is checked without running Trunkline.
//!
//! Owns the list of checks and their order: quick ones first, every one of them run, each failure named at the end.
//! Must never change a file of the tree.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

use crate::crds;

mod deny;
mod edges;
mod tree;

/// Options of `cargo xtask lint`.
#[derive(Args)]
pub(crate) struct LintArgs {
    /// Run these checks alone: format, tree, generated, edges, deny, clippy.
    checks: Vec<String>,
}

/// One check: its name, and what it does in the workspace's root.
type Check = (&'static str, fn(&Path) -> anyhow::Result<()>);

const CHECKS: [Check; 6] = [
    ("format", format),
    ("tree", tree::check),
    ("generated", crds::check),
    ("edges", edges::check),
    ("deny", deny::check),
    ("clippy", clippy),
];

/// Runs the checks.
pub(crate) fn run(root: &Path, args: &LintArgs) -> anyhow::Result<()> {
    let known = |name: &String| CHECKS.iter().any(|(check, _)| check == name);
    if let Some(unknown) = args.checks.iter().find(|name| !known(name)) {
        let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        bail!("there is no check {unknown:?}; use {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if !args.checks.is_empty() && !args.checks.iter().any(|wanted| wanted == name) {
            continue;
        }
        let started = Instant::now();
        let outcome = check(root);
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("lint: {name}: ok ({seconds:.1} s)"),
            Err(error) => {
                println!("lint: {name}: FAILED ({seconds:.1} s)\n{error:#}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn format(root: &Path) -> anyhow::Result<()> {
    succeed(cargo(root).args(["fmt", "--all", "--check"]))
}

fn clippy(root: &Path) -> anyhow::Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--profile", "ci", "--quiet"];
    succeed(cargo(root).args(arguments).args(["--", "-D", "warnings"]))
}

/// The cargo that runs us, in the workspace's root.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs a program that speaks for itself.
fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}

/// Runs a program for what it prints.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}
