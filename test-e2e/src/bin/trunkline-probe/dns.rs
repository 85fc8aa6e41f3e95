//! A name server that answers what its question's first label says, and a client that asks it.
//!
//! Messages are as short as RFC 1035 4 allows: a header and one question. Sockets are bound to their device.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::parse_target;

/// What `slow.` waits for.
const SLOW: Duration = Duration::from_millis(200);
/// Id, flags, four counts (RFC 1035 4.1.1).
const HEADER: usize = 12;
/// QR: this is an answer.
const ANSWER: u8 = 0x80;
const NXDOMAIN: u8 = 3;
const LONGEST: usize = 512;

/// Options of `dns-serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The interface to listen on
    #[arg(long)]
    interface: String,
    /// The port, UDP and TCP
    #[arg(long, default_value_t = 53)]
    port: u16,
    /// A file to create once listening
    #[arg(long)]
    ready: Option<PathBuf>,
}

/// Options of `dns-ask`.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The interface to ask from
    #[arg(long)]
    interface: String,
    /// The address of the name server
    #[arg(long, value_parser = parse_target)]
    target: (IpAddr, Option<String>),
    /// Its port
    #[arg(long, default_value_t = 53)]
    port: u16,
    /// By what
    #[arg(long, value_enum, default_value_t = Over::Udp)]
    over: Over,
    /// The names, one question each, in this order
    #[arg(long, required = true)]
    name: Vec<String>,
    /// How long to wait for each answer, milliseconds
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
}

/// What carries a question.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Over {
    Udp,
    Tcp,
}

/// What became of a question.
#[derive(Debug, Serialize)]
pub(crate) struct Asked {
    name: String,
    id: u16,
    /// The port that it was asked from.
    port: u16,
    /// `None`: no answer.
    code: Option<u8>,
    /// Until the answer, or until nobody waited any more.
    ms: f64,
}

impl Serve {
    /// Answers until SIGTERM.
    pub(crate) fn run(self) -> Result<()> {
        let signals = crate::block_end()?;
        let datagrams: UdpSocket = bound(Type::DGRAM, &self.interface, any_v6(self.port))?.into();
        let listener = bound(Type::STREAM, &self.interface, any_v6(self.port))?;
        listener.listen(16).context("listening")?;
        let listener: TcpListener = listener.into();
        thread::spawn(move || serve_udp(&datagrams));
        thread::spawn(move || serve_tcp(&listener));
        crate::announce(self.ready.as_ref())?;
        signals.wait().context("waiting for a signal")?;
        Ok(())
    }
}

fn serve_udp(socket: &UdpSocket) {
    let mut buffer = [0; LONGEST];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let question = buffer[..length].to_vec();
        let Ok(socket) = socket.try_clone() else { return };
        // One thread each, so that a slow answer holds up no other.
        thread::spawn(move || answer(question).map(|answer| socket.send_to(&answer, from)));
    }
}

fn serve_tcp(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve_connection(stream));
    }
}

/// Questions of a connection are answered in their order; one that gets no answer holds up none.
fn serve_connection(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let question = read_framed(&mut stream)?;
        if let Some(answer) = answer(question) {
            stream.write_all(&framed(&answer))?;
        }
    }
}

/// The answer to a question, as its first label wants it: `nx` is refused by name, `slow` waits, `mute` gets none.
fn answer(mut message: Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(*message.get(HEADER)?);
    let label = message.get(HEADER + 1..HEADER + 1 + length)?;
    let code = match label {
        b"nx" => NXDOMAIN,
        b"mute" => return None,
        b"slow" => {
            thread::sleep(SLOW);
            0
        }
        _ => 0,
    };
    message[2] |= ANSWER;
    message[3] = code;
    Some(message)
}

impl Ask {
    pub(crate) fn run(self) -> Result<Vec<Asked>> {
        let target = SocketAddr::new(self.target.0, self.port);
        let patience = Duration::from_millis(self.timeout_ms);
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => any_v6(0),
        };
        match self.over {
            Over::Udp => {
                let socket: UdpSocket = bound(Type::DGRAM, &self.interface, any)?.into();
                socket.connect(target).context("connecting")?;
                socket.set_read_timeout(Some(patience)).context("bounding the wait")?;
                let port = socket.local_addr().context("asking for the port")?.port();
                let ask = |question: &[u8]| {
                    socket.send(question)?;
                    let mut buffer = [0; LONGEST];
                    // An answer to a question that nobody waits for any more is not this one's.
                    loop {
                        let length = socket.recv(&mut buffer)?;
                        if buffer[..2] == question[..2] {
                            return Ok(buffer[..length].to_vec());
                        }
                    }
                };
                ask_all(self.name, port, ask)
            }
            Over::Tcp => {
                let socket = bound(Type::STREAM, &self.interface, any)?;
                socket.connect_timeout(&target.into(), patience).context("connecting")?;
                let mut stream: TcpStream = socket.into();
                stream.set_nodelay(true).context("preparing the connection")?;
                stream.set_read_timeout(Some(patience)).context("bounding the wait")?;
                let port = stream.local_addr().context("asking for the port")?.port();
                ask_all(self.name, port, |question| {
                    stream.write_all(&framed(question))?;
                    read_framed(&mut stream)
                })
            }
        }
    }
}

fn ask_all(
    names: Vec<String>,
    port: u16,
    mut ask: impl FnMut(&[u8]) -> io::Result<Vec<u8>>,
) -> Result<Vec<Asked>> {
    let first: u16 = rand::random();
    let mut asked = Vec::with_capacity(names.len());
    for (number, name) in (0..).zip(names) {
        let id = first.wrapping_add(number);
        let question = question(id, &name)?;
        let begin = Instant::now();
        let code = match ask(&question) {
            Ok(answer) => {
                ensure!(answer.len() >= HEADER && answer[..2] == question[..2], "not its answer: {answer:?}");
                Some(answer[3] & 0xf)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
            Err(error) => return Err(error).with_context(|| format!("asking for {name}")),
        };
        asked.push(Asked { name, id, port, code, ms: begin.elapsed().as_secs_f64() * 1000.0 });
    }
    Ok(asked)
}

/// A question for the address of a name, recursion desired.
fn question(id: u16, name: &str) -> Result<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| *length < 64);
        message.push(length.with_context(|| format!("{label:?} is too long"))?);
        message.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}

/// Over TCP the length comes first (RFC 1035 4.2.2).
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Dual stack where it is of IPv6: one socket takes both families.
fn bound(kind: Type, interface: &str, address: SocketAddr) -> Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket =
        Socket::new(Domain::for_address(address), kind, Some(protocol)).context("making a socket")?;
    if address.is_ipv6() {
        socket.set_only_v6(false).context("preparing a socket")?;
    }
    socket.set_reuse_address(true).context("preparing a socket")?;
    socket.bind_device(Some(interface.as_bytes())).context("binding to the interface")?;
    socket.bind(&address.into()).with_context(|| format!("binding to {address}"))?;
    Ok(socket)
}

fn any_v6(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_decides_the_answer() {
        let ask = |name: &str| question(0x1234, name).expect("short labels");
        assert_eq!(ask("ok.test").len(), HEADER + 13);
        for (name, code) in [("ok.test.", 0), ("nx.test", 3), ("slow", 0)] {
            let answer = answer(ask(name)).expect("an answer");
            assert_eq!((&answer[..2], answer[2], answer[3]), (&[0x12, 0x34][..], 0x81, code), "{name}");
        }
        assert_eq!(answer(ask("mute.test")), None);
        assert_eq!(answer(vec![0; 5]), None);
    }
}
