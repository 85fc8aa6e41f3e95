//! A cluster of light nodes: control plane, controllers as processes, nodes with agents, pods as namespaces.
//!
//! The harness is scheduler, kubelet and runtime here. It claims nothing about those; the cluster suite has the real
//! ones.

pub mod bpffs;
pub mod churn;
pub mod controller;
pub mod http;
pub mod leaks;
pub mod node;
pub mod ovs;
pub mod pods;
pub mod usage;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kube::Client;

pub use controller::Controller;
pub use leaks::Snapshot;
pub use node::{LightNode, NodeOptions};
pub use ovs::Ovs;
pub use pods::{Flood, RunningPod, network_status};
pub use usage::Usage;

use crate::control_plane::{ControlPlane, Options};
use crate::run::Run;
use crate::switch::Switch;
use crate::{manifests, objects};

/// What a light cluster is to have.
#[derive(Clone, Debug)]
pub struct LightOptions {
    /// The nodes `n1`, `n2`, …
    pub nodes: Vec<NodeOptions>,
    /// How many controllers.
    pub controllers: u8,
    /// Whether etcd calls fdatasync.
    pub fsync: bool,
}

impl LightOptions {
    /// So many nodes with one bridge each, and one controller.
    pub fn nodes(count: usize) -> Self {
        Self { nodes: vec![NodeOptions::default(); count], controllers: 1, fsync: true }
    }
}

/// A running light cluster.
pub struct LightCluster {
    client: Client,
    nodes: Vec<Arc<LightNode>>,
    controllers: Vec<Controller>,
    plane: ControlPlane,
    switch: Switch,
    run: Arc<Run>,
}

impl std::fmt::Debug for LightCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LightCluster").field("run", &self.run.prefix()).finish_non_exhaustive()
    }
}

impl LightCluster {
    /// Starts everything and waits until agents and a controller are ready.
    pub async fn start(purpose: &str, options: LightOptions) -> Result<Self> {
        let begin = Instant::now();
        let cluster = Self::start_bare(purpose, options).await?;
        for controller in &cluster.controllers {
            controller.start(&cluster.plane)?;
        }
        for node in &cluster.nodes {
            node.start_agent(&cluster.plane)?;
        }
        for controller in &cluster.controllers {
            controller.wait_live().await?;
        }
        for node in &cluster.nodes {
            node.wait_agent_ready().await?;
        }
        eprintln!(
            "light cluster {} ready in {:.1} s, logs in {}",
            cluster.run.prefix(),
            begin.elapsed().as_secs_f32(),
            cluster.run.out().display()
        );
        Ok(cluster)
    }

    /// Makes everything, but starts neither agents nor controllers.
    pub async fn start_bare(purpose: &str, options: LightOptions) -> Result<Self> {
        let run = Run::start(purpose)?;
        let switch = Switch::create(&run)?;
        let plane_options = Options { fsync: options.fsync, ..Options::LIGHT };
        let plane = ControlPlane::start(&run, &switch, plane_options).await?;
        let client = plane.client().await?;
        manifests::apply_for_light(&run, &plane)?;
        objects::ensure_namespace(&client, "default").await?;
        let mut nodes = Vec::new();
        for (index, options) in (1..).zip(options.nodes) {
            nodes.push(Arc::new(LightNode::create(&run, &switch, &plane, index, options).await?));
        }
        let mut controllers = Vec::new();
        for index in 1..=options.controllers {
            controllers.push(Controller::create(&run, &switch, &plane, &client, index).await?);
        }
        Ok(Self { client, nodes, controllers, plane, switch, run })
    }

    /// The run's names and folders.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// A client with the administrator's rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The wires.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Node `n<number>`, counted from 1.
    pub fn node(&self, number: usize) -> &Arc<LightNode> {
        &self.nodes[number - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Arc<LightNode>] {
        &self.nodes
    }

    /// Controller number `number`, counted from 1.
    pub fn controller(&self, number: usize) -> &Controller {
        &self.controllers[number - 1]
    }

    /// Applies YAML as the administrator.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.plane.apply(yaml)
    }
}
