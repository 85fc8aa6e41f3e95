//! The bridges against a real ovsdb-server and ovs-vswitchd (userspace datapath), each test in a network namespace and
//! a run directory of its own. Skipped, loudly, where no Open vSwitch is to be had; a failure under `CI=true`.

mod node;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_agent::bridge::{Bridges, PodPort, PortError, keys, uninstall};
use trunkline_agent::link::{OffloadSet, set_uplink_offloads};
use trunkline_ovs::{FlowFilter, Ovsdb};

use node::{PATIENCE, bounded, config, eventually, within};
use wire::{Ear, Tag};

/// Long enough for a frame that is forwarded to arrive.
const QUIET: Duration = Duration::from_millis(200);

fn pod_port(name: &str, vlan: u16) -> PodPort {
    let ids =
        [(keys::POD_UID, name), (keys::INTERFACE, "eth1"), (keys::POD_NAME, name), (keys::SANDBOX, "s")];
    PodPort {
        name: name.parse().expect("a name"),
        vlan: (vlan > 0).then(|| vlan.try_into().expect("a VLAN")),
        external_ids: ids.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

async fn add(bridges: &Bridges, name: &str, vlan: u16) {
    let bridge = "br1".parse().expect("a name");
    bridges
        .add_pod_port(&bridge, pod_port(name, vlan), Instant::now() + PATIENCE)
        .await
        .expect("the port is made");
}

async fn ready(bridges: &Bridges) {
    let mut states = bridges.state();
    let up = states.wait_for(|states| states.values().all(|state| state.ready));
    let up = tokio::time::timeout(PATIENCE, up).await.is_ok();
    assert!(up, "not ready: {:#?}", bridges.state().borrow());
}

fn set(links: &[&str]) -> BTreeSet<String> {
    links.iter().map(|link| (*link).to_owned()).collect()
}

#[test]
fn pods_talk_on_their_vlan_and_tagged_frames_of_pods_go_nowhere() {
    within(|node| async move {
        for link in ["nic0", "va", "vb", "vc", "vd"] {
            node.pair(link);
        }
        let (_ovsdb, bridges) = node.bridges("[{bridgeName: br1, physicalInterfaces: [nic0]}]").await;
        ready(&bridges).await;
        for (port, vlan) in [("va", 100), ("vb", 100), ("vc", 0), ("vd", 200)] {
            add(&bridges, port, vlan).await;
        }
        let mut ear = Ear::open();
        let tagged = |id| vec![(0x8100_u16, id)];
        let passes: [(&str, Vec<Tag>, &[&str]); 5] = [
            ("pva", vec![], &["pvb", "pnic0"]),
            ("pvc", vec![], &["pnic0"]),
            ("pnic0", tagged(100), &["pva", "pvb"]),
            ("pnic0", tagged(200), &["pvd"]),
            ("pnic0", vec![], &["pvc"]),
        ];
        for (from, tags, to) in passes {
            assert_eq!(ear.send(from, &tags, to, PATIENCE).await, set(to), "{tags:?} from {from}");
        }
        let injected = [
            tagged(200),
            vec![(0x8100, 0), (0x8100, 200)],
            vec![(0x88a8, 200)],
            vec![(0x88a8, 0), (0x8100, 200)],
            vec![(0x8100, 100), (0x8100, 200)],
            tagged(0),
        ];
        for from in ["pva", "pvc"] {
            for tags in &injected {
                assert_eq!(ear.send(from, tags, &[], QUIET).await, set(&[]), "{tags:?} from {from}");
            }
        }
        let counted = bounded(bridges.flow_stats(&"br1".parse().expect("a name"))).await.expect("counters");
        assert_eq!(counted.len(), 5, "one flow per uplink and pod, nothing else: {counted:?}");
        bounded(bridges.remove_pod_ports(&["va".to_owned()])).await.expect("it goes");
        // vswitchd's revalidators drop what the datapath has cached a moment later.
        eventually("silence of the port", async || ear.send("pva", &[], &[], QUIET).await.is_empty()).await;
        assert_eq!(node.ofctl("dump-flows", "br1", &[]).matches("actions=NORMAL").count(), 4);
    });
}

#[test]
fn flows_are_back_within_a_second_of_vswitchds_return() {
    within(|mut node| async move {
        for link in ["nic0", "va", "vb"] {
            node.pair(link);
        }
        let (_ovsdb, bridges) = node.bridges("[{bridgeName: br1, physicalInterfaces: [nic0]}]").await;
        ready(&bridges).await;
        add(&bridges, "va", 100).await;
        add(&bridges, "vb", 100).await;
        node.ofctl("del-flows", "br1", &[]);
        node.ofctl("add-flow", "br1", &["priority=7,actions=NORMAL"]);
        eventually("the repair of the flows", async || {
            let flows = node.ofctl("dump-flows", "br1", &[]);
            flows.matches("actions=NORMAL").count() == 3 && !flows.contains("priority=7")
        })
        .await;
        node.kill_vswitchd();
        std::fs::remove_file(node.path("br1.mgmt")).expect("its socket is still there");
        node.start_vswitchd();
        let flows = node.openflow("br1");
        bounded(flows.connected()).await.expect("the client runs");
        let answered = Instant::now();
        let all = || async { flows.flows(FlowFilter::default()).await.map_or(0, |flows| flows.len()) };
        eventually("the return of the flows", async || all().await == 3).await;
        let took = answered.elapsed();
        println!("flows were back {} ms after vswitchd answered", took.as_millis());
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        assert_eq!(Ear::open().send("pva", &[], &["pvb", "pnic0"], PATIENCE).await, set(&["pvb", "pnic0"]));
    });
}

#[test]
fn a_missing_nic_heals_and_what_others_wrote_stays() {
    within(|node| async move {
        let list = "[{bridgeName: br1, physicalInterfaces: [{name: nic0, allowedVLANs: [\"0\", \"100\"]}], \
                    enableMulticastSnooping: true}]";
        let (ovsdb, bridges) = node.bridges(list).await;
        let missing = |bridges: &Bridges| {
            bridges.state().borrow().values().any(|state| {
                !state.exists
                    && state.conditions.iter().any(|condition| condition.reason() == "UplinkMissing")
            })
        };
        eventually("the condition", async || missing(&bridges)).await;
        node.pair("nic0");
        ready(&bridges).await;
        node.vsctl("set bridge br1 external_ids:theirs=kept");
        node.vsctl("set port nic0 external_ids:theirs=kept trunks=7");
        node.vsctl("set bridge br1 fail_mode=standalone");
        let repaired = |ovsdb: &Ovsdb| {
            let replica = ovsdb.snapshot();
            let port = replica.port("nic0").expect("the uplink stays");
            let bridge = replica.bridge("br1").expect("the bridge stays");
            port.trunks == [0, 100].into() && bridge.fail_mode == Some(trunkline_ovs::FailMode::Secure)
        };
        eventually("the repair", async || repaired(&ovsdb)).await;
        let replica = ovsdb.snapshot();
        let (bridge, port) =
            (replica.bridge("br1").expect("it is there"), replica.port("nic0").expect("it is there"));
        for ids in [&bridge.external_ids, &port.external_ids] {
            assert_eq!(ids.get("theirs").map(String::as_str), Some("kept"));
            assert_eq!(ids.get(keys::ORIGIN).map(String::as_str), Some("created"));
        }
        assert_eq!(port.other_config.get("mcast-snooping-flood-reports").map(String::as_str), Some("true"));
        assert!(bridge.mcast_snooping_enable);
        eventually("the flow of the uplink", async || {
            let flows = node.ofctl("dump-flows", "br1", &[]);
            flows.matches("actions=NORMAL").count() == 1 && flows.contains("priority=100")
        })
        .await;
    });
}

#[test]
fn ports_of_an_earlier_boot_and_bridges_of_others_are_told_apart() {
    within(|node| async move {
        for link in ["nic0", "old", "tap0"] {
            node.pair(link);
        }
        let merging = OffloadSet([("rx-gro".to_owned(), true)].into());
        set_uplink_offloads("nic0", &merging).await.expect("a pair of links can merge frames");
        node.vsctl("add-br br1 -- set bridge br1 datapath_type=netdev fail_mode=secure external_ids:trunkline-managed=true \
                    external_ids:trunkline-origin=created");
        node.vsctl("add-port br1 old -- set port old external_ids:trunkline-type=pod external_ids:trunkline-boot-id=boot-1");
        node.vsctl("add-br br2 -- set bridge br2 datapath_type=netdev -- add-port br2 tap0");
        let both =
            "[{bridgeName: br1, physicalInterfaces: [nic0]}, {bridgeName: br2, physicalInterfaces: []}]";
        let (ovsdb, bridges) = node.bridges(both).await;
        let reason = |bridges: &Bridges| {
            let states = bridges.state();
            let states = states.borrow();
            states.get("br2").and_then(|state| state.conditions.first().map(ToString::to_string))
        };
        let expected = "bridge br2 exists and is not adopted: its fail_mode is unset and it has ports (tap0) that would go \
                        dark; set adopt: true for it if it is meant for Trunkline";
        eventually("the refusal", async || reason(&bridges).as_deref() == Some(expected)).await;
        eventually("the uplink", async || ovsdb.snapshot().port("nic0").is_some()).await;
        assert!(ovsdb.snapshot().port("old").is_none());
        assert!(ovsdb.snapshot().bridge("br2").expect("it stays").external_ids.is_empty());
        let journal = node.journal();
        assert_eq!(
            journal.nics(),
            ["nic0"],
            "receive coalescing was written down before it was switched off"
        );
        bridges.apply(&config("[{bridgeName: br2, physicalInterfaces: [], adopt: true}]"));
        eventually("the removal of br1", async || ovsdb.snapshot().bridge("br1").is_none()).await;
        ready(&bridges).await;
        eventually("the offloads' return", async || node.journal().nics().is_empty()).await;
        let now = set_uplink_offloads("nic0", &OffloadSet::default()).await.expect("they can be read");
        assert_eq!(now.0.get("rx-gro"), Some(&true));
        drop(bridges);
        let report = bounded(uninstall(&ovsdb, &node.journal())).await.expect("it works");
        assert_eq!(report.released, ["br2"]);
        assert!(ovsdb.snapshot().bridge("br2").expect("it stays").external_ids.is_empty());
        assert!(ovsdb.snapshot().port("tap0").is_some());
    });
}

#[test]
fn many_ports_at_once_share_transactions_and_a_port_without_a_link_is_refused() {
    within(|node| async move {
        let names: Vec<String> = (0..60).map(|number| format!("v{number}")).collect();
        for name in &names {
            node.pair(name);
        }
        let (ovsdb, bridges) = node.bridges("[{bridgeName: br1, physicalInterfaces: []}]").await;
        ready(&bridges).await;
        let (before, started) = (ovsdb.counters().transactions, Instant::now());
        let mut tasks = JoinSet::new();
        for name in names.clone() {
            let bridges = bridges.clone();
            tasks.spawn(async move { add(&bridges, &name, 100).await });
        }
        bounded(tasks.join_all()).await;
        let (transactions, took) = (ovsdb.counters().transactions - before, started.elapsed());
        println!("60 ports in {} ms and {transactions} transactions", took.as_millis());
        assert!(transactions < 30, "{transactions} transactions");
        let rows = bridges.pod_ports();
        assert_eq!(rows.len(), 60);
        assert!(
            rows.iter().all(|row| row.ofport.is_some() && row.boot_id == "boot-2" && row.bridge == "br1")
        );
        let bridge = "br1".parse().expect("a name");
        let refused = bridges.add_pod_port(&bridge, pod_port("nothere", 5), Instant::now() + PATIENCE).await;
        assert!(
            matches!(&refused, Err(PortError::Refused { message, .. }) if message.contains("nothere")),
            "{refused:?}"
        );
        let told = BTreeMap::from([(keys::ATTACH_MS.to_owned(), "7".to_owned())]);
        bridges.update_port_external_ids("v0", told).await.expect("it works");
        assert!(bridges.pod_ports().iter().any(|row| row.attach_ms == Some(7) && row.pod_uid == "v0"));
        let all: Vec<String> = names.into_iter().chain(["nothere".to_owned()]).collect();
        bounded(bridges.remove_pod_ports(&all)).await.expect("they go");
        assert_eq!(bridges.pod_ports(), []);
        assert!(!node.ofctl("dump-flows", "br1", &[]).contains("NORMAL"));
    });
}
