//! Tables of good and bad VLANs.

use proptest::prelude::*;

use super::*;

#[test]
fn ids_are_1_to_4094() {
    for (text, expected) in [
        ("1", Ok(1)),
        ("4094", Ok(4094)),
        ("0", Err("\"0\" is not a VLAN id; use 1 to 4094")),
        ("4095", Err("\"4095\" is not a VLAN id; use 1 to 4094")),
        ("65536", Err("\"65536\" is not a VLAN id; use 1 to 4094")),
        ("007", Err("\"007\" is not a VLAN id; use 1 to 4094")),
        ("+5", Err("\"+5\" is not a VLAN id; use 1 to 4094")),
        ("", Err("\"\" is not a VLAN id; use 1 to 4094")),
    ] {
        let read = text.parse::<VlanId>().map(VlanId::get).map_err(|error| error.to_string());
        assert_eq!(read, expected.map_err(str::to_owned), "{text:?}");
    }
}

#[test]
fn zero_is_untagged_in_a_users_key() {
    assert_eq!(VlanId::from_tag(0), Ok(None));
    assert_eq!(VlanId::from_tag(7), Ok(Some(VlanId(7))));
    assert!(VlanId::from_tag(4095).is_err());
}

#[test]
fn serde_uses_the_same_door() {
    assert_eq!(serde_json::from_str::<VlanId>("100").expect("in range"), VlanId(100));
    let error = serde_json::from_str::<VlanId>("4095").expect_err("out of range");
    assert_eq!(error.to_string(), "\"4095\" is not a VLAN id; use 1 to 4094");
}

#[test]
fn sets_merge_and_print() {
    for (items, printed) in [
        (&[][..], "all VLANs"),
        (&["0"], "0"),
        (&["100", "0", "200-300"], "0,100,200-300"),
        (&["5", "4", "6-9", "8"], "4-9"),
        (&["1-4094"], "1-4094"),
    ] {
        assert_eq!(VlanSet::parse(items.iter().copied()).expect("good").to_string(), printed, "{items:?}");
    }
}

#[test]
fn sets_refuse_what_is_no_range() {
    for item in ["", "a", "4095", "300-200", "0-5", "5-", "-5", "1-4095", "1-2-3", " 5"] {
        let error = VlanSet::parse([item]).expect_err(item).to_string();
        let right =
            "is not a VLAN or a range of them; use \"0\" (untagged), \"1\" to \"4094\", or \"200-300\"";
        assert_eq!(error, format!("{item:?} {right}"));
    }
}

#[test]
fn common_vlan_of_two_sets() {
    for (a, b, common) in [
        (&["100"][..], &["200"][..], None),
        (&["100-200"], &["200-300"], Some(200)),
        (&["0"], &["0", "5"], Some(0)),
        (&[], &["7"], Some(7)),
        (&[], &[], Some(0)),
    ] {
        let set = |items: &[&'static str]| VlanSet::parse(items.iter().copied()).expect("good");
        assert_eq!(set(a).common(&set(b)), common, "{a:?} {b:?}");
    }
}

proptest! {
    #[test]
    fn a_set_contains_exactly_its_trunks(ranges in prop::collection::vec((0u16..=4094, 0u16..50), 1..8), id in 0u16..=4094) {
        let items: Vec<String> = ranges
            .iter()
            .map(|&(first, more)| match (first, (first + more).min(4094)) {
                (0, _) => "0".to_owned(),
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            })
            .collect();
        let set = VlanSet::parse(items.iter().map(String::as_str)).expect("made well");
        prop_assert_eq!(set.contains(VlanId::from_tag(id).expect("in range")), set.trunks().contains(&id));
        let printed = set.to_string();
        prop_assert_eq!(VlanSet::parse(printed.split(',')), Ok(set.clone()));
    }
}
