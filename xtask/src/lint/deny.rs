//! Bans, licences and sources of third-party crates, by a pinned cargo-deny that is built once and kept outside
//! the tree.
//!
//! Owns the version and where it is kept; `deny.toml` owns the rules.

use std::path::{Path, PathBuf};

use super::{cargo, succeed};
use crate::images::cache_root;

const VERSION: &str = "0.20.2";

/// Builds the tool where it is not there yet, and runs it.
pub(super) fn check(root: &Path) -> anyhow::Result<()> {
    let tool = installed()?;
    let mut command = std::process::Command::new(tool);
    // `--offline` is a promise that nothing is looked up: the lock file and the registry's cache say it all.
    let options = ["--log-level", "error", "--workspace", "--locked", "check", "--hide-inclusion-graph"];
    succeed(command.current_dir(root).args(options).args(["bans", "licenses", "sources"]))
}

fn installed() -> anyhow::Result<PathBuf> {
    let folder = cache_root()?.join(format!("cargo-deny-{VERSION}"));
    let tool = folder.join("bin/cargo-deny");
    if tool.is_file() {
        return Ok(tool);
    }
    println!("lint: deny: building cargo-deny {VERSION} once, into {}", folder.display());
    std::fs::create_dir_all(&folder)?;
    let mut install = cargo(&folder);
    install.args([
        "install",
        "--quiet",
        "--locked",
        "--no-default-features",
        "cargo-deny",
        "--version",
        VERSION,
    ]);
    install.arg("--root").arg(&folder);
    // It runs for seconds, so nothing is spent on optimising it. The folder of targets is its own: ours is another's.
    let target = folder.join("target");
    install.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64");
    install.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    succeed(&mut install)?;
    std::fs::remove_dir_all(&target)?;
    Ok(tool)
}
