//! Equal addresses and ports in two networks, equal interface numbers in two namespaces: never one flow.

use trunkline_ebpf::{Conversation, Direction, FlowKey, Tag, Tap};

use crate::frames::{DST4, Ipv4, SRC4, ethertype, protocol, tagged, udp};
use crate::namespace::Namespace;
use crate::packet::PacketSocket;
use crate::rig::{Rig, tap};

const FLOW: Conversation = Conversation::Ip {
    src: std::net::IpAddr::V4(std::net::Ipv4Addr::new(SRC4[0], SRC4[1], SRC4[2], SRC4[3])),
    dst: std::net::IpAddr::V4(std::net::Ipv4Addr::new(DST4[0], DST4[1], DST4[2], DST4[3])),
    protocol: protocol::UDP,
    src_port: 5000,
    dst_port: 53,
};

fn frame(tags: &[(u16, u16)]) -> Vec<u8> {
    tagged(tags, ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(5000, 53, b"")))
}

fn sorted(mut flows: Vec<(FlowKey, u64)>) -> Vec<(FlowKey, u64)> {
    flows.sort_by_key(|(_, skbs)| *skbs);
    flows
}

#[test]
fn equal_flows_of_different_vlans_stay_apart() {
    let (mut rig, namespace) = (Rig::new(1024), Namespace::new());
    namespace.pair("a", &namespace, "b");
    let wanted = ["a", "b"].map(|link| tap(link, link, namespace.index(link)));
    let set = &mut rig.set;
    let [a, b] = namespace.run(|| wanted.map(|tap| set.ensure(&tap).expect("attached")));
    let socket = namespace.run(|| PacketSocket::sender("a", false));
    let (c, s) = (0x8100, 0x88a8);
    let networks: [(&[(u16, u16)], u64); 6] = [
        (&[], 1),
        (&[(c, 100)], 2),
        (&[(c, 200)], 3),
        (&[(s, 100)], 4),
        (&[(s, 100), (c, 100)], 5),
        (&[(s, 100), (c, 200)], 6),
    ];
    for (tags, frames) in networks {
        (0..frames).for_each(|_| socket.send(&frame(tags)));
    }
    rig.await_skbs(b, Direction::Received, 21);
    let closed = rig.drain();
    for (slot, direction) in [(a, Direction::Sent), (b, Direction::Received)] {
        let flows = closed.flows.iter().filter(|(key, _)| key.slot() == slot);
        let flows = sorted(flows.map(|(key, flow)| (*key, flow.totals.skbs)).collect());
        let expected = networks.map(|(tags, frames)| {
            let tag = |at: usize| tags.get(at).map(|(tpid, vid)| Tag { vid: *vid, service: *tpid == s });
            (FlowKey::new(slot, direction, [tag(0), tag(1)], FLOW), frames)
        });
        assert_eq!(flows, expected);
    }
}

#[test]
fn equal_interface_numbers_of_different_namespaces_stay_apart() {
    let mut rig = Rig::new(1024);
    let node = Namespace::new();
    let pods = [Namespace::new(), Namespace::new()];
    let mut slots = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let host = format!("host{number}");
        node.pair(&host, pod, "eth1");
        let wanted = Tap { host_side: true, ..tap(&host, &host, node.index(&host)) };
        let set = &mut rig.set;
        let host_side = node.run(|| set.ensure(&wanted)).expect("attached");
        let wanted = tap(&format!("pod{number}@eth1"), "eth1", pod.index("eth1"));
        let (inside, attached) = rig.set.ensure_inside(&wanted, |job| pod.run(job)).expect("attached");
        attached.expect("missing").expect("attached");
        slots.push([inside, host_side]);
    }
    let indices = [pods[0].index("eth1"), pods[1].index("eth1"), node.index("host0")];
    assert!(indices.iter().all(|index| *index == indices[0]), "equal, or nothing is shown: {indices:?}");
    for (frames, pod) in [3, 5].into_iter().zip(&pods) {
        let socket = pod.run(|| PacketSocket::sender("eth1", false));
        (0..frames).for_each(|_| socket.send(&frame(&[])));
    }
    for (frames, [_, host_side]) in [3, 5].into_iter().zip(&slots) {
        rig.await_skbs(*host_side, Direction::Sent, frames);
    }
    let closed = rig.drain();
    let flows = sorted(closed.flows.iter().map(|(key, flow)| (*key, flow.totals.skbs)).collect());
    assert_eq!(flows.len(), 4, "{flows:?}");
    for (frames, taps) in [3, 5].into_iter().zip(&slots) {
        for slot in taps {
            let key = FlowKey::new(*slot, Direction::Sent, [None; 2], FLOW);
            assert!(flows.contains(&(key, frames)), "{slot:?} {flows:?}");
        }
    }
}
