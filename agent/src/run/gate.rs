//! What answers the CNI plugin: the attacher, once the node's part is started; before that, a refusal in words.
//!
//! Owns the answer of an agent whose gate is off or that has just begun. Must never know how a pod is attached.

use std::sync::{Arc, OnceLock};

use crate::{
    attach::Attacher,
    config::ConfigHandle,
    dump::{ConfigDump, NodeDump},
    protocol::Failure,
    server::{AddReply, CniHandler, Deadline, SandboxRequest, code},
};

/// The handler of the agent's socket; clones share the attacher.
#[derive(Clone)]
pub(super) struct Gate {
    node: String,
    config: ConfigHandle,
    attacher: Arc<OnceLock<Attacher>>,
}

impl Gate {
    /// A closed gate.
    pub(super) fn new(node: String, config: ConfigHandle) -> Self {
        Self { node, config, attacher: Arc::default() }
    }

    /// From now on the attacher answers. It is set once.
    pub(super) fn open(&self, attacher: Attacher) {
        if self.attacher.set(attacher).is_err() {
            tracing::error!("the node's part was started twice");
        }
    }

    /// Returns when every pod's work that is under way has ended.
    pub(super) async fn settled(&self) {
        if let Some(attacher) = self.attacher.get() {
            attacher.drain().await;
        }
    }

    fn is_on(&self) -> bool {
        self.config.current().gates.secondary_network
    }
}

impl CniHandler for Gate {
    async fn add(&self, request: SandboxRequest, deadline: Deadline) -> Result<AddReply, Failure> {
        match self.attacher.get() {
            Some(attacher) if self.is_on() => attacher.add(request, deadline).await,
            _ => Err(closed(self.is_on(), &self.node)),
        }
    }

    /// With the gate off the attacher goes on undoing what it did while it was on.
    async fn del(&self, request: SandboxRequest, deadline: Deadline) -> Result<(), Failure> {
        match self.attacher.get() {
            Some(attacher) => attacher.del(request, deadline).await,
            // Nothing is done to the node; what is left of the sandbox is collected once the gate is on.
            None if !self.is_on() => Ok(()),
            None => Err(closed(true, &self.node)),
        }
    }

    async fn check(&self, request: SandboxRequest, deadline: Deadline) -> Result<(), Failure> {
        match self.attacher.get() {
            Some(attacher) => attacher.check(request, deadline).await,
            None if !self.is_on() => Ok(()),
            None => Err(closed(true, &self.node)),
        }
    }

    fn dump(&self) -> serde_json::Value {
        if let Some(attacher) = self.attacher.get() {
            return attacher.dump();
        }
        let gates = self.config.current().gates;
        let dump = NodeDump {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: ConfigDump {
                secondary_network: gates.secondary_network,
                antrea_ipam: gates.antrea_ipam,
                error: self.config.error(),
            },
            ..NodeDump::default()
        };
        serde_json::to_value(dump).unwrap_or_default()
    }

    fn flows(&self) -> Result<serde_json::Value, Failure> {
        match self.attacher.get() {
            Some(attacher) => attacher.flows(),
            None => Err(closed(self.is_on(), &self.node)),
        }
    }
}

fn closed(is_on: bool, node: &str) -> Failure {
    if is_on {
        let msg = format!("the agent of node {node} is not ready to attach pods yet");
        // The plugin keeps asking until its deadline: a restart of the agent costs a pod seconds, not a new sandbox.
        return Failure { code: code::NOT_READY, msg, details: String::new() };
    }
    Failure {
        code: code::INVALID_CONFIG,
        msg: format!(
            "the pod asks for networks, and feature gate SecondaryNetwork is off on node {node}: set \
             featureGates.SecondaryNetwork: true in trunkline-agent.conf, or remove the pod's annotation"
        ),
        details: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use trunkline_api::AgentConfig;

    use super::*;

    fn request() -> SandboxRequest {
        SandboxRequest {
            container_id: "c".into(),
            netns: None,
            ifname: "eth0".into(),
            pod_namespace: "ns".into(),
            pod_name: "p".into(),
            pod_uid: None,
            network: String::new(),
            annotations: None,
            prev_result: None,
            started: SystemTime::UNIX_EPOCH,
        }
    }

    fn gate(on: bool) -> Gate {
        let mut config = AgentConfig::default();
        config.gates.secondary_network = on;
        Gate::new("node-a".into(), ConfigHandle::fixed(config))
    }

    #[tokio::test]
    async fn with_the_gate_off_an_asking_pod_is_refused_by_the_gates_name_and_a_deletion_goes_through() {
        let deadline = Deadline::after(Duration::from_secs(1));
        let failure = gate(false).add(request(), deadline).await.expect_err("refused");
        assert!(failure.msg.contains("SecondaryNetwork is off on node node-a"), "{}", failure.msg);
        assert!(gate(false).del(request(), deadline).await.is_ok());
    }

    #[tokio::test]
    async fn before_the_node_is_started_everything_is_to_be_tried_again() {
        let deadline = Deadline::after(Duration::from_secs(1));
        assert_eq!(gate(true).add(request(), deadline).await.expect_err("later").code, code::NOT_READY);
        assert_eq!(gate(true).del(request(), deadline).await.expect_err("later").code, code::NOT_READY);
        assert_eq!(gate(true).dump()["config"]["secondaryNetwork"], true);
    }
}
