//! `--ignore-vlan`: flows that are one but for their VLAN.
//!
//! Pure. Merges what one interface of one node saw in one direction, never what two interfaces saw: a frame that passes
//! both is counted by both.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use trunkline_agent::flows::{DnsRow, FlowRow, TCP_FLAGS};

use super::OfNode;

/// Stands for several values, in every form of output.
pub(super) const SEVERAL: &str = "*";

/// What is equal of flows that differ only by network, VLAN, bridge and tags. Who a peer is follows from the network.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    node: String,
    direction: String,
    pod: String,
    interface: String,
    netns: String,
    device: String,
    protocol: String,
    ends: [(String, Option<u16>); 2],
}

impl Alike {
    fn of(of: &OfNode<'_>) -> Self {
        let flow = &of.flow;
        Self {
            node: of.node.to_owned(),
            direction: flow.direction.clone(),
            pod: flow.pod.clone(),
            interface: flow.interface.clone(),
            netns: flow.netns.clone(),
            device: flow.device.clone(),
            protocol: flow.protocol.clone(),
            ends: [
                (flow.source.clone(), flow.source_port),
                (flow.destination.clone(), flow.destination_port),
            ],
        }
    }
}

/// One flow of those that differ only by network, VLAN, bridge and tags, in the order of the first of each.
pub(super) fn ignoring_vlan(flows: Vec<OfNode<'_>>) -> Vec<OfNode<'_>> {
    let mut merged: Vec<OfNode<'_>> = Vec::with_capacity(flows.len());
    let mut places: HashMap<Alike, usize> = HashMap::with_capacity(flows.len());
    for of in flows {
        match places.entry(Alike::of(&of)) {
            Entry::Vacant(free) => {
                free.insert(merged.len());
                merged.push(of);
            }
            Entry::Occupied(place) => {
                let into = &mut merged[*place.get()];
                into.several_vlans |= into.flow.vlan != of.flow.vlan;
                add(into.flow.to_mut(), &of.flow);
            }
        }
    }
    merged
}

fn add(into: &mut FlowRow, other: &FlowRow) {
    for (mine, others) in [
        (&mut into.network, &other.network),
        (&mut into.bridge, &other.bridge),
        (&mut into.tags, &other.tags),
        (&mut into.peer, &other.peer),
    ] {
        if mine != others {
            SEVERAL.clone_into(mine);
        }
    }
    for (sum, more) in [
        (&mut into.packets, other.packets),
        (&mut into.bytes, other.bytes),
        (&mut into.skbs, other.skbs),
        (&mut into.skb_bytes, other.skb_bytes),
        (&mut into.bytes_per_second, other.bytes_per_second),
    ] {
        *sum = sum.saturating_add(more);
    }
    into.estimated |= other.estimated;
    into.one_in = into.one_in.max(other.one_in);
    let earlier = other.first_unix_ms < into.first_unix_ms;
    into.rtt_us = if earlier { other.rtt_us.or(into.rtt_us) } else { into.rtt_us.or(other.rtt_us) };
    if let Some(other_dns) = &other.dns {
        let later = other.last_unix_ms > into.last_unix_ms;
        add_dns(into.dns.get_or_insert_default(), other_dns, later);
    }
    into.first_unix_ms = into.first_unix_ms.min(other.first_unix_ms);
    into.last_unix_ms = into.last_unix_ms.max(other.last_unix_ms);
    into.flags = either(&into.flags, &other.flags);
    for note in &other.notes {
        if !into.notes.contains(note) {
            into.notes.push(note.clone());
        }
    }
}

/// `later`: the last question is of the other.
fn add_dns(into: &mut DnsRow, other: &DnsRow, later: bool) {
    into.answered = into.answered.saturating_add(other.answered);
    into.unanswered = into.unanswered.saturating_add(other.unanswered);
    into.failed = into.failed.saturating_add(other.failed);
    into.slowest_ms = match (into.slowest_ms, other.slowest_ms) {
        (Some(one), Some(two)) => Some(one.max(two)),
        (one, two) => one.or(two),
    };
    if later || into.last_code.is_empty() {
        into.last_code.clone_from(&other.last_code);
    }
}

/// The TCP flags that either has.
fn either(one: &str, other: &str) -> String {
    let set = |flag: &&&str| one.split(',').chain(other.split(',')).any(|seen| seen == **flag);
    TCP_FLAGS.iter().filter(set).copied().collect::<Vec<_>>().join(",")
}

/// Flows as they came, one each.
pub(super) fn single<'a>(node: &'a str, flow: &'a FlowRow) -> OfNode<'a> {
    OfNode { node, flow: Cow::Borrowed(flow), several_vlans: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ICMP on an uplink, which knows VLANs by tags alone.
    fn uplink(tags: &str, bytes: u64) -> FlowRow {
        FlowRow {
            direction: "sent".into(),
            interface: "up1".into(),
            device: "up1".into(),
            bridge: "br-phys".into(),
            tags: tags.into(),
            protocol: "tcp".into(),
            source: "10.0.0.1".into(),
            source_port: Some(4000),
            destination: "10.0.0.2".into(),
            destination_port: Some(80),
            packets: 1,
            bytes,
            skbs: 1,
            skb_bytes: bytes,
            bytes_per_second: bytes / 10,
            first_unix_ms: 1000 - bytes,
            last_unix_ms: 2000 - bytes,
            ..FlowRow::default()
        }
    }

    fn merged(rows: &[(&'static str, FlowRow)]) -> Vec<(FlowRow, bool)> {
        let flows = rows.iter().map(|(node, flow)| single(node, flow)).collect();
        ignoring_vlan(flows).into_iter().map(|of| (of.flow.into_owned(), of.several_vlans)).collect()
    }

    #[test]
    fn flows_of_two_vlans_are_one_with_the_sums_of_both() {
        let tagged = |tags: &str, bytes, flags: &str, rtt_us, note: &str| FlowRow {
            flags: flags.into(),
            rtt_us,
            notes: vec!["seen".into(), note.into()],
            ..uplink(tags, bytes)
        };
        let both = merged(&[
            ("n1", tagged("200", 100, "ACK,AE", Some(5.0), "a")),
            ("n1", FlowRow { estimated: true, one_in: 10, ..tagged("300", 50, "SYN", Some(7.0), "b") }),
            ("n1", tagged("", 500, "FIN,ACK", None, "a")),
        ]);
        let expected = FlowRow {
            tags: "*".into(),
            estimated: true,
            one_in: 10,
            packets: 3,
            bytes: 650,
            skbs: 3,
            skb_bytes: 650,
            bytes_per_second: 65,
            first_unix_ms: 500,
            last_unix_ms: 1950,
            flags: "FIN,SYN,ACK,AE".into(),
            rtt_us: Some(5.0),
            notes: ["seen", "a", "b"].map(str::to_owned).to_vec(),
            ..uplink("", 0)
        };
        assert_eq!(both, [(expected, false)]);
    }

    #[test]
    fn questions_to_name_servers_are_added_up() {
        let dns = |answered, failed, slowest_ms, last_code: &str| {
            Some(DnsRow { answered, unanswered: 1, failed, slowest_ms, last_code: last_code.into() })
        };
        // The fewer bytes a flow of these has, the later it is.
        let with = |bytes, dns| ("n1", FlowRow { dns, ..uplink("200", bytes) });
        let rows = [
            with(30, None),
            with(20, dns(2, 0, Some(1.5), "NOERROR")),
            with(10, dns(1, 1, Some(0.5), "NXDOMAIN")),
            with(25, dns(0, 0, None, "none")),
        ];
        let rows = merged(&rows);
        let all = DnsRow { unanswered: 3, ..dns(3, 1, Some(1.5), "NXDOMAIN").unwrap_or_default() };
        assert_eq!((rows.len(), &rows[0].0.dns), (1, &Some(all)));
    }

    #[test]
    fn networks_bridges_and_peers_that_differ_are_several() {
        let on = |network: &str, vlan, bridge: &str, peer: &str| FlowRow {
            network: network.into(),
            vlan,
            bridge: bridge.into(),
            peer: peer.into(),
            ..uplink("", 10)
        };
        let rows = merged(&[("n1", on("a/x", 100, "br1", "a/p")), ("n1", on("a/y", 200, "br1", "a/q"))]);
        let [(row, several_vlans)] = &rows[..] else { panic!("not one row: {rows:?}") };
        assert_eq!([&row.network, &row.bridge, &row.peer], ["*", "br1", "*"]);
        assert!(several_vlans);
        let rows = merged(&[("n1", on("a/x", 100, "br1", "a/p")), ("n1", on("a/y", 100, "br2", "a/p"))]);
        assert_eq!((&rows[0].0.bridge[..], &rows[0].0.peer[..], rows[0].1), ("*", "a/p", false));
    }

    #[test]
    fn what_differs_by_anything_else_stays_apart_and_in_order() {
        let first = uplink("200", 10);
        let change = |change: fn(&mut FlowRow)| {
            let mut row = uplink("300", 20);
            change(&mut row);
            ("n1", row)
        };
        let mut rows = vec![
            ("n1", first.clone()),
            ("n2", first.clone()),
            change(|row| row.direction = "received".into()),
            change(|row| row.pod = "default/a".into()),
            change(|row| row.interface = "up2".into()),
            change(|row| row.netns = "host".into()),
            change(|row| row.device = "up2".into()),
            change(|row| row.protocol = "udp".into()),
            change(|row| row.source = "10.0.0.3".into()),
            change(|row| row.source_port = Some(4001)),
            change(|row| row.destination = "10.0.0.3".into()),
            change(|row| row.destination_port = None),
        ];
        let apart: Vec<_> = rows.iter().map(|(_, row)| (row.clone(), false)).collect();
        assert_eq!(merged(&rows), apart);
        let total = |rows: &[(FlowRow, bool)]| rows.iter().map(|(row, _)| row.bytes).sum::<u64>();
        rows.extend(rows.clone());
        let doubled = merged(&rows);
        assert_eq!((doubled.len(), total(&doubled)), (apart.len(), 2 * total(&apart)));
    }
}
