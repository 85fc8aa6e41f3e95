//! Echo requests: one of an exact size that must not be fragmented, and the packets `flood` sends.
//!
//! IPv4 requests carry their own IP header with DF set (RFC 791), IPv6 ones must not be fragmented by the kernel
//! (RFC 3542, `IPV6_DONTFRAG`), so a packet larger than the interface's MTU is refused here, not cut in two.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::parse_target;

/// Length of an IPv4 header without options, bytes.
const IPV4_HEADER: usize = 20;
/// Length of the IPv6 header, bytes.
const IPV6_HEADER: usize = 40;
/// Length of the echo header, bytes.
const ECHO_HEADER: usize = 8;

/// Options of `ping-df`.
#[derive(Debug, Args)]
pub(crate) struct PingDf {
    /// The interface to send from
    #[arg(long)]
    interface: String,
    /// The address to ask
    #[arg(long, value_parser = parse_target)]
    target: (IpAddr, Option<String>),
    /// Length of the whole IP packet, bytes
    #[arg(long)]
    size: usize,
    /// How many times to ask
    #[arg(long, default_value_t = 3)]
    tries: u16,
    /// How long to wait for each answer, milliseconds
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

/// What `ping-df` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    size: usize,
    answered: bool,
    /// The kernel refused to send it: larger than the interface's MTU.
    too_big: bool,
    error: Option<String>,
}

impl PingDf {
    pub(crate) fn run(self) -> Result<Answer> {
        let (address, zone) = (self.target.0, self.target.1.as_deref());
        let echo = Echo::open(&self.interface, address, zone, self.size).context("opening a raw socket")?;
        let patience = Duration::from_millis(self.timeout_ms);
        let mut answer = Answer { size: self.size, answered: false, too_big: false, error: None };
        for sequence in 1..=self.tries {
            match echo.send(sequence).and_then(|()| echo.wait(sequence, Instant::now() + patience)) {
                Ok(()) => return Ok(Answer { answered: true, error: None, ..answer }),
                Err(error) => {
                    answer.too_big = error.raw_os_error() == Some(nix::libc::EMSGSIZE);
                    answer.error = Some(error.to_string());
                }
            }
            if answer.too_big {
                break;
            }
        }
        Ok(answer)
    }
}

/// A raw socket for echo requests to one address.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: Socket,
    target: SocketAddr,
    /// Length of the whole IP packet.
    size: usize,
    identifier: u16,
}

impl Echo {
    pub(crate) fn open(
        interface: &str,
        address: IpAddr,
        zone: Option<&str>,
        size: usize,
    ) -> io::Result<Self> {
        let (domain, protocol, target, least) = match address {
            IpAddr::V4(_) => {
                (Domain::IPV4, Protocol::ICMPV4, SocketAddr::new(address, 0), IPV4_HEADER + ECHO_HEADER)
            }
            IpAddr::V6(v6) => {
                let scope =
                    if v6.is_unicast_link_local() { if_nametoindex(zone.unwrap_or(interface))? } else { 0 };
                (
                    Domain::IPV6,
                    Protocol::ICMPV6,
                    SocketAddrV6::new(v6, 0, 0, scope).into(),
                    IPV6_HEADER + ECHO_HEADER,
                )
            }
        };
        if size < least {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a packet has at least {least} bytes"),
            ));
        }
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        if address.is_ipv4() {
            socket.set_header_included_v4(true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
        }
        Ok(Self { socket, target, size, identifier: rand::random() })
    }

    pub(crate) fn send(&self, sequence: u16) -> io::Result<()> {
        let packet = match self.target.ip() {
            IpAddr::V4(to) => ipv4_packet(to, &self.message(8, self.size - IPV4_HEADER, sequence)),
            // The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
            IpAddr::V6(_) => self.message(128, self.size - IPV6_HEADER, sequence),
        };
        self.socket.send_to(&packet, &self.target.into()).map(drop)
    }

    /// An echo request without its IP header.
    fn message(&self, kind: u8, length: usize, sequence: u16) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = kind;
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        if kind == 8 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// Waits for the answer to `sequence`.
    fn wait(&self, sequence: u16, deadline: Instant) -> io::Result<()> {
        while self.receive(deadline)? != sequence {}
        Ok(())
    }

    /// The sequence number of the next answer to us.
    pub(crate) fn receive(&self, deadline: Instant) -> io::Result<u16> {
        // Enough for the header and identifiers; a datagram's rest is dropped by the kernel.
        let mut buffer = [0; 128];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = (&self.socket).read(&mut buffer)?;
            if let Some(sequence) = self.answer(&buffer[..length]) {
                return Ok(sequence);
            }
        }
    }

    fn answer(&self, packet: &[u8]) -> Option<u16> {
        let (message, kind) = match self.target.ip() {
            IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, 0),
            IpAddr::V6(_) => (packet, 129),
        };
        let ours = *message.first()? == kind && message.get(4..6)? == self.identifier.to_be_bytes();
        ours.then(|| Some(u16::from_be_bytes(message.get(6..8)?.try_into().ok()?)))?
    }
}

fn ipv4_packet(to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(IPV4_HEADER + message.len()).unwrap_or(u16::MAX);
    // Version 4, 20 bytes of header; DF; TTL 64; ICMP. Source and checksum are the kernel's (raw(7)).
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 1, 0, 0, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(message);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
