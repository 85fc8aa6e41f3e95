//! Who is there: a server that states pod UID and interface, and a client that believes only the right nonce.
//!
//! Every socket is bound to its device, so that an answer proves that this very interface was reached.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::parse_target;

/// The port of the identity server.
const PORT: u16 = 7777;
/// Longest question and answer, bytes.
const MAX: usize = 1024;

/// Options of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Answer on these interfaces only; all but lo if none is named
    #[arg(long = "interface")]
    interfaces: Vec<String>,
    /// The port, UDP and TCP
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

/// Options of `probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// The interface to ask from
    #[arg(long)]
    interface: String,
    /// The address to ask; link-local ones are taken on --interface
    #[arg(long, value_parser = parse_target)]
    target: (IpAddr, Option<String>),
    /// The source address, if the kernel is not to choose
    #[arg(long)]
    source: Option<IpAddr>,
    /// How many times to ask
    #[arg(long, default_value_t = 3)]
    tries: u32,
    /// How long to wait for each answer, milliseconds
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// How to ask
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    transport: Transport,
    /// The port
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// One datagram each way
    Udp,
    /// One connection
    Tcp,
}

/// Who answered.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    pod_uid: String,
    interface: String,
}

/// What the server sends back.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    nonce: String,
    #[serde(flatten)]
    identity: Identity,
}

/// What `probe` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    reachable: bool,
    answered_by: Option<Identity>,
    rtt_us: Option<u128>,
    tries: u32,
    error: Option<String>,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let end = crate::block_end()?;
        let uid = std::env::var("POD_UID").unwrap_or_default();
        let interfaces = if self.interfaces.is_empty() { all_interfaces()? } else { self.interfaces };
        for interface in interfaces {
            for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                serve_on(&interface, SocketAddr::new(address, self.port), &uid)
                    .with_context(|| format!("listening on {interface}"))?;
            }
        }
        end.wait().context("waiting for a signal")?;
        Ok(())
    }
}

fn all_interfaces() -> Result<Vec<String>> {
    let mut names: Vec<String> =
        getifaddrs().context("listing interfaces")?.map(|a| a.interface_name).collect();
    names.sort();
    names.dedup();
    names.retain(|name| name != "lo");
    Ok(names)
}

/// A socket bound to a device, and to an address if that says anything.
fn bound(kind: Type, protocol: Protocol, interface: &str, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn serve_on(interface: &str, address: SocketAddr, uid: &str) -> io::Result<()> {
    let stream = bound(Type::STREAM, Protocol::TCP, interface, address)?;
    stream.listen(64)?;
    let listener: TcpListener = stream.into();
    let (name, id) = (interface.to_owned(), uid.to_owned());
    thread::spawn(move || serve_tcp(&listener, &name, &id));
    let socket: UdpSocket = bound(Type::DGRAM, Protocol::UDP, interface, address)?.into();
    let (name, id) = (interface.to_owned(), uid.to_owned());
    thread::spawn(move || serve_udp(&socket, &name, &id));
    Ok(())
}

fn reply(question: &[u8], interface: &str, uid: &str) -> Vec<u8> {
    let identity = Identity { pod_uid: uid.to_owned(), interface: interface.to_owned() };
    let nonce = String::from_utf8_lossy(question).into_owned();
    serde_json::to_vec(&Reply { nonce, identity }).unwrap_or_default()
}

fn serve_udp(socket: &UdpSocket, interface: &str, uid: &str) {
    let mut buffer = [0; MAX];
    loop {
        // An error here is an ICMP complaint about an earlier answer; the next question may be well.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&reply(&buffer[..length], interface, uid), from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, interface: &str, uid: &str) {
    for mut stream in listener.incoming().flatten() {
        let (interface, uid) = (interface.to_owned(), uid.to_owned());
        thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut buffer = [0; MAX];
            if let Ok(length) = stream.read(&mut buffer) {
                let _ = stream.write_all(&reply(&buffer[..length], &interface, &uid));
            }
        });
    }
}

impl Probe {
    pub(crate) fn run(self) -> Answer {
        let mut error = None;
        for number in 1..=self.tries {
            let start = Instant::now();
            match self.ask() {
                Ok(identity) => {
                    let rtt_us = Some(start.elapsed().as_micros());
                    let answered_by = Some(identity);
                    return Answer { reachable: true, answered_by, rtt_us, tries: number, error: None };
                }
                Err(problem) => error = Some(problem.to_string()),
            }
            // What fails at once (no route, refused) is asked again no quicker than what stays silent.
            if number < self.tries {
                thread::sleep(self.timeout().saturating_sub(start.elapsed()));
            }
        }
        Answer { reachable: false, answered_by: None, rtt_us: None, tries: self.tries, error }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn target(&self) -> io::Result<SocketAddr> {
        Ok(match self.target {
            (IpAddr::V4(address), _) => SocketAddr::new(address.into(), self.port),
            (IpAddr::V6(address), ref zone) => {
                let zone = zone.as_deref().unwrap_or(&self.interface);
                let scope = if address.is_unicast_link_local() { if_nametoindex(zone)? } else { 0 };
                SocketAddrV6::new(address, self.port, 0, scope).into()
            }
        })
    }

    fn source(&self, target: SocketAddr) -> SocketAddr {
        let any = match target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(self.source.unwrap_or(any), 0)
    }

    fn ask(&self) -> io::Result<Identity> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let target = self.target()?;
        let deadline = Instant::now() + self.timeout();
        match self.transport {
            Transport::Udp => self.ask_udp(&nonce, target, deadline),
            Transport::Tcp => self.ask_tcp(&nonce, target),
        }
    }

    fn ask_udp(&self, nonce: &str, target: SocketAddr, deadline: Instant) -> io::Result<Identity> {
        let source = self.source(target);
        let socket: UdpSocket = bound(Type::DGRAM, Protocol::UDP, &self.interface, source)?.into();
        socket.connect(target)?;
        socket.send(nonce.as_bytes())?;
        let mut buffer = [0; MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            let length = socket.recv(&mut buffer)?;
            if let Some(identity) = believe(&buffer[..length], nonce) {
                return Ok(identity);
            }
        }
    }

    fn ask_tcp(&self, nonce: &str, target: SocketAddr) -> io::Result<Identity> {
        let socket = bound(Type::STREAM, Protocol::TCP, &self.interface, self.source(target))?;
        socket.connect_timeout(&target.into(), self.timeout())?;
        let mut stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(self.timeout()))?;
        stream.write_all(nonce.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        believe(&answer, nonce).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The identity in an answer, if it answers this nonce.
fn believe(answer: &[u8], nonce: &str) -> Option<Identity> {
    let reply: Reply = serde_json::from_slice(answer).ok()?;
    (reply.nonce == nonce).then_some(reply.identity)
}
