//! This node as the agent sees it, for `trunkline-agent dump` and `trunkctl`.
//!
//! Owns the mapping from live state to the dump's shape; must never wait for anything.

use super::AttachDeps;
use crate::bridge::{BridgeState, PodPortRow, UplinkState};
use crate::dump::{AttachmentDump, BridgeDump, ConfigDump, NodeDump, OvsDump, PortDump, UplinkDump};
use crate::flows::FlowService;
use crate::protocol::Failure;
use crate::server::code;

/// The node's dump.
pub(super) fn dump(deps: &AttachDeps) -> serde_json::Value {
    let rows = deps.bridges.pod_ports();
    let states = deps.bridges.state().borrow().clone();
    let config = deps.config.current();
    let dump = NodeDump {
        node: deps.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: ConfigDump {
            secondary_network: config.gates.secondary_network,
            antrea_ipam: config.gates.antrea_ipam,
            error: deps.config.error(),
        },
        ovs: OvsDump { connected: deps.bridges.ovs_connected(), version: deps.bridges.ovs_version() },
        conflist: deps.conflist.borrow().clone(),
        bridges: states.values().map(bridge).collect(),
        ports: states.values().flat_map(uplink_ports).chain(rows.iter().map(pod_port)).collect(),
        attachments: rows.iter().map(attachment).collect(),
        taps: deps.flows.as_ref().map(FlowService::taps).unwrap_or_default(),
        flows_unavailable: deps.flows.as_ref().err().cloned(),
    };
    serde_json::to_value(dump).expect("a dump has string keys only")
}

/// The node's flows.
pub(super) fn flows(deps: &AttachDeps) -> Result<serde_json::Value, Failure> {
    let service = deps.flows.as_ref().map_err(|reason| Failure {
        code: code::FAILED,
        msg: format!("node {} has no flows: {reason}", deps.node),
        details: String::new(),
    })?;
    Ok(serde_json::to_value(service.flows()).expect("flows have string keys only"))
}

fn bridge(state: &BridgeState) -> BridgeDump {
    BridgeDump {
        name: state.name.to_string(),
        ready: state.ready,
        datapath: state.datapath.map_or("", |kind| kind.as_str()).to_owned(),
        uplinks: state.uplinks.iter().map(uplink).collect(),
        pod_ports: state.pod_ports,
        conditions: state.conditions.iter().map(|one| format!("{}: {one}", one.reason())).collect(),
    }
}

fn uplink(state: &UplinkState) -> UplinkDump {
    UplinkDump {
        name: state.nic.clone(),
        present: state.present,
        carrier: state.carrier,
        mtu: state.mtu.map_or(0, u32::from),
        allowed_vlans: state.vlans.to_string(),
    }
}

fn uplink_ports(state: &BridgeState) -> impl Iterator<Item = PortDump> + '_ {
    state.uplinks.iter().filter(|uplink| uplink.present && state.exists).map(|uplink| PortDump {
        name: uplink.nic.clone(),
        bridge: state.name.to_string(),
        kind: "uplink".to_owned(),
        ofport: uplink.ofport,
        ..PortDump::default()
    })
}

fn pod_port(row: &PodPortRow) -> PortDump {
    PortDump {
        name: row.name.clone(),
        bridge: row.bridge.clone(),
        kind: "pod".to_owned(),
        ofport: row.ofport,
        vlan: row.vlan.map_or(0, u16::from),
        error: row.error.clone(),
        pod: Some(format!("{}/{}", row.pod_namespace, row.pod_name)),
    }
}

fn attachment(row: &PodPortRow) -> AttachmentDump {
    AttachmentDump {
        pod_namespace: row.pod_namespace.clone(),
        pod_name: row.pod_name.clone(),
        pod_uid: row.pod_uid.clone(),
        sandbox: row.sandbox.clone(),
        interface: row.interface.clone(),
        nad: row.nad.clone(),
        bridge: row.bridge.clone(),
        vlan: row.vlan.map_or(0, u16::from),
        mac: row.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        addresses: row.addresses.iter().map(ToString::to_string).collect(),
        pools: row.pools.clone(),
        port: row.name.clone(),
        attach_ms: row.attach_ms,
    }
}
