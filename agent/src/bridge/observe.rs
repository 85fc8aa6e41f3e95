//! From OVSDB's replica and the kernel's links to the facts that the planner and the flows work on.
//!
//! Owns the reading of rows; must never write anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use trunkline_api::{BridgeConfig, DatapathType, Mtu, VlanId};
use trunkline_ovs::{Bridge, Interface, Port, Replica, Uuid};

use super::flows::{self, Admit, FlowTable, PortFlow};
use super::plan::{
    Actual, BridgeRow, FlowCensus, NicFacts, PortKind, PortRow, UplinkSettings, Wanted, WantedUplink,
};
use super::ports::{PodPortRow, keys};
use super::state::{DatapathKind, Origin, UplinkState};
use crate::link::LinkFacts;

/// `other_config` of an uplink's port with snooping on (`ovs-vswitchd.conf.db(5)`, Port).
pub(super) const FLOOD_KEYS: [&str; 2] = ["mcast-snooping-flood", "mcast-snooping-flood-reports"];
/// `external_ids` of an adopted bridge: its `fail_mode` from before.
pub(super) const PREVIOUS_FAIL_MODE: &str = "trunkline-previous-fail-mode";

/// What the kernel says about the NICs that matter, by name.
pub(super) type Nics = Arc<BTreeMap<String, Nic>>;

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) link: LinkFacts,
    /// Receive coalescing is on.
    pub(super) coalesces: bool,
}

/// The configuration in the planner's terms.
pub(super) fn wanted(config: &BridgeConfig, datapath: DatapathType) -> Wanted {
    let uplink = |uplink: &trunkline_api::UplinkConfig| WantedUplink {
        nic: uplink.name.to_string(),
        vlans: uplink.allowed_vlans.clone(),
    };
    Wanted {
        name: config.name.clone(),
        uplinks: config.uplinks.iter().map(uplink).collect(),
        snooping: config.multicast_snooping,
        adopt: config.adopt,
        parallel_uplinks: config.parallel_uplinks,
        datapath,
        mtu: config.mtu,
    }
}

/// What is there of one bridge.
pub(super) fn actual(
    name: &str,
    wanted: Option<&Wanted>,
    replica: &Replica,
    nics: &BTreeMap<String, Nic>,
    journalled: &dyn Fn(&str) -> bool,
) -> Actual {
    let bridge = bridge_row_of(replica, name);
    let asked = wanted.into_iter().flat_map(|wanted| wanted.uplinks.iter().map(|uplink| uplink.nic.clone()));
    let joined = bridge.iter().flat_map(|row| row.ports.iter());
    let joined =
        joined.filter(|(_, port)| matches!(port.kind, PortKind::Uplink(_))).map(|(nic, _)| nic.clone());
    let names: BTreeSet<String> = asked.chain(joined).collect();
    let elsewhere = names.iter().filter_map(|nic| {
        let port = replica.port(nic)?;
        let other = replica.bridge_of(port.uuid)?;
        (*other.name != *name).then(|| (nic.clone(), other.name.to_string()))
    });
    Actual {
        elsewhere: elsewhere.collect(),
        nics: names
            .iter()
            .filter_map(|nic| Some((nic.clone(), nic_facts(nics.get(nic)?, journalled(nic)))))
            .collect(),
        bridge,
        kernel_datapath: None,
        flows: FlowCensus::Unknown,
    }
}

fn nic_facts(nic: &Nic, journalled: bool) -> NicFacts {
    NicFacts {
        up: nic.link.up,
        master: nic.link.master.clone(),
        vlan_children: nic.link.vlan_children.clone(),
        addresses: nic.link.addresses.clone(),
        has_default_route: nic.link.has_default_route,
        coalesces: nic.coalesces,
        journalled,
    }
}

/// The bridge of this name, if there is one.
pub(super) fn bridge_row_of(replica: &Replica, name: &str) -> Option<BridgeRow> {
    replica.bridge(name).map(|row| bridge_row(replica, row))
}

/// What is told of a bridge of ours.
pub(super) struct Summary {
    pub(super) datapath: DatapathKind,
    pub(super) pod_ports: usize,
}

/// The bridge of this name, if it is ours. It is asked for at every change of any port, so it copies nothing.
pub(super) fn summary(replica: &Replica, name: &str) -> Option<Summary> {
    let row = replica.bridge(name).filter(|row| is_managed(row))?;
    let is_pod = |port: &&Arc<Port>| {
        port.external_ids.get(keys::TYPE).is_some_and(|kind| kind == keys::TYPE_POD)
            && *port.name != *row.name
    };
    Some(Summary {
        datapath: DatapathKind::from_column(&row.datapath_type),
        pod_ports: replica.ports_of(row).filter(is_pod).count(),
    })
}

fn is_managed(row: &Bridge) -> bool {
    row.external_ids.get(keys::MANAGED).is_some_and(|value| value == "true")
}

fn bridge_row(replica: &Replica, row: &Bridge) -> BridgeRow {
    let managed = is_managed(row);
    let others = replica.ports_of(row).filter(|port| *port.name != *row.name);
    BridgeRow {
        managed,
        origin: managed.then(|| origin(&row.external_ids)),
        fail_mode: row.fail_mode.map_or_else(String::new, |mode| mode.as_str().to_owned()),
        previous_fail_mode: row.external_ids.get(PREVIOUS_FAIL_MODE).cloned().unwrap_or_default(),
        has_controller: !row.controller.is_empty(),
        datapath: DatapathKind::from_column(&row.datapath_type),
        snooping: row.mcast_snooping_enable,
        mtu: replica
            .interface(&row.name)
            .and_then(|local| Mtu::try_from(u32::try_from(local.mtu_request?).ok()?).ok()),
        ports: others.map(|port| (port.name.to_string(), port_row(replica, port, managed))).collect(),
    }
}

/// Without a mark that says otherwise a thing was there before us: it is never deleted by mistake.
fn origin(external_ids: &BTreeMap<String, String>) -> Origin {
    match external_ids.get(keys::ORIGIN).map(String::as_str) {
        Some("created") => Origin::Created,
        _ => Origin::Adopted,
    }
}

fn port_row(replica: &Replica, port: &Port, managed: bool) -> PortRow {
    let kind = match port.external_ids.get(keys::TYPE).map(String::as_str) {
        Some(keys::TYPE_POD) if managed => PortKind::Pod,
        Some(keys::TYPE_UPLINK) if managed => PortKind::Uplink(origin(&port.external_ids)),
        _ => PortKind::Foreign,
    };
    let floods = |key: &&str| port.other_config.get(*key).is_some_and(|value| value == "true");
    PortRow {
        kind,
        tag: port.tag.unwrap_or(0),
        vlan_mode: port.vlan_mode.clone().unwrap_or_default(),
        settings: UplinkSettings {
            trunks: port.trunks.clone(),
            flood_multicast: FLOOD_KEYS.iter().all(floods),
        },
        error: interface(replica, port).and_then(|interface| interface.error.clone()).unwrap_or_default(),
    }
}

fn interface<'a>(replica: &'a Replica, port: &'a Port) -> Option<&'a Arc<Interface>> {
    replica.interfaces_of(port).next()
}

/// Each port's flow, kept while its row stays the same: the cookie is a hash.
pub(super) type FlowCache = HashMap<Uuid, (Arc<Port>, PortFlow)>;

/// The flows that should be on a bridge: one for each uplink and each pod port of this boot that vswitchd has opened.
/// Ports in `leaving` are about to be removed and get none.
pub(super) fn wanted_flows(
    name: &str,
    replica: &Replica,
    boot_id: &str,
    leaving: &HashSet<String>,
    cache: &mut FlowCache,
) -> FlowTable {
    let Some(bridge) = replica.bridge(name) else { return FlowTable::new() };
    cache.retain(|port, _| bridge.ports.contains(port));
    let mut table = FlowTable::new();
    for port in replica.ports_of(bridge).filter(|port| !leaving.contains(&*port.name)) {
        let Some(ofport) = interface(replica, port).and_then(|interface| interface.ready_ofport()) else {
            continue;
        };
        let flow = match cache.get(&port.uuid) {
            Some((row, flow)) if Arc::ptr_eq(row, port) && flow.admit == Admit::Untagged => Some(*flow),
            _ => port_flow(port, ofport, boot_id),
        };
        if let Some(flow) = flow {
            cache.insert(port.uuid, (Arc::clone(port), flow));
            table.insert(ofport, flow);
        }
    }
    table
}

fn port_flow(port: &Port, ofport: u32, boot_id: &str) -> Option<PortFlow> {
    let ids = &port.external_ids;
    match ids.get(keys::TYPE)?.as_str() {
        keys::TYPE_UPLINK => Some(flows::uplink_flow(ofport)),
        keys::TYPE_POD if ids.get(keys::BOOT_ID).is_some_and(|boot| boot == boot_id) => {
            Some(flows::pod_flow(ids.get(keys::POD_UID)?, ids.get(keys::INTERFACE)?))
        }
        _ => None,
    }
}

/// A pod's port, or `None` for any other.
pub(super) fn pod_port(replica: &Replica, port: &Port) -> Option<PodPortRow> {
    let ids = &port.external_ids;
    if ids.get(keys::TYPE).map(String::as_str) != Some(keys::TYPE_POD) {
        return None;
    }
    let text = |key: &str| ids.get(key).cloned().unwrap_or_default();
    let list = |key: &str| -> Vec<String> {
        text(key).split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let interface = interface(replica, port);
    Some(PodPortRow {
        name: port.name.to_string(),
        bridge: replica.bridge_of(port.uuid).map(|bridge| bridge.name.to_string()).unwrap_or_default(),
        pod_uid: text(keys::POD_UID),
        pod_namespace: text(keys::POD_NAMESPACE),
        pod_name: text(keys::POD_NAME),
        sandbox: text(keys::SANDBOX),
        interface: text(keys::INTERFACE),
        nad: text(keys::NAD),
        mac: text(keys::MAC).parse().ok(),
        addresses: list(keys::ADDRESSES).iter().filter_map(|item| item.parse().ok()).collect(),
        pools: list(keys::POOLS),
        vlan: port.tag.and_then(|tag| VlanId::try_from(tag).ok()),
        boot_id: text(keys::BOOT_ID),
        netns: text(keys::NETNS),
        attach_ms: text(keys::ATTACH_MS).parse().ok(),
        ofport: interface.and_then(|interface| interface.ready_ofport()),
        error: interface.and_then(|interface| interface.error.clone()),
    })
}

/// All pod ports of this node, in no order.
pub(super) fn pod_ports(replica: &Replica) -> Vec<PodPortRow> {
    replica.ports().filter_map(|port| pod_port(replica, port)).collect()
}

/// The configured uplinks as they are.
pub(super) fn uplinks(wanted: &Wanted, replica: &Replica, nics: &BTreeMap<String, Nic>) -> Vec<UplinkState> {
    let state = |uplink: &WantedUplink| {
        let nic = nics.get(&uplink.nic);
        UplinkState {
            nic: uplink.nic.clone(),
            present: nic.is_some(),
            carrier: nic.is_some_and(|nic| nic.link.carrier),
            mtu: nic.and_then(|nic| Mtu::try_from(nic.link.mtu).ok()),
            vlans: uplink.vlans.clone(),
            ofport: replica.interface(&uplink.nic).and_then(|interface| interface.ready_ofport()),
        }
    };
    wanted.uplinks.iter().map(state).collect()
}
