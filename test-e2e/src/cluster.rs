//! The cluster tier: two real nodes, each a network and a mount namespace with containerd and kubelet on their
//! default paths, so that the manifests run unchanged. Node 1 runs Debian's containerd 1.6 with a 0.4.0 conflist,
//! node 2 containerd 2.3 with a 1.1.0 one.
//!
//! Owns nodes, their images and what is installed into them. Must never change the machine outside its namespaces
//! but for cgroups and the sysctls that a kubelet rewrites, all written down in the [`Run`] and undone with it.

mod cgroups;
mod config;
mod host;
mod images;
mod install;
pub mod mounts;
mod node;
mod registry;
pub mod workload;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Api;

pub use host::Host;
pub use images::{Images, POD_IMAGE};
pub use install::{Install, rollout};
pub use node::{ClusterNode, Generation};
pub use registry::Registry;

use crate::control_plane::{ControlPlane, Options};
use crate::run::Run;
use crate::switch::Switch;
use crate::{debs, paths, process, tools, wait};

/// How long two nodes may take to be Ready once every binary is there.
const READY: Duration = Duration::from_mins(1);

/// A control plane and two real nodes.
#[derive(Debug)]
pub struct Cluster {
    /// The run that undoes everything.
    pub run: Arc<Run>,
    /// The wires between the nodes.
    pub switch: Switch,
    /// etcd, API server, scheduler and controller-manager.
    pub plane: ControlPlane,
    /// The nodes, `node-1` and `node-2`.
    pub nodes: [ClusterNode; 2],
    /// The images that the nodes have.
    pub images: Images,
    started: Instant,
}

impl Cluster {
    /// Starts a cluster without anything of ours in it but the sandbox image, and waits until both nodes are Ready.
    pub async fn start(purpose: &str) -> Result<Self> {
        let run = Run::start(purpose)?;
        let host = Host::detect();
        eprintln!("{}", host.describe());
        let images = Images::prepare()?;
        for tools in [tools::CONTROL_PLANE, tools::LIGHT, tools::CLUSTER] {
            tools::prepare(tools)?;
        }
        debs::containerd()?;
        debs::ovs()?;
        let started = Instant::now();
        let switch = Switch::create(&run)?;
        let plane = ControlPlane::start(&run, &switch, Options::FULL).await?;
        host::save_sysctls(&run)?;
        let nodes = Self::start_nodes(&run, &switch, &plane, &images)?;
        let cluster = Self { run, switch, plane, nodes, images, started };
        cluster.wait_nodes_ready().await?;
        cluster.wait_pods_possible().await?;
        cluster.progress(&format!("nodes are Ready: {}", cluster.describe_nodes()));
        Ok(cluster)
    }

    fn start_nodes(
        run: &Arc<Run>,
        switch: &Switch,
        plane: &ControlPlane,
        images: &Images,
    ) -> Result<[ClusterNode; 2]> {
        let [one, two] = std::thread::scope(|scope| {
            [(1, Generation::Debian), (2, Generation::Two)]
                .map(|(number, generation)| {
                    scope.spawn(move || ClusterNode::start(run, switch, plane, images, number, generation))
                })
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| anyhow::bail!("the thread of a node panicked"))
                })
        });
        let nodes = [one?, two?];
        for node in &nodes {
            // What pods send to the API server must find its way back.
            plane.netns().ip(&format!("route add {} via {}", node.pod_cidr(), node.address()))?;
            for other in &nodes {
                if other.name() != node.name() {
                    node.netns().ip(&format!("route add {} via {}", other.pod_cidr(), other.address()))?;
                }
            }
        }
        Ok(nodes)
    }

    /// Waits until the API says that both nodes are Ready.
    pub async fn wait_nodes_ready(&self) -> Result<()> {
        let api: Api<Node> = Api::all(self.plane.client().await?);
        wait::until("both nodes are Ready", READY, || async {
            for node in &self.nodes {
                node.check()?;
            }
            let list = api.list(&kube::api::ListParams::default()).await.context("listing nodes")?;
            let ready = list.items.iter().filter(|node| is_ready(node)).count();
            Ok((ready == self.nodes.len()).then_some(()))
        })
        .await
    }

    /// Waits until the controller manager has made what every pod of the namespace `default` needs.
    async fn wait_pods_possible(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.plane.client().await?, "default");
        wait::until("the service account of pods is there", READY, || async {
            Ok(accounts.get_opt("default").await.context("looking for the service account")?.map(drop))
        })
        .await
    }

    /// `trunkctl` as an administrator runs it outside the cluster.
    pub fn trunkctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(paths::binary("trunkctl")?);
        command.arg("--kubeconfig").arg(self.plane.kubeconfig()).args(args);
        process::output(&mut command)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&ClusterNode> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    /// Prints a line with the seconds since the start.
    pub fn progress(&self, message: &str) {
        eprintln!("[{:6.1} s] {message}", self.started.elapsed().as_secs_f32());
    }

    /// When the control plane began to start.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn describe_nodes(&self) -> String {
        self.nodes.each_ref().map(|node| format!("{} ({})", node.name(), node.generation())).join(", ")
    }
}

/// Does the API say that the node is Ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
