//! Several pools that share addresses.

use super::*;

fn spec(name: &str, subnet: &str, first: &str, last: &str, vlan: u16) -> PoolSpec {
    let parse = |text: &str| text.parse().expect("a test's address");
    PoolSpec {
        name: name.to_owned(),
        subnet: Ok(subnet.parse().expect("a test's subnet")),
        ranges: vec![Ok((parse(first), parse(last)))],
        vlan,
    }
}

fn table(specs: impl IntoIterator<Item = PoolSpec>) -> Table {
    let mut table = Table::default();
    for spec in specs {
        table.upsert(spec, false);
    }
    table
}

fn owner(name: &str) -> Owner {
    Owner {
        pod_uid: name.to_owned(),
        interface: "eth1".to_owned(),
        namespace: "a".to_owned(),
        pod: name.to_owned(),
    }
}

/// Picks and says "pool address, …" or the refusal.
fn pick(table: &mut Table, who: &str, pools: &[&str], ips: &[&str]) -> Result<String, String> {
    pick_on(table, who, pools, ips, None, &[])
}

fn pick_on(
    table: &mut Table,
    who: &str,
    pools: &[&str],
    ips: &[&str],
    vlan: Option<u16>,
    held: &[Family],
) -> Result<String, String> {
    let owner = owner(who);
    let pools: Vec<String> = pools.iter().map(|pool| (*pool).to_owned()).collect();
    let requested: Vec<_> = ips.iter().map(|text| Requested::parse(text).expect("well formed")).collect();
    let ask = Ask { owner: &owner, pools: &pools, requested: &requested, vlan, bridge: None, held };
    let picks = table.pick(&ask, Instant::now()).map_err(|error| error.to_string())?;
    Ok(picks.iter().map(|pick| format!("{} {}", pick.pool, pick.address)).collect::<Vec<_>>().join(", "))
}

fn three() -> Table {
    table([
        spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.10", 1),
        spec("b", "10.0.1.1/24", "10.0.1.10", "10.0.1.11", 1),
        spec("v6", "fd00::1/64", "fd00::10", "fd00::11", 1),
    ])
}

#[test]
fn one_address_of_each_family_is_given_and_pools_of_a_family_are_tried_in_order() {
    let mut table = three();
    let pools = ["a", "b", "v6"];
    assert_eq!(pick(&mut table, "1", &pools, &[]), Ok("a 10.0.0.10, v6 fd00::10".to_owned()));
    assert_eq!(pick(&mut table, "2", &pools, &[]), Ok("b 10.0.1.10, v6 fd00::11".to_owned()));
}

#[test]
fn when_one_family_is_exhausted_nothing_of_the_other_is_kept() {
    // spiderpool #4295: a partial failure drained the first pool.
    let mut table = three();
    for who in ["1", "2"] {
        pick(&mut table, who, &["v6"], &[]).expect("free");
    }
    for who in ["3", "4", "5", "6"] {
        let refusal = pick(&mut table, who, &["b", "v6"], &[]).expect_err("no IPv6 address is left");
        assert_eq!(refusal, "no IPv6 address is free: IPPool v6 is exhausted, 2 of 2 in use");
    }
    assert_eq!(table.pool("b").expect("known").used(), 0);
}

#[test]
fn an_exhausted_answer_names_every_pool_and_its_usage() {
    let mut table = three();
    for who in ["1", "2", "3"] {
        pick(&mut table, who, &["a", "b"], &[]).expect("free");
    }
    let refusal = pick(&mut table, "4", &["a", "b"], &[]).expect_err("nothing is left");
    let expected =
        "no IPv4 address is free: IPPool a is exhausted, 1 of 1 in use; IPPool b is exhausted, 2 of 2 in use";
    assert_eq!(refusal, expected);
}

#[test]
fn families_that_the_interface_has_already_are_left_alone() {
    let mut table = three();
    let picked = pick_on(&mut table, "1", &["a", "v6"], &[], None, &[Family::V4]);
    assert_eq!(picked, Ok("v6 fd00::10".to_owned()));
}

#[test]
fn a_requested_address_comes_from_the_pool_that_holds_it() {
    let mut table = three();
    assert_eq!(
        pick(&mut table, "1", &["a", "b", "v6"], &["10.0.1.11/24"]),
        Ok("b 10.0.1.11, v6 fd00::10".to_owned())
    );
    for (ips, expected) in [
        (
            &["10.0.9.9"][..],
            "it is in no range of IPPool a (10.0.0.10-10.0.0.10) or IPPool b (10.0.1.10-10.0.1.11)",
        ),
        (&["10.0.1.10", "10.0.1.11"][..], "at most one IPv4 address can be given"),
        (&["fd00::99"][..], "it is in no range of the network's IPPools: none of them is of family IPv6"),
        (&["10.0.1.11"][..], "it is in use by interface eth1 of pod a/1 (IPPool b)"),
    ] {
        let refusal = pick(&mut table, "2", &["a", "b"], ips).expect_err(expected);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn an_unknown_pool_is_named() {
    assert_eq!(pick(&mut three(), "1", &["a", "nope"], &[]), Err("IPPool nope does not exist".to_owned()));
}

#[test]
fn a_pool_that_is_being_deleted_gives_nothing() {
    let mut table = three();
    table.upsert(spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.10", 1), true);
    let refusal = pick(&mut table, "1", &["a"], &[]).expect_err("deleting");
    assert_eq!(refusal, "no IPv4 address is free: IPPool a is being deleted");
    let refusal = pick(&mut table, "1", &["a"], &["10.0.0.10"]).expect_err("deleting");
    assert!(refusal.ends_with("IPPool a is being deleted"), "{refusal}");
}

fn overlapping(vlan_b: u16) -> Table {
    table([
        spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.12", 100),
        spec("b", "10.0.0.1/24", "10.0.0.10", "10.0.0.12", vlan_b),
    ])
}

#[test]
fn equal_ranges_on_different_vlans_are_two_pools() {
    let mut table = overlapping(200);
    assert_eq!(table.overlaps("a"), []);
    assert_eq!(pick(&mut table, "1", &["a"], &[]), Ok("a 10.0.0.10".to_owned()));
    assert_eq!(pick(&mut table, "2", &["b"], &[]), Ok("b 10.0.0.10".to_owned()));
}

#[test]
fn overlapping_pools_of_one_vlan_both_serve_and_never_give_one_address_twice() {
    let mut table = overlapping(100);
    assert_eq!(table.overlaps("a"), [Overlap { other: "b".to_owned(), vlan: 100 }]);
    assert_eq!(table.overlaps("b"), [Overlap { other: "a".to_owned(), vlan: 100 }]);
    assert_eq!(pick(&mut table, "1", &["a"], &[]), Ok("a 10.0.0.10".to_owned()));
    assert_eq!(pick(&mut table, "2", &["b"], &[]), Ok("b 10.0.0.11".to_owned()));
    assert_eq!(pick(&mut table, "3", &["a"], &[]), Ok("a 10.0.0.12".to_owned()));
    let refusal = pick(&mut table, "4", &["b"], &[]).expect_err("the rest is in use in a");
    assert!(refusal.contains("the others in overlapping IPPools of the same VLAN (a)"), "{refusal}");
    let refusal = pick(&mut table, "4", &["b"], &["10.0.0.10"]).expect_err("a has it");
    assert!(refusal.contains("in use by interface eth1 of pod a/1 (IPPool a)"), "{refusal}");
}

#[test]
fn the_vlan_that_counts_is_the_one_in_effect() {
    // Both pools say another VLAN; the network overrides one of them.
    let mut table = overlapping(200);
    pick(&mut table, "1", &["a"], &[]).expect("free");
    let on_100 = pick_on(&mut table, "2", &["b"], &[], Some(100), &[]);
    assert_eq!(on_100, Ok("b 10.0.0.11".to_owned()));
    let network = |vlan, bridge: Option<&str>| Network { vlan, bridge: bridge.map(str::to_owned) };
    let uses =
        |a, b| BTreeMap::from([("a".to_owned(), BTreeSet::from([a])), ("b".to_owned(), BTreeSet::from([b]))]);
    table.set_networks(uses(network(100, None), network(100, Some("br2"))));
    assert_eq!(table.overlaps("a").len(), 1, "an unnamed bridge may be any");
    table.set_networks(uses(network(100, Some("br1")), network(100, Some("br2"))));
    assert_eq!(table.overlaps("a"), [], "different bridges are different networks");
    table.set_networks(BTreeMap::new());
    assert_eq!(table.overlaps("a"), [], "their own VLANs differ");
}

#[test]
fn another_pool_s_gateway_on_the_same_vlan_is_not_given() {
    let mut table = table([
        spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.12", 100),
        spec("b", "10.0.0.10/24", "10.0.0.11", "10.0.0.20", 100),
    ]);
    assert_eq!(pick(&mut table, "1", &["a"], &[]), Ok("a 10.0.0.11".to_owned()));
    let refusal = pick(&mut table, "2", &["a"], &["10.0.0.10"]).expect_err("a gateway");
    assert!(refusal.ends_with("it is the gateway of IPPool b"), "{refusal}");
}

#[test]
fn claims_seen_before_their_pool_count_once_it_is_known() {
    let mut table = Table::default();
    let at = "10.0.0.10".parse().expect("an address");
    table.mark("a", at, owner("1"));
    table.upsert(spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.11", 1), false);
    assert_eq!(pick(&mut table, "2", &["a"], &[]), Ok("a 10.0.0.11".to_owned()));
    table.remove("a");
    table.release("a", at, &owner("1"), Release::Announced, Instant::now());
    table.upsert(spec("a", "10.0.0.1/24", "10.0.0.10", "10.0.0.11", 1), false);
    assert_eq!(table.pool("a").expect("known").used(), 1, "a pool that comes back has its claims");
}

#[test]
fn a_pool_that_changes_or_goes_is_nobody_s_neighbour_any_more() {
    let mut table = overlapping(100);
    table.remove("b");
    assert_eq!(table.overlaps("a"), []);
    table.upsert(spec("b", "10.0.0.1/24", "10.0.0.30", "10.0.0.31", 100), false);
    assert_eq!(table.neighbours("a"), [] as [String; 0]);
    table.upsert(spec("b", "10.0.0.1/24", "10.0.0.12", "10.0.0.31", 100), false);
    assert_eq!(
        (table.neighbours("a"), table.neighbours("b")),
        (&["b".to_owned()][..], &["a".to_owned()][..])
    );
}
