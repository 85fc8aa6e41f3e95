//! What a hostile pod injects arrives nowhere: not in another VLAN, not on the node, at no moment.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{LightCluster, LightOptions, RunningPod};
use trunkline_e2e::netns::Netns;
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::paths;
use trunkline_e2e::process::ProcessId;
use trunkline_e2e::suite::Suite;
use trunkline_e2e::wait;

/// Shared with `datapath`, which asks for nothing more.
pub(crate) static SUITE: Suite = Suite::new("isolation", || LightOptions::nodes(2), setup);

/// Tags that a hostile pod may try, outermost first.
const HOSTILE: [&str; 5] =
    ["8100:200", "8100:0,8100:200", "88a8:200", "88a8:0,8100:200", "8100:100,8100:200"];

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        pool("b4", "10.200.0.10", "10.200.0.250", "10.200.0.1", 24, 200),
        network("default", "tagged", &json!({"ipam": ipam(&["a4"])})),
        network("default", "target", &json!({"ipam": ipam(&["b4"])})),
        network("default", "untagged", &json!({"vlan": 0})),
    ];
    cluster.apply(&all.concat())
}

/// A program that prints its answer when told to end.
struct Background(Child);

impl Background {
    fn start(cluster: &LightCluster, netns: &Netns, args: &[&str]) -> Result<Self> {
        let mut command = netns.command(paths::binary("trunkline-probe")?);
        let ready = cluster.run().dir().join(format!("bg-{:08x}", rand::random::<u32>()));
        command.args(args);
        let waits = args[0] != "inject";
        if waits {
            command.arg("--ready").arg(&ready);
        }
        let child = command.stdout(Stdio::piped()).spawn().context("starting a probe")?;
        if waits {
            wait::until_blocking("a probe begins", Duration::from_secs(30), || {
                Ok(ready.exists().then_some(()))
            })?;
        }
        Ok(Self(child))
    }

    fn finish(self) -> Result<Value> {
        if let Some(id) = ProcessId::of(i32::try_from(self.0.id())?) {
            id.signal(Signal::SIGTERM);
        }
        serde_json::from_slice(&self.0.wait_with_output()?.stdout).context("reading a probe's answer")
    }
}

/// Every place where an injected frame must not arrive: the other pods, and the wires of both nodes.
struct Watch(Vec<(String, Background)>);

impl Watch {
    fn start(cluster: &LightCluster, pods: &[&RunningPod], mark: &str) -> Result<Self> {
        let mut all = Vec::new();
        for pod in pods {
            let capture = Background::start(
                cluster,
                &pod.sandbox.netns,
                &["capture", "--interface", "eth1", "--mark", mark],
            )?;
            all.push((pod.name(), capture));
        }
        for node in cluster.nodes() {
            for interface in ["up1", "eth0", "cni0"] {
                let args = ["capture", "--interface", interface, "--mark", mark];
                all.push((
                    format!("{}/{interface}", node.name()),
                    Background::start(cluster, node.netns(), &args)?,
                ));
            }
        }
        Ok(Self(all))
    }

    /// The places where the mark was seen.
    fn finish(self) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for (place, capture) in self.0 {
            let captured = capture.finish()?;
            if captured["count"] != 0 {
                seen.push(format!("{place}: {captured}"));
            }
        }
        Ok(seen)
    }
}

fn inject(pod: &RunningPod, tags: &str, mark: &str, count: u32) -> Result<()> {
    let count = count.to_string();
    let mut args =
        vec!["inject", "--interface", "eth1", "--mark", mark, "--count", &count, "--interval-us", "500"];
    if !tags.is_empty() {
        args.extend(["--tags", tags]);
    }
    pod.probe(&args).map(drop)
}

async fn pods(cluster: &LightCluster, names: &[(&str, usize, &str)]) -> Result<Vec<RunningPod>> {
    let mut all = Vec::new();
    for (name, node, network) in names {
        all.push(cluster.run_pod(*node, &PodSpec::with_networks(name, network)).await?);
    }
    Ok(all)
}

#[test]
fn injected_tags_arrive_nowhere_else() -> Result<()> {
    SUITE.test(async |cluster| {
        let set = [
            ("hostile-t", 1, "tagged"),
            ("hostile-u", 1, "untagged"),
            ("near", 1, "target"),
            ("far", 2, "target"),
        ];
        let all = pods(cluster, &set).await?;
        let targets: Vec<&RunningPod> = all[2..].iter().collect();
        for hostile in &all[..2] {
            for (number, tags) in HOSTILE.iter().enumerate() {
                let mark = format!("hostile-{}-{number}", hostile.name());
                let watch = Watch::start(cluster, &targets, &mark)?;
                inject(hostile, tags, &mark, 20)?;
                tokio::time::sleep(Duration::from_millis(100) * wait::patience()).await;
                assert_eq!(watch.finish()?, Vec::<String>::new(), "{} with tags {tags}", hostile.name());
            }
        }
        // The control: an untagged frame does leave the node, so that the captures are known to see.
        let watch = Watch::start(cluster, &targets, "control")?;
        inject(&all[0], "", "control", 5)?;
        tokio::time::sleep(Duration::from_millis(200) * wait::patience()).await;
        let seen = watch.finish()?;
        assert!(seen.iter().any(|place| place.starts_with("n1/up1")), "{seen:?}");
        assert!(!seen.iter().any(|p| p.starts_with("near") || p.starts_with("far")), "{seen:?}");
        cluster.delete_pods(all).await
    })
}

#[test]
fn nothing_leaks_while_ports_come_and_flows_and_the_switch_go() -> Result<()> {
    SUITE.test(async |cluster| {
        let set = [("h1", 1, "untagged"), ("t1", 1, "target"), ("t2", 2, "target")];
        let all = pods(cluster, &set).await?;
        let targets: Vec<&RunningPod> = all[1..].iter().collect();
        let watch = Watch::start(cluster, &targets, "window")?;
        let mut injecting = Vec::new();
        for tags in HOSTILE {
            let args = [
                "inject",
                "--interface",
                "eth1",
                "--mark",
                "window",
                "--count",
                "0",
                "--interval-us",
                "2000",
                "--tags",
                tags,
            ];
            injecting.push(Background::start(cluster, &all[0].sandbox.netns, &args)?);
        }
        let more = pods(cluster, &[("m1", 1, "target"), ("m2", 1, "tagged"), ("m3", 1, "untagged")]).await?;
        let ovs = cluster.node(1).ovs();
        ovs.ofctl("del-flows", "br-secondary", &[])?;
        flows_back(cluster, 6).await?;
        ovs.kill_switch();
        ovs.start_switch(cluster.node(1).netns())?;
        let answered = Instant::now();
        flows_back(cluster, 6).await?;
        let black = answered.elapsed();
        for injector in injecting {
            assert_ne!(injector.finish()?["sent"], 0);
        }
        assert_eq!(watch.finish()?, Vec::<String>::new());
        eprintln!("flows were back {black:?} after vswitchd answered");
        assert!(black < Duration::from_secs(1) * wait::patience(), "flows took {black:?}");
        cluster.delete_pods(more).await?;
        cluster.delete_pods(all).await
    })
}

/// Waits until the bridge of node 1 has one flow for each of its pods and one for its uplink, and no other.
async fn flows_back(cluster: &LightCluster, count: usize) -> Result<()> {
    wait::until("the flows are back", Duration::from_secs(20), async || {
        let flows = cluster.node(1).ovs().ofctl("dump-flows", "br-secondary", &["--no-stats"])?;
        let normal = flows.lines().filter(|line| line.contains("NORMAL")).count();
        Ok((normal == count).then_some(()))
    })
    .await
}

#[test]
fn a_pod_reaches_no_address_of_its_node_through_a_secondary_interface() -> Result<()> {
    SUITE.test(async |cluster| {
        let all = pods(cluster, &[("climber", 1, "tagged")]).await?;
        let climber = &all[0];
        let node = cluster.node(1);
        let port = node.ovs().pod_ports()?.into_iter().next().context("no port")?;
        let mac = node.netns().ip_json(&format!("link show dev {port}"))?[0]["address"]
            .as_str()
            .context("no MAC")?
            .to_owned();
        let netns = &climber.sandbox.netns;
        let timeout = (300 * wait::patience()).to_string();
        let primary = node.netns().ip_json("addr show dev cni0")?[0]["addr_info"][0]["local"]
            .as_str()
            .context("no address")?
            .to_owned();
        for target in [node.address(), primary] {
            netns.ip(&format!("neigh replace {target} lladdr {mac} dev eth1 nud permanent"))?;
            netns.ip(&format!("route replace {target}/32 dev eth1"))?;
            let capture = Background::start(
                cluster,
                node.netns(),
                &["capture", "--interface", "cni0", "--mark", "climbing"],
            )?;
            let said = climber.probe(&[
                "ping-df",
                "--interface",
                "eth1",
                "--target",
                &target,
                "--size",
                "100",
                "--timeout-ms",
                &timeout,
            ])?;
            assert_eq!(said["answered"], false, "{target}: {said}");
            let args = ["inject", "--interface", "eth1", "--mark", "climbing", "--to", &mac, "--count", "5"];
            climber.probe(&args)?;
            assert_eq!(capture.finish()?["count"], 0, "{target}");
        }
        cluster.delete_pods(all).await
    })
}
