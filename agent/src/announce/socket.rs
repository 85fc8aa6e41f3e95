//! Sending announcements and probes from a pod's interface, and listening for who answers.
//!
//! Owns packet sockets opened in the pod's namespace; they work from any task afterwards and keep the namespace
//! alive until the [`Announcer`] is dropped. Starts no task: the caller decides whether ADD waits.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::frame::{
    Answer, answer_of, arp_probe, dad_solicitation, gratuitous_arp, unsolicited_advertisement,
};
use crate::link::MacOctets;
use crate::netns::{EtherType, NetnsError, NetnsFd, NetnsThread, PolledFd, open_packet_socket};

/// How often an announcement goes out, and how far apart: one lost frame must not leave a stale neighbour entry.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCEMENT_GAP: Duration = Duration::from_millis(50);

/// Longest frame that can hold an answer, with room for padding and options.
const FRAME_BUFFER: usize = 2048;

/// What went wrong with announcing or probing.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The namespace could not be used.
    #[error("cannot open packet sockets in {namespace}")]
    Namespace {
        /// The namespace's path.
        namespace: String,
        /// Why.
        source: NetnsError,
    },
    /// A packet socket could not be opened on the interface.
    #[error("cannot open a packet socket on interface #{ifindex} in {namespace}")]
    Open {
        /// The namespace's path.
        namespace: String,
        /// The interface's index there.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
    /// The interface refused a frame, or reading failed; it is probably down or gone.
    #[error("cannot {doing} interface #{ifindex} in {namespace}")]
    Io {
        /// `send on` or `listen on`.
        doing: &'static str,
        /// The namespace's path.
        namespace: String,
        /// The interface's index there.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
}

/// How to look for another holder of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMode {
    /// One probe, then listen for a second, while the pod already runs.
    Async,
    /// Three probes 100 ms apart before the pod may start; ends at the first answer.
    Wait,
}

impl ProbeMode {
    fn rounds(self) -> (u32, Duration) {
        match self {
            Self::Async => (1, Duration::from_secs(1)),
            Self::Wait => (3, Duration::from_millis(100)),
        }
    }
}

/// Another station has one of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub holder: MacOctets,
}

/// Announces and probes the addresses of one pod interface.
#[derive(Debug)]
pub struct Announcer {
    namespace: String,
    ifindex: u32,
    mac: MacOctets,
    addresses: Vec<IpAddr>,
    arp: Option<PolledFd>,
    ipv6: Option<PolledFd>,
}

impl Announcer {
    /// Opens the packet sockets that these addresses need. With no address every operation does nothing.
    pub async fn open(
        thread: &NetnsThread,
        namespace: &NetnsFd,
        ifindex: u32,
        mac: MacOctets,
        addresses: &[IpAddr],
    ) -> Result<Self, AnnounceError> {
        let path = namespace.path().display().to_string();
        let needs_arp = addresses.iter().any(IpAddr::is_ipv4);
        let needs_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let open_both = move || -> io::Result<_> {
            let arp = needs_arp.then(|| open_packet_socket(ifindex, EtherType::Arp)).transpose()?;
            let ipv6 = needs_ipv6.then(|| open_packet_socket(ifindex, EtherType::Ipv6)).transpose()?;
            Ok((arp, ipv6))
        };
        let opened = thread
            .run(namespace, open_both)
            .await
            .map_err(|source| AnnounceError::Namespace { namespace: path.clone(), source })?;
        let register = |fd: Option<OwnedFd>| fd.map(PolledFd::register).transpose();
        let (arp, ipv6) = opened
            .and_then(|(arp, ipv6)| Ok((register(arp)?, register(ipv6)?)))
            .map_err(|source| AnnounceError::Open { namespace: path.clone(), ifindex, source })?;
        Ok(Self { namespace: path, ifindex, mac, addresses: addresses.to_vec(), arp, ipv6 })
    }

    /// Sends gratuitous ARPs and unsolicited neighbour advertisements for all addresses, three times 50 ms apart.
    ///
    /// Cancel-safe: what was sent is sent.
    pub async fn announce(&self) -> Result<(), AnnounceError> {
        for round in 0..ANNOUNCEMENTS {
            if round > 0 {
                sleep(ANNOUNCEMENT_GAP).await;
            }
            for address in &self.addresses {
                let frame = match address {
                    IpAddr::V4(v4) => gratuitous_arp(self.mac, *v4),
                    IpAddr::V6(v6) => unsolicited_advertisement(self.mac, *v6),
                };
                self.send(*address, &frame).await?;
            }
        }
        Ok(())
    }

    /// Asks whether somebody else has one of the addresses and returns who answered, each address once.
    ///
    /// Frames that this host sends, and frames that come back with our own Ethernet address, do not count.
    /// Cancel-safe.
    pub async fn probe(&self, mode: ProbeMode) -> Result<Vec<Conflict>, AnnounceError> {
        let mut conflicts: Vec<Conflict> = Vec::new();
        let (rounds, gap) = mode.rounds();
        for _ in 0..rounds {
            for address in &self.addresses {
                let frame = match address {
                    IpAddr::V4(v4) => arp_probe(self.mac, *v4),
                    IpAddr::V6(v6) => dad_solicitation(self.mac, *v6),
                };
                self.send(*address, &frame).await?;
            }
            let until = Instant::now() + gap;
            while conflicts.len() < self.addresses.len()
                && let Some(conflict) = self.next_conflict(until).await?
            {
                if conflicts.iter().all(|known| known.address != conflict.address) {
                    conflicts.push(conflict);
                }
                if mode == ProbeMode::Wait {
                    return Ok(conflicts);
                }
            }
        }
        Ok(conflicts)
    }

    async fn next_conflict(&self, until: Instant) -> Result<Option<Conflict>, AnnounceError> {
        while let Ok(received) = timeout_at(until, self.receive()).await {
            let answer = received.map_err(|source| self.io_error("listen on", source))?;
            if let Some(Answer { address, mac }) = answer
                && mac != self.mac
                && self.addresses.contains(&address)
            {
                return Ok(Some(Conflict { address, holder: mac }));
            }
        }
        Ok(None)
    }

    async fn receive(&self) -> io::Result<Option<Answer>> {
        let mut arp_buffer = [0; FRAME_BUFFER];
        let mut ipv6_buffer = [0; FRAME_BUFFER];
        tokio::select! {
            length = read(self.arp.as_ref(), &mut arp_buffer) => Ok(answer_of(&arp_buffer[..length?])),
            length = read(self.ipv6.as_ref(), &mut ipv6_buffer) => Ok(answer_of(&ipv6_buffer[..length?])),
        }
    }

    async fn send(&self, address: IpAddr, frame: &[u8]) -> Result<(), AnnounceError> {
        let socket = if address.is_ipv4() { &self.arp } else { &self.ipv6 };
        let Some(socket) = socket else { return Ok(()) };
        socket.write(frame).await.map(drop).map_err(|source| self.io_error("send on", source))
    }

    fn io_error(&self, doing: &'static str, source: io::Error) -> AnnounceError {
        AnnounceError::Io { doing, namespace: self.namespace.clone(), ifindex: self.ifindex, source }
    }
}

/// Reads one frame; waits for ever without a socket. Cancel-safe: a frame is read or still there.
async fn read(socket: Option<&PolledFd>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(socket) = socket else { return std::future::pending().await };
    socket.read(buffer).await
}
