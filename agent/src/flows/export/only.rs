//! `only`: whether an exporter gets a record.
//!
//! Pure. Judges as the filters of `trunkctl flows` do.

use trunkline_api::export::{AddressRange, Only, RecordKind};
use trunkline_ebpf::Conversation;

use crate::flows::record::Record;
use crate::flows::view;

/// Whether every list that is there has a match.
///
/// A VLAN is the network's: an uplink, which has no network, is not an untagged one.
pub(super) fn admits(only: &Only, record: &Record) -> bool {
    let Only { networks, vlans, ports, addresses, protocols, records } = only;
    let kind = match record {
        Record::Flow(_) => RecordKind::Flow,
        Record::Dns(_) => RecordKind::Dns,
    };
    let (tap, conversation) = (record.tap(), record.key().conversation());
    let network = tap.network.as_deref();
    let protocol = view::protocol(&conversation);
    let within = |range: &AddressRange| {
        view::ip_addresses(&conversation).is_some_and(|ends| ends.iter().any(|end| range.contains(*end)))
    };
    networks.as_ref().is_none_or(|of| of.any(|name| network == Some(name.as_str())))
        && vlans.as_ref().is_none_or(|of| network.is_some() && of.any(|vlan| tap.vlan == vlan.get()))
        && ports.as_ref().is_none_or(|of| of.any(|port| has_port(&conversation, port.get())))
        && addresses.as_ref().is_none_or(|of| of.any(within))
        && protocols.as_ref().is_none_or(|of| of.any(|asked| *asked == protocol))
        && records.as_ref().is_none_or(|of| of.any(|asked| *asked == kind))
}

/// No protocol without ports, and no later fragment, has another port than 0, which nobody can ask for.
fn has_port(conversation: &Conversation, port: u16) -> bool {
    matches!(conversation, Conversation::Ip { src_port, dst_port, .. } if [*src_port, *dst_port].contains(&port))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use trunkline_ebpf::FlowKey;

    use super::*;
    use crate::flows::export::samples::{answered, icmp, record, tcp, unanswered, uplink};
    use crate::flows::record::FlowRecord;

    fn only(value: Value) -> Only {
        serde_json::from_value(value).unwrap()
    }

    fn untagged() -> FlowRecord {
        let mut sample = tcp();
        std::sync::Arc::make_mut(&mut sample.tap).vlan = None;
        sample
    }

    fn arp() -> FlowRecord {
        let [sender, target] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        record(Conversation::Arp { sender, target, operation: 1 })
    }

    /// A fragment of ICMP other than the first: its ports are unknown, and its protocol is not.
    fn fragment() -> FlowRecord {
        let [src, dst] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let conversation = Conversation::Ip { src, dst, protocol: 1, src_port: 0, dst_port: 0 };
        let mut sample = record(conversation);
        let FlowRecord { key, .. } = &sample;
        sample.key =
            FlowKey::new(key.slot(), key.direction(), [None, None], conversation).marked(true, false, false);
        sample
    }

    #[test]
    fn lists_admit_what_they_name_at_either_end() {
        let lldp = || record(Conversation::Ethernet { src: [2; 6], dst: [3; 6], ethertype: 0x88cc });
        for (lists, sample, admitted) in [
            (json!({}), uplink(), true),
            (json!({"networks": ["shop/vlan100"]}), tcp(), true),
            (json!({"networks": ["other/vlan100", "shop/vlan100"]}), tcp(), true),
            (json!({"networks": ["other/vlan100"]}), tcp(), false),
            (json!({"networks": ["shop/vlan100"]}), uplink(), false),
            (json!({"vlans": [100]}), tcp(), true),
            (json!({"vlans": [0, 200]}), tcp(), false),
            (json!({"vlans": [0]}), untagged(), true),
            (json!({"vlans": [0]}), uplink(), false),
            (json!({"ports": [443]}), tcp(), true),
            (json!({"ports": [40_000]}), tcp(), true),
            (json!({"ports": [80]}), tcp(), false),
            (json!({"ports": [8]}), icmp(true), false),
            (json!({"ports": [8]}), arp(), false),
            (json!({"ports": [1]}), fragment(), false),
            (json!({"addresses": ["192.0.2.1"]}), tcp(), true),
            (json!({"addresses": ["10.0.0.0/8", "192.0.2.2/31"]}), tcp(), true),
            (json!({"addresses": ["192.0.2.3"]}), tcp(), false),
            (json!({"addresses": ["192.0.2.0/24"]}), arp(), true),
            (json!({"addresses": ["0.0.0.0/0", "::/0"]}), lldp(), false),
            (json!({"addresses": ["0.0.0.0/0"]}), icmp(false), false),
            (json!({"addresses": ["::1"]}), icmp(false), true),
            (json!({"protocols": ["TCP"]}), tcp(), true),
            (json!({"protocols": [6]}), tcp(), true),
            (json!({"protocols": ["udp", "sctp"]}), tcp(), false),
            (json!({"protocols": ["icmp"]}), icmp(true), true),
            (json!({"protocols": ["icmp"]}), icmp(false), false),
            (json!({"protocols": ["icmpv6"]}), icmp(false), true),
            (json!({"protocols": ["icmp"]}), fragment(), true),
            (json!({"protocols": ["arp"]}), arp(), true),
            (json!({"protocols": ["0x88cc"]}), lldp(), true),
            (json!({"records": ["flow"]}), tcp(), true),
            (json!({"records": ["dns"]}), tcp(), false),
        ] {
            assert_eq!(admits(&only(lists.clone()), &sample.into()), admitted, "{lists}");
        }
    }

    #[test]
    fn questions_to_name_servers_are_judged_as_the_flows_that_carry_them() {
        for (lists, admitted) in [
            (json!({"ports": [53], "protocols": ["udp"], "networks": ["shop/vlan100"]}), true),
            (json!({"vlans": [100], "addresses": ["192.0.2.53"]}), true),
            (json!({"protocols": ["tcp"]}), false),
            (json!({"ports": [443]}), false),
            (json!({"records": ["flow", "dns"]}), true),
            (json!({"records": ["dns"]}), true),
            (json!({"records": ["flow"]}), false),
        ] {
            for sample in [answered(), unanswered()] {
                assert_eq!(admits(&only(lists.clone()), &sample.into()), admitted, "{lists}");
            }
        }
    }

    #[test]
    fn every_list_that_is_there_must_have_a_match() {
        let lists = [
            ("networks", json!(["shop/vlan100"]), json!(["shop/vlan200"])),
            ("vlans", json!([100]), json!([200])),
            ("ports", json!([443]), json!([444])),
            ("addresses", json!(["192.0.2.0/24"]), json!(["2001:db8::/32"])),
            ("protocols", json!(["tcp"]), json!(["udp"])),
        ];
        // Each list absent, with a match, without one, or with both: 4^5 filters.
        for choice in 0..4_usize.pow(5) {
            let (mut filter, mut admitted) = (Map::new(), true);
            for (place, (key, matching, other)) in (0..).zip(&lists) {
                let both = || {
                    [matching, other].into_iter().flat_map(|list| list.as_array().unwrap().clone()).collect()
                };
                let list = match choice / 4_usize.pow(place) % 4 {
                    0 => continue,
                    1 => matching.clone(),
                    2 => other.clone(),
                    _ => both(),
                };
                admitted &= list != *other;
                filter.insert((*key).to_owned(), list);
            }
            assert_eq!(admits(&only(filter.clone().into()), &tcp().into()), admitted, "{filter:?}");
        }
    }
}
