//! Per-interface sysctls of the namespace that the calling thread is in.
//!
//! Owns `/proc/sys/net/<family>/conf/<interface>/<key>`. `/proc/sys/net` shows the namespace of the task that opens
//! it, so a job of the namespace thread reaches the pod's and any other thread the node's.

use std::fs;
use std::io;
use std::path::Path;

/// The two families that have per-interface sysctls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `net.ipv4.conf`
    Ipv4,
    /// `net.ipv6.conf`; may be missing altogether (`ipv6.disable=1`).
    Ipv6,
}

impl Family {
    fn directory(self) -> &'static str {
        match self {
            Self::Ipv4 => "/proc/sys/net/ipv4/conf",
            Self::Ipv6 => "/proc/sys/net/ipv6/conf",
        }
    }

    /// Whether the kernel has this family at all.
    pub fn present(self) -> bool {
        Path::new(self.directory()).is_dir()
    }
}

/// Writes one sysctl of one interface in the calling thread's namespace.
///
/// A write is one `open` and one `write`; nothing is read first, since the kernel ignores an equal value.
pub fn set_interface_sysctl(family: Family, interface: &str, key: &str, value: &str) -> io::Result<()> {
    fs::write(format!("{}/{interface}/{key}", family.directory()), value)
}
