//! The least of HTTP that asks a process in a namespace for its health or metrics.
//!
//! One request per connection, read to the end; nothing else.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{netns, wait};

/// Bound on connecting and on each read.
const PATIENCE: Duration = Duration::from_secs(2);

/// GET of 127.0.0.1:`port` in the namespace; fails on any status but 200.
pub fn get(netns: &Path, port: u16, path: &str) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let patience = PATIENCE * wait::patience();
    let mut stream = netns::enter(netns, move || TcpStream::connect_timeout(&address, patience))?
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(patience)).context("bounding a read")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path}: {} {body}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
