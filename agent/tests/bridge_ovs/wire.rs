//! Frames: sent into one link, seen on any other.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};
use trunkline_agent::netns::{EtherType, open_packet_socket};

/// `PACKET_OUTGOING` of `linux/if_packet.h`: a frame that this host sends, not one that it gets.
const OUTGOING: u8 = 4;

/// A tag: type and VLAN id.
pub(crate) type Tag = (u16, u16);

/// Hears every frame of the namespace.
pub(crate) struct Ear {
    socket: OwnedFd,
    next: u32,
}

impl Ear {
    /// Starts to listen.
    pub(crate) fn open() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .expect("tests run as root");
        Self { socket, next: 1 }
    }

    /// Sends one frame into a link and tells on which of the other links it was seen, by then or within `patience`
    /// while one of `expected` is missing.
    pub(crate) async fn send(
        &mut self,
        from: &str,
        tags: &[Tag],
        expected: &[&str],
        patience: Duration,
    ) -> BTreeSet<String> {
        let marker = 0x7465_7374_0000_0000_u64 | u64::from(self.next);
        self.next += 1;
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1]);
        for (kind, id) in tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(0x88b5_u16.to_be_bytes());
        frame.extend(marker.to_be_bytes());
        frame.resize(64, 0);
        let index = if_nametoindex(from).expect("the link exists");
        let out = open_packet_socket(index, EtherType::Ipv6).expect("tests run as root");
        nix::unistd::write(&out, &frame).expect("the frame is sent");
        let mut seen = BTreeSet::new();
        let end = Instant::now() + patience;
        while Instant::now() < end
            && (expected.is_empty() || !expected.iter().all(|link| seen.contains(*link)))
        {
            self.drain(marker, from, &mut seen);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.drain(marker, from, &mut seen);
        seen
    }

    fn drain(&self, marker: u64, from: &str, seen: &mut BTreeSet<String>) {
        let mut buffer = [0_u8; 256];
        while let Ok((length, Some(address))) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            let ours = buffer[..length].windows(8).any(|window| window == marker.to_be_bytes());
            let name = nix::net::if_::if_indextoname(u32::try_from(address.ifindex()).unwrap_or(0));
            let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Frames arrive at the far ends of pairs; the near ends belong to the switch.
            if ours && address.pkttype() != OUTGOING && name.starts_with('p') && name != from {
                seen.insert(name);
            }
        }
    }
}
