//! A node that does what a plan says, for the properties.

use std::collections::BTreeMap;

use super::super::*;

/// What the node looks like after the steps.
pub(in super::super) fn apply(steps: &[Step], actual: &Actual) -> Actual {
    let mut next = actual.clone();
    for step in steps {
        one(step, &mut next);
    }
    next
}

fn bridge(actual: &mut Actual) -> &mut BridgeRow {
    actual.bridge.as_mut().expect("the step needs a bridge")
}

fn port<'a>(actual: &'a mut Actual, nic: &str) -> &'a mut PortRow {
    bridge(actual).ports.get_mut(nic).expect("the step needs a port")
}

fn nic<'a>(actual: &'a mut Actual, nic: &str) -> &'a mut NicFacts {
    actual.nics.get_mut(nic).expect("the step needs a link")
}

fn one(step: &Step, actual: &mut Actual) {
    match step {
        Step::CreateBridge { datapath, snooping, .. } => {
            assert!(actual.bridge.is_none(), "a bridge is made only where there is none");
            actual.bridge = Some(BridgeRow {
                managed: true,
                origin: Some(Origin::Created),
                fail_mode: "secure".to_owned(),
                previous_fail_mode: String::new(),
                has_controller: false,
                datapath: *datapath,
                snooping: *snooping,
                mtu: None,
                ports: BTreeMap::new(),
            });
        }
        Step::AdoptBridge { previous_fail_mode, .. } => {
            let row = bridge(actual);
            row.managed = true;
            row.origin = Some(Origin::Adopted);
            row.fail_mode = "secure".to_owned();
            row.previous_fail_mode.clone_from(previous_fail_mode);
        }
        Step::CloseBridge => bridge(actual).fail_mode = "secure".to_owned(),
        Step::SetSnooping(on) => bridge(actual).snooping = *on,
        Step::SetMtu(mtu) => bridge(actual).mtu = Some(*mtu),
        Step::OffloadsOff { nic: name } => {
            nic(actual, name).coalesces = false;
            nic(actual, name).journalled = true;
        }
        Step::OffloadsRestore { nic: name } => nic(actual, name).journalled = false,
        Step::LinkUp { nic: name } => nic(actual, name).up = true,
        Step::AddUplink { nic: name, settings } => {
            assert!(actual.nics.contains_key(name), "only a NIC that exists is added");
            let row = PortRow {
                kind: PortKind::Uplink(Origin::Created),
                tag: 0,
                vlan_mode: "trunk".to_owned(),
                settings: settings.clone(),
                error: String::new(),
            };
            assert!(bridge(actual).ports.insert(name.clone(), row).is_none(), "a port is added once");
        }
        Step::ClaimUplink { nic } => port(actual, nic).kind = PortKind::Uplink(Origin::Adopted),
        Step::SetUplink { nic, settings } => {
            let row = port(actual, nic);
            (row.tag, row.vlan_mode, row.settings) = (0, "trunk".to_owned(), settings.clone());
        }
        Step::RemoveUplink { nic } => {
            let row = bridge(actual).ports.remove(nic).expect("only a port that exists is removed");
            assert_eq!(
                row.kind,
                PortKind::Uplink(Origin::Created),
                "only an uplink that we added is removed"
            );
        }
        Step::ReleaseUplink { nic } => port(actual, nic).kind = PortKind::Foreign,
        Step::DeleteBridge => {
            let row = actual.bridge.take().expect("only a bridge that exists is deleted");
            assert_eq!(row.origin, Some(Origin::Created), "only a bridge that we made is deleted");
            assert!(
                row.ports.values().all(|port| port.kind != PortKind::Pod),
                "a pod's port is never deleted"
            );
        }
        Step::ReleaseBridge { fail_mode } => {
            let row = bridge(actual);
            row.managed = false;
            row.origin = None;
            row.fail_mode.clone_from(fail_mode);
        }
    }
}
