//! Cases for what a pod gets, and the exact words of every refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trunkline_api::{
    AgentConfig, BridgeName, IPPool, IPPoolSpec, NetworkAttachmentDefinition, SubnetInfo, VlanSet,
    parse_networks,
};

use super::*;

#[derive(Default)]
struct Objects {
    nads: BTreeMap<(String, String), Arc<NetworkAttachmentDefinition>>,
    pools: BTreeMap<String, Arc<IPPool>>,
}

impl Catalogue for Objects {
    fn nad(&self, namespace: &str, name: &str) -> Option<Arc<NetworkAttachmentDefinition>> {
        self.nads.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn pool(&self, name: &str) -> Option<Arc<IPPool>> {
        self.pools.get(name).cloned()
    }
}

/// A node "n1" with the networks and pools that the cases speak of.
struct World {
    objects: Objects,
    config: AgentConfig,
    facts: BTreeMap<BridgeName, BridgeFacts>,
    taken: BTreeSet<String>,
}

const GATES: &str = "featureGates: {SecondaryNetwork: true, AntreaIPAM: true}\n";

impl World {
    fn new(bridges: &str) -> Self {
        Self::with(&format!("{GATES}secondaryNetwork: {{ovsBridges: {bridges}}}\n"))
    }

    fn with(config: &str) -> Self {
        let config = AgentConfig::parse(config).expect("the case's configuration is good");
        let facts = config
            .bridges
            .iter()
            .map(|bridge| {
                let uplinks: Vec<VlanSet> =
                    bridge.uplinks.iter().map(|each| each.allowed_vlans.clone()).collect();
                let uplink_mtu = (!uplinks.is_empty()).then(|| 1500.try_into().unwrap());
                (
                    bridge.name.clone(),
                    BridgeFacts { name: bridge.name.clone(), uplink_mtu, uplinks, obstacle: None },
                )
            })
            .collect();
        Self { objects: objects(), config, facts, taken: BTreeSet::new() }
    }

    fn one() -> Self {
        Self::new("[{bridgeName: br1, physicalInterfaces: [nic0]}]")
    }

    fn uplink_mtu(mut self, mtu: u32) -> Self {
        for facts in self.facts.values_mut() {
            facts.uplink_mtu = Some(mtu.try_into().unwrap());
        }
        self
    }

    fn obstacle(mut self, obstacle: &BridgeObstacle) -> Self {
        for facts in self.facts.values_mut() {
            facts.obstacle = Some(obstacle.clone());
        }
        self
    }

    fn desired(&self, annotation: &str) -> Result<Desired, DesiredError> {
        let pod = PodRef { namespace: "default".to_owned(), name: "web".to_owned() };
        let selections = parse_networks(annotation, &pod.namespace).expect("the case's annotation is good");
        desired(&Inputs {
            pod: &pod,
            node: "n1",
            selections: &selections,
            taken: &self.taken,
            config: &self.config,
            bridges: &self.facts,
            catalogue: &self.objects,
        })
    }

    #[track_caller]
    fn only(&self, annotation: &str) -> Attachment {
        let mut desired = self.desired(annotation).expect("the case is good");
        assert_eq!(desired.attachments.len(), 1, "{desired:?}");
        desired.attachments.remove(0)
    }

    #[track_caller]
    fn refused(&self, annotation: &str, message: &str, transient: bool) {
        let error = self.desired(annotation).expect_err("the case must be refused");
        assert_eq!(error.to_string(), message);
        assert_eq!(error.is_transient(), transient, "{error}");
    }
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    let nads = [
        ("default", "l2", r#""networkType": "vlan""#),
        ("default", "v100", r#""networkType": "vlan", "vlan": 100"#),
        ("default", "mtu9000", r#""networkType": "vlan", "mtu": 9000"#),
        ("default", "mtu1300", r#""networkType": "vlan", "mtu": 1300, "vlan": 100"#),
        ("default", "on-br2", r#""networkType": "vlan", "bridge": "br2""#),
        ("default", "on-br9", r#""networkType": "vlan", "bridge": "br9""#),
        ("default", "dual", r#""networkType": "vlan", "ipam": {"type": "antrea", "ippools": ["p4", "p6"]}"#),
        (
            "default",
            "dual-over",
            r#""networkType": "vlan", "vlan": 7, "ipam": {"type": "antrea", "ippools": ["p4", "q4"]}"#,
        ),
        (
            "default",
            "differ",
            r#""networkType": "vlan", "ipam": {"type": "antrea", "ippools": ["p4", "q4", "u4"]}"#,
        ),
        ("default", "no-pool", r#""networkType": "vlan", "ipam": {"type": "antrea", "ippools": ["nope"]}"#),
        ("default", "bad-pool", r#""networkType": "vlan", "ipam": {"type": "antrea", "ippools": ["bad"]}"#),
        (
            "default",
            "small6",
            r#""networkType": "vlan", "mtu": 1000, "ipam": {"type": "antrea", "ippools": ["p6"]}"#,
        ),
        ("default", "sriov", r#""networkType": "sriov""#),
        ("networks", "v200", r#""networkType": "vlan", "vlan": 200"#),
    ];
    for (namespace, name, keys) in nads {
        let config = format!(r#"{{"cniVersion": "0.3.0", "type": "antrea", {keys}}}"#);
        objects.insert_nad(namespace, name, config);
    }
    objects.insert_nad("default", "macvlan", r#"{"cniVersion": "0.3.1", "type": "macvlan"}"#.to_owned());
    let pools = [
        ("p4", "10.1.0.1", 24, Some(100)),
        ("p6", "fd00:1::1", 64, Some(100)),
        ("q4", "10.2.0.1", 24, Some(200)),
        ("u4", "10.3.0.1", 24, None),
        ("bad", "10.4.0.1", 24, Some(4095)),
    ];
    for (name, gateway, prefix_length, vlan) in pools {
        let subnet_info = SubnetInfo { gateway: gateway.to_owned(), prefix_length, vlan };
        let pool = IPPool::new(name, IPPoolSpec { subnet_info, ..IPPoolSpec::default() });
        objects.pools.insert(name.to_owned(), Arc::new(pool));
    }
    objects
}

impl Objects {
    fn insert_nad(&mut self, namespace: &str, name: &str, config: String) {
        let nad = NetworkAttachmentDefinition::new(name, Some(config));
        self.nads.insert((namespace.to_owned(), name.to_owned()), Arc::new(nad));
    }
}

fn names(desired: &Desired) -> Vec<&str> {
    desired.attachments.iter().map(|attachment| attachment.interface.as_str()).collect()
}

#[test]
fn interfaces_are_numbered_from_1_and_skip_names_in_use() {
    let mut world = World::one();
    let cases = [
        ("l2,v100", vec!["eth1", "eth2"]),
        ("l2,l2,l2", vec!["eth1", "eth2", "eth3"]),
        ("l2,v100@eth1,l2", vec!["eth2", "eth1", "eth3"]),
        ("l2@data0,l2", vec!["data0", "eth1"]),
    ];
    for (annotation, expected) in cases {
        assert_eq!(names(&world.desired(annotation).unwrap()), expected, "{annotation}");
    }
    world.taken = ["eth0", "eth1"].map(str::to_owned).into();
    assert_eq!(names(&world.desired("l2,l2").unwrap()), ["eth2", "eth3"]);
    world.config.interface_prefix = "net".to_owned();
    assert_eq!(names(&world.desired("l2,l2").unwrap()), ["net1", "net2"]);
}

#[test]
fn a_requested_name_that_the_pod_has_already_is_refused() {
    let mut world = World::one();
    world.taken = ["eth5".to_owned()].into();
    world.refused(
        "l2@eth5",
        "network default/l2: the annotation asks for interface eth5, which the pod has already; use another name",
        false,
    );
}

#[test]
fn the_vlan_is_the_networks_else_the_pools() {
    let world = World::one();
    for (annotation, vlan) in [("l2", None), ("v100", Some(100)), ("dual", Some(100)), ("dual-over", Some(7))]
    {
        assert_eq!(world.only(annotation).vlan.map(u16::from), vlan, "{annotation}");
    }
    world.refused(
        "differ",
        "network default/differ: its pools are on different VLANs (p4: VLAN 100, q4: VLAN 200, u4: untagged); use pools of \
         one VLAN, or set vlan in the network, which overrides them",
        false,
    );
}

#[test]
fn pools_keep_the_networks_order_and_carry_their_subnet() {
    let attachment = World::one().only("dual");
    let pools: Vec<_> =
        attachment.pools.iter().map(|pool| (pool.name.as_str(), pool.subnet.to_string())).collect();
    assert_eq!(pools, [("p4", "10.1.0.1/24".to_owned()), ("p6", "fd00:1::1/64".to_owned())]);
    assert!(attachment.serves_v6());
    assert!(!attachment.is_layer2_only());
    assert!(World::one().only("l2").is_layer2_only());
}

#[test]
fn the_mtu_is_1500_or_the_uplinks_where_that_is_lower() {
    let uplink = format!(
        "{GATES}defaultMTU: uplink\nsecondaryNetwork: {{ovsBridges: [{{bridgeName: br1, physicalInterfaces: [nic0]}}]}}\n"
    );
    let isolated = World::new("[{bridgeName: br1, physicalInterfaces: []}]");
    let cases = [
        (World::one(), "l2", 1500),
        (World::one().uplink_mtu(1400), "l2", 1400),
        (World::one().uplink_mtu(9000), "l2", 1500),
        (World::one().uplink_mtu(9000), "mtu9000", 9000),
        (World::one(), "mtu1300", 1300),
        (World::with(&uplink).uplink_mtu(9000), "l2", 9000),
        (isolated, "mtu9000", 9000),
    ];
    for (world, annotation, mtu) in cases {
        assert_eq!(world.only(annotation).mtu.get(), mtu, "{annotation} {:?}", world.facts);
    }
    World::one().refused(
        "mtu9000",
        "network default/mtu9000: mtu 9000 is larger than the 1500 of the uplinks of bridge br1 on node n1; use 1500 or less",
        false,
    );
    World::one().refused(
        "small6",
        "network default/small6: mtu 1000 is too small for its IPv6 addresses; IPv6 needs 1280 or more (RFC 8200)",
        false,
    );
}

#[test]
fn the_bridge_is_the_only_one_or_the_one_that_the_network_names() {
    let two = World::new(
        "[{bridgeName: br1, physicalInterfaces: [nic0]}, {bridgeName: br2, physicalInterfaces: []}]",
    );
    assert_eq!(World::one().only("l2").bridge.as_str(), "br1");
    assert_eq!(two.only("on-br2").bridge.as_str(), "br2");
    two.refused(
        "l2",
        "network default/l2 does not say which bridge it is on, and node n1 has br1 and br2; set bridge in the network",
        false,
    );
    two.refused(
        "on-br9",
        "network default/on-br9 is on bridge br9, which node n1 does not have; it has br1 and br2",
        false,
    );
    World::new("[]").refused(
        "l2",
        "network default/l2: node n1 has no bridge for it: secondaryNetwork.ovsBridges is empty in trunkline-agent.conf",
        false,
    );
}

#[test]
fn a_bridge_that_is_not_ready_says_why() {
    let missing = BridgeObstacle::UplinkMissing { nic: "nic0".to_owned() };
    World::one().obstacle(&missing).refused(
        "l2",
        "network default/l2: bridge br1 on node n1 is not ready: the node has no network interface nic0",
        false,
    );
    let refused = BridgeObstacle::UplinkRefused {
        nic: "nic0".to_owned(),
        reason: "it has the address 10.0.0.1/24".into(),
    };
    World::one().obstacle(&refused).refused(
        "l2",
        "network default/l2: bridge br1 on node n1 is not ready: its uplink nic0 cannot be used: it has the address \
         10.0.0.1/24",
        false,
    );
    let foreign = BridgeObstacle::NotAdopted { reason: "it has a controller".to_owned() };
    World::one().obstacle(&foreign).refused(
        "l2",
        "network default/l2: bridge br1 on node n1 is not ready: a bridge of this name exists and is not ours: it has a \
         controller",
        false,
    );
    let mut unseen = World::one();
    unseen.facts.clear();
    unseen.refused(
        "l2",
        "network default/l2: bridge br1 on node n1 is not ready: it is not set up yet",
        true,
    );
}

#[test]
fn what_does_not_exist_is_named_and_worth_waiting_for() {
    let world = World::one();
    world.refused(
        "nope",
        "network default/nope: namespace default has no NetworkAttachmentDefinition nope; create it, or correct the pod's \
         annotation k8s.v1.cni.cncf.io/networks",
        true,
    );
    world.refused(
        "no-pool",
        "network default/no-pool: ipam.ippools names IPPool nope, which does not exist; create it, or correct the network",
        true,
    );
    world.refused(
        "bad-pool",
        "network default/bad-pool: IPPool bad: subnetInfo.vlan: \"4095\" is not a VLAN id; use 1 to 4094",
        false,
    );
}

#[test]
fn other_plugins_networks_are_left_alone_and_sriov_is_refused() {
    let world = World::one();
    let desired = world.desired("macvlan,l2").unwrap();
    assert_eq!(desired.left_alone, [NadKey { namespace: "default".to_owned(), name: "macvlan".to_owned() }]);
    assert_eq!(names(&desired), ["eth1"]);
    let error = world.desired("sriov").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("NetworkAttachmentDefinition default/sriov: spec.config: networkType: "),
        "{error}"
    );
}

#[test]
fn namespace_isolation_refuses_networks_of_other_namespaces() {
    let mut world = World::one();
    assert_eq!(world.only("networks/v200").nad.to_string(), "networks/v200");
    world.config.namespace_isolation = true;
    world.refused(
        "networks/v200",
        "network networks/v200 is in another namespace than the pod (default), which namespaceIsolation: true forbids; use a \
         network of namespace default",
        false,
    );
}

#[test]
fn without_the_ipam_gate_only_layer_2_networks_work() {
    let mut world = World::one();
    world.config.gates.antrea_ipam = false;
    assert!(world.only("v100").is_layer2_only());
    world.refused(
        "dual",
        "network default/dual has an ipam section, and feature gate AntreaIPAM is off on node n1; set \
         featureGates.AntreaIPAM: true in trunkline-agent.conf of ConfigMap trunkline-config, or remove ipam from the network \
         (layer 2 only)",
        false,
    );
}

#[test]
fn requested_addresses_must_fit_a_pool() {
    let world = World::one();
    let request = |network: &str, ips: &str| format!(r#"[{{"name": "{network}", "ips": [{ips}]}}]"#);
    let attachment = world.only(&request("dual", r#""10.1.0.9/24", "fd00:1::9""#));
    assert_eq!(attachment.requested_ips.len(), 2);
    let cases = [
        (
            request("dual", r#""10.9.0.9""#),
            "network default/dual: the annotation asks for 10.9.0.9, which is in none of the network's subnets (10.1.0.0/24 \
             (p4), fd00:1::/64 (p6))",
        ),
        (
            request("dual", r#""10.1.0.9/16""#),
            "network default/dual: the annotation asks for 10.1.0.9/16, which is in none of the network's subnets (10.1.0.0/24 \
             (p4), fd00:1::/64 (p6))",
        ),
        (
            request("dual", r#""10.1.0.9", "10.1.0.10""#),
            "network default/dual: the annotation asks for both 10.1.0.9 and 10.1.0.10; an interface gets one address per family",
        ),
        (
            request("l2", r#""10.1.0.9""#),
            "network default/l2: the annotation asks for ips (10.1.0.9), and the network has no ipam.ippools to take them from; \
             remove ips",
        ),
    ];
    for (annotation, message) in cases {
        world.refused(&annotation, message, false);
    }
}

#[test]
fn a_vlan_that_no_uplink_carries_is_warned_about_and_made() {
    let world =
        World::new("[{bridgeName: br1, physicalInterfaces: [{name: nic0, allowedVLANs: [\"100\"]}]}]");
    assert_eq!(world.desired("v100").unwrap().warnings, []);
    let warnings: Vec<String> =
        world.desired("l2,networks/v200").unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "interface eth1 (network default/l2) is untagged, and no uplink of bridge br1 on node n1 carries untagged frames: \
             it reaches only pods on this node; set a vlan, or add \"0\" to an uplink's allowedVLANs",
            "interface eth2 (network networks/v200) is on VLAN 200, which no uplink of bridge br1 on node n1 carries: it \
             reaches only pods on this node; add 200 to an uplink's allowedVLANs",
        ]
    );
    let isolated = World::new("[{bridgeName: br1, physicalInterfaces: []}]");
    assert_eq!(isolated.desired("l2,v100").unwrap().warnings, []);
}
