//! Links, namespaces and announcements against the real kernel. Needs root.
//!
//! Every namespace and link has a name of this process; guards remove them on every way out.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use trunkline_agent::announce::{Announcer, Conflict, ProbeMode};
use trunkline_agent::link::{
    LinkError, LinkEvent, LinkWatch, OffloadSet, PodEndSpec, PodLink, PodPairSpec, PodRoute,
    configure_pod_end, create_pod_pair, delete_host_link, inspect_links, list_host_links, pod_link_exists,
    set_uplink_offloads,
};
use trunkline_agent::netns::{NetnsFd, NetnsThread};

/// A pod's namespace; removed on drop, with every link in it.
struct Pod {
    name: String,
}

impl Pod {
    fn new(label: &str) -> Self {
        let name = format!("tlio-{}-{label}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    fn open(&self) -> NetnsFd {
        NetnsFd::open(&self.path()).expect("a namespace that was just made")
    }

    fn ip_json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-n", &self.name, "-d", "-j"];
        all.extend(args);
        serde_json::from_str(&ip(&all)).expect("ip prints JSON")
    }

    fn sysctl(&self, key: &str) -> String {
        run("nsenter", &[&format!("--net={}", self.path().display()), "cat", &format!("/proc/sys/net/{key}")])
            .trim()
            .to_owned()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(args: &[&str]) -> String {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it is installed");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn host_sysctl(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).expect(key).trim().to_owned()
}

/// A link name of this process, at most 15 bytes.
fn host_name(label: &str) -> String {
    format!("tl{:x}{label}", std::process::id())
}

/// An interface as ADD makes it.
#[derive(Clone)]
struct Wish {
    pair: PodPairSpec,
    end: PodEndSpec,
}

impl Wish {
    /// Pair, then the pod's end.
    async fn make(&self, thread: &NetnsThread, namespace: &NetnsFd) -> Result<PodLink, LinkError> {
        let link = create_pod_pair(thread, namespace, &self.pair).await?;
        configure_pod_end(thread, namespace, &self.pair.pod_name, link, self.end.clone()).await?;
        Ok(link)
    }
}

fn spec(label: &str, last: u8) -> Wish {
    let route = |to: &str, by: Option<&str>| PodRoute {
        destination: to.parse().expect("a network"),
        gateway: by.map(|by| by.parse().expect("an address")),
    };
    let end = PodEndSpec {
        addresses: vec![
            format!("10.9.0.{last}/24").parse().expect("v4"),
            format!("fd00:9::{last:x}/64").parse().expect("v6"),
        ],
        routes: vec![
            route("10.20.0.0/16", Some("10.9.0.1")),
            route("fd00:20::/32", Some("fd00:9::1")),
            route("10.30.0.0/16", None),
        ],
        disable_offloads: true,
    };
    let pair = PodPairSpec {
        host_name: host_name(label),
        pod_name: "eth1".to_owned(),
        mac: [0x02, 0, 0, 0, 0, last],
        mtu: 1300,
    };
    Wish { pair, end }
}

fn features(namespace: Option<&Pod>, link: &str) -> Option<String> {
    let mut command = Command::new("nsenter");
    if let Some(pod) = namespace {
        command.arg(format!("--net={}", pod.path().display()));
    }
    let output = command.args(["ethtool", "-k", link]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn a_pods_link_is_complete_when_it_is_returned() {
    let pod = Pod::new("whole");
    // What runtimes do to every namespace.
    run(
        "nsenter",
        &[
            &format!("--net={}", pod.path().display()),
            "sysctl",
            "-qw",
            "net.ipv6.conf.default.disable_ipv6=1",
        ],
    );
    let thread = NetnsThread::start().expect("a thread");
    let spec = spec("w", 5);
    let link = spec.make(&thread, &pod.open()).await.expect("creates");
    assert!(!link.adopted);

    let in_pod = &pod.ip_json(&["link", "show", "eth1"])[0];
    assert_eq!(in_pod["address"], "02:00:00:00:00:05");
    assert_eq!(in_pod["mtu"], 1300);
    assert_eq!(in_pod["ifindex"], link.pod_ifindex);
    assert!(in_pod["flags"].as_array().expect("flags").contains(&"UP".into()), "{in_pod}");

    let on_node: Value = serde_json::from_str(&ip(&["-d", "-j", "link", "show", &spec.pair.host_name]))
        .expect("ip prints JSON");
    assert_eq!(on_node[0]["ifindex"], link.host_ifindex);
    assert_eq!(on_node[0]["mtu"], 1300);
    for flag in ["UP", "NOARP", "LOWER_UP"] {
        assert!(on_node[0]["flags"].as_array().expect("flags").contains(&flag.into()), "{flag}: {on_node}");
    }

    let addresses = &pod.ip_json(&["addr", "show", "eth1"])[0]["addr_info"];
    for address in ["10.9.0.5", "fd00:9::5"] {
        let found = addresses.as_array().expect("a list").iter().find(|one| one["local"] == address);
        let found = found.unwrap_or_else(|| panic!("{address}: {addresses}"));
        assert!(found.get("tentative").is_none(), "{found}");
    }
    let routes = pod.ip_json(&["route"]);
    for (destination, gateway) in
        [("10.20.0.0/16", Some("10.9.0.1")), ("10.9.0.0/24", None), ("10.30.0.0/16", None)]
    {
        let route = routes.as_array().expect("a list").iter().find(|route| route["dst"] == destination);
        let route = route.unwrap_or_else(|| panic!("{destination}: {routes}"));
        assert_eq!(route.get("gateway").and_then(Value::as_str), gateway);
    }
    let routes = pod.ip_json(&["-6", "route"]);
    assert!(
        routes.as_array().expect("a list").iter().any(|route| route["dst"] == "fd00:20::/32"),
        "{routes}"
    );

    for (key, value) in [
        ("ipv6/conf/eth1/disable_ipv6", "0"),
        ("ipv6/conf/eth1/accept_ra", "0"),
        ("ipv4/conf/eth1/arp_ignore", "1"),
        ("ipv4/conf/eth1/arp_announce", "2"),
    ] {
        assert_eq!(pod.sysctl(key), value, "{key}");
    }
    for (family, key, value) in [
        ("ipv6", "disable_ipv6", "1"),
        ("ipv4", "rp_filter", "1"),
        ("ipv4", "arp_ignore", "1"),
        ("ipv4", "arp_announce", "2"),
    ] {
        assert_eq!(host_sysctl(&format!("{family}/conf/{}/{key}", spec.pair.host_name)), value, "{key}");
    }
    if let Some(features) = features(Some(&pod), "eth1") {
        assert!(features.contains("tx-checksumming: off"), "{features}");
        assert!(features.contains("tcp-segmentation-offload: off"), "{features}");
    }
    delete_host_link(&spec.pair.host_name).await.expect("removes");
}

#[tokio::test]
async fn a_layer_2_link_keeps_router_advertisements() {
    let pod = Pod::new("l2");
    let thread = NetnsThread::start().expect("a thread");
    let accept_ra = pod.sysctl("ipv6/conf/default/accept_ra");
    let spec = Wish { end: PodEndSpec::default(), ..spec("l", 6) };
    spec.make(&thread, &pod.open()).await.expect("creates");
    assert_eq!(pod.sysctl("ipv6/conf/eth1/accept_ra"), accept_ra);
    assert_eq!(pod.sysctl("ipv6/conf/eth1/disable_ipv6"), "0");
    delete_host_link(&spec.pair.host_name).await.expect("removes");
}

#[tokio::test]
async fn the_same_link_is_adopted_and_another_one_of_its_name_is_replaced() {
    let pod = Pod::new("again");
    let thread = NetnsThread::start().expect("a thread");
    let wanted = spec("a", 7);
    let first = wanted.make(&thread, &pod.open()).await.expect("creates");
    let second = wanted.make(&thread, &pod.open()).await.expect("adopts");
    assert!(second.adopted);
    assert_eq!((first.host_ifindex, first.pod_ifindex), (second.host_ifindex, second.pod_ifindex));

    let mut other = wanted.clone();
    other.pair.mac = [0x02, 0, 0, 0, 0, 0x99];
    let third = other.make(&thread, &pod.open()).await.expect("replaces");
    assert!(!third.adopted);
    assert!(pod_link_exists(&thread, &pod.open(), "eth1", other.pair.mac).await.expect("looks"));
    assert!(!pod_link_exists(&thread, &pod.open(), "eth1", wanted.pair.mac).await.expect("looks"));

    assert_eq!(
        list_host_links(&wanted.pair.host_name).await.expect("lists"),
        [wanted.pair.host_name.as_str()]
    );
    assert!(delete_host_link(&wanted.pair.host_name).await.expect("removes"));
    assert!(!delete_host_link(&wanted.pair.host_name).await.expect("nothing left"));
    assert!(!pod_link_exists(&thread, &pod.open(), "eth1", other.pair.mac).await.expect("looks"));
}

#[tokio::test]
async fn an_interface_of_somebody_else_is_left_alone() {
    let pod = Pod::new("taken");
    ip(&["-n", &pod.name, "link", "add", "eth1", "type", "veth", "peer", "name", "other"]);
    let thread = NetnsThread::start().expect("a thread");
    let spec = spec("t", 8);
    let error = spec.make(&thread, &pod.open()).await.expect_err("the name is taken");
    assert!(matches!(&error, LinkError::NameTaken { link, .. } if link == "eth1"), "{error}");
    assert_eq!(list_host_links(&spec.pair.host_name).await.expect("lists"), Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_route_is_named() {
    let pod = Pod::new("route");
    let thread = NetnsThread::start().expect("a thread");
    let mut spec = spec("r", 9);
    spec.end.routes = vec![PodRoute {
        destination: "10.40.0.0/16".parse().expect("v4"),
        gateway: Some([192, 0, 2, 1].into()),
    }];
    let error = spec.make(&thread, &pod.open()).await.expect_err("the gateway is not on the link");
    let expected = format!(
        "interface eth1 in {}: cannot add the route 10.40.0.0/16 via 192.0.2.1",
        pod.path().display()
    );
    assert_eq!(error.to_string(), expected);
    delete_host_link(&spec.pair.host_name).await.expect("removes");
}

#[tokio::test]
async fn forty_links_at_once_are_all_made_quickly() {
    let pods: Vec<Pod> = (0..40).map(|index| Pod::new(&format!("b{index}"))).collect();
    let thread = NetnsThread::start().expect("a thread");
    let begun = Instant::now();
    let mut work = tokio::task::JoinSet::new();
    for (index, pod) in (0_u8..).zip(&pods) {
        let (thread, namespace, spec) = (thread.clone(), pod.open(), spec(&format!("b{index}"), index + 10));
        work.spawn(async move { spec.make(&thread, &namespace).await.map(|_| spec.pair.host_name) });
    }
    let mut names = Vec::new();
    while let Some(made) = work.join_next().await {
        names.push(made.expect("no panic").expect("creates"));
    }
    println!("40 links: {:?} each", begun.elapsed() / 40);
    for name in names {
        delete_host_link(&name).await.expect("removes");
    }
}

#[tokio::test]
async fn a_gone_namespace_is_an_error_and_the_thread_serves_on() {
    let thread = NetnsThread::start().expect("a thread");
    let pod = Pod::new("gone");
    let namespace = pod.open();
    let panicked = thread.run(&namespace, || panic!("a job that panics")).await;
    assert!(panicked.is_err(), "{panicked:?}");
    let inode = thread
        .run(&namespace, || std::fs::read_link("/proc/thread-self/ns/net").expect("a link"))
        .await
        .expect("it serves on");
    assert_eq!(inode.to_string_lossy(), format!("net:[{}]", namespace.id().inode));
    let path = pod.path();
    drop(pod);
    NetnsFd::open(&path).expect_err("it is gone");
}

#[tokio::test]
async fn links_are_inspected_with_all_that_disqualifies_an_uplink() {
    let (nic, peer, bridge) = (host_name("n"), host_name("p"), host_name("br"));
    let vlan = host_name("v");
    ip(&["link", "add", &nic, "mtu", "1400", "type", "veth", "peer", "name", &peer]);
    let _guard = Link(nic.clone());
    ip(&["link", "add", &bridge, "type", "bridge"]);
    let _bridge = Link(bridge.clone());
    ip(&["link", "set", &peer, "master", &bridge]);
    let add_vlan = ["link", "add", "link", &nic, "name", &vlan, "type", "vlan", "id", "7"];
    let has_vlan = Command::new("ip").args(add_vlan).status().expect("ip runs").success();
    if !has_vlan {
        eprintln!("SKIPPED in part: this kernel has no VLAN links, so vlan_children is not tested");
    }
    ip(&["addr", "add", "198.51.100.7/24", "dev", &nic]);
    ip(&["link", "set", &nic, "up"]);
    ip(&["link", "set", &peer, "up"]);

    let facts = inspect_links().await.expect("inspects");
    let of = |name: &str| {
        facts.iter().find(|link| link.name == name).unwrap_or_else(|| panic!("{name}: {facts:?}"))
    };
    let nic_facts = of(&nic);
    assert_eq!((nic_facts.kind.as_str(), nic_facts.mtu), ("veth", 1400));
    let expected: &[String] = if has_vlan { std::slice::from_ref(&vlan) } else { &[] };
    assert_eq!(nic_facts.vlan_children, expected);
    assert_eq!(nic_facts.addresses, ["198.51.100.7/24".parse().expect("an address")]);
    assert!(nic_facts.up && nic_facts.carrier && !nic_facts.has_default_route && nic_facts.mac.is_some());
    assert_eq!(of(&peer).master.as_deref(), Some(bridge.as_str()));
    assert_eq!(of(&peer).master_kind.as_deref(), Some("bridge"));
    assert_eq!(of(&bridge).kind, "bridge");
    let default_route = ip(&["-j", "route", "show", "default"]);
    let default_route: Value = serde_json::from_str(&default_route).expect("JSON");
    if let Some(device) = default_route[0]["dev"].as_str() {
        assert!(of(device).has_default_route, "{device}");
    }
}

struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[tokio::test]
async fn an_uplinks_offloads_are_set_and_restored() {
    let nic = host_name("o");
    ip(&["link", "add", &nic, "type", "veth", "peer", "name", &host_name("op")]);
    let _guard = Link(nic.clone());
    let switch_on = OffloadSet([("rx-gro".to_owned(), true)].into());
    set_uplink_offloads(&nic, &switch_on).await.expect("sets");
    let before = set_uplink_offloads(&nic, &OffloadSet::coalescing_off()).await.expect("sets");
    assert_eq!(before.0.get("rx-gro"), Some(&true), "{before:?}");
    let during = set_uplink_offloads(&nic, &OffloadSet::default()).await.expect("reads");
    assert_eq!(during.0.get("rx-gro"), Some(&false), "{during:?}");
    set_uplink_offloads(&nic, &before).await.expect("restores");
    let after = set_uplink_offloads(&nic, &OffloadSet::default()).await.expect("reads");
    assert_eq!(after, before);
}

#[tokio::test]
async fn link_changes_are_seen_as_they_happen() {
    let mut watch = LinkWatch::open().expect("opens");
    let nic = host_name("w1");
    ip(&["link", "add", &nic, "type", "veth", "peer", "name", &host_name("w2")]);
    let guard = Link(nic.clone());
    let seen = async |watch: &mut LinkWatch, removed: bool| {
        loop {
            match watch.next().await {
                LinkEvent::Changed { name, .. } if !removed && name == nic => return,
                LinkEvent::Removed { name, .. } if removed && name == nic => return,
                _ => {}
            }
        }
    };
    let bound = Duration::from_secs(5);
    tokio::time::timeout(bound, seen(&mut watch, false)).await.expect("it appears");
    drop(guard);
    tokio::time::timeout(bound, seen(&mut watch, true)).await.expect("it goes");
}

/// Two pods on one wire: a bridge joins their host ends.
async fn two_pods(label: &str, first: Wish, second: Wish) -> (Pod, Pod, NetnsThread, Link, [u32; 2]) {
    let (a, b) = (Pod::new(&format!("{label}a")), Pod::new(&format!("{label}b")));
    let thread = NetnsThread::start().expect("a thread");
    let bridge = host_name(&format!("{label}br"));
    ip(&["link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"]);
    let guard = Link(bridge.clone());
    ip(&["link", "set", &bridge, "up"]);
    let mut indexes = [0; 2];
    for (index, (pod, spec)) in [(&a, &first), (&b, &second)].into_iter().enumerate() {
        indexes[index] = spec.make(&thread, &pod.open()).await.expect("creates").pod_ifindex;
        ip(&["link", "set", &spec.pair.host_name, "master", &bridge]);
    }
    (a, b, thread, guard, indexes)
}

#[tokio::test]
async fn a_second_holder_of_an_address_is_found_and_named() {
    let (mut first, mut second) = (spec("c1", 0x11), spec("c2", 0x12));
    first.end.routes.clear();
    second.end.routes.clear();
    second.end.addresses = first.end.addresses.clone();
    let (a, _b, thread, _bridge, [index, _]) = two_pods("c", first.clone(), second.clone()).await;
    let addresses: Vec<IpAddr> = first.end.addresses.iter().map(ipnet::IpNet::addr).collect();
    let announcer =
        Announcer::open(&thread, &a.open(), index, first.pair.mac, &addresses).await.expect("opens");
    let mut conflicts = announcer.probe(ProbeMode::Async).await.expect("probes");
    conflicts.sort_by_key(|conflict| conflict.address);
    let expected: Vec<Conflict> =
        addresses.iter().map(|address| Conflict { address: *address, holder: second.pair.mac }).collect();
    assert_eq!(conflicts, expected);
    let begun = Instant::now();
    assert_eq!(announcer.probe(ProbeMode::Wait).await.expect("probes").len(), 1);
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_elses_address_is_no_conflict() {
    let (mut first, mut second) = (spec("q1", 0x21), spec("q2", 0x22));
    first.end.routes.clear();
    second.end.routes.clear();
    let (a, _b, thread, _bridge, [index, _]) = two_pods("q", first.clone(), second).await;
    let addresses: Vec<IpAddr> = first.end.addresses.iter().map(ipnet::IpNet::addr).collect();
    let announcer =
        Announcer::open(&thread, &a.open(), index, first.pair.mac, &addresses).await.expect("opens");
    assert_eq!(announcer.probe(ProbeMode::Wait).await.expect("probes"), []);
}

#[tokio::test]
async fn an_announcement_updates_the_neighbours_cache() {
    let (mut first, mut second) = (spec("g1", 0x31), spec("g2", 0x32));
    first.end.routes.clear();
    second.end.routes.clear();
    let (a, b, thread, _bridge, [index, _]) = two_pods("g", first.clone(), second).await;
    for address in ["10.9.0.49", "fd00:9::31"] {
        ip(&[
            "-n",
            &b.name,
            "neigh",
            "replace",
            address,
            "lladdr",
            "02:00:00:00:00:ee",
            "nud",
            "stale",
            "dev",
            "eth1",
        ]);
    }
    // The kernel takes no update within a second of the last one (locktime).
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let addresses: Vec<IpAddr> = first.end.addresses.iter().map(ipnet::IpNet::addr).collect();
    let announcer =
        Announcer::open(&thread, &a.open(), index, first.pair.mac, &addresses).await.expect("opens");
    announcer.announce().await.expect("announces");
    let neighbours = b.ip_json(&["neigh", "show", "dev", "eth1"]);
    for address in ["10.9.0.49", "fd00:9::31"] {
        let entry = neighbours.as_array().expect("a list").iter().find(|entry| entry["dst"] == address);
        assert_eq!(entry.expect(address)["lladdr"], "02:00:00:00:00:31", "{address}: {neighbours}");
    }
}
