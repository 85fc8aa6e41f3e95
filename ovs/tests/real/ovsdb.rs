//! The OVSDB client against the real server.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use trunkline_ovs::{
    BridgeSpec, FailMode, OvsdbOptions, PortSpec, Table, TransactError, VlanMode, add_bridge, add_port,
    del_bridge, del_port, mutate_external_ids, set_bridge_columns, set_port_columns,
};

use crate::switch::{Switch, bounded};

fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_is_made_as_asked_and_removed_without_a_trace() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.ovsdb();
    let spec = BridgeSpec {
        mcast_snooping_enable: true,
        other_config: keys(&[
            ("mac-table-size", "4096"),
            ("mcast-snooping-disable-flood-unregistered", "true"),
        ]),
        external_ids: keys(&[("owner", "test")]),
        ..BridgeSpec::new("br-a.1", "netdev")
    };
    ovsdb.transact(add_bridge(&spec)).await.expect("a bridge");
    let replica = ovsdb.snapshot();
    let bridge = replica.bridge("br-a.1").expect("the replica shows it when the call returns");
    assert_eq!(bridge.fail_mode, Some(FailMode::Secure));
    assert_eq!(bridge.external_ids, spec.external_ids);
    assert_eq!(bridge.ports.len(), 1);
    bounded(ovsdb.wait_for(|replica| replica.interface("br-a.1")?.ready_ofport()))
        .await
        .expect("the client runs");
    assert_eq!(
        switch.vsctl(&["get", "Bridge", "br-a.1", "fail_mode", "mcast_snooping_enable"]),
        "secure\ntrue\n"
    );
    assert_eq!(switch.vsctl(&["get", "Bridge", "br-a.1", "protocols"]), "[OpenFlow10, OpenFlow13]\n");
    assert_eq!(switch.vsctl(&["get", "Bridge", "br-a.1", "other_config:mac-table-size"]), "\"4096\"\n");

    let twice = ovsdb.transact(add_bridge(&spec)).await.expect_err("the name is taken");
    assert!(twice.to_string().contains("br-a.1"), "{twice}");

    ovsdb.transact(del_bridge(bridge.uuid)).await.expect("it goes");
    assert!(ovsdb.snapshot().bridge("br-a.1").is_none());
    assert!(ovsdb.snapshot().port("br-a.1").is_none());
    assert_eq!(switch.vsctl(&["list-br"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_made_changed_and_removed() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    switch.links(&["v0".to_owned()]);
    let spec = PortSpec {
        tag: Some(100),
        vlan_mode: Some(VlanMode::Access),
        external_ids: keys(&[("ours", "1"), ("theirs", "kept")]),
        other_config: keys(&[("mcast-snooping-flood", "true")]),
        ..PortSpec::new("v0")
    };
    ovsdb.transact(add_port("br0", &spec)).await.expect("a port");
    let ofport = bounded(ovsdb.wait_for(|replica| replica.interface("v0")?.ready_ofport()))
        .await
        .expect("the client runs");
    assert_eq!(switch.vsctl(&["get", "Interface", "v0", "ofport"]), format!("{ofport}\n"));
    assert_eq!(switch.vsctl(&["get", "Port", "v0", "tag", "vlan_mode"]), "100\naccess\n");

    let change = mutate_external_ids(Table::Port, "v0", &keys(&[("ours", "2"), ("new", "3")]), &["absent"]);
    ovsdb.transact(change).await.expect("keys change");
    ovsdb.transact(set_port_columns("v0", [("tag", 200_i64.into())])).await.expect("the tag changes");
    let replica = ovsdb.snapshot();
    let port = replica.port("v0").expect("it is there");
    assert_eq!(port.external_ids, keys(&[("ours", "2"), ("theirs", "kept"), ("new", "3")]));
    assert_eq!(port.tag, Some(200));
    assert_eq!(replica.bridge_of(port.uuid).expect("it is on a bridge").name.as_ref(), "br0");

    ovsdb.transact(del_port("br0", port.uuid)).await.expect("it goes");
    ovsdb.transact(del_port("br0", port.uuid)).await.expect("a second time is no error");
    assert!(ovsdb.snapshot().port("v0").is_none());
    assert!(ovsdb.snapshot().interface("v0").is_none());
    let gone = ovsdb.transact(set_port_columns("v0", [("tag", 1_i64.into())])).await;
    assert!(matches!(gone, Err(TransactError::NoSuchRow { table: Table::Port, .. })), "{gone:?}");
    let nowhere = ovsdb.transact(add_port("br9", &PortSpec::new("v0"))).await;
    assert!(matches!(nowhere, Err(TransactError::NoSuchRow { table: Table::Bridge, .. })), "{nowhere:?}");
    assert!(ovsdb.snapshot().port("v0").is_none(), "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_not_there_is_reported_by_the_interface() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    ovsdb.transact(add_port("br0", &PortSpec::new("absent0"))).await.expect("a port");
    let error = bounded(ovsdb.wait_for(|replica| replica.interface("absent0")?.error.clone()))
        .await
        .expect("the client runs");
    assert!(error.contains("absent0"), "{error}");
    assert_eq!(ovsdb.snapshot().interface("absent0").and_then(|interface| interface.ready_ofport()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_ports_at_once_share_transactions() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    let names: Vec<_> = (0..200).map(|index| format!("v{index}")).collect();
    switch.links(&names);
    let before = ovsdb.counters().transactions;
    let mut tasks = JoinSet::new();
    for name in names.clone() {
        let ovsdb = ovsdb.clone();
        tasks.spawn(async move {
            let spec = PortSpec { tag: Some(7), ..PortSpec::new(name.clone()) };
            ovsdb.transact(add_port("br0", &spec)).await.expect("a port");
            assert!(ovsdb.snapshot().port(&name).is_some(), "its own write is seen");
            ovsdb.wait_for(|replica| replica.interface(&name)?.ready_ofport()).await.expect("the client runs")
        });
    }
    let mut numbers = bounded(tasks.join_all()).await;
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 200, "every port has a number of its own");
    let sent = ovsdb.counters().transactions - before;
    assert!(sent <= 20, "{sent} transactions for 200 callers");
    assert_eq!(switch.vsctl(&["list-ports", "br0"]).lines().count(), 200);

    let replica = ovsdb.snapshot();
    let bridge = replica.bridge("br0").expect("it is there");
    let gone = replica.ports_of(bridge).filter(|port| port.name.as_ref() != "br0").map(|port| port.uuid);
    let mut tasks = JoinSet::new();
    for port in gone {
        let ovsdb = ovsdb.clone();
        tasks.spawn(async move { ovsdb.transact(del_port("br0", port)).await.expect("it goes") });
    }
    bounded(tasks.join_all()).await;
    assert_eq!(switch.vsctl(&["list-ports", "br0"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_is_told_to_its_maker_alone() {
    let Some(switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    let mut tasks = JoinSet::new();
    for index in 0..40_u16 {
        let ovsdb = ovsdb.clone();
        let mut spec = PortSpec {
            tag: Some(100),
            interface_type: "internal".to_owned(),
            ..PortSpec::new(format!("v{index}"))
        };
        match index {
            11 => spec.tag = Some(5000),            // refused with the operation's index
            23 => "br0".clone_into(&mut spec.name), // refused at commit: the name is taken
            _ => {}
        }
        tasks.spawn(async move { (index, ovsdb.transact(add_port("br0", &spec)).await) });
    }
    for (index, result) in bounded(tasks.join_all()).await {
        match index {
            11 => assert!(
                matches!(&result, Err(TransactError::Refused { table: "Port", row, .. }) if row == "v11"),
                "{result:?}"
            ),
            23 => assert!(
                matches!(&result, Err(TransactError::Commit { rows, .. }) if rows.contains("br0")),
                "{result:?}"
            ),
            _ => assert!(result.is_ok(), "port {index}: {result:?}"),
        }
    }
    assert!(ovsdb.counters().splits > 0, "the mistakes were merged with others");
    assert_eq!(switch.vsctl(&["list-ports", "br0"]).lines().count(), 38);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again_and_everything_read_anew() {
    let Some(mut switch) = Switch::start() else { return };
    let ovsdb = switch.with_bridge().await;
    assert_eq!(ovsdb.snapshot().epoch, 1);
    switch.kill_ovsdb();
    bounded(ovsdb.wait_for(|replica| (!replica.connected).then_some(()))).await.expect("the client runs");
    assert!(ovsdb.snapshot().bridge("br0").is_some(), "the last rows stay readable");

    let waiting = tokio::spawn({
        let ovsdb = ovsdb.clone();
        async move {
            ovsdb.transact(set_bridge_columns("br0", [("external_ids", (&keys(&[("a", "b")])).into())])).await
        }
    });
    switch.start_ovsdb();
    switch.vsctl(&["--no-wait", "add-br", "br1"]);
    bounded(waiting).await.expect("it runs").expect("a call that waited for the connection is served");
    let epoch = bounded(ovsdb.wait_for(|replica| replica.bridge("br1").map(|_| replica.epoch))).await;
    assert_eq!(epoch, Ok(2));
    assert_eq!(switch.vsctl(&["--no-wait", "get", "Bridge", "br0", "external_ids:a"]), "b\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_a_call_gives_up_and_names_the_socket() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = OvsdbOptions {
        queue_wait: Duration::from_millis(100),
        ..OvsdbOptions::new(dir.path().join("absent.sock"))
    };
    let ovsdb = trunkline_ovs::Ovsdb::connect(options);
    let error =
        bounded(ovsdb.transact(add_port("br0", &PortSpec::new("v0")))).await.expect_err("nobody is there");
    assert!(error.is_transient() && !error.is_outcome_unknown());
    assert!(error.to_string().contains("absent.sock"), "{error}");
}
