//! Names that are computed, never stored: `OpenFlow` cookies and host veth names.
//!
//! Owns the two hashes of the attachment's identity. Must never depend on anything but its arguments: after a restart
//! the same inputs have to give the same names.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The upper 16 bits of every cookie of ours ("tr").
pub(super) const OURS: u64 = 0x7472_0000_0000_0000;
/// The upper 32 bits of an uplink's cookie.
const UPLINK: u64 = 0x7472_ffff_0000_0000;
/// The bits of a cookie that a pod port's hash fills.
const HASH_MASK: u64 = 0x0000_ffff_ffff_ffff;

/// The cookie of a pod port's flow: the attachment's identity is (pod UID, interface).
#[must_use]
pub fn pod_cookie(pod_uid: &str, interface: &str) -> u64 {
    let digest = Sha256::digest(format!("{pod_uid}/{interface}").as_bytes());
    let tail = digest.iter().rev().take(6).rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    OURS | (tail & HASH_MASK)
}

/// The cookie of an uplink's flow.
#[must_use]
pub fn uplink_cookie(ofport: u32) -> u64 {
    UPLINK | u64::from(ofport)
}

/// Whether a flow with this cookie was made by an agent of ours.
#[must_use]
pub fn is_ours(cookie: u64) -> bool {
    cookie & !HASH_MASK == OURS
}

/// The host side's name of an attachment's veth, which is also its OVS port: `tl` and 13 hex digits of
/// sha256("<sandbox id>/<interface>"), 15 bytes, the most that Linux takes.
#[must_use]
pub fn host_veth_name(sandbox: &str, interface: &str) -> String {
    let digest = Sha256::digest(format!("{sandbox}/{interface}").as_bytes());
    let mut name = String::from("tl");
    for byte in digest.iter().take(7) {
        write!(name, "{byte:02x}").expect("writing to a String cannot fail");
    }
    name.truncate(15);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_cookie_carries_our_mark_and_depends_on_the_identity() {
        let cookie = pod_cookie("uid-1", "eth1");
        assert!(is_ours(cookie));
        assert_eq!(cookie, pod_cookie("uid-1", "eth1"));
        assert_ne!(cookie, pod_cookie("uid-1", "eth2"));
        assert_ne!(cookie, pod_cookie("uid-2", "eth1"));
    }

    #[test]
    fn an_uplink_cookie_carries_its_port_number() {
        assert_eq!(uplink_cookie(7), 0x7472_ffff_0000_0007);
        assert!(is_ours(uplink_cookie(7)));
        assert!(!is_ours(0));
        assert!(!is_ours(0x7473_0000_0000_0000));
    }

    #[test]
    fn a_host_veth_name_has_15_bytes_and_13_digits_of_the_hash() {
        let name = host_veth_name("sandbox", "eth1");
        assert_eq!(name.len(), 15);
        assert!(name.starts_with("tl"));
        assert!(name[2..].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(name, host_veth_name("sandbox", "eth2"));
    }
}
