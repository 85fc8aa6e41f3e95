//! Packet sockets bound to one interface.
//!
//! Owns `socket(AF_PACKET)` and `bind(sockaddr_ll)`. Knows no frame format.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Which frames a packet socket receives. Sockets for one protocol never see the frames that their own host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EtherType {
    /// ARP, 0x0806.
    Arp = 0x0806,
    /// IPv6, 0x86dd.
    Ipv6 = 0x86dd,
}

/// `AF_PACKET` and the size of its addresses, in the widths that `bind` wants them.
const PACKET_FAMILY: libc::sa_family_t = 17;
const ADDRESS_LEN: libc::socklen_t = 20;
const _: () = assert!(libc::AF_PACKET == 17 && size_of::<libc::sockaddr_ll>() == 20);

/// Opens a non-blocking `AF_PACKET` socket in the calling thread's namespace, bound to `ifindex` and `ethertype`.
///
/// It reads and writes whole Ethernet frames, and stays usable from any thread afterwards.
pub fn open_packet_socket(ifindex: u32, ethertype: EtherType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Protocol 0 receives nothing, so that no frame of another interface slips in before the bind.
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let address = libc::sockaddr_ll {
        sll_family: PACKET_FAMILY,
        sll_protocol: (ethertype as u16).to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is an initialised sockaddr_ll that outlives the call, and `ADDRESS_LEN` is its size.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
    if bound == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}
