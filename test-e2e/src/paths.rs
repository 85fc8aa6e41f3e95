//! Where things are: the workspace, our own binaries, the cache of slow builds, the folder for logs.
//!
//! Only computes paths; creating what is missing is the caller's business.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The root of the source tree this crate was built from.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in a folder of the workspace")
        .into()
}

/// Where results for people go: `target/` of the workspace, whatever cargo's own target folder is.
pub fn output() -> PathBuf {
    workspace().join("target")
}

/// `${TRUNKLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trunkline}`.
pub fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("TRUNKLINE_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("trunkline")))
        .unwrap_or_else(|| var("HOME").unwrap_or_else(|| "/root".into()).join(".cache/trunkline"))
}

/// The folder holding the binaries of the build this process belongs to.
pub fn bin_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("asking for the path of this executable")?;
    let dir = me.parent().context("this executable lies in no folder")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_path_buf())
}

/// One of our own binaries: out of `TRUNKLINE_BIN_DIR` if it is there, else out of the same build as this process.
pub fn binary(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os("TRUNKLINE_BIN_DIR").map(|dir| Path::new(&dir).join(name));
    if let Some(path) = given.filter(|path| path.is_file()) {
        return Ok(path);
    }
    let path = bin_dir()?.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let profile = bin_dir()?.file_name().map_or_else(|| "ci".into(), |p| p.to_string_lossy().into_owned());
    let profile = if profile == "debug" { "dev".to_owned() } else { profile };
    bail!("{} is not there; build it with `cargo build --profile {profile} --workspace`", path.display())
}
