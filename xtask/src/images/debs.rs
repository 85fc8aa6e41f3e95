//! Debian's Open vSwitch, unpacked from its packages, and the part of it that goes into the image.
//!
//! Owns the package list and the selection of files. Must never install a package on this machine:
//! packages come from the machine's own apt configuration and are only unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::layer::Layer;

/// Open vSwitch, the libraries its programs are linked with, and a shell for the start script.
const PACKAGES: &[&str] = &[
    "openvswitch-common",
    "openvswitch-switch",
    "dash",
    "libbpf1",
    "libc6",
    "libcap-ng0",
    "libelf1",
    "libevent-2.1-7",
    "libgcc-s1",
    "libgmp10",
    "libhogweed6",
    "libnettle8",
    "libnuma1",
    "libssl3",
    "libunbound8",
    "libxdp1",
    "zlib1g",
];

/// Files taken besides the libraries, relative to the root of a merged /usr.
const FILES: &[&str] = &[
    "usr/bin/dash",
    "usr/bin/ovs-appctl",
    "usr/bin/ovs-dpctl",
    "usr/bin/ovs-ofctl",
    "usr/bin/ovs-vsctl",
    "usr/bin/ovsdb-client",
    "usr/bin/ovsdb-tool",
    "usr/lib/openvswitch-switch/ovs-vswitchd",
    "usr/lib64/ld-linux-x86-64.so.2",
    "usr/sbin/ovsdb-server",
    "usr/share/openvswitch/vswitch.ovsschema",
];

/// The unpacked packages, from the cache or fetched into it.
pub(super) fn openvswitch_root(cache: &Path) -> Result<PathBuf> {
    let version = candidate("openvswitch-switch")?;
    let home = cache.join(format!("ovs-image-debs-{}", version.replace(['/', ':'], "_")));
    let root = home.join("root");
    if root.is_dir() {
        return Ok(root);
    }
    let work = home.with_extension(format!("new-{}", std::process::id()));
    let unpacked = work.join("root");
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    println!("fetching {} Debian packages of Open vSwitch {version}", PACKAGES.len());
    run(apt_get().args(["-q", "download"]).args(PACKAGES).current_dir(&work))?;
    for entry in fs::read_dir(&work).with_context(|| format!("cannot list {}", work.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").args([&path, &unpacked]))?;
        }
    }
    match fs::rename(&work, &home) {
        Ok(()) => {}
        // Another run was quicker; its packages are as good.
        Err(_) if root.is_dir() => fs::remove_dir_all(&work).context("cannot remove the second copy")?,
        Err(error) => return Err(error).with_context(|| format!("cannot rename to {}", home.display())),
    }
    Ok(root)
}

/// Adds the programs, the libraries and every package's licence to the image, as under a merged /usr.
pub(super) fn select(root: &Path, layer: &mut Layer) -> Result<()> {
    for path in FILES {
        add(root, path, layer)?;
    }
    for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        for name in names(&root.join(directory))? {
            if name.contains(".so") && root.join(directory).join(&name).is_file() {
                add(root, &format!("usr/lib/x86_64-linux-gnu/{name}"), layer)?;
            }
        }
    }
    for package in names(&root.join("usr/share/doc"))? {
        let copyright = format!("usr/share/doc/{package}/copyright");
        if root.join(&copyright).is_file() {
            add(root, &copyright, layer)?;
        }
    }
    Ok(())
}

/// Adds one path of the merged /usr, wherever the package has it; links within a folder stay links.
fn add(root: &Path, path: &str, layer: &mut Layer) -> Result<()> {
    let merged = root.join(path);
    let source = if merged.symlink_metadata().is_ok() {
        merged
    } else {
        root.join(path.strip_prefix("usr/").unwrap_or(path))
    };
    let kind = source.symlink_metadata().with_context(|| format!("the packages have no {path}"))?.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(&source).with_context(|| format!("cannot read the link {path}"))?;
        layer.symlink(path, &target.to_string_lossy());
        return Ok(());
    }
    let program = path.contains("/bin/") || path.contains("/sbin/") || path.contains("ovs-vswitchd");
    let mode = if program || path.contains("ld-linux") { 0o755 } else { 0o644 };
    layer.file(path, &source, mode)
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The version apt would install; package lists are fetched when the machine has none.
fn candidate(package: &str) -> Result<String> {
    for refreshed in [false, true] {
        if refreshed {
            run(apt_get().args(["-q", "update"]))?;
        }
        let output = run(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        if let Some(version) = version.filter(|version| *version != "(none)") {
            return Ok(version.to_owned());
        }
    }
    bail!("apt knows no package {package}: its sources must hold Debian 12 or newer")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // The cache folder belongs to root, and apt's own user could not write to it.
    command.args(["-o", "APT::Sandbox::User=root"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn run(command: &mut Command) -> Result<Output> {
    let output =
        command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
