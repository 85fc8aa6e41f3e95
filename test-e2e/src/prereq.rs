//! The programs of the machine the harness uses: checked first, installed by apt where that is possible.
//!
//! Installs nothing but the packages listed here, and says so.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::{process, run};

/// A program and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("sysctl", "procps"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
];

/// Checks once per process that we are root and have every program, installing what is missing.
pub fn check() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| look().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

fn look() -> Result<()> {
    run::require_root("this")?;
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!(
            "please install what brings these programs: {}",
            missing.iter().map(|m| m.0).collect::<Vec<_>>().join(" ")
        );
    }
    eprintln!("installing {list}");
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut command).map_err(|e| e.context(format!("please install: {list}")))?;
    Ok(())
}

/// The first program of this name on `PATH` or in the usual places beside it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
