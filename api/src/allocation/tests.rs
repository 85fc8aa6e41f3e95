//! Names of allocations.

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_those_of_the_contract() {
    for (pool, address, name) in [
        ("p", "10.0.0.5", "p.ip-10-0-0-5"),
        ("vlan100-ipv4", "255.255.255.255", "vlan100-ipv4.ip-255-255-255-255"),
        ("p", "fd00::5", "p.ip6-fd000000000000000000000000000005"),
        ("p", "2001:db8::", "p.ip6-20010db8000000000000000000000000"),
    ] {
        assert_eq!(allocation_name(pool, address.parse().expect("address")), name);
    }
}

proptest! {
    #[test]
    fn different_addresses_have_different_names_that_fit(a: IpAddr, b: IpAddr) {
        let pool = "p".repeat(crate::pool::MAX_POOL_NAME);
        let (first, second) = (allocation_name(&pool, a), allocation_name(&pool, b));
        prop_assert_eq!(a == b, first == second);
        prop_assert!(first.len() <= 253);
    }

    #[test]
    fn objects_round_trip(address: IpAddr) {
        let spec = IPAllocationSpec {
            pool: "p".to_owned(),
            address,
            node: "n".to_owned(),
            owner: AllocationOwner { pod_uid: "u".to_owned(), ..AllocationOwner::default() },
        };
        let value = serde_json::to_value(&spec).expect("data");
        prop_assert_eq!(&value["owner"]["podUID"], "u");
        prop_assert_eq!(serde_json::from_value::<IPAllocationSpec>(value).expect("own shape"), spec);
    }
}
