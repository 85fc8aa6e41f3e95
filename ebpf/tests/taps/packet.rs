//! Frames to and from an interface as they are: packet sockets, a TUN device, and the offloads of a link.
//!
//! Owns the system calls that neither std nor nix has. Every call works in the namespace of the calling thread.
#![expect(unsafe_code, reason = "packet sockets, TUN and ethtool have no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{from_mut, from_ref};

const EVERY_PROTOCOL: u16 = 3;
/// Frames of a TUN device are bare packets.
const IFF_TUN_NO_PI: u64 = 0x1001;
/// `AF_PACKET`.
const FAMILY: u16 = 17;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// What offload is to do to a frame that a packet socket sends: `struct virtio_net_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// 1: the checksum is to be completed.
    pub(crate) flags: u8,
    /// 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP.
    pub(crate) gso_type: u8,
    /// Bytes that are put into the linear part of the socket buffer.
    pub(crate) hdr_len: u16,
    /// Payload of a segment.
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl VnetHeader {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.flags, self.gso_type];
        for word in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }
}

fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("small")
}

/// A packet socket bound to one interface.
pub(crate) struct PacketSocket {
    file: File,
    offload: bool,
}

impl PacketSocket {
    /// For sending; receives nothing.
    pub(crate) fn sender(interface: &str, offload: bool) -> Self {
        let socket = Self::open(interface, 0, offload);
        if offload {
            socket.set(PACKET_VNET_HDR, 1);
        }
        socket
    }

    /// For receiving whatever comes in; reads give up after 200 ms.
    pub(crate) fn capture(interface: &str) -> Self {
        let socket = Self::open(interface, EVERY_PROTOCOL.to_be(), false);
        socket.set(PACKET_IGNORE_OUTGOING, 1);
        let (room, patience) = (64_i32 << 20, libc::timeval { tv_sec: 0, tv_usec: 200_000 });
        socket.set_at(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &room);
        socket.set_at(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience);
        socket
    }

    fn open(interface: &str, protocol: u16, offload: bool) -> Self {
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface is here");
        // SAFETY: no pointers; the descriptor is ours from here on.
        let fd =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = FAMILY;
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index).expect("small");
        let length = length_of::<libc::sockaddr_ll>();
        // SAFETY: the address lives through the call and has that length.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), from_ref(&address).cast(), length) };
        assert_eq!(bound, 0, "bind: {}", std::io::Error::last_os_error());
        Self { file: File::from(fd), offload }
    }

    fn set(&self, option: i32, value: i32) {
        self.set_at(libc::SOL_PACKET, option, &value);
    }

    fn set_at<T>(&self, level: i32, option: i32, value: &T) {
        let length = length_of::<T>();
        // SAFETY: the value lives through the call and has that length.
        let set =
            unsafe { libc::setsockopt(self.file.as_raw_fd(), level, option, from_ref(value).cast(), length) };
        assert_eq!(set, 0, "option {option}: {}", std::io::Error::last_os_error());
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert!(!self.offload, "needs a header");
        let sent = (&self.file).write(frame).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
        assert_eq!(sent, frame.len());
    }

    /// Sends one frame with what offload is to do to it.
    pub(crate) fn send_offloaded(&self, header: VnetHeader, frame: &[u8]) {
        assert!(self.offload, "has no header");
        let mut whole = header.bytes();
        whole.extend(frame);
        let sent = (&self.file).write(&whole).unwrap_or_else(|error| panic!("{header:?}: {error}"));
        assert_eq!(sent, whole.len());
    }

    /// The next frame, or `None` when nothing came for 200 ms. The tag that the kernel took off is not in it.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 17];
        match (&self.file).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("receiving: {error}"),
        }
    }

    /// Frames that did not fit into the socket's buffer.
    pub(crate) fn dropped(&self) -> u32 {
        let (mut stats, mut length) = ([0_u32; 2], 8_u32);
        // SAFETY: both live through the call; the length is that of the array.
        let got = unsafe {
            libc::getsockopt(
                self.file.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                from_mut(&mut stats).cast(),
                from_mut(&mut length),
            )
        };
        assert_eq!(got, 0, "statistics: {}", std::io::Error::last_os_error());
        stats[1]
    }
}

/// `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; 16],
    union: [u64; 3],
}

impl Request {
    fn new(interface: &str) -> Self {
        let mut request = Self { name: [0; 16], union: [0; 3] };
        request.name[..interface.len()].copy_from_slice(interface.as_bytes());
        request
    }
}

/// The other end of an interface whose frames start with the IP header. Packets written here are received by it.
pub(crate) fn tun(interface: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("TUN is in this kernel");
    let mut request = Request::new(interface);
    request.union[0] = IFF_TUN_NO_PI;
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, which lives through the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, from_mut(&mut request)) };
    assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    file
}

/// Turns off what makes one socket buffer stand for many packets behind the interface's queue.
pub(crate) fn disable_offloads(interface: &str) {
    const ETHTOOL_SET: [(&str, u32); 3] = [("tx", 0x17), ("tso", 0x1f), ("gso", 0x24)];
    // SAFETY: no pointers; the descriptor is ours from here on.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "a socket: {}", std::io::Error::last_os_error());
    // SAFETY: just made.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for (what, command) in ETHTOOL_SET {
        let mut value = [command, 0_u32];
        let mut request = Request::new(interface);
        request.union[0] = from_mut(&mut value) as u64;
        // SAFETY: SIOCETHTOOL takes a `struct ifreq` that points to a `struct ethtool_value`; both live through it.
        let set = unsafe { libc::ioctl(fd.as_raw_fd(), 0x8946, from_mut(&mut request)) };
        assert_eq!(set, 0, "{what} off: {}", std::io::Error::last_os_error());
    }
}

/// Detaches a link as a foreign tool does, which finds it by its number: the pin stays, and holds nothing.
pub(crate) fn detach_link(pin: &std::path::Path) {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let name = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes()).expect("no zero byte");
    let mut get = [name.as_ptr() as u64, 0];
    // SAFETY: the attribute is a path and two numbers that are 0; both it and the path live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, from_mut(&mut get), 16) };
    let fd = i32::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "{}: {}", pin.display(), std::io::Error::last_os_error());
    // SAFETY: just made.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut detach = [link.as_raw_fd()];
    // SAFETY: the attribute is one descriptor.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, from_mut(&mut detach), 4) };
    assert_eq!(done, 0, "{}: {}", pin.display(), std::io::Error::last_os_error());
}
