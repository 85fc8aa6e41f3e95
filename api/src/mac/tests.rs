//! Tables of good and bad MAC addresses.

use proptest::prelude::*;

use super::*;

#[test]
fn one_spelling_is_read() {
    assert_eq!("02:AB:00:00:00:01".parse::<MacAddr>().expect("good").to_string(), "02:ab:00:00:00:01");
    for text in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:00:00",
        "02-00-00-00-00-01",
        "0200.0000.0001",
        "2:0:0:0:0:1",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:+1",
        " 02:00:00:00:00:01",
    ] {
        let error = text.parse::<MacAddr>().expect_err(text).to_string();
        let right = "is not a MAC address; use six hexadecimal bytes such as \"02:00:00:00:00:01\"";
        assert_eq!(error, format!("{text:?} {right}"));
    }
}

#[test]
fn kinds_of_addresses() {
    for (text, multicast, unicast) in [
        ("02:00:00:00:00:01", false, true),
        ("01:00:5e:00:00:01", true, false),
        ("ff:ff:ff:ff:ff:ff", true, false),
        ("00:00:00:00:00:00", false, false),
    ] {
        let mac: MacAddr = text.parse().expect("good");
        assert_eq!((mac.is_multicast(), mac.is_unicast()), (multicast, unicast), "{text}");
    }
}

proptest! {
    #[test]
    fn text_and_bytes_round_trip(octets: [u8; 6]) {
        let mac = MacAddr::new(octets);
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        let json = serde_json::to_string(&mac).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<MacAddr>(&json).expect("own spelling"), mac);
        let own = MacAddr::local(octets);
        prop_assert!(own.is_unicast());
    }
}
