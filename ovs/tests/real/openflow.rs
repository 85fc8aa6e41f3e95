//! The OpenFlow client against the real switch.

use tokio::task::JoinSet;
use trunkline_ovs::{
    AllowFlow, FlowError, FlowFilter, FlowMod, OpenFlow, Ovsdb, PortSpec, Value, VlanMode, add_port,
    set_bridge_columns,
};

use crate::switch::{Switch, bounded};

/// Adds internal ports with VLAN 100 and gives their OpenFlow numbers.
async fn ports(ovsdb: &Ovsdb, names: &[&str]) -> Vec<u32> {
    let mut numbers = Vec::new();
    for name in names {
        let spec = PortSpec {
            tag: Some(100),
            vlan_mode: Some(VlanMode::Access),
            interface_type: "internal".to_owned(),
            ..PortSpec::new(*name)
        };
        ovsdb.transact(add_port("br0", &spec)).await.expect("a port");
        let number = ovsdb.wait_for(|replica| replica.interface(name)?.ready_ofport());
        numbers.push(bounded(number).await.expect("the client runs"));
    }
    numbers
}

async fn packets(flows: &OpenFlow, in_port: u32) -> u64 {
    let all = flows.flows(FlowFilter::default()).await.expect("a listing");
    all.iter().filter(|flow| flow.matching.in_port == Some(in_port)).map(|flow| flow.packets).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_a_bundle_are_in_the_switch_and_listed_as_they_were_sent() {
    let Some(switch) = Switch::start() else { return };
    let _ovsdb = switch.with_bridge().await;
    let flows = switch.openflow("br0");
    assert_eq!(bounded(flows.connected()).await, Ok(1));
    let wanted: Vec<_> = (1..=1500).map(|in_port| AllowFlow::Untagged { in_port }).collect();
    let mut changes: Vec<_> =
        wanted.iter().map(|flow| flow.add(0x7472_0000_0000_0000 | u64::from(flow.in_port()))).collect();
    changes.push(AllowFlow::Everything { in_port: 2000 }.add(9));
    bounded(flows.bundle(changes)).await.expect("a bundle");

    let listed = bounded(flows.flows(FlowFilter::default())).await.expect("a listing of several parts");
    assert_eq!(listed.len(), 1501);
    let mut allowed: Vec<_> =
        listed.iter().map(|flow| flow.allow().expect("all are of the allow-list")).collect();
    allowed.sort_unstable();
    assert_eq!(allowed.len(), 1501);
    assert!(wanted.iter().all(|flow| allowed.binary_search(flow).is_ok()));
    let marked = FlowFilter { cookie: 9, cookie_mask: u64::MAX, ..FlowFilter::default() };
    assert_eq!(bounded(flows.flows(marked)).await.expect("a listing").len(), 1);
    let text = switch.ofctl("dump-flows", "br0", &[]);
    assert!(
        text.contains("in_port=17,vlan_tci=0x0000/0x1fff actions=NORMAL"),
        "{}",
        text.lines().take(5).collect::<String>()
    );
    assert!(text.contains("cookie=0x9,") && text.contains("in_port=2000 actions=NORMAL"));

    flows.apply(vec![wanted[16].delete()]).await.expect("one goes");
    flows.apply(vec![wanted[17].delete_owned(1)]).await.expect("another's stays");
    assert_eq!(switch.ofctl("dump-flows", "br0", &[]).matches("actions=NORMAL").count(), 1500);
    flows.bundle(vec![FlowMod::delete_all(), wanted[0].add(1)]).await.expect("all are replaced by one");
    assert_eq!(switch.ofctl("dump-flows", "br0", &[]).matches("actions=NORMAL").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_with_a_mistake_changes_nothing_and_names_it() {
    let Some(switch) = Switch::start() else { return };
    let _ovsdb = switch.with_bridge().await;
    let flows = switch.openflow("br0");
    bounded(flows.connected()).await.expect("the client runs");
    let good = AllowFlow::Everything { in_port: 1 }.add(1);
    let mut bad = AllowFlow::Everything { in_port: 2 }.add(2);
    bad.table = 255;
    let error =
        bounded(flows.bundle(vec![good.clone(), bad.clone()])).await.expect_err("table 255 takes no flows");
    assert!(matches!(&error, FlowError::Refused { flow, .. } if flow.contains("in_port=2")), "{error}");
    assert!(error.to_string().contains("BAD_TABLE_ID"), "{error}");
    assert_eq!(bounded(flows.flows(FlowFilter::default())).await.expect("a listing"), []);

    let (first, second) = tokio::join!(flows.apply(vec![good]), flows.apply(vec![bad]));
    assert_eq!(first, Ok(()));
    assert!(matches!(second, Err(FlowError::Refused { .. })), "{second:?}");
    assert_eq!(bounded(flows.flows(FlowFilter::default())).await.expect("a listing").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_callers_put_their_flows_in_at_once() {
    let Some(switch) = Switch::start() else { return };
    let _ovsdb = switch.with_bridge().await;
    let flows = switch.openflow("br0");
    bounded(flows.connected()).await.expect("the client runs");
    let mut tasks = JoinSet::new();
    for in_port in 1..=400 {
        let flows = flows.clone();
        tasks.spawn(async move {
            flows.apply(vec![AllowFlow::Untagged { in_port }.add(u64::from(in_port))]).await
        });
    }
    assert!(bounded(tasks.join_all()).await.iter().all(Result::is_ok));
    assert_eq!(switch.ofctl("dump-flows", "br0", &[]).matches("actions=NORMAL").count(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_vswitchd_is_a_new_epoch_with_an_empty_table() {
    let Some(mut switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    let port = ports(&ovsdb, &["i0"]).await[0];
    let flows = switch.openflow("br0");
    bounded(flows.connected()).await.expect("the client runs");
    let allow = AllowFlow::Untagged { in_port: port }.add(5);
    flows.bundle(vec![allow.clone()]).await.expect("a flow");
    switch.kill_vswitchd();
    let mut connection = flows.connection();
    bounded(connection.wait_for(|connection| !connection.connected)).await.expect("the client runs");
    let error = flows.apply(vec![allow.clone()]).await.expect_err("nobody is there");
    assert!(error.is_transient(), "{error}");
    switch.start_vswitchd();
    assert_eq!(bounded(flows.connected()).await, Ok(2));
    assert_eq!(
        bounded(flows.flows(FlowFilter::default())).await.expect("a listing"),
        [],
        "vswitchd forgets its flows"
    );
    flows.bundle(vec![allow]).await.expect("the owner puts them back");
    assert_eq!(bounded(flows.flows(FlowFilter::default())).await.expect("a listing").len(), 1);
    let again = bounded(ovsdb.wait_for(|replica| replica.interface("i0")?.ready_ofport())).await;
    assert_eq!(again, Ok(port), "a port keeps its number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_without_version_1_3_is_told_by_name() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    ovsdb
        .transact(set_bridge_columns("br0", [("protocols", Value::from("OpenFlow14"))]))
        .await
        .expect("a bridge of another kind");
    switch.vsctl(&["get", "Bridge", "br0", "protocols"]);
    let flows = switch.openflow("br0");
    let mut connection = flows.connection();
    let reason = |connection: &trunkline_ovs::Connection| {
        connection.reason.as_deref().is_some_and(|reason| reason.contains("OpenFlow13"))
    };
    bounded(connection.wait_for(reason)).await.expect("the client runs");
    ovsdb
        .transact(set_bridge_columns("br0", [("protocols", Value::empty())]))
        .await
        .expect("vswitchd's default");
    assert_eq!(bounded(flows.connected()).await, Ok(1), "the default has 1.3");
}

/// Frames from 02:…:01 to everybody, as they would come in by a port.
const FRAMES: [(&str, &str, bool); 7] = [
    ("untagged", "0806", true),
    ("802.1Q 100", "810000640806", false),
    ("802.1Q VID 0", "810000000806", false),
    ("802.1Q VID 0 with a priority", "8100e0000806", false),
    ("802.1Q VID 0, inner 200", "81000000810000c80806", false),
    ("802.1ad 200", "88a800c80806", false),
    ("802.1ad VID 0, inner 200", "88a80000810000c80806", false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secure_bridge_forwards_untagged_frames_of_allowed_ports_alone() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    let numbers = ports(&ovsdb, &["i0", "i1"]).await;
    switch.up(&["i0", "i1"]);
    let flows = switch.openflow("br0");
    bounded(flows.connected()).await.expect("the client runs");
    for (what, tags, _) in FRAMES {
        inject(&switch, numbers[0], tags);
        assert_eq!(forwarded(&switch, numbers[1]), 0, "{what}: there is no flow yet");
    }
    flows.bundle(vec![AllowFlow::Untagged { in_port: numbers[0] }.add(1)]).await.expect("a flow");
    let mut expected = 0;
    for (what, tags, passes) in FRAMES {
        inject(&switch, numbers[0], tags);
        inject(&switch, numbers[1], tags);
        expected += u64::from(passes);
        assert_eq!(forwarded(&switch, numbers[1]), expected, "{what}");
        assert_eq!(
            packets(&flows, numbers[0]).await,
            expected,
            "{what}: the flow counts what it lets through"
        );
    }
    assert_eq!(forwarded(&switch, numbers[0]), 0, "the other port has no flow");
}

/// Sends a frame through the flow table as if it had come in by a port.
fn inject(switch: &Switch, in_port: u32, tags: &str) {
    let frame = format!("ffffffffffff020000000001{tags}{}", "00".repeat(46));
    switch.ofctl("packet-out", "br0", &[&format!("in_port={in_port} packet={frame} actions=TABLE")]);
}

/// Frames that the switch has sent out of a port.
fn forwarded(switch: &Switch, port: u32) -> u64 {
    let text = switch.ofctl("dump-ports", "br0", &[&port.to_string()]);
    let sent = text.split("tx pkts=").nth(1).and_then(|rest| rest.split(',').next()).expect("a count");
    sent.trim().parse().expect("a number")
}
