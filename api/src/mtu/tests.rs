//! The bounds.

use super::*;

#[test]
fn mtus_are_68_to_65535() {
    for (text, good) in
        [("68", true), ("1500", true), ("65535", true), ("67", false), ("0", false), ("65536", false)]
    {
        let read = text.parse::<Mtu>().map_err(|error| error.to_string());
        if good {
            assert_eq!(read.map(|mtu| mtu.to_string()), Ok(text.to_owned()));
        } else {
            assert_eq!(read, Err(format!("{text} is not an MTU; use 68 to 65535 bytes")));
        }
    }
}

#[test]
fn ipv6_needs_1280() {
    let mtu = |bytes: u32| Mtu::try_from(bytes).expect("in range");
    assert!(!mtu(1279).carries_ipv6());
    assert!(mtu(1280).carries_ipv6());
}

#[test]
fn serde_uses_the_same_door() {
    assert!(serde_json::from_str::<Mtu>("1300").is_ok());
    assert!(serde_json::from_str::<Mtu>("10").is_err());
}
