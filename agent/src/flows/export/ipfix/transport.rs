//! One session with a collector: a connected UDP socket, or a TCP connection.
//!
//! Owns the socket and how long sending may take; what is sent, and when again, is the caller's business.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::flows::export::{HostPort, Protocol};

/// How long resolving and connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one TCP message may wait for a collector that does not read, before the connection is given up.
const WRITE: Duration = Duration::from_secs(10);

/// An open session.
#[derive(Debug)]
pub(super) enum Session {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Session {
    /// Resolves the collector's name anew, since what it stands for may have moved, and connects to the first of its
    /// addresses that takes it.
    pub(super) async fn open(collector: &HostPort, protocol: Protocol) -> io::Result<Self> {
        let connected = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in lookup_host(collector.as_str()).await? {
                let session = match protocol {
                    Protocol::Udp => udp(address).await.map(Self::Udp),
                    Protocol::Tcp => TcpStream::connect(address).await.map(Self::Tcp),
                };
                match session {
                    Ok(session) => return Ok(session),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        timeout(CONNECT, connected).await?
    }

    /// Sends one message. After an error a TCP session is of no more use; a UDP one is.
    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).await.map(drop),
            Self::Tcp(stream) => timeout(WRITE, stream.write_all(message)).await?,
        }
    }

    /// Why it is of no more use, if the other side has ended it: the first write after that would seem to succeed.
    pub(super) fn ended(&self) -> Option<io::Error> {
        match self {
            Self::Udp(_) => None,
            Self::Tcp(stream) => ended(stream).err(),
        }
    }
}

async fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// An error if the collector has closed its side. Collectors send nothing (RFC 7011, 10.4); what one sends all the
/// same is thrown away. Asks the kernel, not the reactor, which may not have heard of it yet.
fn ended(stream: &TcpStream) -> io::Result<()> {
    let mut unread = [MaybeUninit::uninit(); 512];
    loop {
        match SockRef::from(stream).recv(&mut unread) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
