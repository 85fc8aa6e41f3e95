//! What a burst of ports costs, against one hand-written transaction of the same rows and against `ovs-vsctl`.
//!
//! Prints the figures; `TRUNKLINE_OVS_BURST` sets the number of ports (default 100). The assertions are loose: what
//! holds on a quiet machine is measured by `make bench`.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use trunkline_ovs::{AllowFlow, FlowMod, OpenFlow, Operation, Ovsdb, PortSpec, add_port, del_port};

use crate::switch::{Switch, bounded};

async fn ready(ovsdb: Ovsdb, flows: OpenFlow, name: String) {
    let spec = PortSpec { tag: Some(7), ..PortSpec::new(name.clone()) };
    ovsdb.transact(add_port("br0", &spec)).await.expect("a port");
    let in_port =
        ovsdb.wait_for(|replica| replica.interface(&name)?.ready_ofport()).await.expect("the client runs");
    let put = flows.apply(vec![AllowFlow::Untagged { in_port }.add(1)]).await;
    assert_eq!(put, Ok(()), "{:?}", *flows.connection().borrow());
}

async fn burst(ovsdb: &Ovsdb, flows: &OpenFlow, names: &[String]) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for name in names {
        tasks.spawn(ready(ovsdb.clone(), flows.clone(), name.clone()));
    }
    bounded(tasks.join_all()).await;
    start.elapsed()
}

async fn by_hand(ovsdb: &Ovsdb, names: &[String]) -> Duration {
    let spec = |name: &String| PortSpec { tag: Some(7), ..PortSpec::new(name.clone()) };
    let start = Instant::now();
    let operations: Vec<Operation> = names.iter().flat_map(|name| add_port("br0", &spec(name))).collect();
    ovsdb.transact(operations).await.expect("one transaction");
    let all = |replica: &trunkline_ovs::Replica| {
        names
            .iter()
            .all(|name| replica.interface(name).is_some_and(|row| row.ready_ofport().is_some()))
            .then_some(())
    };
    bounded(ovsdb.wait_for(all)).await.expect("the client runs");
    start.elapsed()
}

async fn clear(switch: &Switch, ovsdb: &Ovsdb, flows: &OpenFlow) {
    let replica = ovsdb.snapshot();
    let ports = replica.ports().filter(|port| port.name.as_ref() != "br0");
    let operations: Vec<_> = ports.flat_map(|port| del_port("br0", port.uuid)).collect();
    ovsdb.transact(operations).await.expect("they go");
    flows.apply(vec![FlowMod::delete_all()]).await.expect("they go");
    switch.vsctl(&["--", "set", "Open_vSwitch", ".", "external_ids:settled=yes"]); // waits until vswitchd has followed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_ports_costs_little_more_than_one_transaction() {
    let Some(switch) = Switch::start() else { return };
    let count = std::env::var("TRUNKLINE_OVS_BURST").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let names: Vec<_> = (0..count).map(|index| format!("v{index}")).collect();
    switch.links(&names);
    let ovsdb = switch.with_bridge().await;
    let flows = switch.openflow("br0");
    bounded(flows.connected()).await.expect("the client runs");
    let (mut ours, mut hand) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let before = ovsdb.counters().transactions;
        let took = burst(&ovsdb, &flows, &names).await;
        println!(
            "{count} callers, ports with flows: {took:?}, {} transactions",
            ovsdb.counters().transactions - before
        );
        ours = ours.min(took);
        clear(&switch, &ovsdb, &flows).await;
        let took = by_hand(&ovsdb, &names).await;
        println!("{count} ports in one transaction: {took:?}");
        hand = hand.min(took);
        clear(&switch, &ovsdb, &flows).await;
    }
    let few = &names[..names.len().min(10)];
    let start = Instant::now();
    for name in few {
        switch.vsctl(&["add-port", "br0", name, "tag=7"]);
    }
    println!("ovs-vsctl, one by one: {:?} a port at {} ports", start.elapsed() / 10, few.len());
    assert!(ours < hand * 4 + Duration::from_secs(1), "{ours:?} against {hand:?}");
}
