//! From a request to what the pod should have: finds the annotation, waits for objects and bridges.
//!
//! Owns the wait: what may still come (an object not seen yet, a bridge not ready) is waited for until the deadline;
//! what only a person can change fails at once. Must never change anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trunkline_api::{
    IPPool, NETWORKS_ANNOTATION, Nad, NadConfig, NetworkAttachmentDefinition, NetworkSelection,
    parse_networks,
};

use super::{Attacher, Sandbox};
use crate::desired::{Catalogue, Desired, Inputs, PodRef, desired};
use crate::kube::LookupError;
use crate::protocol::Failure;
use crate::server::{SandboxRequest, code};

/// How often a wait looks again when nothing announces a change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Attacher {
    /// The annotation's text; `None` when the pod asks for nothing.
    pub(super) async fn annotation(
        &self,
        sandbox: &Sandbox,
        request: &SandboxRequest,
    ) -> Result<Option<String>, Failure> {
        let text = match &request.annotations {
            Some(annotations) => annotations.get(NETWORKS_ANNOTATION).cloned(),
            None => self.annotations_of(sandbox).await?.remove(NETWORKS_ANNOTATION),
        };
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    /// For runtimes that hand over no annotations: the pod's own, from the API server.
    async fn annotations_of(&self, sandbox: &Sandbox) -> Result<BTreeMap<String, String>, Failure> {
        let found = self.deps.objects.pod(&sandbox.namespace, &sandbox.name, &sandbox.uid).await;
        match found {
            Ok(Some(pod)) => Ok(pod.metadata.annotations.clone().unwrap_or_default()),
            Ok(None) => Err(Failure {
                code: code::TRY_AGAIN,
                msg: format!(
                    "pod {} (UID {}) is not known to the API server, and the container runtime hands over no \
                     annotations: it cannot be told which networks the pod asks for",
                    sandbox.pod(),
                    sandbox.uid
                ),
                details: String::new(),
            }),
            Err(error) => Err(Failure {
                code: code::TRY_AGAIN,
                msg: format!("cannot read pod {} from the API server", sandbox.pod()),
                details: super::words::chain(&error),
            }),
        }
    }

    /// What the pod should have, once every object and bridge it names is there.
    pub(super) async fn desired(
        &self,
        sandbox: &Sandbox,
        annotation: &str,
        until: Instant,
        cancel: &CancellationToken,
    ) -> Result<Desired, Failure> {
        let pod = PodRef { namespace: sandbox.namespace.clone(), name: sandbox.name.clone() };
        let selections = parse_networks(annotation, &sandbox.namespace).map_err(|error| Failure {
            code: code::FAILED,
            msg: format!("pod {pod}: annotation {NETWORKS_ANNOTATION}: {error}"),
            details: String::new(),
        })?;
        let started = Instant::now();
        let mut bridges = self.deps.bridges.state();
        let mut objects = self.deps.objects.changed();
        loop {
            objects.borrow_and_update();
            bridges.borrow_and_update();
            let obstacle = match self.judge(&pod, &selections).await {
                Ok(desired) => {
                    for nad in &desired.left_alone {
                        tracing::info!(%nad, "network is of another type and left to whoever serves it");
                    }
                    return Ok(desired);
                }
                Err(obstacle) => obstacle,
            };
            if !obstacle.may_pass {
                return Err(Failure { code: code::FAILED, msg: obstacle.words, details: String::new() });
            }
            let look_again = Instant::now() + LOOK_AGAIN;
            tokio::select! { biased;
                () = cancel.cancelled() => return Err(super::words::cancelled()),
                _ = objects.changed() => {}
                _ = bridges.changed() => {}
                () = sleep_until(until.min(look_again)) => {}
            }
            if Instant::now() >= until {
                return Err(Failure {
                    code: code::TRY_AGAIN,
                    msg: format!("{} (waited {:.0} s)", obstacle.words, started.elapsed().as_secs_f64()),
                    details: String::new(),
                });
            }
        }
    }

    /// What the pod should have, as things stand.
    async fn judge(&self, pod: &PodRef, selections: &[NetworkSelection]) -> Result<Desired, Obstacle> {
        let catalogue = self.catalogue(selections).await?;
        let config = self.deps.config.current();
        let bridges = self
            .deps
            .bridges
            .state()
            .borrow()
            .iter()
            .map(|(name, state)| (name.clone(), state.facts()))
            .collect();
        let inputs = Inputs {
            pod,
            node: &self.deps.node,
            selections,
            taken: &BTreeSet::new(),
            config: &config,
            bridges: &bridges,
            catalogue: &catalogue,
        };
        desired(&inputs)
            .map_err(|error| Obstacle { may_pass: error.is_transient(), words: error.to_string() })
    }

    /// The NADs that the pod names and the pools that those name.
    async fn catalogue(&self, selections: &[NetworkSelection]) -> Result<Found, Obstacle> {
        let objects = &self.deps.objects;
        let mut found = Found::default();
        for selection in selections {
            let Some(nad) = objects.nad(&selection.namespace, &selection.name).await? else { continue };
            if let Ok(Nad::Ours(config)) = NadConfig::parse(nad.spec.config.as_deref()) {
                for pool in config.ipam.map(|ipam| ipam.pools).unwrap_or_default() {
                    if let Some(object) = objects.pool(&pool).await? {
                        found.pools.insert(pool, object);
                    }
                }
            }
            found.nads.insert((selection.namespace.clone(), selection.name.clone()), nad);
        }
        Ok(found)
    }
}

/// Why a pod has no networks yet.
struct Obstacle {
    /// Time may mend it.
    may_pass: bool,
    /// For people.
    words: String,
}

impl From<LookupError> for Obstacle {
    fn from(error: LookupError) -> Self {
        Self { may_pass: error.is_transient(), words: super::words::chain(&error) }
    }
}

/// The objects of one pod.
#[derive(Default)]
struct Found {
    nads: HashMap<(String, String), Arc<NetworkAttachmentDefinition>>,
    pools: HashMap<String, Arc<IPPool>>,
}

impl Catalogue for Found {
    fn nad(&self, namespace: &str, name: &str) -> Option<Arc<NetworkAttachmentDefinition>> {
        self.nads.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn pool(&self, name: &str) -> Option<Arc<IPPool>> {
        self.pools.get(name).cloned()
    }
}
