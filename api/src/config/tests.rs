//! Tables of good and bad files.

use std::time::Duration;

use super::*;
use crate::VlanSet;

fn agent(text: &str) -> Result<AgentConfig, String> {
    AgentConfig::parse(text).map_err(|error| error.to_string())
}

/// A file with one bridge that has these further keys.
fn bridge(keys: &str) -> String {
    format!("secondaryNetwork:\n  ovsBridges:\n  - bridgeName: br1\n    {keys}\n")
}

fn uplinks(count: usize) -> String {
    let names: Vec<String> =
        (0..count).map(|i| format!("{{name: nic{i}, allowedVLANs: [\"{}\"]}}", i + 1)).collect();
    bridge(&format!("physicalInterfaces: [{}]", names.join(", ")))
}

#[test]
fn nothing_at_all_is_every_default() {
    for text in
        ["", "\n", "# a comment\n", "---\n", "featureGates:\nsecondaryNetwork:\n  ovsBridges:\n", "{}"]
    {
        assert_eq!(agent(text), Ok(AgentConfig::default()), "{text:?}");
        let controller = ControllerConfig::parse(text.split("secondary").next().expect("first part"));
        assert_eq!(controller, Ok(ControllerConfig::default()), "{text:?}");
    }
    assert!(!AgentConfig::default().gates.secondary_network);
}

#[test]
fn the_source_documents_files_are_read() {
    let config = agent(
        "featureGates:\n  AntreaIPAM: true\n  SecondaryNetwork: true\n\
         secondaryNetwork:\n  ovsBridges: [{\"bridgeName\": \"br-secondary\", \"physicalInterfaces\": [\"eth1\"]}]\n",
    );
    let config = config.expect("the peer's own example");
    assert_eq!(config.gates, FeatureGates { secondary_network: true, antrea_ipam: true });
    assert_eq!(config.bridges[0].name.as_str(), "br-secondary");
    let uplink = UplinkConfig { name: "eth1".parse().expect("good"), allowed_vlans: VlanSet::ALL };
    assert_eq!(config.bridges[0].uplinks, [uplink]);
    let controller =
        ControllerConfig::parse("featureGates:\n  AntreaIPAM: true\n").expect("the peer's own example");
    assert!(controller.gates.antrea_ipam);
}

#[test]
fn every_key_is_read() {
    let text = "ovsRunDir: /run/openvswitch\ndatapathType: netdev\ncniBinDir: /b\ncniConfDir: /c\n\
        cniTimeoutSeconds: 180\npodsWithoutAnnotations: {action: allow, allowNamespaces: [x]}\ninterfacePrefix: net\n\
        defaultMTU: uplink\nnamespaceIsolation: true\nduplicateAddressDetection: wait\n\
        disableTXChecksumOffload: true\nmetricsBindAddress: \"::1\"\nmetricsPort: 1\n\
        flows: {enabled: false, memoryMiB: 128, maxTaps: 64, intervalSeconds: 1, activeTimeoutSeconds: 2, idleTimeoutSeconds: 3}\n\
        secondaryNetwork:\n  ovsBridges:\n  - bridgeName: a\n    physicalInterfaces:\n    - nic0\n    \
        - {name: nic1, allowedVLANs: [\"0\", 100, \"200-300\"]}\n    enableMulticastSnooping: true\n    mtu: 9000\n    \
        adopt: true\n    parallelUplinks: allow\n  - bridgeName: b\n";
    let config = agent(text).expect("good");
    assert_eq!(config.datapath, DatapathType::Netdev);
    assert_eq!(config.cni_timeout, Duration::from_mins(3));
    assert!(config.without_annotations.allow && config.without_annotations.allow_namespaces.contains("x"));
    assert_eq!(config.default_mtu, DefaultMtu::Uplink);
    assert_eq!(config.duplicate_address_detection, DuplicateAddressDetection::Wait);
    assert_eq!(config.disable_tx_checksum_offload, TxChecksumOffload::Disable);
    assert_eq!((config.metrics_bind_address.to_string().as_str(), config.metrics_port), ("::1", 1));
    let flows = &config.flows;
    assert!(!flows.enabled && flows.memory_bytes == 128 << 20 && flows.max_taps == 64);
    let seconds = [flows.interval, flows.active_timeout, flows.idle_timeout].map(|time| time.as_secs());
    assert_eq!(seconds, [1, 2, 3]);
    let [a, b] = &config.bridges[..] else { panic!("two bridges") };
    assert!(a.multicast_snooping && a.adopt && a.parallel_uplinks && a.mtu.is_some());
    assert_eq!(a.uplinks[1].allowed_vlans.to_string(), "0,100,200-300");
    assert!(b.uplinks.is_empty() && !b.adopt);
    let text = "ipamBindAddress: 10.0.0.1\nipamPort: 2\nmetricsBindAddress: 10.0.0.2\nmetricsPort: 3\n\
        gcGracePeriodSeconds: 10\ngcIntervalSeconds: 1\naddressRestSeconds: 0\nleaseDurationSeconds: 3\n";
    let config = ControllerConfig::parse(text).expect("good");
    assert_eq!((config.ipam_port, config.metrics_port), (2, 3));
    assert_eq!((config.gc_grace_period.as_secs(), config.lease_duration.as_secs()), (10, 3));
}

#[test]
fn interfaces_namespaces_and_kinds_are_chosen_by_patterns_that_match_anywhere() {
    let all = agent("flows: {all: {enabled: true, interfaces: {include: [\"^net[0-9]\", wan]}, kinds: {exclude: [^veth$]}}}\n")
        .expect("good")
        .flows
        .all;
    assert!(all.enabled);
    let admitted = ["net1", "my-wan", "eth0", "lo"].map(|name| all.interfaces.admits(name));
    assert_eq!(admitted, [true, true, false, false]);
    assert!(all.namespaces.admits("host") && all.kinds.admits("physical") && !all.kinds.admits("veth"));
    let plain = AllConfig::default();
    assert!(!plain.enabled && !plain.interfaces.admits("lo") && plain.interfaces.admits("lo0"));
    let everything = agent("flows: {all: {interfaces: {exclude: []}}}\n").expect("good").flows.all;
    assert!(everything.interfaces.admits("lo"), "the default gives way to what is written");
}

#[test]
fn dns_is_followed_on_its_port_and_sampling_is_by_network() {
    let flows = |text: &str| agent(text).expect("good").flows;
    assert_eq!(flows("").dns.followed(), Some(53));
    assert_eq!(flows("flows: {dns: {port: 5353}}\n").dns.followed(), Some(5353));
    assert_eq!(flows("flows: {dns: {enabled: false, port: 5353}}\n").dns.followed(), None);
    assert!(flows("flows: {sampling: []}\n").sampling.is_empty());
    let text =
        "flows:\n  sampling:\n  - {network: shop/vlan100, oneIn: 2}\n  - {network: a/b.c, oneIn: 65536}\n";
    let sampling = flows(text).sampling;
    let asked = ["shop/vlan100", "a/b.c", "shop/vlan200"].map(|network| sampling.one_in(network));
    assert_eq!(asked, [Some(2), Some(65_536), None]);
    assert_eq!(sampling.networks().collect::<Vec<_>>(), ["a/b.c", "shop/vlan100"]);
}

#[test]
fn eight_uplinks_are_accepted_and_nine_refused() {
    assert_eq!(agent(&uplinks(8)).map(|config| config.bridges[0].uplinks.len()), Ok(8));
    assert_eq!(
        agent(&uplinks(9)),
        Err("trunkline-agent.conf:4: secondaryNetwork.ovsBridges[0].physicalInterfaces: 9 uplinks; a bridge may have at most 8"
            .to_owned())
    );
}

#[test]
fn bad_agent_files_are_refused_by_line_and_key() {
    let known = "featureGates, secondaryNetwork, ovsRunDir, datapathType, cniBinDir, cniConfDir, cniTimeoutSeconds, \
        podsWithoutAnnotations, interfacePrefix, defaultMTU, namespaceIsolation, duplicateAddressDetection, \
        disableTXChecksumOffload, metricsBindAddress, metricsPort, flows";
    for (text, problem) in [
        ("a: [".to_owned(), "2: not valid YAML: did not find expected node content".to_owned()),
        ("- a".to_owned(), "1: a list is not a mapping of keys to values".to_owned()),
        ("# x\n\nfoo: 1\n".to_owned(), format!("3: foo: unknown key; known here: {known}")),
        (
            "featureGates:\n  AntreaIPAM: true\n  Multicast: true\n".to_owned(),
            "3: featureGates.Multicast: unknown key; known here: SecondaryNetwork, AntreaIPAM".to_owned(),
        ),
        (
            "featureGates:\n  AntreaIPAM: 1\n".to_owned(),
            "2: featureGates.AntreaIPAM: 1 is neither true nor false".to_owned(),
        ),
        ("ovsRunDir: run\n".to_owned(), "1: ovsRunDir: \"run\" is not an absolute path".to_owned()),
        (
            "datapathType: dpdk\n".to_owned(),
            "1: datapathType: \"dpdk\" is unknown; use auto or system or netdev".to_owned(),
        ),
        (
            "cniTimeoutSeconds: 4\n".to_owned(),
            "1: cniTimeoutSeconds: 4 is out of range; use 5 to 180 seconds".to_owned(),
        ),
        (
            "cniTimeoutSeconds: 181\n".to_owned(),
            "1: cniTimeoutSeconds: 181 is out of range; use 5 to 180 seconds".to_owned(),
        ),
        (
            "podsWithoutAnnotations:\n  action: maybe\n".to_owned(),
            "2: podsWithoutAnnotations.action: \"maybe\" is unknown; use fail or allow".to_owned(),
        ),
        (
            "interfacePrefix: eth1\n".to_owned(),
            "1: interfacePrefix: \"eth1\" cannot begin an interface name; use 1 to 12 letters, digits, '-', '_' or '.', the last not a digit"
                .to_owned(),
        ),
        (
            "defaultMTU: 67\n".to_owned(),
            "1: defaultMTU: 67 is neither an MTU nor \"uplink\"; use 68 to 65535 bytes, or uplink".to_owned(),
        ),
        ("metricsPort: 0\n".to_owned(), "1: metricsPort: 0 is not a port; use 1 to 65535".to_owned()),
        (
            "metricsBindAddress: all\n".to_owned(),
            "1: metricsBindAddress: \"all\" is not an IP address; use one such as 0.0.0.0 or \"::\"".to_owned(),
        ),
    ] {
        assert_eq!(agent(&text), Err(format!("trunkline-agent.conf:{problem}")), "{text}");
    }
}

#[test]
fn bad_flows_are_refused_by_line_and_key() {
    for (text, problem) in [
        ("flows: {memoryMiB: 3}\n".to_owned(), "1: flows.memoryMiB: 3 is out of range; use 4 to 4096".to_owned()),
        (
            "flows:\n  idleTimeoutSeconds: 0\n".to_owned(),
            "2: flows.idleTimeoutSeconds: 0 is out of range; use 1 to 3600 seconds".to_owned(),
        ),
        (
            "flows:\n  export:\n    ipfix: [{collector: x}]\n".to_owned(),
            "2: flows.export: ipfix[0].collector: \"x\" is no host and port; write host:port, or [address]:port for IPv6".to_owned(),
        ),
        (
            "flows:\n  export:\n    otlp: [{endpoint: \"https://otel:4317\"}]\n".to_owned(),
            "2: flows.export: otlp[0]: an https endpoint needs caFile, a PEM file with the authorities to trust".to_owned(),
        ),
        (
            "flows:\n  export:\n    otlp: [{endpoint: \"http://otel\", only: {vlans: [100, 4095]}}]\n".to_owned(),
            "2: flows.export: otlp[0].only.vlans[1]: 4095 is no network's VLAN; use 1 to 4094, or 0 for untagged networks"
                .to_owned(),
        ),
        (
            "flows:\n  export:\n    json: {path: \"-\", only: {ports: []}}\n".to_owned(),
            "2: flows.export: json.only.ports: the list is empty and would admit nothing; leave the key out to admit everything"
                .to_owned(),
        ),
        (
            "flows:\n  export:\n    ipfix: [{collector: \"h:1\", only: {protocols: [0x88cc]}}]\n".to_owned(),
            "2: flows.export: ipfix[0].only.protocols[0]: 35020 is no protocol; use tcp, udp, icmp, icmpv6, sctp, dccp, udplite, gre, esp, ah, arp, a number from 0 to 255, or an ethertype such as \"0x88cc\""
                .to_owned(),
        ),
        (
            "flows:\n  all:\n    interfaces:\n      include: [\"^eth\", \"net(\"]\n".to_owned(),
            "4: flows.all.interfaces.include[1]: \"net(\" is not a regular expression: unclosed group".to_owned(),
        ),
        (
            "flows:\n  dns:\n    port: 65536\n".to_owned(),
            "3: flows.dns.port: 65536 is not a port; use 1 to 65535".to_owned(),
        ),
        ("flows: {dns: {ports: [53]}}\n".to_owned(), "1: flows.dns.ports: unknown key; known here: enabled, port".to_owned()),
        (
            "flows:\n  sampling:\n  - {network: a/b, oneIn: 10}\n  - {network: a/b, oneIn: 20}\n".to_owned(),
            "4: flows.sampling[1].network: \"a/b\" is listed twice".to_owned(),
        ),
        (
            "flows:\n  sampling:\n  - {network: vlan100, oneIn: 10}\n".to_owned(),
            "3: flows.sampling[0].network: \"vlan100\" is no network; write <namespace>/<name> of its NetworkAttachmentDefinition"
                .to_owned(),
        ),
        (
            "flows:\n  sampling:\n  - network: a/b\n    oneIn: 1\n".to_owned(),
            "4: flows.sampling[0].oneIn: 1 is out of range; use 2 to 65536".to_owned(),
        ),
        (
            "flows:\n  sampling:\n  - network: a/b\n    oneIn: 65537\n".to_owned(),
            "4: flows.sampling[0].oneIn: 65537 is out of range; use 2 to 65536".to_owned(),
        ),
        ("flows: {sampling: [{network: a/b}]}\n".to_owned(), "1: flows.sampling[0]: oneIn is missing".to_owned()),
        (
            "flows:\n  sampling: {network: a/b, oneIn: 10}\n".to_owned(),
            "2: flows.sampling: a mapping is not a list".to_owned(),
        ),
        (
            "flows:\n  all: {nets: {}}\n".to_owned(),
            "2: flows.all.nets: unknown key; known here: enabled, interfaces, namespaces, kinds".to_owned(),
        ),
    ] {
        assert_eq!(agent(&text), Err(format!("trunkline-agent.conf:{problem}")), "{text}");
    }
}

#[test]
fn the_documentations_examples_of_exporters_are_read() {
    let text = include_str!("../../../docs/flow-export.md");
    let examples: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let export = examples[0].replace('\n', "\n    ");
    let all = agent(&format!("flows:\n  export:\n    {export}")).expect("all exporters").flows.export;
    assert_eq!((all.ipfix.len(), all.otlp.len(), all.json.is_some()), (1, 1, true));
    let filtered = agent(examples[1]).expect("exporters with filters").flows.export;
    let only = filtered.ipfix[0].only.as_ref().expect("filters of IPFIX");
    assert!(only.networks.is_some() && only.ports.is_some() && only.protocols.is_some());
    let only = filtered.json.as_ref().and_then(|json| json.only.as_ref()).expect("filters of JSON lines");
    assert!(only.vlans.is_some() && only.addresses.is_some());
    let otlp = agent(examples[2]).expect("a collector with TLS").flows.export.otlp;
    assert_eq!((otlp[0].headers().iter().count(), otlp[0].ca_file().is_some()), (1, true));
}

#[test]
fn bad_bridges_are_refused_by_line_and_key() {
    let loops = "which is a loop; give them disjoint allowedVLANs, or set parallelUplinks: allow where the switch prevents the loop";
    let range = "is not a VLAN or a range of them; use \"0\" (untagged), \"1\" to \"4094\", or \"200-300\"";
    for (text, problem) in [
        (
            "secondaryNetwork:\n  ovsBridges:\n  - physicalInterfaces: []\n".to_owned(),
            "3: secondaryNetwork.ovsBridges[0]: bridgeName is missing".to_owned(),
        ),
        (
            "secondaryNetwork:\n  ovsBridges: [{\"bridgeName\": \"a b\"}]\n".to_owned(),
            "2: secondaryNetwork.ovsBridges[0].bridgeName: \"a b\" contains ' '; use letters, digits, '-', '_' and '.'"
                .to_owned(),
        ),
        (
            "secondaryNetwork:\n  ovsBridges:\n  - bridgeName: a\n  - bridgeName: a\n".to_owned(),
            "4: secondaryNetwork.ovsBridges[1].bridgeName: \"a\" is already another bridge's name".to_owned(),
        ),
        (
            bridge("bond: true"),
            "4: secondaryNetwork.ovsBridges[0].bond: unknown key; known here: bridgeName, parallelUplinks, physicalInterfaces, enableMulticastSnooping, mtu, adopt"
                .to_owned(),
        ),
        (
            bridge("mtu: 10"),
            "4: secondaryNetwork.ovsBridges[0].mtu: 10 is not an MTU; use 68 to 65535 bytes".to_owned(),
        ),
        (
            bridge("physicalInterfaces:\n    - eth1\n    - eth1"),
            "6: secondaryNetwork.ovsBridges[0].physicalInterfaces[1]: \"eth1\" is listed twice".to_owned(),
        ),
        (
            bridge("physicalInterfaces: [br1]"),
            "4: secondaryNetwork.ovsBridges[0].physicalInterfaces[0]: \"br1\" is the bridge's own name".to_owned(),
        ),
        (
            bridge("physicalInterfaces: [eth1]\n  - bridgeName: br2\n    physicalInterfaces: [eth1]"),
            "6: secondaryNetwork.ovsBridges[1].physicalInterfaces[0]: \"eth1\" is already an uplink of bridge \"br1\""
                .to_owned(),
        ),
        (
            bridge("physicalInterfaces: [eth1, eth2]"),
            format!("4: secondaryNetwork.ovsBridges[0].physicalInterfaces: eth1 and eth2 both carry every VLAN, {loops}"),
        ),
        (
            bridge("physicalInterfaces: [{name: eth1, allowedVLANs: [\"100-200\"]}, {name: eth2, allowedVLANs: [\"200\"]}]"),
            format!("4: secondaryNetwork.ovsBridges[0].physicalInterfaces: eth1 and eth2 both carry VLAN 200, {loops}"),
        ),
        (
            bridge("parallelUplinks: allow\n    physicalInterfaces: [{name: eth1, allowedVLANs: [\"0\"]}, {name: eth2, allowedVLANs: [\"0\"]}]"),
            "5: secondaryNetwork.ovsBridges[0].physicalInterfaces: eth1 and eth2 both carry untagged traffic (\"0\"); at most one uplink may"
                .to_owned(),
        ),
        (
            bridge("physicalInterfaces:\n    - name: eth1\n      allowedVLANs:\n      - \"100\"\n      - 300-200"),
            format!("8: secondaryNetwork.ovsBridges[0].physicalInterfaces[0].allowedVLANs[1]: \"300-200\" {range}"),
        ),
        (
            bridge("physicalInterfaces: [{name: eth1, allowedVLANs: []}]"),
            "4: secondaryNetwork.ovsBridges[0].physicalInterfaces[0].allowedVLANs: the list is empty; leave the key out to carry every VLAN"
                .to_owned(),
        ),
        (
            bridge("physicalInterfaces: [{allowedVLANs: [\"5\"]}]"),
            "4: secondaryNetwork.ovsBridges[0].physicalInterfaces[0]: name is missing".to_owned(),
        ),
    ] {
        assert_eq!(agent(&text), Err(format!("trunkline-agent.conf:{problem}")), "{text}");
    }
}

#[test]
fn a_key_given_twice_is_refused() {
    let error = "trunkline-agent.conf:1: not valid YAML: duplicate entry with key \"metricsPort\"";
    assert_eq!(agent("metricsPort: 1\nmetricsPort: 2\n"), Err(error.to_owned()));
}

#[test]
fn parallel_uplinks_may_overlap_when_allowed() {
    let text = bridge("parallelUplinks: allow\n    physicalInterfaces: [eth1, eth2]");
    assert_eq!(agent(&text).map(|config| config.bridges[0].uplinks.len()), Ok(2));
}

#[test]
fn bad_controller_files_are_refused_by_line_and_key() {
    for (text, problem) in [
        (
            "featureGates:\n  SecondaryNetwork: true\n",
            "2: featureGates.SecondaryNetwork: unknown key; known here: AntreaIPAM",
        ),
        ("ipamPort: 70000\n", "1: ipamPort: 70000 is not a port; use 1 to 65535"),
        ("gcGracePeriodSeconds: 5\n", "1: gcGracePeriodSeconds: 5 is out of range; use 10 to 86400 seconds"),
    ] {
        let error = ControllerConfig::parse(text).map_err(|error| error.to_string());
        assert_eq!(error, Err(format!("trunkline-controller.conf:{problem}")), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([a-zA-Z]{1,8}: ?[\\[\\]{}a-z0-9,\"-]{0,12}\n? ?){0,5}") {
        let _ = agent(&text);
        let _ = agent(&bridge(&text));
        let _ = ControllerConfig::parse(&text);
    }
}
