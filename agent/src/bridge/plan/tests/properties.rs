//! Properties of every plan.

use proptest::prelude::*;
use trunkline_api::{DatapathType, VlanSet};

use super::super::*;
use super::model::apply;

const NICS: [&str; 4] = ["nic0", "nic1", "nic2", "nic3"];

fn any_vlans() -> impl Strategy<Value = VlanSet> {
    prop_oneof![
        Just(VlanSet::ALL),
        Just(VlanSet::parse(["0", "100"]).expect("a set")),
        Just(VlanSet::parse(["100-120"]).expect("a set")),
        Just(VlanSet::parse(["200"]).expect("a set")),
    ]
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let uplinks = proptest::sample::subsequence(NICS.to_vec(), 0..=NICS.len())
        .prop_flat_map(|nics| (Just(nics.clone()), proptest::collection::vec(any_vlans(), nics.len())));
    let datapath =
        prop_oneof![Just(DatapathType::Auto), Just(DatapathType::System), Just(DatapathType::Netdev)];
    (uplinks, any::<bool>(), any::<bool>(), any::<bool>(), datapath).prop_map(
        |((nics, vlans), snooping, adopt, parallel_uplinks, datapath)| Wanted {
            name: "br1".parse().expect("a bridge name"),
            uplinks: nics
                .into_iter()
                .zip(vlans)
                .map(|(nic, vlans)| WantedUplink { nic: nic.to_owned(), vlans })
                .collect(),
            snooping,
            adopt,
            parallel_uplinks,
            datapath,
            mtu: adopt.then_some(trunkline_api::Mtu::DEFAULT),
        },
    )
}

fn any_nic() -> impl Strategy<Value = NicFacts> {
    let bits = (any::<bool>(), any::<bool>(), any::<bool>(), proptest::bool::weighted(0.2));
    (bits, proptest::bool::weighted(0.2)).prop_map(
        |((up, coalesces, journalled, default_route), enslaved)| NicFacts {
            up,
            coalesces,
            journalled,
            has_default_route: default_route,
            master: enslaved.then(|| "bond0".to_owned()),
            ..NicFacts::default()
        },
    )
}

fn any_port() -> impl Strategy<Value = PortRow> {
    let kind = prop_oneof![
        Just(PortKind::Uplink(Origin::Created)),
        Just(PortKind::Uplink(Origin::Adopted)),
        Just(PortKind::Foreign),
    ];
    let mode = prop_oneof![Just(""), Just("trunk"), Just("access")];
    (kind, 0_u16..3, mode, any_vlans(), any::<bool>()).prop_map(
        |(kind, tag, mode, vlans, flood_multicast)| PortRow {
            kind,
            tag,
            vlan_mode: mode.to_owned(),
            settings: UplinkSettings { trunks: vlans.trunks().into_iter().collect(), flood_multicast },
            error: String::new(),
        },
    )
}

fn any_bridge() -> impl Strategy<Value = BridgeRow> {
    let uplinks = proptest::collection::btree_map(proptest::sample::select(NICS.to_vec()), any_port(), 0..3);
    let origin = prop_oneof![Just(None), Just(Some(Origin::Created)), Just(Some(Origin::Adopted))];
    let mode = prop_oneof![Just(""), Just("secure"), Just("standalone")];
    let rest = (any::<bool>(), any::<bool>(), any::<bool>(), 0_usize..2, any::<bool>());
    (uplinks, origin, mode, rest).prop_map(
        |(uplinks, origin, mode, (controller, netdev, snooping, pods, tap))| {
            let other = |kind| PortRow {
                kind,
                tag: 0,
                vlan_mode: String::new(),
                settings: UplinkSettings {
                    trunks: std::collections::BTreeSet::new(),
                    flood_multicast: false,
                },
                error: String::new(),
            };
            let mut ports: std::collections::BTreeMap<_, _> =
                uplinks.into_iter().map(|(nic, port)| (nic.to_owned(), port)).collect();
            if origin.is_none() {
                for port in ports.values_mut() {
                    port.kind = PortKind::Foreign;
                }
            } else if pods > 0 {
                ports.insert("tl0123456789abc".to_owned(), other(PortKind::Pod));
            }
            if tap {
                ports.insert("tap0".to_owned(), other(PortKind::Foreign));
            }
            BridgeRow {
                managed: origin.is_some(),
                origin,
                fail_mode: mode.to_owned(),
                previous_fail_mode: String::new(),
                has_controller: controller,
                datapath: if netdev { DatapathKind::Netdev } else { DatapathKind::System },
                snooping,
                mtu: None,
                ports,
            }
        },
    )
}

fn any_actual() -> impl Strategy<Value = Actual> {
    let nics =
        proptest::collection::btree_map(proptest::sample::select(NICS.to_vec()), any_nic(), 0..=NICS.len());
    let kernel = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    let flows =
        prop_oneof![Just(FlowCensus::Unknown), Just(FlowCensus::Foreign(0)), Just(FlowCensus::Foreign(2))];
    (nics, proptest::option::of(any_bridge()), kernel, flows).prop_map(
        |(nics, bridge, kernel_datapath, flows)| Actual {
            bridge,
            nics: nics.into_iter().map(|(nic, facts)| (nic.to_owned(), facts)).collect(),
            elsewhere: std::collections::BTreeMap::new(),
            kernel_datapath,
            flows,
        },
    )
}

/// What may never change: ports that are neither uplinks of ours nor asked for as uplinks.
fn untouchable(actual: &Actual, wanted: Option<&Wanted>) -> Vec<(String, PortRow)> {
    let is_wanted =
        |name: &str| wanted.is_some_and(|wanted| wanted.uplinks.iter().any(|uplink| uplink.nic == name));
    let ports = actual.bridge.iter().flat_map(|row| row.ports.iter());
    ports
        .filter(|(name, port)| !matches!(port.kind, PortKind::Uplink(_)) && !is_wanted(name))
        .map(|(name, port)| (name.clone(), port.clone()))
        .collect()
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(wanted in proptest::option::of(any_wanted()), actual in any_actual()) {
        let name = "br1".parse().expect("a bridge name");
        let first = plan(&name, wanted.as_ref(), &actual);
        let after = apply(&first.steps, &actual);
        let second = plan(&name, wanted.as_ref(), &after);
        prop_assert_eq!(&second.steps, &vec![], "after {:?}", first.steps);
        prop_assert_eq!(second.ready, first.ready);
        prop_assert_eq!(second.conditions, first.conditions);
    }

    #[test]
    fn ports_of_pods_and_of_others_are_never_touched(wanted in proptest::option::of(any_wanted()), actual in any_actual()) {
        let name = "br1".parse().expect("a bridge name");
        let first = plan(&name, wanted.as_ref(), &actual);
        let after = apply(&first.steps, &actual);
        if let Some(row) = &after.bridge {
            for (port, before) in untouchable(&actual, wanted.as_ref()) {
                prop_assert_eq!(row.ports.get(&port), Some(&before));
            }
        } else {
            prop_assert!(untouchable(&actual, None).is_empty());
        }
    }

    #[test]
    fn a_bridge_that_is_not_ours_is_left_alone_when_it_is_not_wanted(actual in any_actual()) {
        let name = "br1".parse().expect("a bridge name");
        if actual.bridge.as_ref().is_some_and(|row| !row.managed) {
            prop_assert_eq!(plan(&name, None, &actual), Plan::default());
        }
    }
}
