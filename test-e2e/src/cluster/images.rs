//! The images that nodes have: composed by `cargo xtask images` from this build's binaries, never pulled.
//!
//! Owns their names and archives; how they are composed is xtask's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::registry;
use crate::{paths, process};

/// The image that pods of the demo and the suites run.
pub const POD_IMAGE: &str = concat!("trunkline.io/trunkline-probe:", env!("CARGO_PKG_VERSION"));
/// The image of pod sandboxes.
const SANDBOX: &str = concat!("trunkline.io/trunkline-pause:", env!("CARGO_PKG_VERSION"));

/// A line of `images.json`.
#[derive(Debug, Deserialize)]
struct Built {
    name: String,
    archive: String,
}

/// Archives of this build.
#[derive(Debug)]
pub struct Images {
    archives: Vec<(String, PathBuf)>,
}

impl Images {
    /// Composes the images of this build.
    pub fn prepare() -> Result<Self> {
        let start = Instant::now();
        // Beside, not over, what `make images` writes from release binaries.
        let out = paths::output().join("images/ci");
        let mut command = Command::new(paths::binary("xtask")?);
        command.arg("images").arg("--bin-dir").arg(paths::bin_dir()?).arg("--out").arg(&out);
        process::output(&mut command).context("composing the images")?;
        let list = fs::read(out.join("images.json")).context("reading the list of images")?;
        let built: Vec<Built> = serde_json::from_slice(&list).context("reading the list of images")?;
        let archives: Vec<_> = built.into_iter().map(|image| (image.name, out.join(image.archive))).collect();
        eprintln!("composed {} images in {:.1} s", archives.len(), start.elapsed().as_secs_f32());
        Ok(Self { archives })
    }

    /// Every archive.
    pub fn archives(&self) -> impl Iterator<Item = &Path> {
        self.archives.iter().map(|(_, path)| path.as_path())
    }

    /// The archive of the image with this last part of its name, such as `trunkline-pause`.
    pub fn archive(&self, name: &str) -> Result<&Path> {
        let wanted = format!("/{name}:");
        let found = self.archives.iter().find(|(image, _)| image.contains(&wanted));
        let Some((_, path)) = found else { bail!("images.json names no {name}") };
        Ok(path)
    }

    /// The image of pod sandboxes.
    pub fn sandbox(&self) -> &'static str {
        SANDBOX
    }

    /// Writes the runtime's configuration that sends pulls to the suites' own registry, into `certs`.
    pub(super) fn write_mirror(certs: &Path) -> Result<()> {
        let folder = certs.join("docker.io");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let address = registry::address();
        let text = format!(
            "server = \"http://{address}\"\n[host.\"http://{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(folder.join("hosts.toml"), text).context("writing the runtime's mirror")
    }
}
