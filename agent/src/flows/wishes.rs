//! Which taps there should be: every pod port of ours, every uplink of ours.
//!
//! Pure: OVSDB's rows and the bridges' states in, wishes out. Names come from the attachment itself.

use std::time::SystemTime;

use trunkline_ebpf::Tap;

use super::record::{Endpoint, TapIdentity};
use crate::bridge::{BridgeCondition, BridgeState, BridgeStates, DatapathKind, PodPortRow};

/// A tap as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapWish {
    /// What to attach, and where.
    pub tap: Tap,
    /// Whose it is.
    pub identity: TapIdentity,
}

/// The wish for a pod's port, whose link has this index on the node.
pub(crate) fn of_port(row: &PodPortRow, ifindex: u32, datapath: Option<DatapathKind>) -> TapWish {
    TapWish {
        tap: Tap {
            name: row.name.clone(),
            interface: row.name.clone(),
            ifindex,
            host_side: true,
            no_ethernet: false,
            // A userspace datapath only copies frames; the kernel's takes them.
            guarded: datapath == Some(DatapathKind::Netdev),
        },
        identity: TapIdentity {
            device: row.name.clone(),
            ifindex,
            interface: row.interface.clone(),
            netns: None,
            pod: Some(Endpoint::from(row)),
            network: Some(row.nad.clone()),
            vlan: row.vlan,
            bridge: Some(row.bridge.clone()),
            since: SystemTime::now(),
        },
    }
}

impl From<&PodPortRow> for Endpoint {
    fn from(row: &PodPortRow) -> Self {
        Self {
            namespace: row.pod_namespace.clone(),
            name: row.pod_name.clone(),
            uid: row.pod_uid.clone(),
            interface: row.interface.clone(),
        }
    }
}

/// Everything that is wanted now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Taps of links that are there.
    pub(crate) taps: Vec<TapWish>,
    /// Links that are wanted and not there.
    pub(crate) missing: Vec<String>,
    /// Whether every bridge has been looked at: before, an uplink that is not wished for may only be unknown yet.
    pub(crate) complete: bool,
}

/// All wishes. `ifindex` looks a link up by its name.
pub(crate) fn all(
    rows: &[PodPortRow],
    bridges: &BridgeStates,
    ifindex: impl Fn(&str) -> Option<u32>,
) -> Wishes {
    let (mut wishes, mut missing) = (Vec::new(), Vec::new());
    for row in rows {
        let bridge = bridges.iter().find(|(name, _)| name.as_str() == row.bridge);
        match ifindex(&row.name) {
            Some(index) => wishes.push(of_port(row, index, bridge.and_then(|(_, state)| state.datapath))),
            None => missing.push(row.name.clone()),
        }
    }
    for state in bridges.values().filter(|state| state.exists) {
        for uplink in state.uplinks.iter().filter(|uplink| uplink.present && uplink.ofport.is_some()) {
            match ifindex(&uplink.nic) {
                Some(index) => wishes.push(of_uplink(&uplink.nic, state.name.as_str(), index)),
                None => missing.push(uplink.nic.clone()),
            }
        }
    }
    let pending = |state: &BridgeState| {
        state.conditions.iter().any(|condition| matches!(condition, BridgeCondition::Pending { .. }))
    };
    let complete = !bridges.is_empty() && !bridges.values().any(pending);
    Wishes { taps: wishes, missing, complete }
}

fn of_uplink(nic: &str, bridge: &str, ifindex: u32) -> TapWish {
    TapWish {
        tap: Tap {
            name: nic.to_owned(),
            interface: nic.to_owned(),
            ifindex,
            host_side: false,
            no_ethernet: false,
            guarded: false,
        },
        identity: TapIdentity {
            device: nic.to_owned(),
            ifindex,
            interface: nic.to_owned(),
            netns: None,
            pod: None,
            network: None,
            vlan: None,
            bridge: Some(bridge.to_owned()),
            since: SystemTime::now(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use trunkline_api::VlanSet;

    use super::*;
    use crate::bridge::UplinkState;

    fn bridges(datapath: DatapathKind) -> BridgeStates {
        let uplink = |nic: &str, present| UplinkState {
            nic: nic.to_owned(),
            present,
            carrier: true,
            mtu: None,
            vlans: VlanSet::default(),
            ofport: present.then_some(1),
        };
        let state = BridgeState {
            name: "br".parse().expect("a name"),
            configured: true,
            exists: true,
            ready: true,
            flows_installed: true,
            datapath: Some(datapath),
            origin: None,
            uplinks: vec![uplink("up1", true), uplink("up2", false)],
            pod_ports: 1,
            conditions: Vec::new(),
        };
        Arc::new(BTreeMap::from([(state.name.clone(), state)]))
    }

    fn row() -> PodPortRow {
        PodPortRow {
            name: "tl0123".into(),
            bridge: "br".into(),
            pod_namespace: "default".into(),
            pod_name: "a".into(),
            pod_uid: "u".into(),
            interface: "eth1".into(),
            nad: "default/vlan100".into(),
            vlan: trunkline_api::VlanId::try_from(100).ok(),
            ..PodPortRow::default()
        }
    }

    #[test]
    fn pods_and_uplinks_that_are_there_are_wanted_with_their_names() {
        let Wishes { taps: wishes, missing, complete } =
            all(&[row()], &bridges(DatapathKind::Netdev), |_| Some(7));
        assert!(missing.is_empty() && complete);
        let [pod, uplink] = wishes.as_slice() else { panic!("{wishes:?}") };
        assert!(pod.tap.host_side && pod.tap.guarded && !uplink.tap.host_side && !uplink.tap.guarded);
        assert_eq!(pod.identity.network.as_deref(), Some("default/vlan100"));
        assert_eq!(pod.identity.pod.as_ref().map(|pod| pod.interface.as_str()), Some("eth1"));
        assert_eq!((uplink.tap.name.as_str(), uplink.identity.pod.as_ref()), ("up1", None));
    }

    #[test]
    fn the_kernels_datapath_takes_its_frames_and_needs_no_guard() {
        let wishes = all(&[row()], &bridges(DatapathKind::System), |_| Some(7));
        assert!(!wishes.taps[0].tap.guarded);
    }

    #[test]
    fn a_link_that_is_gone_is_listed_and_never_tapped_by_guess() {
        let wishes = all(&[row()], &bridges(DatapathKind::Netdev), |_| None);
        assert!(wishes.taps.is_empty());
        assert_eq!(wishes.missing, ["tl0123", "up1"]);
    }

    #[test]
    fn an_agent_that_has_just_started_does_not_know_yet_which_uplinks_it_wants() {
        let name: trunkline_api::BridgeName = "br".parse().expect("a name");
        let mut states = (*bridges(DatapathKind::Netdev)).clone();
        for state in states.values_mut() {
            state.exists = false;
            let reason = "it is not set up yet".to_owned();
            state.conditions = vec![BridgeCondition::Pending { bridge: name.clone(), reason }];
        }
        assert!(!all(&[row()], &Arc::new(states), |_| Some(7)).complete);
        assert!(!all(&[row()], &Arc::default(), |_| Some(7)).complete, "no bridge is known at all");
    }
}
