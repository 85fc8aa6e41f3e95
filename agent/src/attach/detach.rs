//! DEL, and the undo of a failed ADD: ports, then links, then addresses.
//!
//! Owns the order: an address goes back only when no port carries it any more. Every part is tried whatever became of
//! the one before, except that addresses stay claimed where a port may still stand; orphan collection ends what is
//! left. A DEL never holds up a pod's deletion: it answers within its deadline, with success.

use std::time::Duration;

use tokio::time::Instant;

use super::made::release_request;
use super::{Attacher, Sandbox, words};
use crate::bridge::{PodPortRow, PortError, host_veth_name};
use crate::kube::events::reason;
use crate::link::delete_host_link;
use crate::server::SandboxRequest;

/// How long an answer waits for the controller to confirm a release; after that the release goes on by itself.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a DEL waits for the connection to Open vSwitch.
const OVS_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Attacher {
    /// One DEL. What cannot be done now is left to orphan collection: a pod's deletion is never held up.
    pub(super) async fn run_del(&self, sandbox: Sandbox, request: &SandboxRequest) {
        let _turn = self.inflight.overtake(&sandbox.uid).await;
        let started = Instant::now();
        if !self.sees_ports().await {
            // What cannot be seen may still be there: its addresses stay claimed until collection has seen it go.
            tracing::warn!("Open vSwitch does not answer: the sandbox is left to orphan collection");
            self.deps.metrics.observe_detach(false, started.elapsed());
            return;
        }
        let mut rows = self.deps.bridges.pod_ports();
        rows.retain(|row| row.sandbox == sandbox.id);
        if rows.is_empty() {
            if asks_for_networks(request) {
                // Its ADD failed, and the undo may have been lost with an agent.
                self.deps.ipam.release_later(release_request(&sandbox, Vec::new()));
            }
            return;
        }
        let has_claims = rows.iter().any(|row| !row.pools.is_empty());
        let ports: Vec<String> = rows.into_iter().map(|row| row.name).collect();
        let complete = match self.remove_ports(&ports).await {
            Ok(()) => {
                if has_claims {
                    self.release(&sandbox).await;
                }
                tracing::info!(ports = ports.len(), "pod is detached");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "ports of a deleted sandbox are left to orphan collection");
                self.pod_event(&sandbox, reason::DETACH_FAILED, error);
                false
            }
        };
        self.deps.metrics.observe_detach(complete, started.elapsed());
    }

    /// Whether the database's ports are known, waiting a little for a connection that is being made.
    async fn sees_ports(&self) -> bool {
        let connected = async {
            while !self.deps.bridges.ovs_connected() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(OVS_PATIENCE, connected).await.is_ok()
    }

    /// Takes back what an ADD made for these interfaces.
    pub(super) async fn undo(&self, sandbox: &Sandbox, interfaces: &[String]) {
        if interfaces.is_empty() {
            return;
        }
        let ports: Vec<String> =
            interfaces.iter().map(|interface| host_veth_name(&sandbox.id, interface)).collect();
        match self.remove_ports(&ports).await {
            Ok(()) => self.release(sandbox).await,
            Err(error) => {
                tracing::warn!(%error, "the undo of a failed attachment is left to orphan collection");
            }
        }
    }

    /// Removes OVS ports with their flows, then the links. All are tried; the failures come back in one sentence.
    pub(crate) async fn remove_ports(&self, ports: &[String]) -> Result<(), String> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut failures = Vec::new();
        let removed: Result<(), PortError> = self.deps.bridges.remove_pod_ports(ports).await;
        if let Err(error) = removed {
            failures.push(words::chain(&error));
        }
        for port in ports {
            if let Err(error) = delete_host_link(port).await {
                failures.push(words::chain(&error));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    /// Gives the sandbox's addresses back; what the controller does not confirm soon is queued.
    pub(crate) async fn release(&self, sandbox: &Sandbox) {
        let request = release_request(sandbox, Vec::new());
        let until = Instant::now() + RELEASE_PATIENCE;
        if let Err(error) = self.deps.ipam.release(request.clone(), until).await {
            tracing::info!(error = %words::chain(&error), pod = %sandbox.pod(), "release of addresses is queued");
            self.deps.ipam.release_later(request);
        }
    }
}

impl Sandbox {
    /// The identity as OVSDB keeps it.
    pub(crate) fn from_row(row: &PodPortRow) -> Self {
        Self {
            namespace: row.pod_namespace.clone(),
            name: row.pod_name.clone(),
            uid: row.pod_uid.clone(),
            id: row.sandbox.clone(),
            netns: row.netns.clone().into(),
        }
    }
}

fn asks_for_networks(request: &SandboxRequest) -> bool {
    request
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(trunkline_api::NETWORKS_ANNOTATION))
        .is_some_and(|text| !text.trim().is_empty())
}
