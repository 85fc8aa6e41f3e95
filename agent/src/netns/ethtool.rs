//! Reading and setting a link's offload features by name.
//!
//! Owns the `SIOCETHTOOL` ioctls for the feature string set, `ETHTOOL_GFEATURES` and `ETHTOOL_SFEATURES`. A socket
//! works on the links of the namespace in which it was opened. Which features to set is the caller's business.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GSTRINGS`, `ETHTOOL_GSSET_INFO`, `ETHTOOL_GFEATURES`, `ETHTOOL_SFEATURES` (`linux/ethtool.h`).
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;

/// The string set of feature names, `ETH_SS_FEATURES`.
const STRING_SET_FEATURES: u32 = 4;

/// Length of one name in a string set, `ETH_GSTRING_LEN`.
const NAME_LEN: usize = 32;

/// More features than any kernel has (it keeps them in 64 bits); guards the buffer sizes below.
const MAX_FEATURES: u32 = 512;

/// One feature of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureState {
    /// Whether it can be changed at all.
    pub changeable: bool,
    /// Whether it was asked for; differs from `active` when something else forbids it.
    pub requested: bool,
    /// Whether it is in force.
    pub active: bool,
}

/// A socket for ethtool ioctls, and the kernel's table of feature names.
#[derive(Debug)]
pub struct EthtoolSocket {
    socket: OwnedFd,
    names: Vec<String>,
}

impl EthtoolSocket {
    /// Opens it in the calling thread's namespace; `link` is any link there, needed to read the table of names.
    pub fn open(link: &str) -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let names = feature_names(&socket, link)?;
        Ok(Self { socket, names })
    }

    /// All features that this kernel knows, with their state on `link`.
    pub fn features(&self, link: &str) -> io::Result<BTreeMap<&str, FeatureState>> {
        let blocks = self.names.len().div_ceil(32);
        let mut request = vec![GFEATURES, u32::try_from(blocks).unwrap_or(0)];
        // Four words a block: available, requested, active, never_changed.
        request.resize(2 + 4 * blocks, 0);
        ethtool(&self.socket, link, &mut request)?;
        let bit = |index: usize, word: usize| request[2 + 4 * (index / 32) + word] >> (index % 32) & 1 == 1;
        let state = |index| FeatureState {
            changeable: bit(index, 0) && !bit(index, 3),
            requested: bit(index, 1),
            active: bit(index, 2),
        };
        Ok(self.names.iter().enumerate().map(|(index, name)| (name.as_str(), state(index))).collect())
    }

    /// Sets features by name in one call; names that this kernel does not know are left out.
    ///
    /// The driver has the last word: read them again to know what is in force.
    pub fn set_features(&self, link: &str, wanted: &[(&str, bool)]) -> io::Result<()> {
        let blocks = self.names.len().div_ceil(32);
        let mut request = vec![SFEATURES, u32::try_from(blocks).unwrap_or(0)];
        // Two words a block: valid, requested.
        request.resize(2 + 2 * blocks, 0);
        for (name, on) in wanted {
            let Some(index) = self.names.iter().position(|known| known == name) else { continue };
            let word = 2 + 2 * (index / 32);
            request[word] |= 1 << (index % 32);
            request[word + 1] |= u32::from(*on) << (index % 32);
        }
        ethtool(&self.socket, link, &mut request)
    }
}

fn feature_names(socket: &OwnedFd, link: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: cmd, reserved, u64 mask, u32 counts[]; the mask's low word comes first or second.
    let mask = 1_u64 << STRING_SET_FEATURES;
    let halves = mask.to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([halves[at], halves[at + 1], halves[at + 2], halves[at + 3]]);
    let mut info = [GSSET_INFO, 0, half(0), half(4), 0];
    ethtool(socket, link, &mut info)?;
    let count = info[4];
    if count == 0 || count > MAX_FEATURES {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel lists no offload features"));
    }
    let bytes = count as usize * NAME_LEN;
    let mut strings = vec![GSTRINGS, STRING_SET_FEATURES, count];
    strings.resize(3 + bytes / 4, 0);
    ethtool(socket, link, &mut strings)?;
    let raw: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(raw.chunks_exact(NAME_LEN).map(name_from).collect())
}

fn name_from(raw: &[u8]) -> String {
    let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end]).into_owned()
}

/// One `SIOCETHTOOL`. `words` is the command's structure; it must be large enough for the answer that the command
/// and the counts in it make the kernel write.
fn ethtool(socket: &OwnedFd, link: &str, words: &mut [u32]) -> io::Result<()> {
    let bytes = link.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link name has 1 to 15 bytes"));
    }
    let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() },
    };
    // SAFETY: `request` names a NUL-terminated link and points to `words`, which lives through the call. Each caller
    // sizes `words` by the counts it puts in: the kernel copies at most that many entries back (GSSET_INFO writes one
    // word per mask bit; GSTRINGS, GFEATURES and SFEATURES compare the count or size with their own first).
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
