//! Ranges, subnets, and the shape that users of Antrea know.

use super::*;

fn range(cidr: Option<&str>, start: Option<&str>, end: Option<&str>) -> IPRange {
    IPRange { cidr: cidr.map(Into::into), start: start.map(Into::into), end: end.map(Into::into) }
}

#[test]
fn bounds_of_ranges() {
    for (range, expected) in [
        (range(Some("10.0.0.0/30"), None, None), Ok(("10.0.0.0", "10.0.0.3"))),
        (range(Some("10.0.0.2/30"), None, None), Ok(("10.0.0.0", "10.0.0.3"))),
        (range(Some("fd00::/126"), None, None), Ok(("fd00::", "fd00::3"))),
        (range(None, Some("10.0.0.5"), Some("10.0.0.5")), Ok(("10.0.0.5", "10.0.0.5"))),
        (range(None, None, None), Err("a range is either cidr, or start and end")),
        (range(Some("10.0.0.0/30"), Some("10.0.0.1"), None), Err("a range is either cidr, or start and end")),
        (
            range(Some("10.0.0.0"), None, None),
            Err("cidr \"10.0.0.0\" is not an address and a prefix length, such as \"10.10.0.0/24\""),
        ),
        (range(None, Some("x"), Some("10.0.0.1")), Err("\"x\" is not an IP address")),
        (
            range(None, Some("10.0.0.1"), Some("fd00::1")),
            Err("start 10.0.0.1 and end fd00::1 are of different families"),
        ),
        (range(None, Some("10.0.0.9"), Some("10.0.0.8")), Err("start 10.0.0.9 comes after end 10.0.0.8")),
    ] {
        let read = range.bounds().map(|(first, last)| (first.to_string(), last.to_string()));
        let expected = expected.map(|(first, last)| (first.to_owned(), last.to_owned()));
        assert_eq!(read.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{range:?}");
    }
}

#[test]
fn subnets() {
    let subnet = |gateway: &str, prefix_length| {
        let info = SubnetInfo { gateway: gateway.to_owned(), prefix_length, vlan: None };
        info.subnet().map(|net| net.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(subnet("10.0.0.1", 24), Ok("10.0.0.1/24".to_owned()));
    assert_eq!(subnet("x", 24), Err("subnetInfo.gateway \"x\" is not an IP address".to_owned()));
    let too_long = "subnetInfo.prefixLength 33 is too long for gateway 10.0.0.1";
    assert_eq!(subnet("10.0.0.1", 33), Err(too_long.to_owned()));
}

#[test]
fn vlan_zero_or_none_is_untagged() {
    let vlan = |vlan| SubnetInfo { vlan, ..SubnetInfo::default() }.vlan_id().map(|id| id.map(VlanId::get));
    assert_eq!(vlan(None), Ok(None));
    assert_eq!(vlan(Some(0)), Ok(None));
    assert_eq!(vlan(Some(100)), Ok(Some(100)));
    assert!(vlan(Some(4095)).is_err());
}

#[test]
fn a_pool_with_antreas_status_is_read_and_written_back() {
    let text = r#"{
        "apiVersion": "crd.antrea.io/v1beta1", "kind": "IPPool", "metadata": {"name": "p"},
        "spec": {"ipRanges": [{"cidr": "10.0.0.0/24"}, {"start": "10.0.1.1", "end": "10.0.1.9"}],
                 "subnetInfo": {"gateway": "10.0.0.1", "prefixLength": 23, "vlan": 100}},
        "status": {"ipAddresses": [{"ipAddress": "10.0.0.2", "phase": "Allocated",
                     "owner": {"pod": {"name": "a", "namespace": "b", "containerID": "c", "ifName": "eth1"}}}],
                   "usage": {"total": 262, "used": 1}}}"#;
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let pool: IPPool = serde_json::from_value(value.clone()).expect("an IPPool");
    assert_eq!(pool.spec.subnet_info.vlan, Some(100));
    assert_eq!(serde_json::to_value(&pool).expect("data"), value);
}
