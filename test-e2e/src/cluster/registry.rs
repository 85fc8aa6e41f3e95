//! A registry with one image, for manifests that name images of the world outside: users' documents are applied
//! byte for byte, and `antrea/toolbox:latest` must come from somewhere.
//!
//! One task per connection, aborted with the set; each reads a request, writes the answer and ends. Serves what is
//! in one OCI archive and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::control_plane::{ControlPlane, SERVER_IP};

const PORT: u16 = 5000;
/// Longest head of a request that is read, bytes.
const HEAD: usize = 16 * 1024;

/// Where nodes find it.
pub(super) fn address() -> String {
    format!("{SERVER_IP}:{PORT}")
}

/// A running registry. Ends when dropped.
#[derive(Debug)]
pub struct Registry {
    task: JoinHandle<()>,
}

/// The archive's blobs by digest, and the digest of its manifest.
struct Content {
    blobs: HashMap<String, Vec<u8>>,
    manifest: String,
}

impl Registry {
    /// Serves the image of `archive` under every name and tag, inside the control plane's namespace.
    pub fn serve(plane: &ControlPlane, archive: &Path) -> Result<Self> {
        let content = Arc::new(Content::read(archive)?);
        let address: SocketAddr = address().parse().context("the registry's address")?;
        let path = plane.netns().path().to_owned();
        let listener = crate::netns::enter(&path, move || StdListener::bind(address))?
            .with_context(|| format!("listening on {address}"))?;
        listener.set_nonblocking(true).context("preparing the registry's socket")?;
        let listener = TcpListener::from_std(listener).context("preparing the registry's socket")?;
        Ok(Self { task: tokio::spawn(accept(listener, content)) })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, content: Arc<Content>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A client that goes away is its own business.
        connections.spawn(answer(stream, content.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, content: Arc<Content>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, headers, body) = content.look_up(path);
    let reply =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    stream.write_all(reply.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

impl Content {
    fn read(archive: &Path) -> Result<Self> {
        let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        let mut tar = tar::Archive::new(file);
        let (mut blobs, mut manifest) = (HashMap::new(), None);
        for entry in tar.entries().context("reading the archive")? {
            let mut entry = entry.context("reading the archive")?;
            let path = entry.path().context("reading the archive")?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).context("reading the archive")?;
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                blobs.insert(format!("sha256:{digest}"), bytes);
            } else if path == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).context("reading the archive's index")?;
                manifest = index["manifests"][0]["digest"].as_str().map(str::to_owned);
            }
        }
        Ok(Self { blobs, manifest: manifest.context("the archive's index names no manifest")? })
    }

    /// Status, further header lines and body for a path of the distribution API.
    fn look_up(&self, path: &str) -> (&'static str, String, &[u8]) {
        if path == "/v2/" {
            return ("200 OK", String::new(), b"{}");
        }
        let (digest, kind) = match path.rsplit_once('/') {
            Some((rest, tag)) if rest.ends_with("/manifests") => {
                let digest = if tag.starts_with("sha256:") { tag } else { self.manifest.as_str() };
                (digest, "application/vnd.oci.image.manifest.v1+json")
            }
            Some((_, digest)) => (digest, "application/octet-stream"),
            None => ("", ""),
        };
        match self.blobs.get(digest) {
            Some(blob) => {
                ("200 OK", format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n"), blob)
            }
            None => ("404 Not Found", String::new(), b"{}"),
        }
    }
}
