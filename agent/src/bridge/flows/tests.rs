//! Cases for the comparison of flow tables.

use proptest::prelude::*;

use super::*;

fn table(entries: &[(u32, PortFlow)]) -> FlowTable {
    entries.iter().copied().collect()
}

#[test]
fn a_pod_port_admits_untagged_frames_only_and_an_uplink_everything() {
    assert_eq!(pod_flow("uid", "eth1").admit, Admit::Untagged);
    assert_eq!(uplink_flow(1).admit, Admit::Everything);
}

#[test]
fn missing_changed_and_stale_flows_are_told_apart() {
    let (first, second) = (pod_flow("a", "eth1"), pod_flow("b", "eth1"));
    let wanted = table(&[(1, uplink_flow(1)), (2, first), (3, second)]);
    let present = table(&[(1, uplink_flow(1)), (3, first), (4, second)]);
    let diff = diff(&wanted, &present);
    assert_eq!(diff.add, [(2, first), (3, second)]);
    assert_eq!(diff.remove, [(4, second)]);
}

#[test]
fn a_port_number_that_goes_from_an_uplink_to_a_pod_loses_the_uplinks_flow() {
    let pod = pod_flow("a", "eth1");
    let diff = diff(&table(&[(1, pod)]), &table(&[(1, uplink_flow(1))]));
    assert_eq!(diff.add, [(1, pod)]);
    assert_eq!(diff.remove, [(1, uplink_flow(1))]);
}

#[test]
fn foreign_flows_are_counted_and_leftovers_of_ours_ask_for_a_fresh_start() {
    let foreign = PortFlow { admit: Admit::Everything, cookie: 0 };
    let listed = [
        Listed::Standalone,
        Listed::Port { ofport: 1, flow: uplink_flow(1) },
        Listed::Port { ofport: 2, flow: foreign },
        Listed::Other { cookie: 7 },
    ];
    let listing = sort(listed);
    assert_eq!((listing.others, listing.tangled, listing.standalone), (2, false, true));
    assert!(listing.is_clean(false) && !listing.is_clean(true));
    assert_eq!(listing.ours, table(&[(1, uplink_flow(1))]));
    assert!(sort([Listed::Other { cookie: uplink_flow(1).cookie }]).tangled);
    let two = [uplink_flow(1), pod_flow("a", "eth1")].map(|flow| Listed::Port { ofport: 1, flow });
    assert!(sort(two).tangled);
}

/// What the switch does with a diff: removals by exact match first, then additions.
fn apply(diff: &FlowDiff, present: &FlowTable) -> FlowTable {
    let mut matches: std::collections::BTreeMap<(u32, Admit), u64> =
        present.iter().map(|(ofport, flow)| ((*ofport, flow.admit), flow.cookie)).collect();
    for (ofport, flow) in &diff.remove {
        matches.remove(&(*ofport, flow.admit));
    }
    for (ofport, flow) in &diff.add {
        matches.insert((*ofport, flow.admit), flow.cookie);
    }
    let count = matches.len();
    let table: FlowTable =
        matches.into_iter().map(|((ofport, admit), cookie)| (ofport, PortFlow { admit, cookie })).collect();
    assert_eq!(table.len(), count, "a port has two flows");
    table
}

fn any_table() -> impl Strategy<Value = FlowTable> {
    let flow = (any::<bool>(), 0_u64..4).prop_map(|(pod, cookie)| PortFlow {
        admit: if pod { Admit::Untagged } else { Admit::Everything },
        cookie,
    });
    proptest::collection::btree_map(0_u32..8, flow, 0..8)
}

proptest! {
    #[test]
    fn carrying_out_the_difference_leaves_exactly_what_is_wanted(wanted in any_table(), present in any_table()) {
        let result = apply(&diff(&wanted, &present), &present);
        prop_assert_eq!(&result, &wanted);
        prop_assert!(diff(&wanted, &result).is_empty());
    }
}
