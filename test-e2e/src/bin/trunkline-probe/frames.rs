//! Raw frames: injects what a hostile pod would, captures what carries a mark.
//!
//! Frames have the type 0x88b5 (IEEE 802, local experiments) inside whatever tags are asked for. Captures look
//! for the mark anywhere in a frame, so that tags which the kernel took out do not matter.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrStorage, bind};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL`, in network byte order as packet(7) wants it.
const EVERY_PROTOCOL: i32 = 0x0003_u16.to_be() as i32;
/// The shortest frame without its checksum, bytes.
const MIN_FRAME: usize = 60;
/// How many captured frames are printed.
const SHOWN: usize = 4;

/// Options of `inject`.
#[derive(Debug, Args)]
pub(crate) struct Inject {
    /// The interface to send from
    #[arg(long)]
    interface: String,
    /// Tags from the outermost: `8100:200`, `8100:0,8100:200`, `88a8:200`; none is an untagged frame
    #[arg(long, value_delimiter = ',', value_parser = parse_tag)]
    tags: Vec<(u16, u16)>,
    /// What the frame carries, to be looked for
    #[arg(long)]
    mark: String,
    /// The destination
    #[arg(long, default_value = "ff:ff:ff:ff:ff:ff", value_parser = parse_mac)]
    to: [u8; 6],
    /// The source
    #[arg(long, default_value = "02:00:00:00:be:ef", value_parser = parse_mac)]
    from: [u8; 6],
    /// How many frames; 0 until SIGTERM
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Between two frames, microseconds
    #[arg(long, default_value_t = 1000)]
    interval_us: u64,
    /// Each frame to another destination: the last four bytes count up, so that a switch has to learn each
    #[arg(long)]
    spread: bool,
}

/// Options of `capture`.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// The interface to listen on
    #[arg(long)]
    interface: String,
    /// What the frames carry
    #[arg(long)]
    mark: String,
    /// How long, milliseconds; 0 until SIGTERM
    #[arg(long, default_value_t = 0)]
    duration_ms: u64,
    /// A file to create once listening
    #[arg(long)]
    ready: Option<PathBuf>,
}

/// What `inject` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    sent: u64,
}

/// What `capture` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Captured {
    count: u64,
    /// The first ones, in hexadecimal.
    frames: Vec<String>,
}

/// A packet socket bound to one interface.
fn open(interface: &str, protocol: i32) -> Result<Socket> {
    let address: LinkAddr = getifaddrs()
        .context("listing interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.as_ref().and_then(SockaddrStorage::as_link_addr).copied())
        .with_context(|| format!("there is no interface {interface}"))?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)));
    let socket = socket.context("opening a packet socket")?;
    // The address names no protocol, so that the socket keeps its own (packet(7)).
    bind(socket.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
    Ok(socket)
}

/// Sets the flag when SIGTERM or SIGINT comes.
fn on_end() -> Result<Arc<AtomicBool>> {
    let signals = crate::block_end()?;
    let end = Arc::new(AtomicBool::new(false));
    let flag = end.clone();
    thread::spawn(move || {
        let _ = signals.wait();
        flag.store(true, Ordering::Relaxed);
    });
    Ok(end)
}

impl Inject {
    pub(crate) fn run(self) -> Result<Sent> {
        let end = on_end()?;
        let mut socket = open(&self.interface, 0)?;
        let mut frame = self.frame();
        let mut sent = 0_u64;
        while !end.load(Ordering::Relaxed) && (self.count == 0 || sent < self.count) {
            if self.spread {
                let [.., a, b, c, d] = sent.to_be_bytes();
                frame[2..6].copy_from_slice(&[a, b, c, d]);
            }
            match socket.write(&frame) {
                Ok(_) => sent += 1,
                // The queue is full, or the link is down just now.
                Err(error) if self.count == 0 => drop(error),
                Err(error) => return Err(error).context("sending a frame"),
            }
            thread::sleep(Duration::from_micros(self.interval_us));
        }
        Ok(Sent { sent })
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        for (kind, id) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(0x88b5_u16.to_be_bytes());
        frame.extend(self.mark.as_bytes());
        frame.resize(frame.len().max(MIN_FRAME), 0);
        frame
    }
}

impl Capture {
    pub(crate) fn run(self) -> Result<Captured> {
        let end = on_end()?;
        let mut socket = open(&self.interface, EVERY_PROTOCOL)?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("bounding a read")?;
        crate::announce(self.ready.as_ref())?;
        let deadline = Instant::now() + Duration::from_millis(self.duration_ms);
        let mut captured = Captured { count: 0, frames: Vec::new() };
        let mut buffer = [0; 2048];
        while !end.load(Ordering::Relaxed) && (self.duration_ms == 0 || Instant::now() < deadline) {
            match socket.read(&mut buffer) {
                Ok(length) => captured.look(&buffer[..length], self.mark.as_bytes()),
                Err(error) if is_quiet(&error) => {}
                Err(error) => return Err(error).context("listening"),
            }
        }
        Ok(captured)
    }
}

fn is_quiet(error: &io::Error) -> bool {
    // Nothing came, or the link went down (ENETDOWN) and may come back.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(nix::libc::ENETDOWN)
}

impl Captured {
    fn look(&mut self, frame: &[u8], mark: &[u8]) {
        if !frame.windows(mark.len().max(1)).any(|window| window == mark) {
            return;
        }
        self.count += 1;
        if self.frames.len() < SHOWN {
            self.frames.push(frame.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")));
        }
    }
}

fn parse_tag(text: &str) -> Result<(u16, u16), String> {
    let parts = text
        .split_once(':')
        .and_then(|(kind, id)| Some((u16::from_str_radix(kind, 16).ok()?, id.parse().ok()?)));
    parts.filter(|(_, id)| *id < 4096).ok_or_else(|| format!("{text} is no tag; write 8100:200 or 88a8:0"))
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| format!("{text} is no MAC address"))
}
