//! A light node whose plugins are called one by one: pods, sandboxes and the input that a runtime would hand over.
//!
//! Only our plugin runs, with a previous result as the primary plugin would have left it; or only a reference plugin.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::plugin::{self, Call, Took};
use super::pods::{PodId, create_pods};
use crate::fixtures::{ipam, network, pool};
use crate::light::{LightCluster, LightNode, LightOptions};
use crate::runtime::{self, PodRef, Sandbox};
use crate::tools::{self, Tool};
use crate::{objects, wait};

/// The bridge of a light node.
pub(super) const BRIDGE: &str = "br-secondary";
/// The annotation that asks for the bench's network.
const NETWORKS: (&str, &str) = (trunkline_api::NETWORKS_ANNOTATION, "bench");
/// Our plugin.
const OURS: &str = "trunkline-cni";
/// Workers of a burst.
pub(super) const WORKERS: usize = 16;
/// Pause between two tries of the first pod, which may come before its network is known.
const RETRY: Duration = Duration::from_millis(500);
/// How long what is undone may take to be gone everywhere.
const SETTLED: Duration = Duration::from_secs(30);

/// The node, its cluster, and what stays on its bridge.
pub(super) struct Node {
    cluster: LightCluster,
    tokio: Runtime,
    runtime: runtime::Runtime,
    list: Value,
    standing: Vec<Sandbox>,
    series: usize,
}

impl Node {
    /// A cluster of one node with a v4 pool of 4,094 addresses on VLAN 100.
    pub(super) fn start() -> Result<Self> {
        tools::prepare(tools::LIGHT)?;
        let tokio = Runtime::new().context("making a runtime")?;
        let cluster = tokio.block_on(LightCluster::start("bench-cni", LightOptions::nodes(1)))?;
        let objects = [
            pool("bench", "10.100.0.1", "10.100.15.254", "10.100.31.254", 19, 100),
            network("default", "bench", &json!({"bridge": BRIDGE, "ipam": ipam(&["bench"])})),
        ];
        cluster.apply(&objects.concat())?;
        let runtime = cluster.node(1).runtime()?;
        let (_, list) = runtime.conflist()?;
        let mut node = Self { cluster, tokio, runtime, list, standing: Vec::new(), series: 0 };
        node.warm_up()?;
        Ok(node)
    }

    /// The light node.
    pub(super) fn light(&self) -> &LightNode {
        self.cluster.node(1)
    }

    /// A pod or two, until one has started: network, pool and caches are known then.
    fn warm_up(&mut self) -> Result<()> {
        let pods = self.pods(20)?;
        let mut sandbox = self.sandbox(&pods[0])?;
        let mut last = Ok(());
        for pod in &pods {
            renew(&mut sandbox, pod);
            last = self.one(&self.ours("ADD", &sandbox)?).map(drop);
            self.one(&self.ours("DEL", &sandbox)?)?;
            if last.is_ok() {
                return self.wait_released();
            }
            std::thread::sleep(RETRY);
        }
        last.context("no pod could be attached to warm up")
    }

    /// New Pod objects that ask for the bench's network.
    pub(super) fn pods(&mut self, count: usize) -> Result<Vec<PodId>> {
        self.series += 1;
        let prefix = format!("cni-{}", self.series);
        let make = create_pods(self.cluster.client(), &prefix, count, &[NETWORKS], "n1");
        self.tokio.block_on(make).context("making pods")
    }

    /// A new sandbox of a pod, empty.
    pub(super) fn sandbox(&self, pod: &PodId) -> Result<Sandbox> {
        Sandbox::create(self.cluster.run(), asking(pod))
    }

    /// Brings the pods that stay up to `count`; they are attached through our plugin like any other.
    pub(super) fn stand(&mut self, count: usize) -> Result<()> {
        let missing = count.saturating_sub(self.standing.len());
        let pods = self.pods(missing)?;
        let new: Vec<Sandbox> = pods.iter().map(|pod| self.sandbox(pod)).collect::<Result<_>>()?;
        self.many("ADD", &new)?;
        self.standing.extend(new);
        let ports = self.light().ovs().pod_ports()?.len();
        ensure!(ports == count, "{ports} pod ports are on the bridge instead of {count}");
        Ok(())
    }

    /// Waits until only the standing pods have ports and addresses.
    pub(super) fn wait_released(&self) -> Result<()> {
        let count = self.standing.len();
        let look = wait::until("addresses and ports are given back", SETTLED, async || {
            let addresses = objects::allocations(self.cluster.client()).await?.len();
            let ports = self.light().ovs().pod_ports()?.len();
            ensure!(
                (addresses, ports) == (count, count),
                "{addresses} addresses, {ports} ports are left of {count}"
            );
            Ok(Some(()))
        });
        self.tokio.block_on(look)
    }

    /// Our plugin's `verb` for all of these, by 16 workers.
    pub(super) fn many(&self, verb: &str, sandboxes: &[Sandbox]) -> Result<Took> {
        let calls: Vec<Call> = sandboxes.iter().map(|one| self.ours(verb, one)).collect::<Result<_>>()?;
        self.all(&calls)
    }

    /// These calls, by 16 workers.
    pub(super) fn all(&self, calls: &[Call]) -> Result<Took> {
        plugin::all(self.light().netns().path(), WORKERS, calls)
    }

    /// One call.
    pub(super) fn one(&self, call: &Call) -> Result<Duration> {
        plugin::once(self.light().netns().path(), call)
    }

    /// Our plugin, called as the runtime in this node calls it.
    pub(super) fn ours(&self, verb: &str, sandbox: &Sandbox) -> Result<Call> {
        let entry =
            self.list["plugins"].as_array().into_iter().flatten().find(|plugin| plugin["type"] == OURS);
        let entry = entry.with_context(|| format!("{OURS} is not in the chain"))?;
        let previous = previous_result(&self.list, sandbox);
        let mut input = runtime::entry(&self.list, entry, Some(&previous));
        input["runtimeConfig"] = json!({ runtime::ANNOTATIONS: sandbox.pod.annotations });
        self.call(self.runtime.bin_dirs[0].join(OURS), verb, sandbox, &input)
    }

    /// The reference `loopback` plugin with the same input, but for its name in it, and the same number of bytes.
    pub(super) fn loopback(&self, sandbox: &Sandbox) -> Result<Call> {
        let ours = self.ours("ADD", sandbox)?;
        let mut input: Value = serde_json::from_slice(&ours.input)?;
        input["type"] = "loopback".into();
        let mut call = self.call(tools::path(Tool::CniLoopback)?, "ADD", sandbox, &input)?;
        let size = ours.input.len().max(call.input.len());
        call.input.resize(size, b' ');
        Ok(call)
    }

    /// The reference `bridge` plugin with `host-local` addresses, on a Linux bridge of its own.
    pub(super) fn reference(&self, verb: &str, sandbox: &Sandbox) -> Result<Call> {
        let input = json!({
            "cniVersion": self.list["cniVersion"],
            "name": "bench-reference",
            "type": "bridge",
            "bridge": "bench0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.cluster.run().dir().join("bench-host-local"),
                "ranges": [[{"subnet": "10.99.0.0/16"}]],
            },
        });
        self.call(tools::path(Tool::CniBridge)?, verb, sandbox, &input)
    }

    fn call(&self, program: PathBuf, verb: &str, sandbox: &Sandbox, input: &Value) -> Result<Call> {
        let (env, input) = (self.runtime.environment(verb, sandbox), serde_json::to_vec(input)?);
        Ok(Call { program, args: Vec::new(), env, input })
    }

    /// `ovs-vsctl` with these words.
    pub(super) fn vsctl(&self, words: &[&str]) -> Call {
        let command = self.light().ovs().vsctl_command();
        let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        let args = command.get_args().map(text).chain(words.iter().map(|word| (*word).to_owned()));
        let env = command.get_envs().filter_map(|(key, value)| Some((text(key), text(value?))));
        Call {
            program: command.get_program().into(),
            args: args.collect(),
            env: env.collect(),
            input: Vec::new(),
        }
    }
}

/// Gives a sandbox to another pod, under a new id: its namespace is as empty as a new one after DEL.
pub(super) fn renew(sandbox: &mut Sandbox, pod: &PodId) {
    sandbox.id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    sandbox.pod = asking(pod);
}

fn asking(pod: &PodId) -> PodRef {
    let annotations = [(NETWORKS.0.to_owned(), NETWORKS.1.to_owned())].into();
    PodRef { namespace: "default".to_owned(), name: pod.name.clone(), uid: pod.uid.clone(), annotations }
}

/// What the `bridge` plugin answers for such a sandbox.
fn previous_result(list: &Value, sandbox: &Sandbox) -> Value {
    json!({
        "cniVersion": list["cniVersion"],
        "interfaces": [
            {"name": "cni0", "mac": "02:00:00:00:00:01"},
            {"name": "veth0a0b0c0d", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": sandbox.netns.path()},
        ],
        "ips": [{"interface": 2, "address": "10.244.1.10/24", "gateway": "10.244.1.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    })
}
