//! What the service tells: records for exporters, flows and taps for `trunkctl`.
//!
//! Owns the naming of flows at the moment when they are told. Locks are taken in one order everywhere: who the slots
//! belong to, who has which address, the table.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_ebpf::{Conversation, Direction, FlowKey, FlowTotals, Reader};

use super::Inner;
use crate::dump::TapDump;
use crate::flows::record::{FlowRecord, Record, TapIdentity};
use crate::flows::table::{Closed, LiveFlow};
use crate::flows::view::{self, FlowsDump};

/// Most flows that one answer holds; the busiest come first.
const MOST_SHOWN: usize = 20_000;

impl Inner {
    pub(super) fn records(&self, closed: &[Closed]) -> Vec<Arc<Record>> {
        let clock = Clock::now();
        let known = self.taps.known();
        let allocations = self.allocations();
        let names = allocations.names();
        let record = |one: &Closed| {
            let tap = known.owner(one.key.slot())?;
            let (start, end) = (clock.wall(one.totals.first), clock.wall(one.totals.last));
            let FlowTotals { src_mac, dst_mac, .. } = one.totals;
            let (address, mac) = other_side(&one.key.conversation(), one.key.direction(), [src_mac, dst_mac]);
            let record = FlowRecord {
                peer: names.peer(&tap, address, Some(mac), end),
                tap,
                key: one.key,
                totals: one.totals.totals,
                one_in: one.totals.one_in,
                start,
                end,
                tcp_flags: one.totals.tcp_flags,
                tos: one.totals.tos,
                rtt: one.rtt.map(|nanos| Duration::from_nanos(nanos.into())),
                fragmented: one.totals.fragmented,
                src_mac,
                dst_mac,
                gap: one.gap,
                reason: one.reason,
            };
            Some(Arc::new(record.into()))
        };
        closed.iter().filter_map(record).collect()
    }

    pub(super) fn flows(&self) -> FlowsDump {
        let clock = Clock::now();
        let known = self.taps.known();
        let allocations = self.allocations();
        let names = allocations.names();
        let state = self.state();
        let mut flows: Vec<_> = state.table.iter().collect();
        flows.sort_unstable_by_key(|(_, flow)| std::cmp::Reverse(flow.whole.bytes));
        let left_out = flows.len().saturating_sub(MOST_SHOWN);
        let interval = self.options.config.interval;
        let row = |(key, flow): (&FlowKey, &LiveFlow)| {
            let tap = known.owner(key.slot())?;
            let FlowTotals { src_mac, dst_mac, .. } = flow.stretch;
            let (address, mac) = other_side(&key.conversation(), key.direction(), [src_mac, dst_mac]);
            let peer = names.peer(&tap, address, Some(mac), clock.wall(flow.stretch.last));
            Some(view::row(&tap, peer.as_deref(), key, flow, interval, |at| millis(clock.wall(at))))
        };
        FlowsDump {
            node: self.options.node.clone(),
            as_of_unix_ms: millis(state.as_of),
            left_out,
            flows: flows.into_iter().take(MOST_SHOWN).filter_map(row).collect(),
        }
    }

    pub(super) fn tap_dumps(&self) -> Vec<TapDump> {
        let known = self.taps.known();
        let state = self.state();
        let dump = |identity: &TapIdentity, condition: &str| TapDump {
            device: identity.device.clone(),
            interface: identity.interface.clone(),
            netns: identity.netns.clone(),
            pod: identity.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            network: identity.network.clone().unwrap_or_default(),
            vlan: identity.vlan.map_or(0, u16::from),
            bridge: identity.bridge.clone().unwrap_or_default(),
            state: condition.to_owned(),
            ..TapDump::default()
        };
        let attached = known.taps.iter().map(|(slot, identity)| {
            let of = |direction| state.totals.get(&(*slot, direction)).copied().unwrap_or_default();
            let (received, sent) = (of(Direction::Received), of(Direction::Sent));
            let mut tap = dump(identity, "attached");
            (tap.received_skbs, tap.received_bytes) = (received.seen.skbs, received.seen.skb_bytes);
            (tap.sent_skbs, tap.sent_bytes) = (sent.seen.skbs, sent.seen.skb_bytes);
            tap.one_in = self.one_in(*slot);
            tap.without_flow = received.lost.skbs + sent.lost.skbs;
            tap
        });
        let failed =
            known.failed.values().map(|(identity, words)| dump(identity, &format!("failed: {words}")));
        let refused = known.others.refused.values();
        let refused = refused.map(|one| dump(&one.identity, &format!("failed: {}", one.words)));
        let missing = known.missing.iter().map(|name| TapDump {
            device: name.clone(),
            interface: name.clone(),
            state: "not there: no such link on the node".to_owned(),
            ..TapDump::default()
        });
        attached.chain(failed).chain(refused).chain(missing).collect()
    }
}

/// The programs' clock against the wall's, as of one moment.
pub(super) struct Clock {
    wall: SystemTime,
    monotonic: u64,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Reader::now() }
    }

    pub(super) fn wall(&self, at: u64) -> SystemTime {
        self.wall - Duration::from_nanos(self.monotonic.saturating_sub(at))
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The address and MAC of whoever is at the other end, of the Ethernet addresses of source and destination.
pub(super) fn other_side(
    conversation: &Conversation,
    direction: Direction,
    [src_mac, dst_mac]: [[u8; 6]; 2],
) -> (Option<IpAddr>, [u8; 6]) {
    let pair = match *conversation {
        Conversation::Ip { src, dst, .. } | Conversation::Icmp { src, dst, .. } => Some((src, dst)),
        Conversation::Arp { sender, target, .. } => Some((sender.into(), target.into())),
        Conversation::Ethernet { .. } => None,
    };
    match direction {
        Direction::Sent => (pair.map(|(_, dst)| dst), dst_mac),
        Direction::Received => (pair.map(|(src, _)| src), src_mac),
    }
}
