//! What a guest boots: Debian's kernel and a small initial file system that mounts the rest.
//!
//! Owns the modules that are needed before any folder is there. Decides nothing about the command.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Share, script};
use crate::debs::{self, Kernel};
use crate::process;

/// Modules by which the guest reaches its folders; the others it loads from there.
const EARLY: [&str; 5] = ["virtio_pci", "virtio_rng", "9p", "9pnet_virtio", "overlay"];

/// `lib/modules` of the kernel's tree, with `modules.dep` made.
pub(super) fn modules(kernel: Kernel) -> Result<PathBuf> {
    let tree = debs::kernel(kernel)?;
    let version = version(kernel)?;
    let folder = tree.path("lib/modules");
    if !folder.join(&version).join("modules.dep.bin").exists() {
        let mut command = Command::new("depmod");
        process::output(command.arg("-b").arg(tree.root()).arg(&version))?;
    }
    Ok(folder)
}

/// The kernel itself.
pub(super) fn kernel_image(kernel: Kernel) -> Result<PathBuf> {
    Ok(debs::kernel(kernel)?.path(&format!("boot/vmlinuz-{}", version(kernel)?)))
}

/// The release of the one kernel in the tree.
fn version(kernel: Kernel) -> Result<String> {
    let folder = debs::kernel(kernel)?.path("lib/modules");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(found.len() == 1, "{} holds {found:?} instead of one kernel", folder.display());
    Ok(found.remove(0))
}

/// Writes the initial file system.
pub(super) fn initrd(kernel: Kernel, path: &Path, shares: &[Share]) -> Result<()> {
    let folder = path.with_extension("tree");
    for inner in ["bin", "modules", "proc", "sys", "dev", "low", "up", "new"] {
        fs::create_dir_all(folder.join(inner)).context("making the initial file system")?;
    }
    let busybox = debs::busybox()?.path("bin/busybox");
    fs::copy(&busybox, folder.join("bin/busybox")).context("copying busybox")?;
    let mut order = String::new();
    for file in early_modules(kernel)? {
        let name = file.file_name().context("a module's name")?.to_string_lossy().replace(".xz", "");
        let unpacked = folder.join("modules").join(&name);
        if file.extension().is_some_and(|extension| extension == "xz") {
            let bytes = process::bytes(Command::new(&busybox).arg("xzcat").arg(&file))?;
            fs::write(&unpacked, bytes).with_context(|| format!("writing {}", unpacked.display()))?;
        } else {
            fs::copy(&file, &unpacked).with_context(|| format!("copying {}", file.display()))?;
        }
        order.push_str(&name);
        order.push('\n');
    }
    fs::write(folder.join("order"), order).context("writing the modules' order")?;
    script::write_program(&folder.join("init"), &script::init(shares))?;
    let pack = format!(
        "cd '{}' && find . | {} cpio -o -H newc > '{}'",
        folder.display(),
        busybox.display(),
        path.display()
    );
    process::output(Command::new("sh").arg("-ec").arg(pack)).map(drop)
}

/// The files of [`EARLY`] with what they need, in the order of loading.
fn early_modules(kernel: Kernel) -> Result<Vec<PathBuf>> {
    modules(kernel)?;
    let (tree, version) = (debs::kernel(kernel)?, version(kernel)?);
    let (mut seen, mut files) = (BTreeSet::new(), Vec::new());
    for module in EARLY {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(tree.root()).args(["-S", &version, "--show-depends", module]);
        for line in process::output(&mut command)?.lines() {
            // "builtin <name>" for what the kernel has anyway.
            let Some(file) = line.strip_prefix("insmod ").map(|rest| PathBuf::from(rest.trim())) else {
                continue;
            };
            if seen.insert(file.clone()) {
                files.push(file);
            }
        }
    }
    Ok(files)
}
