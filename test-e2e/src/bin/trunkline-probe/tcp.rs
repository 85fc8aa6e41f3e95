//! A transfer that proves itself: pseudo-random bytes out, the hash of what was sent and of what arrived.
//!
//! One connection; sockets are bound to their device.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::net::if_::if_nametoindex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Protocol, Socket, Type};

use crate::parse_target;

/// Bytes per read and write.
const CHUNK: usize = 64 * 1024;

/// Options of `tcp-recv`.
#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// The interface to listen on
    #[arg(long)]
    interface: String,
    /// The port
    #[arg(long, default_value_t = 7778)]
    port: u16,
    /// How long to wait for the connection and for each read, seconds
    #[arg(long, default_value_t = 30)]
    timeout_s: u64,
    /// A file to create once listening
    #[arg(long)]
    ready: Option<PathBuf>,
}

/// Options of `tcp-send`.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The interface to send from
    #[arg(long)]
    interface: String,
    /// The address to send to
    #[arg(long, value_parser = parse_target)]
    target: (IpAddr, Option<String>),
    /// The port
    #[arg(long, default_value_t = 7778)]
    port: u16,
    /// How many bytes
    #[arg(long, default_value_t = 10_000_000)]
    bytes: usize,
    /// How long to wait for the connection and for each write, seconds
    #[arg(long, default_value_t = 30)]
    timeout_s: u64,
}

/// What both ends print; equal hashes mean equal bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Transfer {
    bytes: usize,
    sha256: String,
    seconds: f64,
    mbit_s: f64,
}

impl Receive {
    pub(crate) fn run(self) -> Result<Transfer> {
        // Dual stack: one socket takes both families.
        let socket =
            Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).context("making a socket")?;
        socket
            .set_only_v6(false)
            .and_then(|()| socket.set_reuse_address(true))
            .context("preparing a socket")?;
        socket.bind_device(Some(self.interface.as_bytes())).context("binding to the interface")?;
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port);
        socket.bind(&address.into()).and_then(|()| socket.listen(4)).context("listening")?;
        let patience = Duration::from_secs(self.timeout_s);
        socket.set_read_timeout(Some(patience)).context("bounding the wait")?;
        crate::announce(self.ready.as_ref())?;
        let listener: TcpListener = socket.into();
        let (mut stream, _) = listener.accept().context("waiting for a connection")?;
        stream.set_read_timeout(Some(patience)).context("bounding a read")?;
        receive(&mut stream).context("receiving")
    }
}

fn receive(stream: &mut TcpStream) -> io::Result<Transfer> {
    let (start, mut hash, mut bytes, mut chunk) = (Instant::now(), Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(transfer(bytes, hash, start));
        }
        hash.update(&chunk[..length]);
        bytes += length;
    }
}

impl Send {
    pub(crate) fn run(self) -> Result<Transfer> {
        let (address, any) = match self.target {
            (IpAddr::V4(a), _) => (SocketAddr::new(a.into(), self.port), IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (IpAddr::V6(a), ref zone) => {
                let zone = zone.as_deref().unwrap_or(&self.interface);
                let scope = if a.is_unicast_link_local() { if_nametoindex(zone)? } else { 0 };
                (SocketAddrV6::new(a, self.port, 0, scope).into(), IpAddr::V6(Ipv6Addr::UNSPECIFIED))
            }
        };
        let kind = Domain::for_address(address);
        let socket = Socket::new(kind, Type::STREAM, Some(Protocol::TCP)).context("making a socket")?;
        socket.bind_device(Some(self.interface.as_bytes())).context("binding to the interface")?;
        socket.bind(&SocketAddr::new(any, 0).into()).context("binding")?;
        let patience = Duration::from_secs(self.timeout_s);
        socket
            .connect_timeout(&address.into(), patience)
            .with_context(|| format!("connecting to {address}"))?;
        let mut stream: TcpStream = socket.into();
        stream.set_write_timeout(Some(patience)).context("bounding a write")?;
        stream.set_read_timeout(Some(patience)).context("bounding a read")?;
        send(&mut stream, self.bytes).context("sending")
    }
}

/// Sends pseudo-random bytes and waits until the other end has read them all and closed.
fn send(stream: &mut TcpStream, bytes: usize) -> io::Result<Transfer> {
    let mut state: u64 = rand::random();
    let (mut hash, mut left, mut chunk) = (Sha256::new(), bytes, vec![0; CHUNK]);
    let start = Instant::now();
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            // Marsaglia's xorshift64: cheap, and no two chunks alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = left.min(CHUNK);
        hash.update(&chunk[..length]);
        stream.write_all(&chunk[..length])?;
        left -= length;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(transfer(bytes, hash, start))
}

#[expect(clippy::cast_precision_loss, reason = "a rate is for people; transfers stay far below 2^52 bytes")]
fn transfer(bytes: usize, hash: Sha256, start: Instant) -> Transfer {
    let seconds = start.elapsed().as_secs_f64();
    let sha256 = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    Transfer { bytes, sha256, seconds, mbit_s: bytes as f64 * 8.0 / 1e6 / seconds.max(1e-9) }
}
