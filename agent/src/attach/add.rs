//! ADD: validate all, allocate all, make all; else undo all.
//!
//! Owns the order of steps. Steps are never dropped half way: the cancellation token is looked at between them.
//! Addresses are released only after the ports that carried them are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_api::{IfName, TxChecksumOffload, primary_status};
use trunkline_ipam::proto::{AllocateRequest, Allocation, InterfaceRequest};

use super::announce::MAX_ADDRESSES_TRIED;
use super::made::{Made, complete, external_ids, interface_request, pod_message, port_row, wished};
use super::{Attacher, Sandbox, words};
use crate::bridge::{DatapathKind, PodPort, keys};
use crate::desired::{Desired, DesiredWarning};
use crate::kube::events::reason;
use crate::link::{PodEndSpec, PodLink, PodPairSpec, configure_pod_end, create_pod_pair};
use crate::netns::NetnsFd;
use crate::protocol::Failure;
use crate::server::{AddReply, Deadline, SandboxRequest, code};

/// What is kept back of the deadline, so that an undo still ends within the plugin's wait.
const UNDO_RESERVE: Duration = Duration::from_secs(3);

/// How long the undo waits for the API server to take a network-status back.
const STATUS_BACK: Duration = Duration::from_secs(2);

/// One ADD under way.
struct Add<'a> {
    sandbox: &'a Sandbox,
    request: &'a SandboxRequest,
    namespace: &'a NetnsFd,
    desired: &'a Desired,
    until: Instant,
    cancel: &'a CancellationToken,
}

/// What a failed ADD has to undo.
#[derive(Default)]
struct Begun {
    /// Interfaces that may have links, ports and addresses.
    interfaces: Vec<String>,
    /// Whether the network-status may name them.
    told: bool,
}

impl Attacher {
    /// One ADD, from the pod's turn to the answer.
    pub(super) async fn run_add(
        &self,
        sandbox: Sandbox,
        request: SandboxRequest,
        deadline: Deadline,
        cancel: CancellationToken,
    ) -> Result<AddReply, Failure> {
        let Some(annotation) = self.annotation(&sandbox, &request).await? else {
            return Ok(AddReply::default());
        };
        let started = Instant::now();
        let _turn = self.inflight.add(&sandbox.uid, cancel.clone()).await;
        let mut begun = Begun::default();
        let until = deadline.instant() - UNDO_RESERVE.min(deadline.remaining() / 4);
        let result = self.attach(&sandbox, &request, &annotation, until, &cancel, &mut begun).await;
        let result = if cancel.is_cancelled() { Err(words::cancelled()) } else { result };
        self.deps.metrics.observe_attach("total", result.is_ok(), started.elapsed());
        match result {
            Ok(made) => {
                self.attached(&sandbox, &request, &made);
                Ok(AddReply { interfaces: made.iter().map(|one| one.wish.interface.to_string()).collect() })
            }
            Err(failure) => {
                tracing::warn!(code = failure.code, msg = %failure.msg, "pod is not attached");
                self.undo(&sandbox, &begun.interfaces).await;
                if begun.told {
                    self.take_status_back(&sandbox, &request).await;
                }
                self.pod_event(&sandbox, reason::ATTACH_FAILED, failure.msg.clone());
                Err(failure)
            }
        }
    }

    async fn attach(
        &self,
        sandbox: &Sandbox,
        request: &SandboxRequest,
        annotation: &str,
        until: Instant,
        cancel: &CancellationToken,
        begun: &mut Begun,
    ) -> Result<Vec<Made>, Failure> {
        let mut step = Step::start(self);
        let desired = self.desired(sandbox, annotation, until, cancel).await?;
        step.done("validate");
        let _attaching = self.deps.events.attaching();
        begun.interfaces.extend(desired.attachments.iter().map(|wish| wish.interface.to_string()));
        let namespace = NetnsFd::open(&sandbox.netns).map_err(|error| Failure {
            code: code::TRY_AGAIN,
            msg: words::chain(&error),
            details: String::new(),
        })?;
        self.drop_earlier_sandboxes(sandbox).await?;
        check_cancelled(cancel)?;
        let add = Add { sandbox, request, namespace: &namespace, desired: &desired, until, cancel };
        let made = self.make(&add, begun).await?;
        self.announce(sandbox, &namespace, &made);
        self.warn(sandbox, &desired);
        Ok(made)
    }

    /// Another sandbox of this pod may have been lost without a DEL; its ports must not outlive it.
    async fn drop_earlier_sandboxes(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        let stale: Vec<String> = self
            .deps
            .bridges
            .pod_ports()
            .into_iter()
            .filter(|row| row.pod_uid == sandbox.uid && row.sandbox != sandbox.id)
            .map(|row| row.name)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        tracing::info!(ports = ?stale, "removing what an earlier sandbox of the pod left");
        self.remove_ports(&stale).await.map_err(|error| Failure {
            code: code::TRY_AGAIN,
            msg: format!(
                "cannot remove the ports that an earlier sandbox of pod {} left: {error}",
                sandbox.pod()
            ),
            details: String::new(),
        })
    }

    /// Claims and makes every interface and tells its addresses; under `duplicateAddressDetection: wait`, with other
    /// addresses where somebody objects.
    async fn make(&self, add: &Add<'_>, begun: &mut Begun) -> Result<Vec<Made>, Failure> {
        // Where nobody is asked first, the API server writes the status while the switch opens the ports: either
        // takes as long as the other. A failure takes the status back.
        let asks_first = self.asks_first();
        for _ in 0..MAX_ADDRESSES_TRIED {
            let wished: Vec<Made> =
                add.desired.attachments.iter().map(|wish| wished(add.sandbox, wish)).collect();
            // A pair needs no address and is on no bridge yet: it is made while the controller picks.
            let pairs = self.pairs(add.namespace, &wished);
            let (made, links) = tokio::join!(self.addresses(add, wished.clone()), pairs);
            let made: Vec<Made> =
                made?.into_iter().zip(&links?).map(|(one, link)| Made { link: *link, ..one }).collect();
            check_cancelled(add.cancel)?;
            if !asks_first {
                begun.told = true;
                let (wired, told) = tokio::join!(self.wire_all(add, &made), self.write_status(add, &made));
                return wired.and(told).map(|()| made);
            }
            self.wire_all(add, &made).await?;
            check_cancelled(add.cancel)?;
            let conflicting = self.conflicts(add.sandbox, add.namespace, &made).await;
            if conflicting.is_empty() {
                begun.told = true;
                return self.write_status(add, &made).await.map(|()| made);
            }
            self.give_up(add.sandbox, &made, &conflicting, add.until).await?;
            check_cancelled(add.cancel)?;
        }
        Err(Failure {
            code: code::TRY_AGAIN,
            msg: format!(
                "pod {}: other hosts answered for {MAX_ADDRESSES_TRIED} addresses in a row; see the AddressConflict Events",
                add.sandbox.pod()
            ),
            details: String::new(),
        })
    }

    /// Claims an address of every family on every interface, in one request.
    async fn addresses(&self, add: &Add<'_>, wished: Vec<Made>) -> Result<Vec<Made>, Failure> {
        let mut step = Step::start(self);
        let wanting: Vec<InterfaceRequest> = wished
            .iter()
            .filter(|one| !one.wish.pools.is_empty())
            .map(|one| interface_request(&one.wish))
            .collect();
        let mut given: BTreeMap<String, Vec<Allocation>> = BTreeMap::new();
        if !wanting.is_empty() {
            let request = AllocateRequest {
                pod: Some(pod_message(add.sandbox)),
                sandbox: add.sandbox.id.clone(),
                node: String::new(), // the client fills it in
                interfaces: wanting,
            };
            let response = self.deps.ipam.allocate(request, add.until).await.map_err(|error| Failure {
                code: if error.is_transient() { code::TRY_AGAIN } else { code::FAILED },
                msg: format!("pod {}: no addresses: {}", add.sandbox.pod(), words::chain(&error)),
                details: String::new(),
            })?;
            given.extend(response.interfaces.into_iter().map(|one| (one.interface, one.addresses)));
        }
        step.done("allocate");
        let complete_one = |one: Made| {
            let allocations = given.remove(one.wish.interface.as_str()).unwrap_or_default();
            complete(one, &allocations)
        };
        wished.into_iter().map(complete_one).collect()
    }

    /// The veth pair of every interface, side by side, in the order of `wished`.
    async fn pairs(&self, namespace: &NetnsFd, wished: &[Made]) -> Result<Vec<PodLink>, Failure> {
        let all = wished.iter().map(|one| async move {
            let mut step = Step::start(self);
            let spec = PodPairSpec {
                host_name: one.port.clone(),
                pod_name: one.wish.interface.to_string(),
                mac: one.mac.octets(),
                mtu: one.wish.mtu.into(),
            };
            let link = create_pod_pair(&self.deps.netns, namespace, &spec)
                .await
                .map_err(|error| words::step(one, &error))?;
            step.done("link");
            Ok(link)
        });
        join_all(all).await.into_iter().collect()
    }

    /// Puts every interface to work, side by side. All run to their end; the first failure is the answer.
    async fn wire_all(&self, add: &Add<'_>, made: &[Made]) -> Result<(), Failure> {
        let all = made.iter().map(|one| async move {
            // The tap is on before the pod's end goes up: its first frame is counted.
            let end = async {
                self.tap(add, one).await;
                self.configure_end(add.namespace, one).await
            };
            let (port, end) = tokio::join!(self.add_port(add, one), end);
            end.and(port)
        });
        join_all(all).await.into_iter().collect()
    }

    /// The tap of one interface. A pod whose flows cannot be seen is attached all the same.
    async fn tap(&self, add: &Add<'_>, one: &Made) {
        let Ok(flows) = &self.deps.flows else { return };
        let mut step = Step::start(self);
        if let Err(error) = flows.attach(&port_row(add.sandbox, one), one.link.host_ifindex).await {
            let words =
                format!("interface {} has no tap, its flows are not seen: {error}", one.wish.interface);
            self.pod_event(add.sandbox, reason::TAP_FAILED, words);
        }
        step.done("tap");
    }

    /// The pod's end of one interface: addresses, routes, up.
    async fn configure_end(&self, namespace: &NetnsFd, one: &Made) -> Result<(), Failure> {
        let mut step = Step::start(self);
        configure_pod_end(
            &self.deps.netns,
            namespace,
            one.wish.interface.as_str(),
            one.link,
            self.end_spec(one),
        )
        .await
        .map_err(|error| words::step(one, &error))?;
        step.done("configure");
        Ok(())
    }

    /// The OVS port of one interface with its flow.
    async fn add_port(&self, add: &Add<'_>, one: &Made) -> Result<(), Failure> {
        let mut step = Step::start(self);
        let port = PodPort {
            name: IfName::try_from(one.port.as_str()).map_err(|error| words::step(one, &error))?,
            vlan: one.wish.vlan,
            external_ids: external_ids(add.sandbox, one),
        };
        self.deps
            .bridges
            .add_pod_port(&one.wish.bridge, port, add.until)
            .await
            .map_err(|error| words::step(one, &error))?;
        step.done("port");
        Ok(())
    }

    fn end_spec(&self, one: &Made) -> PodEndSpec {
        let userspace = self
            .deps
            .bridges
            .state()
            .borrow()
            .get(&one.wish.bridge)
            .is_some_and(|bridge| bridge.datapath == Some(DatapathKind::Netdev));
        let disable_offloads = match self.deps.config.current().disable_tx_checksum_offload {
            TxChecksumOffload::Auto => userspace,
            TxChecksumOffload::Disable => true,
            TxChecksumOffload::Keep => false,
        };
        PodEndSpec {
            addresses: one.addresses.clone(),
            routes: one.wish.routes.iter().map(|route| one.route(route.dst, route.gw)).collect(),
            disable_offloads,
        }
    }

    async fn write_status(&self, add: &Add<'_>, made: &[Made]) -> Result<(), Failure> {
        let mut step = Step::start(self);
        self.put_status(add.sandbox, add.request, made, add.until).await?;
        step.done("status");
        Ok(())
    }

    /// After a failure the pod has its primary network only. Best effort: the next ADD writes it anew.
    async fn take_status_back(&self, sandbox: &Sandbox, request: &SandboxRequest) {
        let found = self.deps.objects.pod(&sandbox.namespace, &sandbox.name, &sandbox.uid).await;
        if matches!(found, Ok(None)) {
            return; // it was deleted meanwhile
        }
        let until = Instant::now() + STATUS_BACK;
        if let Err(failure) = self.put_status(sandbox, request, &[], until).await {
            self.pod_event(sandbox, reason::STATUS_NOT_WRITTEN, failure.msg);
        }
    }

    async fn put_status(
        &self,
        sandbox: &Sandbox,
        request: &SandboxRequest,
        made: &[Made],
        until: Instant,
    ) -> Result<(), Failure> {
        let mut entries = Vec::with_capacity(made.len() + 1);
        if let Some(previous) = &request.prev_result {
            entries.push(primary_status(&request.network, &request.ifname, previous));
        }
        entries.extend(made.iter().map(Made::status));
        let uid = self.api_uid(sandbox).await?;
        self.deps.status.write(&sandbox.namespace, &sandbox.name, &uid, &entries, until).await.map_err(
            |error| Failure { code: code::TRY_AGAIN, msg: words::chain(&error), details: String::new() },
        )
    }

    /// The UID that the API server knows the pod by: a static pod's mirror has one of its own.
    async fn api_uid(&self, sandbox: &Sandbox) -> Result<String, Failure> {
        let failure = |msg: String| Failure { code: code::TRY_AGAIN, msg, details: String::new() };
        let found = self.deps.objects.pod(&sandbox.namespace, &sandbox.name, &sandbox.uid).await;
        let pod = found.map_err(|error| failure(words::chain(&error)))?;
        pod.and_then(|pod| pod.metadata.uid.clone()).ok_or_else(|| {
            failure(format!("pod {} with UID {} is not known to the API server", sandbox.pod(), sandbox.uid))
        })
    }

    fn warn(&self, sandbox: &Sandbox, desired: &Desired) {
        for warning in &desired.warnings {
            let reason = match warning {
                DesiredWarning::VlanNotCarried { .. } => reason::VLAN_NOT_CARRIED,
                DesiredWarning::UntaggedNotCarried { .. } => reason::UNTAGGED_NOT_CARRIED,
            };
            self.pod_event(sandbox, reason, warning.to_string());
        }
    }

    /// What follows a success: the Event, and the time that it took, kept on each port.
    fn attached(&self, sandbox: &Sandbox, request: &SandboxRequest, made: &[Made]) {
        self.pod_event(sandbox, reason::ATTACHED_NETWORKS, words::attached(made));
        let took = request.started.elapsed().unwrap_or_default().as_millis();
        tracing::info!(interfaces = made.len(), took_ms = %took, "pod is attached");
        let ids = BTreeMap::from([(keys::ATTACH_MS.to_owned(), took.to_string())]);
        let (bridges, ports) =
            (self.deps.bridges.clone(), made.iter().map(|one| one.port.clone()).collect::<Vec<_>>());
        self.work.spawn(async move {
            for port in ports {
                if let Err(error) = bridges.update_port_external_ids(&port, ids.clone()).await {
                    tracing::debug!(port, error = %words::chain(&error), "attach time is not kept");
                }
            }
        });
    }

    /// An Event about the pod, under the UID that the API server knows it by.
    pub(super) fn pod_event(&self, sandbox: &Sandbox, reason: reason::Reason, note: String) {
        let known = self.deps.objects.cached_pod(&sandbox.namespace, &sandbox.name);
        let uid = known.and_then(|pod| pod.metadata.uid.clone()).unwrap_or_else(|| sandbox.uid.clone());
        self.deps.events.pod_named(&sandbox.namespace, &sandbox.name, &uid, reason, note);
    }
}

/// Times the steps of an ADD for the histogram.
struct Step<'a> {
    attacher: &'a Attacher,
    since: Instant,
}

impl<'a> Step<'a> {
    fn start(attacher: &'a Attacher) -> Self {
        Self { attacher, since: Instant::now() }
    }

    fn done(&mut self, name: &'static str) {
        self.attacher.deps.metrics.observe_attach(name, true, self.since.elapsed());
        self.since = Instant::now();
    }
}

fn check_cancelled(cancel: &CancellationToken) -> Result<(), Failure> {
    if cancel.is_cancelled() { Err(words::cancelled()) } else { Ok(()) }
}
