//! What the node's own parts say, told to people: Events on the Node, and metrics.
//!
//! One task follows the bridges, one Open vSwitch. Each awaits a watch channel or a timer, and loses nothing when it is
//! dropped. Must never feed back into what it follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trunkline_ovs::Replica;

use crate::{
    bridge::{BridgeCondition, BridgeState, BridgeStates, DatapathKind},
    kube::events::{
        Recorder,
        reason::{self, Reason},
    },
    metrics::{BridgeSample, Metrics},
};

/// kube-apiserver forgets an Event after an hour: what is still so is said again before.
const SAY_AGAIN: Duration = Duration::from_mins(50);
/// Open vSwitch may be away this long without an Event; its restart takes a second or two.
const OVS_PATIENCE: Duration = Duration::from_secs(15);

/// Follows the bridges until the stop.
pub(super) async fn follow_bridges(
    mut states: watch::Receiver<BridgeStates>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut told = Told::default();
    let mut again = tokio::time::interval(SAY_AGAIN);
    again.tick().await;
    loop {
        let now = Arc::clone(&states.borrow_and_update());
        for (reason, note) in told.news(&now) {
            if reason.warning {
                warn!(reason = reason.name, note = %note, "bridge");
            } else {
                info!(reason = reason.name, note = %note, "bridge");
            }
            recorder.node(reason, note);
        }
        told.measure(&now, &metrics);
        tokio::select! { biased;
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return stop.cancelled().await },
            _ = again.tick() => told.conditions.clear(),
        }
    }
}

/// What was said last.
#[derive(Default)]
struct Told {
    conditions: BTreeSet<BridgeCondition>,
    ready: BTreeSet<String>,
    uplinks: BTreeMap<String, Vec<String>>,
}

impl Told {
    /// What is new since the last call.
    fn news(&mut self, states: &BridgeStates) -> Vec<(Reason, String)> {
        let conditions: BTreeSet<BridgeCondition> =
            states.values().flat_map(|bridge| &bridge.conditions).cloned().collect();
        let appeared = conditions.difference(&self.conditions).filter(|condition| condition.is_node_event());
        let mut news: Vec<(Reason, String)> = appeared
            .filter_map(|condition| Some((reason::by_name(condition.reason())?, condition.to_string())))
            .collect();
        let ready: BTreeSet<String> =
            states.values().filter(|bridge| bridge.ready).map(|bridge| bridge.name.to_string()).collect();
        for name in ready.difference(&self.ready) {
            news.push((reason::BRIDGE_READY, format!("bridge {name} is ready for pods")));
        }
        (self.conditions, self.ready) = (conditions, ready);
        news
    }

    /// Sets every bridge's metrics, and forgets what is gone.
    fn measure(&mut self, states: &BridgeStates, metrics: &Metrics) {
        let mut uplinks = BTreeMap::new();
        for bridge in states.values() {
            let (name, sample) = (bridge.name.to_string(), sample(bridge));
            let names: Vec<String> = sample.uplinks.iter().map(|(uplink, _)| uplink.clone()).collect();
            if self.uplinks.get(&name).is_some_and(|before| *before != names) {
                metrics.forget_bridge(&name, &self.uplinks[&name]);
            }
            metrics.set_bridge(&name, &sample);
            uplinks.insert(name, names);
        }
        for (name, gone) in self.uplinks.iter().filter(|(name, _)| !uplinks.contains_key(*name)) {
            metrics.forget_bridge(name, gone);
        }
        self.uplinks = uplinks;
    }
}

fn sample(bridge: &BridgeState) -> BridgeSample {
    BridgeSample {
        ready: bridge.ready,
        datapath: bridge.datapath.map(DatapathKind::as_str).unwrap_or_default().to_owned(),
        pod_ports: bridge.pod_ports,
        uplinks: bridge.uplinks.iter().map(|uplink| (uplink.nic.clone(), uplink.carrier)).collect(),
    }
}

/// Follows the connection to Open vSwitch until the stop.
pub(super) async fn follow_ovs(
    mut replica: watch::Receiver<Arc<Replica>>,
    run_dir: std::path::PathBuf,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut said = false;
    loop {
        let up = replica.borrow_and_update().connected;
        metrics.set_ovs_connected(up);
        if up && std::mem::take(&mut said) {
            info!("open vswitch answers again");
        }
        let patience = async {
            if up || said {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(OVS_PATIENCE).await;
        };
        tokio::select! { biased;
            () = stop.cancelled() => return,
            changed = replica.changed() => if changed.is_err() { return stop.cancelled().await },
            () = patience => {
                said = true;
                let note = format!(
                    "Open vSwitch does not answer at {}/db.sock: pods with secondary networks wait (is the \
                     trunkline-ovs pod of this node running, or ovsRunDir wrong?)",
                    run_dir.display()
                );
                warn!(note = %note, "open vswitch");
                recorder.node(reason::OVS_UNREACHABLE, note);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::UplinkState;

    fn bridge(ready: bool, conditions: Vec<BridgeCondition>) -> BridgeStates {
        let name = "br1".parse::<trunkline_api::BridgeName>().expect("a name");
        let uplink = UplinkState {
            nic: "ens4".into(),
            present: true,
            carrier: true,
            mtu: None,
            vlans: trunkline_api::VlanSet::default(),
            ofport: None,
        };
        let state = BridgeState {
            name: name.clone(),
            configured: true,
            exists: true,
            ready,
            flows_installed: true,
            datapath: Some(DatapathKind::Netdev),
            origin: None,
            uplinks: vec![uplink],
            pod_ports: 2,
            conditions,
        };
        Arc::new([(name, state)].into())
    }

    fn missing() -> BridgeCondition {
        BridgeCondition::UplinkMissing { bridge: "br1".parse().expect("a name"), nic: "ens4".into() }
    }

    #[test]
    fn a_condition_is_said_when_it_appears_and_again_after_it_went() {
        let mut told = Told::default();
        let names = |news: Vec<(Reason, String)>| news.into_iter().map(|(r, _)| r.name).collect::<Vec<_>>();
        assert_eq!(names(told.news(&bridge(false, vec![missing()]))), ["UplinkMissing"]);
        assert!(told.news(&bridge(false, vec![missing()])).is_empty());
        assert_eq!(names(told.news(&bridge(true, vec![]))), ["BridgeReady"]);
        assert_eq!(names(told.news(&bridge(false, vec![missing()]))), ["UplinkMissing"]);
    }

    #[test]
    fn every_condition_that_is_a_node_event_has_a_reason() {
        let bridge = "br1".parse::<trunkline_api::BridgeName>().expect("a name");
        let conditions = [
            missing(),
            BridgeCondition::UplinkRefused { bridge: bridge.clone(), nic: "n".into(), reason: "r".into() },
            BridgeCondition::UplinkFailed { bridge: bridge.clone(), nic: "n".into(), reason: "r".into() },
            BridgeCondition::NotAdopted { bridge: bridge.clone(), reason: "r".into() },
            BridgeCondition::DatapathNetdev { bridge: bridge.clone() },
            BridgeCondition::DatapathUnavailable { bridge: bridge.clone() },
            BridgeCondition::DatapathKept { bridge, actual: "system", wanted: "netdev" },
        ];
        for condition in conditions {
            assert!(condition.is_node_event());
            assert!(reason::by_name(condition.reason()).is_some(), "{}", condition.reason());
        }
    }

    #[test]
    fn a_bridge_that_left_is_measured_no_more() {
        let (mut told, metrics) = (Told::default(), Metrics::new());
        told.measure(&bridge(true, vec![]), &metrics);
        assert!(metrics.encode().expect("text").contains(r#"uplink_carrier{bridge="br1",uplink="ens4"} 1"#));
        told.measure(&Arc::default(), &metrics);
        assert!(!metrics.encode().expect("text").contains("br1"));
    }

    #[tokio::test(start_paused = true)]
    async fn open_vswitch_that_stays_away_is_said_once() {
        let metrics = Metrics::new();
        let (recorder, _writer) = crate::kube::events::recorder("node-a", Arc::clone(&metrics));
        let (sender, replica) = watch::channel(Arc::new(Replica::default()));
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(follow_ovs(replica, "/run/x".into(), recorder, Arc::clone(&metrics), stop.clone()));
        tokio::time::sleep(OVS_PATIENCE * 4).await;
        let mut up = Replica::default();
        up.connected = true;
        sender.send_replace(Arc::new(up));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(metrics.encode().expect("text").contains("ovs_connected 1"));
        stop.cancel();
        tasks.join_next().await.expect("a task").expect("it ends");
    }
}
