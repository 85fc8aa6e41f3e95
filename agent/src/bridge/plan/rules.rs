//! The rules themselves.
//!
//! Owns the decisions of design decisions 6, 13 and 15; must never do I/O.

use trunkline_api::{BridgeName, DatapathType};

use super::facts::{
    Actual, BridgeRow, FlowCensus, NicFacts, PortKind, PortRow, UplinkSettings, Wanted, WantedUplink,
};
use super::{Plan, Step, first_common};
use crate::bridge::state::{BridgeCondition, DatapathKind, Origin};

/// The steps from `actual` to `wanted`; `None` gives the bridge up.
pub fn plan(name: &BridgeName, wanted: Option<&Wanted>, actual: &Actual) -> Plan {
    match (wanted, &actual.bridge) {
        (None, Some(row)) if row.managed => give_up(name, row, actual),
        (None, _) => Plan::default(),
        (Some(wanted), None) => create(wanted, actual),
        (Some(wanted), Some(row)) => keep(wanted, row, actual),
    }
}

fn give_up(name: &BridgeName, row: &BridgeRow, actual: &Actual) -> Plan {
    // Deleting the bridge would take others' ports with it, too.
    let created = row.origin == Some(Origin::Created);
    let stays = |port: &&PortRow| port.kind == PortKind::Pod || (created && port.kind == PortKind::Foreign);
    let ports = row.ports.values().filter(stays).count();
    if ports > 0 {
        let conditions = vec![BridgeCondition::Draining { bridge: name.clone(), ports }];
        return Plan { conditions, origin: row.origin, ..Plan::default() };
    }
    let mut steps = Vec::new();
    let uplinks = || row.ports.iter().filter(|(_, port)| matches!(port.kind, PortKind::Uplink(_)));
    if created {
        steps.push(Step::DeleteBridge);
    } else {
        steps.extend(uplinks().map(|(nic, port)| removal(nic, port)));
        steps.push(Step::ReleaseBridge { fail_mode: row.previous_fail_mode.clone() });
    }
    steps.extend(uplinks().filter_map(|(nic, _)| restoration(nic, actual)));
    Plan { steps, ..Plan::default() }
}

fn create(wanted: &Wanted, actual: &Actual) -> Plan {
    let mut conditions = uplink_conditions(wanted, None, actual);
    let datapath = match choose_datapath(wanted, actual) {
        Ok(datapath) => datapath,
        Err(condition) => {
            conditions.push(condition);
            return Plan { conditions, ..Plan::default() };
        }
    };
    if !conditions.is_empty() {
        return Plan { conditions, ..Plan::default() };
    }
    let mut steps = Vec::new();
    for uplink in &wanted.uplinks {
        steps.extend(offloads(&uplink.nic, datapath, actual));
    }
    steps.push(Step::CreateBridge { datapath, wish: wish(wanted.datapath), snooping: wanted.snooping });
    steps.extend(wanted.mtu.map(Step::SetMtu));
    for uplink in &wanted.uplinks {
        steps.push(Step::AddUplink { nic: uplink.nic.clone(), settings: settings(wanted, uplink) });
    }
    steps.extend(wanted.uplinks.iter().filter_map(|uplink| link_up(&uplink.nic, actual)));
    conditions.extend(datapath_condition(wanted, datapath));
    Plan { steps, conditions, ready: true, origin: Some(Origin::Created) }
}

fn keep(wanted: &Wanted, row: &BridgeRow, actual: &Actual) -> Plan {
    let mut steps = Vec::new();
    let mut origin = row.origin;
    if row.managed {
        if row.fail_mode != "secure" {
            steps.push(Step::CloseBridge);
        }
    } else {
        match adoption(wanted, row, actual) {
            Ok(step) => steps.push(step),
            Err(condition) => {
                let mut conditions = vec![condition];
                conditions.extend(uplink_conditions(wanted, Some(row), actual));
                return Plan { conditions, ..Plan::default() };
            }
        }
        origin = Some(Origin::Adopted);
    }
    if row.snooping != wanted.snooping {
        steps.push(Step::SetSnooping(wanted.snooping));
    }
    steps.extend(wanted.mtu.filter(|mtu| row.mtu != Some(*mtu)).map(Step::SetMtu));
    drop_unwanted(wanted, row, actual, &mut steps);
    for uplink in &wanted.uplinks {
        place_uplink(wanted, uplink, row, actual, &mut steps);
    }
    let mut conditions = uplink_conditions(wanted, Some(row), actual);
    let ready = conditions.is_empty();
    conditions.extend(datapath_condition(wanted, row.datapath));
    Plan { steps, conditions, ready, origin }
}

/// A bridge is adopted when nobody loses anything by it, or when the user says so.
fn adoption(wanted: &Wanted, row: &BridgeRow, actual: &Actual) -> Result<Step, BridgeCondition> {
    let bridge = wanted.name.clone();
    let step = Step::AdoptBridge { wish: wish(wanted.datapath), previous_fail_mode: row.fail_mode.clone() };
    if wanted.adopt {
        return Ok(step);
    }
    let mut found = Vec::new();
    if row.has_controller {
        found.push("it has a controller".to_owned());
    }
    match actual.flows {
        FlowCensus::Foreign(0) => {}
        FlowCensus::Foreign(count) => found.push(format!("it has {count} flows of somebody else")),
        FlowCensus::Unknown if found.is_empty() => {
            let reason = "a bridge of this name exists, and its flows could not be read yet".to_owned();
            return Err(BridgeCondition::Pending { bridge, reason });
        }
        FlowCensus::Unknown => {}
    }
    if row.fail_mode != "secure" && !row.ports.is_empty() {
        let mode = if row.fail_mode.is_empty() { "unset" } else { &row.fail_mode };
        let ports = row.ports.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.push(format!("its fail_mode is {mode} and it has ports ({ports}) that would go dark"));
    }
    if found.is_empty() {
        Ok(step)
    } else {
        Err(BridgeCondition::NotAdopted { bridge, reason: found.join(", and ") })
    }
}

fn drop_unwanted(wanted: &Wanted, row: &BridgeRow, actual: &Actual, steps: &mut Vec<Step>) {
    let is_wanted = |nic: &str| wanted.uplinks.iter().any(|uplink| uplink.nic == nic);
    for (nic, port) in &row.ports {
        if matches!(port.kind, PortKind::Uplink(_)) && !is_wanted(nic) {
            steps.push(removal(nic, port));
            steps.extend(restoration(nic, actual));
        }
    }
}

fn removal(nic: &str, port: &PortRow) -> Step {
    match port.kind {
        PortKind::Uplink(Origin::Adopted) => Step::ReleaseUplink { nic: nic.to_owned() },
        _ => Step::RemoveUplink { nic: nic.to_owned() },
    }
}

fn restoration(nic: &str, actual: &Actual) -> Option<Step> {
    let journalled = actual.nics.get(nic).is_some_and(|facts| facts.journalled);
    journalled.then(|| Step::OffloadsRestore { nic: nic.to_owned() })
}

fn place_uplink(
    wanted: &Wanted,
    uplink: &WantedUplink,
    row: &BridgeRow,
    actual: &Actual,
    steps: &mut Vec<Step>,
) {
    let nic = uplink.nic.clone();
    let target = settings(wanted, uplink);
    match row.ports.get(&nic) {
        Some(port) if port.kind == PortKind::Pod => return,
        Some(port) => {
            if port.kind == PortKind::Foreign {
                steps.push(Step::ClaimUplink { nic: nic.clone() });
            }
            steps.extend(offloads(&nic, row.datapath, actual));
            if port.settings != target || port.tag != 0 || port.vlan_mode != "trunk" {
                steps.push(Step::SetUplink { nic: nic.clone(), settings: target });
            }
        }
        None if refusal(wanted, uplink, actual).is_some() => return,
        None => {
            steps.extend(offloads(&nic, row.datapath, actual));
            steps.push(Step::AddUplink { nic: nic.clone(), settings: target });
        }
    }
    steps.extend(link_up(&nic, actual));
}

fn offloads(nic: &str, datapath: DatapathKind, actual: &Actual) -> Option<Step> {
    let coalesces = actual.nics.get(nic).is_some_and(|facts| facts.coalesces);
    (datapath == DatapathKind::Netdev && coalesces).then(|| Step::OffloadsOff { nic: nic.to_owned() })
}

fn link_up(nic: &str, actual: &Actual) -> Option<Step> {
    let down = actual.nics.get(nic).is_some_and(|facts| !facts.up);
    down.then(|| Step::LinkUp { nic: nic.to_owned() })
}

fn settings(wanted: &Wanted, uplink: &WantedUplink) -> UplinkSettings {
    UplinkSettings { trunks: uplink.vlans.trunks().into_iter().collect(), flood_multicast: wanted.snooping }
}

/// What keeps uplinks from working; a NIC that is joined already is not judged again, it would take pods' network away.
fn uplink_conditions(wanted: &Wanted, row: Option<&BridgeRow>, actual: &Actual) -> Vec<BridgeCondition> {
    let bridge = &wanted.name;
    let mut conditions = Vec::new();
    for uplink in &wanted.uplinks {
        let nic = uplink.nic.clone();
        let port = row.and_then(|row| row.ports.get(&nic));
        let joined = port.is_some_and(|port| port.kind != PortKind::Pod);
        if !actual.nics.contains_key(&nic) {
            conditions.push(BridgeCondition::UplinkMissing { bridge: bridge.clone(), nic });
        } else if let Some(port) = port.filter(|port| joined && !port.error.is_empty()) {
            conditions.push(BridgeCondition::UplinkFailed {
                bridge: bridge.clone(),
                nic,
                reason: port.error.clone(),
            });
        } else if !joined && let Some(condition) = refusal(wanted, uplink, actual) {
            conditions.push(condition);
        }
    }
    conditions
}

/// Why this NIC cannot be taken (design decision 13).
fn refusal(wanted: &Wanted, uplink: &WantedUplink, actual: &Actual) -> Option<BridgeCondition> {
    let (bridge, nic) = (wanted.name.clone(), uplink.nic.clone());
    let Some(facts) = actual.nics.get(&nic) else {
        return Some(BridgeCondition::UplinkMissing { bridge, nic });
    };
    let reason = loop_reason(wanted, uplink)
        .or_else(|| {
            actual
                .elsewhere
                .get(&nic)
                .map(|other| format!("it is a port of OVS bridge {other}; take it out there first"))
        })
        .or_else(|| nic_reason(facts))?;
    Some(BridgeCondition::UplinkRefused { bridge, nic, reason })
}

fn loop_reason(wanted: &Wanted, uplink: &WantedUplink) -> Option<String> {
    if wanted.parallel_uplinks {
        return None;
    }
    let sets: Vec<_> = wanted.uplinks.iter().map(|each| (each.nic.as_str(), &each.vlans)).collect();
    let (left, right, id) = first_common(&sets)?;
    // The later of the two is refused: the earlier one alone would not loop.
    (sets[right].0 == uplink.nic).then(|| {
        let what = if id == 0 { "untagged frames".to_owned() } else { format!("VLAN {id}") };
        format!(
            "it and uplink {} both carry {what}, which would loop; give them disjoint allowedVLANs, or set parallelUplinks: allow",
            sets[left].0
        )
    })
}

fn nic_reason(facts: &NicFacts) -> Option<String> {
    if facts.has_default_route {
        return Some(
            "the node's default route leaves through it; choose a NIC that the node itself does not use"
                .to_owned(),
        );
    }
    if let Some(address) = facts.addresses.first() {
        return Some(format!("it has the address {address}; remove the address, or choose another NIC"));
    }
    if let Some(master) = &facts.master {
        return Some(format!("it belongs to {master}; name {master} instead, or take it out there first"));
    }
    let child = facts.vlan_children.first()?;
    Some(format!("the VLAN interface {child} is on top of it; remove that interface, or choose another NIC"))
}

fn choose_datapath(wanted: &Wanted, actual: &Actual) -> Result<DatapathKind, BridgeCondition> {
    let bridge = wanted.name.clone();
    match (wanted.datapath, actual.kernel_datapath) {
        (DatapathType::Netdev, _) | (DatapathType::Auto, Some(false)) => Ok(DatapathKind::Netdev),
        (_, Some(true)) => Ok(DatapathKind::System),
        (DatapathType::System, Some(false)) => Err(BridgeCondition::DatapathUnavailable { bridge }),
        (_, None) => {
            let reason = "it is not known yet whether the kernel has the module openvswitch".to_owned();
            Err(BridgeCondition::Pending { bridge, reason })
        }
    }
}

fn datapath_condition(wanted: &Wanted, actual: DatapathKind) -> Option<BridgeCondition> {
    let bridge = wanted.name.clone();
    match (wanted.datapath, actual) {
        (DatapathType::Auto, DatapathKind::Netdev) => Some(BridgeCondition::DatapathNetdev { bridge }),
        (DatapathType::System, DatapathKind::Netdev) | (DatapathType::Netdev, DatapathKind::System) => {
            Some(BridgeCondition::DatapathKept {
                bridge,
                actual: actual.as_str(),
                wanted: wish(wanted.datapath),
            })
        }
        _ => None,
    }
}

fn wish(datapath: DatapathType) -> &'static str {
    match datapath {
        DatapathType::Auto => "auto",
        DatapathType::System => "system",
        DatapathType::Netdev => "netdev",
    }
}
