//! Cases for the planner, and the proof that a plan which was carried out leaves nothing to do.

mod model;
mod properties;

use trunkline_api::{DatapathType, VlanSet};

use super::*;

pub(super) fn wanted(nics: &[(&str, &[&str])]) -> Wanted {
    let uplinks = nics
        .iter()
        .map(|(nic, vlans)| WantedUplink {
            nic: (*nic).to_owned(),
            vlans: VlanSet::parse(vlans.iter().copied()).expect("the case's VLANs are good"),
        })
        .collect();
    Wanted {
        name: "br1".parse().expect("a bridge name"),
        uplinks,
        snooping: false,
        adopt: false,
        parallel_uplinks: false,
        datapath: DatapathType::Netdev,
        mtu: None,
    }
}

fn node(nics: &[&str]) -> Actual {
    let nics =
        nics.iter().map(|nic| ((*nic).to_owned(), NicFacts { up: true, ..NicFacts::default() })).collect();
    Actual { nics, flows: FlowCensus::Foreign(0), ..Actual::default() }
}

fn settings(trunks: &[u16]) -> UplinkSettings {
    UplinkSettings { trunks: trunks.iter().copied().collect(), flood_multicast: false }
}

fn foreign_bridge() -> BridgeRow {
    BridgeRow {
        managed: false,
        origin: None,
        fail_mode: String::new(),
        previous_fail_mode: String::new(),
        has_controller: false,
        datapath: DatapathKind::Netdev,
        snooping: false,
        mtu: None,
        ports: std::collections::BTreeMap::new(),
    }
}

fn managed_bridge(ports: &[(&str, PortKind)]) -> BridgeRow {
    let port = |kind| PortRow {
        kind,
        tag: 0,
        vlan_mode: "trunk".to_owned(),
        settings: settings(&[]),
        error: String::new(),
    };
    BridgeRow {
        managed: true,
        origin: Some(Origin::Created),
        fail_mode: "secure".to_owned(),
        ports: ports.iter().map(|(name, kind)| ((*name).to_owned(), port(*kind))).collect(),
        ..foreign_bridge()
    }
}

fn run(wanted: &Wanted, actual: &Actual) -> Plan {
    plan(&wanted.name, Some(wanted), actual)
}

fn words(plan: &Plan) -> Vec<String> {
    plan.conditions.iter().map(ToString::to_string).collect()
}

#[test]
fn a_missing_bridge_is_made_with_its_uplinks() {
    let mut actual = node(&["nic0"]);
    actual.nics.get_mut("nic0").unwrap().up = false;
    actual.nics.get_mut("nic0").unwrap().coalesces = true;
    let plan = run(&wanted(&[("nic0", &["0", "100"])]), &actual);
    let nic = || "nic0".to_owned();
    assert_eq!(
        plan.steps,
        [
            Step::OffloadsOff { nic: nic() },
            Step::CreateBridge { datapath: DatapathKind::Netdev, wish: "netdev", snooping: false },
            Step::AddUplink { nic: nic(), settings: settings(&[0, 100]) },
            Step::LinkUp { nic: nic() },
        ]
    );
    assert!(plan.ready);
    assert_eq!(words(&plan), [""; 0]);
}

#[test]
fn a_bridge_without_uplinks_is_made_too() {
    let plan = run(&wanted(&[]), &node(&[]));
    assert_eq!(plan.steps.len(), 1);
    assert!(plan.ready);
}

#[test]
fn a_bridge_whose_nic_is_missing_stays_absent_until_the_nic_appears() {
    let wanted = wanted(&[("nic0", &[])]);
    let plan = run(&wanted, &node(&[]));
    assert_eq!(plan.steps, []);
    assert!(!plan.ready);
    assert_eq!(
        words(&plan),
        ["bridge br1: this node has no network interface nic0; the bridge is set up when it appears"]
    );
    assert!(run(&wanted, &node(&["nic0"])).ready);
}

#[test]
fn nics_in_other_use_are_refused_with_the_reason() {
    let refused =
        |reason: &str| format!("bridge br1: network interface nic0 is not taken as an uplink: {reason}");
    let spoil: [(&str, fn(&mut NicFacts)); 4] = [
        ("it has the address 10.0.0.1/24; remove the address, or choose another NIC", |nic| {
            nic.addresses = vec!["10.0.0.1/24".parse().expect("an address")];
        }),
        ("it belongs to bond0; name bond0 instead, or take it out there first", |nic| {
            nic.master = Some("bond0".into());
        }),
        ("the VLAN interface nic0.7 is on top of it; remove that interface, or choose another NIC", |nic| {
            nic.vlan_children = vec!["nic0.7".into()];
        }),
        (
            "the node's default route leaves through it; choose a NIC that the node itself does not use",
            |nic| {
                nic.has_default_route = true;
            },
        ),
    ];
    for (reason, spoil) in spoil {
        let mut actual = node(&["nic0"]);
        spoil(actual.nics.get_mut("nic0").unwrap());
        let plan = run(&wanted(&[("nic0", &[])]), &actual);
        assert_eq!(words(&plan), [refused(reason)]);
        assert_eq!((plan.steps.len(), plan.ready), (0, false));
    }
    let mut actual = node(&["nic0"]);
    actual.elsewhere.insert("nic0".to_owned(), "br-int".to_owned());
    let plan = run(&wanted(&[("nic0", &[])]), &actual);
    assert_eq!(words(&plan), [refused("it is a port of OVS bridge br-int; take it out there first")]);
}

#[test]
fn a_nic_that_is_joined_already_is_not_judged_again() {
    let mut actual = node(&["nic0"]);
    actual.bridge = Some(managed_bridge(&[("nic0", PortKind::Uplink(Origin::Created))]));
    actual.nics.get_mut("nic0").unwrap().master = Some("ovs-system".to_owned());
    actual.nics.get_mut("nic0").unwrap().addresses = vec!["10.0.0.1/24".parse().unwrap()];
    let plan = run(&wanted(&[("nic0", &[])]), &actual);
    assert_eq!((plan.steps, plan.ready), (vec![], true));
}

#[test]
fn uplinks_with_a_vlan_in_common_are_refused_unless_allowed() {
    let actual = node(&["nic0", "nic1"]);
    let disjoint = wanted(&[("nic0", &["0", "1-99"]), ("nic1", &["100-200"])]);
    assert!(run(&disjoint, &actual).ready);
    let mut overlapping = wanted(&[("nic0", &["1-100"]), ("nic1", &["100-200"])]);
    assert_eq!(
        words(&run(&overlapping, &actual)),
        [
            "bridge br1: network interface nic1 is not taken as an uplink: it and uplink nic0 both carry VLAN 100, which would \
          loop; give them disjoint allowedVLANs, or set parallelUplinks: allow"
        ]
    );
    overlapping.parallel_uplinks = true;
    assert!(run(&overlapping, &actual).ready);
}

#[test]
fn the_datapath_follows_the_configuration_and_the_kernel() {
    use DatapathType::{Auto, Netdev, System};
    let cases = [
        (Auto, Some(true), Some(DatapathKind::System), None),
        (Auto, Some(false), Some(DatapathKind::Netdev), Some("DatapathNetdev")),
        (Auto, None, None, Some("BridgePending")),
        (System, Some(true), Some(DatapathKind::System), None),
        (System, Some(false), None, Some("DatapathUnavailable")),
        (Netdev, None, Some(DatapathKind::Netdev), None),
    ];
    for (datapath, kernel_datapath, expected, reason) in cases {
        let plan = run(&Wanted { datapath, ..wanted(&[]) }, &Actual { kernel_datapath, ..node(&[]) });
        let made = plan.steps.iter().find_map(|step| match step {
            Step::CreateBridge { datapath, .. } => Some(*datapath),
            _ => None,
        });
        assert_eq!(made, expected, "{datapath:?} {kernel_datapath:?}");
        assert_eq!(
            plan.conditions.first().map(BridgeCondition::reason),
            reason,
            "{datapath:?} {kernel_datapath:?}"
        );
    }
}

#[test]
fn the_datapath_never_flips_by_itself() {
    let actual = Actual { bridge: Some(managed_bridge(&[])), kernel_datapath: Some(true), ..node(&[]) };
    for (datapath, reason) in [(DatapathType::Auto, "DatapathNetdev"), (DatapathType::System, "DatapathKept")]
    {
        let plan = run(&Wanted { datapath, ..wanted(&[]) }, &actual);
        assert_eq!((plan.steps.len(), plan.ready), (0, true));
        assert_eq!(plan.conditions[0].reason(), reason);
    }
}

#[test]
fn a_bridge_in_use_by_others_is_adopted_only_when_told() {
    let in_use = |spoil: fn(&mut Actual)| {
        let mut actual = Actual { bridge: Some(foreign_bridge()), ..node(&[]) };
        spoil(&mut actual);
        actual
    };
    let with_port = |actual: &mut Actual| {
        let ports = managed_bridge(&[("tap0", PortKind::Foreign)]).ports;
        actual.bridge.as_mut().unwrap().ports = ports;
    };
    let cases: [(fn(&mut Actual), &str); 3] = [
        (|actual| actual.bridge.as_mut().unwrap().has_controller = true, "it has a controller"),
        (|actual| actual.flows = FlowCensus::Foreign(3), "it has 3 flows of somebody else"),
        (with_port, "its fail_mode is unset and it has ports (tap0) that would go dark"),
    ];
    for (spoil, reason) in cases {
        let actual = in_use(spoil);
        let plan = run(&wanted(&[]), &actual);
        assert_eq!((plan.steps, plan.ready), (vec![], false));
        assert_eq!(
            plan.conditions[0].to_string(),
            format!(
                "bridge br1 exists and is not adopted: {reason}; set adopt: true for it if it is meant for Trunkline"
            )
        );
        let told = run(&Wanted { adopt: true, ..wanted(&[]) }, &actual);
        assert_eq!(told.steps, [Step::AdoptBridge { wish: "netdev", previous_fail_mode: String::new() }]);
        assert!(told.ready);
    }
    assert!(run(&wanted(&[]), &in_use(|_| {})).ready);
    let unread = run(&wanted(&[]), &in_use(|actual| actual.flows = FlowCensus::Unknown));
    assert_eq!((unread.steps.len(), unread.conditions[0].reason()), (0, "BridgePending"));
}

#[test]
fn a_nic_that_is_on_an_adopted_bridge_already_becomes_its_uplink_and_stays_when_we_go() {
    let mut row = foreign_bridge();
    row.fail_mode = "secure".to_owned();
    row.ports = managed_bridge(&[("nic0", PortKind::Foreign), ("tap0", PortKind::Foreign)]).ports;
    let actual = Actual { bridge: Some(row), ..node(&["nic0"]) };
    let wanted = wanted(&[("nic0", &[])]);
    let plan = run(&wanted, &actual);
    let adopt = Step::AdoptBridge { wish: "netdev", previous_fail_mode: "secure".to_owned() };
    assert_eq!(plan.steps, [adopt, Step::ClaimUplink { nic: "nic0".to_owned() }]);
    let after = model::apply(&plan.steps, &actual);
    let gone = super::plan(&wanted.name, None, &after);
    let release = Step::ReleaseBridge { fail_mode: "secure".to_owned() };
    assert_eq!(gone.steps, [Step::ReleaseUplink { nic: "nic0".to_owned() }, release]);
}

#[test]
fn drift_is_repaired() {
    let mut row = managed_bridge(&[("nic0", PortKind::Uplink(Origin::Created)), ("tap0", PortKind::Foreign)]);
    row.fail_mode = "standalone".to_owned();
    row.snooping = true;
    let port = row.ports.get_mut("nic0").unwrap();
    port.tag = 5;
    let actual = Actual { bridge: Some(row), ..node(&["nic0"]) };
    let plan = run(&wanted(&[("nic0", &[])]), &actual);
    assert_eq!(
        plan.steps,
        [
            Step::CloseBridge,
            Step::SetSnooping(false),
            Step::SetUplink { nic: "nic0".to_owned(), settings: settings(&[]) },
        ]
    );
}

#[test]
fn an_uplink_that_left_the_configuration_is_taken_off_and_its_offloads_put_back() {
    let mut actual = node(&["nic0", "nic1"]);
    actual.nics.get_mut("nic1").unwrap().journalled = true;
    let uplink = PortKind::Uplink(Origin::Created);
    actual.bridge = Some(managed_bridge(&[("nic0", uplink), ("nic1", uplink), ("pod", PortKind::Pod)]));
    let nic = "nic1".to_owned();
    let plan = run(&wanted(&[("nic0", &[])]), &actual);
    assert_eq!(plan.steps, [Step::RemoveUplink { nic: nic.clone() }, Step::OffloadsRestore { nic }]);
}

#[test]
fn a_bridge_that_left_the_configuration_is_drained_then_deleted() {
    let name = "br1".parse().unwrap();
    let with_pod = Actual { bridge: Some(managed_bridge(&[("pod", PortKind::Pod)])), ..node(&[]) };
    let draining = plan(&name, None, &with_pod);
    assert_eq!((draining.steps.len(), draining.ready), (0, false));
    assert_eq!(draining.conditions, [BridgeCondition::Draining { bridge: name.clone(), ports: 1 }]);
    let empty = Actual { bridge: Some(managed_bridge(&[])), ..node(&[]) };
    assert_eq!(plan(&name, None, &empty).steps, [Step::DeleteBridge]);
    let foreign = Actual { bridge: Some(foreign_bridge()), ..node(&[]) };
    assert_eq!(plan(&name, None, &foreign), Plan::default());
}

#[test]
fn an_uplink_that_vswitchd_cannot_open_keeps_pods_off() {
    let mut row = managed_bridge(&[("nic0", PortKind::Uplink(Origin::Created))]);
    row.ports.get_mut("nic0").unwrap().error =
        "could not open network device nic0 (Operation not permitted)".into();
    let plan = run(&wanted(&[("nic0", &[])]), &Actual { bridge: Some(row), ..node(&["nic0"]) });
    assert_eq!((plan.ready, plan.conditions[0].reason()), (false, "UplinkFailed"));
}
