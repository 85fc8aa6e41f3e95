//! Records for the exporters' tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_ebpf::{Conversation, Direction, DnsAnswer, FlowKey, Slot, Totals};

use crate::flows::record::{DnsRecord, EndReason, Endpoint, FlowRecord, TapIdentity};

/// A record of a pod's interface with a peer that is known; everything it can say is said.
pub(super) fn record(conversation: Conversation) -> FlowRecord {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_250);
    let endpoint = |name: &str, uid: &str, interface: &str| Endpoint {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        interface: interface.to_owned(),
    };
    let tap = TapIdentity {
        device: "tl0a1b2c3d".to_owned(),
        ifindex: 17,
        interface: "eth1".to_owned(),
        netns: None,
        pod: Some(endpoint("cart-0", "uid-1", "eth1")),
        network: Some("shop/vlan100".to_owned()),
        vlan: 100.try_into().ok(),
        bridge: Some("br-phys".to_owned()),
        since: start - Duration::from_secs(60),
    };
    FlowRecord {
        tap: Arc::new(tap),
        peer: Some(Arc::new(endpoint("db-0", "uid-2", "eth2"))),
        key: FlowKey::new(Slot(3), Direction::Sent, [None, None], conversation),
        totals: Totals { skbs: 120, skb_bytes: 6_100_000, packets: 5000, bytes: 6_400_000 },
        one_in: 1,
        start,
        end: start + Duration::from_millis(5250),
        tcp_flags: 0,
        tos: 0xb8,
        rtt: None,
        fragmented: false,
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        gap: false,
        reason: EndReason::Active,
    }
}

/// TCP from 192.0.2.1:40000 to 192.0.2.2:443, handshake seen.
pub(super) fn tcp() -> FlowRecord {
    let [src, dst]: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into()];
    let conversation = Conversation::Ip { src, dst, protocol: 6, src_port: 40_000, dst_port: 443 };
    FlowRecord { tcp_flags: 0x1b, rtt: Some(Duration::from_nanos(81_250)), ..record(conversation) }
}

/// An echo request.
pub(super) fn icmp(v4: bool) -> FlowRecord {
    let [src, dst]: [IpAddr; 2] = if v4 {
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into()]
    } else {
        [Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    };
    record(Conversation::Icmp { src, dst, kind: if v4 { 8 } else { 128 }, code: 0 })
}

/// UDP on an uplink, which belongs to nobody.
pub(super) fn uplink() -> FlowRecord {
    let address: IpAddr = Ipv6Addr::LOCALHOST.into();
    let mut sample =
        record(Conversation::Ip { src: address, dst: address, protocol: 17, src_port: 1, dst_port: 2 });
    let tap = Arc::make_mut(&mut sample.tap);
    (tap.pod, tap.network, tap.vlan) = (None, None, None);
    sample.peer = None;
    sample
}

/// The same on an interface of the network namespace `blue`.
pub(super) fn elsewhere() -> FlowRecord {
    let mut sample = uplink();
    Arc::make_mut(&mut sample.tap).netns = Some("blue".to_owned());
    sample
}

/// UDP from 192.0.2.1:40000 to 192.0.2.53:53, asked twice, and no such name.
pub(super) fn answered() -> DnsRecord {
    let answer = DnsAnswer { code: 3, latency: Duration::from_nanos(1_234_567) };
    DnsRecord { asked: 2, answer: Some(answer), ..unanswered() }
}

/// The same without an answer.
pub(super) fn unanswered() -> DnsRecord {
    let [src, dst]: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 53).into()];
    let conversation = Conversation::Ip { src, dst, protocol: 17, src_port: 40_000, dst_port: 53 };
    let FlowRecord { tap, peer, key, start, .. } = record(conversation);
    DnsRecord { tap, peer, key, at: start, id: 4711, asked: 3, answer: None }
}
