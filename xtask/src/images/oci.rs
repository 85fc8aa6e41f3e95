//! The OCI image layout as one tar archive (image-spec 1.1, "Image Layout"), of one image with one layer.
//!
//! Owns manifest, configuration and index; must never read a clock: the configuration has no `created`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

/// What an image says about itself.
pub(super) struct Config<'a> {
    /// Full reference, such as `trunkline.io/trunkline-agent:0.1.0`.
    pub(super) name: &'a str,
    /// Label `org.opencontainers.image.title`.
    pub(super) title: &'a str,
    /// Label `org.opencontainers.image.version`.
    pub(super) version: &'a str,
    /// Command line; arguments of a container are appended.
    pub(super) entrypoint: &'a [&'a str],
}

/// Blobs by digest, and the index that names the image.
pub(super) struct Archive<'a> {
    blobs: Vec<(String, std::borrow::Cow<'a, [u8]>)>,
    index: Vec<u8>,
    digest: String,
}

impl<'a> Archive<'a> {
    /// Describes an image of this one layer.
    pub(super) fn new(config: &Config<'_>, layer: &'a [u8]) -> Result<Self> {
        let layer_digest = sha256(layer);
        let config_blob = serde_json::to_vec(&config_json(config, &layer_digest))?;
        let config_digest = sha256(&config_blob);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config_blob.len()),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer.len())],
        }))?;
        let digest = sha256(&manifest);
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &digest, manifest.len());
        entry["annotations"] = json!({
            "io.containerd.image.name": config.name,
            "org.opencontainers.image.ref.name": config.version,
        });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;
        let blobs = vec![
            (config_digest, config_blob.into()),
            (digest.clone(), manifest.into()),
            (layer_digest, layer.into()),
        ];
        Ok(Self { blobs, index, digest })
    }

    /// Digest of the manifest, `sha256:…`.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Writes the archive under a temporary name and renames it; returns its size in bytes.
    pub(super) fn write(&self, path: &Path) -> Result<u64> {
        let temporary = path.with_extension("tar.new");
        self.write_to(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, path).with_context(|| format!("cannot rename to {}", path.display()))?;
        Ok(fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.len())
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut tar = Builder::new(BufWriter::new(File::create(path)?));
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &self.index)?;
        for (digest, content) in &self.blobs {
            append(&mut tar, &format!("blobs/{}", digest.replacen(':', "/", 1)), content)?;
        }
        tar.into_inner()?.flush()
    }
}

fn config_json(config: &Config<'_>, layer_digest: &str) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": config.entrypoint,
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": config.title,
                "org.opencontainers.image.version": config.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
}

/// This machine's architecture in Go's words, which OCI uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

fn append(tar: &mut Builder<impl std::io::Write>, path: &str, content: &[u8]) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_digest_and_another_entrypoint_another() {
        let config = |entrypoint| Config { name: "trunkline.io/x:1", title: "x", version: "1", entrypoint };
        let digest = |entrypoint| {
            Archive::new(&config(entrypoint), b"layer").expect("an image of bytes").digest().to_owned()
        };
        assert_eq!(digest(&["/x"]), digest(&["/x"]));
        assert_ne!(digest(&["/x"]), digest(&["/y"]));
    }

    #[test]
    fn sha256_is_written_as_oci_wants_it() {
        assert_eq!(sha256(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
