//! What the attach pipeline asks of the bridges: pod ports, their flows and their rows.
//!
//! Many callers at once share OVSDB transactions (group commit in the client) and bundles (the bridge's task puts in
//! all flows that are missing at a time). Each call leaves its waiting at any await without harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use trunkline_api::BridgeName;
use trunkline_ovs::{
    FlowError, Operation, PortSpec, Replica, Table, TransactError, Value, VlanMode, add_port, del_port,
    mutate_external_ids, set_port_columns,
};

use super::cookie;
use super::manager::Bridges;
use super::observe;
use super::ports::{PodPort, PodPortRow, PortError, PortReady, keys};

/// How long a removal waits for flows to go. With vswitchd away there is nothing to wait for: it has forgotten them,
/// and gets a fresh list when it is back.
const FLOWS_GONE: Duration = Duration::from_secs(1);

/// What the switch counted for one pod port or uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCount {
    /// `OpenFlow` port number.
    pub ofport: u32,
    /// Cookie of its flow.
    pub cookie: u64,
    /// Packets that came in and were forwarded.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

impl Bridges {
    /// Puts a pod's link on a bridge; when this returns its traffic passes.
    ///
    /// Waits for the bridge to be ready first. A port that exists already (a call repeated, or cut short) is taken
    /// over. After an error the port may exist: [`Self::remove_pod_ports`] undoes.
    pub async fn add_pod_port(
        &self,
        bridge: &BridgeName,
        port: PodPort,
        deadline: Instant,
    ) -> Result<PortReady, PortError> {
        for key in [keys::POD_UID, keys::INTERFACE] {
            if port.external_ids.get(key).is_none_or(String::is_empty) {
                return Err(PortError::MissingKey { port: port.name.to_string(), key });
            }
        }
        let started = Instant::now();
        let late = |stage| PortError::Deadline {
            port: port.name.to_string(),
            bridge: bridge.clone(),
            waited: started.elapsed(),
            stage,
        };
        self.ready(bridge, deadline).await?;
        let shared = self.core.shared(bridge.as_str());
        let answer = shared.arrive(port.name.as_str());
        timeout_at(deadline, self.insert(bridge, &port)).await.map_err(|_| late("the database"))??;
        shared.kick();
        let stage = |replica: &Replica| match replica
            .interface(port.name.as_str())
            .and_then(|row| row.ready_ofport())
        {
            Some(_) => "its flow",
            None => "Open vSwitch to open it",
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(PortError::Stopping),
            Err(_) => Err(late(stage(&self.core.ovsdb.snapshot()))),
        }
    }

    /// Waits until the bridge takes pods.
    async fn ready(&self, bridge: &BridgeName, deadline: Instant) -> Result<(), PortError> {
        let mut states = self.state();
        let is_ready = |states: &super::BridgeStates| states.get(bridge).is_some_and(|state| state.ready);
        if timeout_at(deadline, states.wait_for(is_ready)).await.is_ok_and(|ready| ready.is_ok()) {
            return Ok(());
        }
        let states = self.state();
        let states = states.borrow();
        let reason = match states.get(bridge) {
            Some(state) => {
                state.facts().obstacle.map_or_else(|| "it is not ready".to_owned(), |why| why.to_string())
            }
            None => "the node has no such bridge".to_owned(),
        };
        Err(PortError::BridgeNotReady { bridge: bridge.clone(), reason })
    }

    async fn insert(&self, bridge: &BridgeName, port: &PodPort) -> Result<(), PortError> {
        loop {
            let operations = self.insertion(bridge, port);
            match self.core.ovsdb.transact(operations).await {
                Ok(_) => return Ok(()),
                // The next snapshot tells whether the port was made.
                Err(error) if error.is_outcome_unknown() => self.reconnected().await?,
                Err(source) => {
                    return Err(PortError::Database { what: format!("port {}", port.name), source });
                }
            }
        }
    }

    fn insertion(&self, bridge: &BridgeName, port: &PodPort) -> Vec<Operation> {
        let replica = self.core.ovsdb.snapshot();
        let ids = self.complete_ids(port);
        let Some(row) = replica.port(port.name.as_str()) else {
            return add_port(bridge.as_str(), &spec(port, ids));
        };
        if replica.bridge_of(row.uuid).is_some_and(|on| *on.name == *bridge.as_str()) {
            let tag = port.vlan.map_or_else(Value::empty, |vlan| i64::from(vlan.get()).into());
            let mut operations = set_port_columns(row.uuid, [("tag", tag), ("vlan_mode", "access".into())]);
            operations.extend(mutate_external_ids(Table::Port, row.uuid, &ids, &[]));
            return operations;
        }
        let mut operations = removal(&replica, port.name.as_str());
        operations.extend(add_port(bridge.as_str(), &spec(port, ids)));
        operations
    }

    fn complete_ids(&self, port: &PodPort) -> BTreeMap<String, String> {
        let mut ids = port.external_ids.clone();
        ids.insert(keys::TYPE.to_owned(), keys::TYPE_POD.to_owned());
        ids.insert(keys::BOOT_ID.to_owned(), self.core.options.boot_id.clone());
        ids.insert(keys::VLAN.to_owned(), port.vlan.map_or(0, u16::from).to_string());
        ids
    }

    async fn reconnected(&self) -> Result<(), PortError> {
        let mut replica = self.core.ovsdb.replica();
        replica.wait_for(|replica| replica.connected).await.map(|_| ()).map_err(|_| PortError::Stopping)
    }

    /// Takes pod ports off their bridges, all in one transaction; ports that are gone are fine.
    ///
    /// Flows go first, and a port's flow is not put back while it leaves: a port number that vswitchd gives to another
    /// port later never finds the flow of the one before.
    pub async fn remove_pod_ports(&self, names: &[String]) -> Result<(), PortError> {
        let replica = self.core.ovsdb.snapshot();
        let mut by_bridge: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in names {
            let on = replica.port(name).and_then(|port| replica.bridge_of(port.uuid));
            if let Some(bridge) = on {
                by_bridge.entry(bridge.name.to_string()).or_default().push(name);
            }
        }
        let leaving: Vec<_> =
            by_bridge.iter().map(|(bridge, ports)| (self.core.shared(bridge), ports)).collect();
        let gone: Vec<_> =
            leaving.iter().map(|(shared, ports)| shared.depart(ports.iter().copied())).collect();
        // Without a task for the bridge nobody answers, and nobody keeps flows there either.
        let _ = timeout(FLOWS_GONE, futures::future::join_all(gone)).await;
        let result = self.delete(names).await;
        for (shared, ports) in leaving {
            shared.departed(ports.iter().copied());
            shared.kick();
        }
        result
    }

    async fn delete(&self, names: &[String]) -> Result<(), PortError> {
        loop {
            let replica = self.core.ovsdb.snapshot();
            let operations: Vec<_> = names.iter().flat_map(|name| removal(&replica, name)).collect();
            if operations.is_empty() {
                return Ok(());
            }
            match self.core.ovsdb.transact(operations).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_outcome_unknown() => self.reconnected().await?,
                Err(source) => return Err(PortError::Database { what: names.join(", "), source }),
            }
        }
    }

    /// Sets keys of a port's `external_ids`; others stay. No error if the port is gone.
    pub async fn update_port_external_ids(
        &self,
        port: &str,
        set: BTreeMap<String, String>,
    ) -> Result<(), PortError> {
        let operations = mutate_external_ids(Table::Port, port, &set, &[]);
        match self.core.ovsdb.transact(operations).await {
            Ok(_) | Err(TransactError::NoSuchRow { .. }) => Ok(()),
            Err(source) => Err(PortError::Database { what: format!("port {port}"), source }),
        }
    }

    /// Every pod port in OVSDB, on whichever bridge; as of now, or of the last moment of a connection.
    pub fn pod_ports(&self) -> Vec<PodPortRow> {
        observe::pod_ports(&self.core.ovsdb.snapshot())
    }

    /// What the switch counted per port of a bridge: packets that really came in and were forwarded.
    pub async fn flow_stats(&self, bridge: &BridgeName) -> Result<Vec<FlowCount>, FlowError> {
        // A connection of its own: a question now and then must not hold up the bridge's task.
        let switch = self.core.switches.connect(bridge.as_str());
        // If vswitchd does not answer in time, the question itself says so.
        let _ = timeout(FLOWS_GONE, switch.connected()).await;
        let stats = switch.stats().await?;
        let count = |flow: trunkline_ovs::FlowStats| {
            let ofport = flow.allow()?.in_port();
            cookie::is_ours(flow.cookie).then_some(FlowCount {
                ofport,
                cookie: flow.cookie,
                packets: flow.packets,
                bytes: flow.bytes,
            })
        };
        Ok(stats.into_iter().filter_map(count).collect())
    }

    /// Whether the database answers and the replica is in step.
    pub fn ovs_connected(&self) -> bool {
        self.core.ovsdb.snapshot().connected
    }

    /// Version of the running vswitchd, empty until known.
    pub fn ovs_version(&self) -> String {
        let replica: Arc<Replica> = self.core.ovsdb.snapshot();
        replica.open_vswitch().and_then(|row| row.ovs_version.clone()).unwrap_or_default()
    }
}

/// An access port: with a tag it is on that VLAN, without one it is untagged, and in neither case a trunk.
fn spec(port: &PodPort, external_ids: BTreeMap<String, String>) -> PortSpec {
    PortSpec {
        tag: port.vlan.map(u16::from),
        vlan_mode: Some(VlanMode::Access),
        external_ids,
        ..PortSpec::new(port.name.as_str())
    }
}

fn removal(replica: &Replica, name: &str) -> Vec<Operation> {
    let Some(port) = replica.port(name) else { return Vec::new() };
    let Some(bridge) = replica.bridge_of(port.uuid) else { return Vec::new() };
    del_port(&bridge.name, port.uuid)
}
