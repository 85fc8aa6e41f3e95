//! `cargo xtask crds`: the `CustomResourceDefinitions` under `manifests/`, from the types in `api`.
//!
//! Owns those files alone, and knows whether they are current. Must never touch the rest of `manifests/`.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

/// First line of every generated file.
const HEADER: &str = "# Generated from api/ by `cargo xtask crds`; do not edit.\n";

/// Options of `cargo xtask crds`.
#[derive(Args)]
pub(crate) struct CrdsArgs {
    /// Write nothing; fail when a file is not current.
    #[arg(long)]
    check: bool,
}

/// Writes or checks the files.
pub(crate) fn run(root: &Path, args: &CrdsArgs) -> anyhow::Result<()> {
    let stale = stale(root)?;
    if args.check {
        return report(&stale);
    }
    for (path, text) in &stale {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails when a generated file is not what the types say.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    report(&stale(root)?)
}

fn report(stale: &[(String, String)]) -> anyhow::Result<()> {
    if stale.is_empty() {
        return Ok(());
    }
    let paths: Vec<&str> = stale.iter().map(|(path, _)| path.as_str()).collect();
    bail!("not current: {}; run `cargo xtask crds`", paths.join(", "))
}

/// The files that differ, with what they should hold.
fn stale(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for crd in trunkline_api::crds() {
        let plural = &crd.spec.names.plural;
        // Groups of our own are part of the base; the others are applied only where absent.
        let ours = crd.spec.group.ends_with("trunkline.io");
        let folder = if ours { "manifests/base/crds" } else { "manifests/components/crds-shared" };
        files.push((format!("{folder}/{plural}.yaml"), yaml(&crd)?));
    }
    let differs =
        |(path, text): &(String, String)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(text);
    Ok(files.into_iter().filter(differs).collect())
}

fn yaml(crd: &impl serde::Serialize) -> anyhow::Result<String> {
    // Through JSON, so that optional fields of the API types leave no trace.
    let value = serde_json::to_value(crd)?;
    Ok(format!("{HEADER}{}", serde_norway::to_string(&value)?))
}
