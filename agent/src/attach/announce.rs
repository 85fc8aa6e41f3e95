//! Duplicate-address detection and announcements of a pod's addresses.
//!
//! Owns what a conflict means (design decision 16): with `async` an Event and a rest of the address; with `wait` the
//! next address. Announcing is best effort and never fails an ADD.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::time::Instant;
use tracing::Instrument as _;
use trunkline_api::{DuplicateAddressDetection, MacAddr};
use trunkline_ipam::proto::ReportConflictRequest;

use super::made::{Made, release_request};
use super::{Attacher, Sandbox, words};
use crate::announce::{Announcer, Conflict, ProbeMode};
use crate::kube::events::reason;
use crate::netns::NetnsFd;
use crate::protocol::Failure;
use crate::server::code;

/// How many addresses an interface is tried with under `duplicateAddressDetection: wait`.
pub(super) const MAX_ADDRESSES_TRIED: u32 = 4;

/// What to do with a new address, from the configuration.
#[derive(Clone, Copy)]
enum Probing {
    /// Announce it; ask nobody.
    AnnounceOnly,
    /// Announce it and listen for a second.
    Async,
    /// Ask first; announce it when nobody answers.
    Wait,
}

impl Attacher {
    /// Whether others are asked for an address before the pod has it: `duplicateAddressDetection: wait`.
    pub(super) fn asks_first(&self) -> bool {
        self.deps.config.current().duplicate_address_detection == DuplicateAddressDetection::Wait
    }

    /// The interfaces whose address somebody else has, by probing all of them at once.
    pub(super) async fn conflicts(
        &self,
        sandbox: &Sandbox,
        namespace: &NetnsFd,
        made: &[Made],
    ) -> BTreeSet<String> {
        let probes = made.iter().map(|one| self.probe(namespace, one, Probing::Wait));
        let mut conflicting = BTreeSet::new();
        for (one, found) in made.iter().zip(futures::future::join_all(probes).await) {
            for conflict in found {
                self.report(sandbox, one, conflict).await;
                conflicting.insert(one.wish.interface.to_string());
            }
        }
        conflicting
    }

    /// Takes the conflicting interfaces down again and gives their addresses back.
    pub(super) async fn give_up(
        &self,
        sandbox: &Sandbox,
        made: &[Made],
        conflicting: &BTreeSet<String>,
        until: Instant,
    ) -> Result<(), Failure> {
        let failure = |msg: String| Failure { code: code::TRY_AGAIN, msg, details: String::new() };
        let ports: Vec<String> = made
            .iter()
            .filter(|one| conflicting.contains(one.wish.interface.as_str()))
            .map(|one| one.port.clone())
            .collect();
        self.remove_ports(&ports).await.map_err(failure)?;
        let request = release_request(sandbox, conflicting.iter().cloned().collect());
        self.deps.ipam.release(request, until).await.map_err(|error| failure(words::chain(&error)))?;
        Ok(())
    }

    /// After a success: tells the networks who has the addresses and, under `async`, listens for an objection.
    pub(super) fn announce(&self, sandbox: &Sandbox, namespace: &NetnsFd, made: &[Made]) {
        let mode = match self.deps.config.current().duplicate_address_detection {
            DuplicateAddressDetection::Async => Probing::Async,
            DuplicateAddressDetection::Off => Probing::AnnounceOnly,
            // Probed and announced before the pod was let go on.
            DuplicateAddressDetection::Wait => return,
        };
        for one in made.iter().filter(|one| !one.addresses.is_empty()) {
            let (this, sandbox, namespace, one) =
                (self.clone(), sandbox.clone(), namespace.clone(), one.clone());
            let span = tracing::info_span!("announce", pod = %sandbox.pod(), interface = %one.wish.interface);
            let work = async move {
                for conflict in this.probe(&namespace, &one, mode).await {
                    this.report(&sandbox, &one, conflict).await;
                }
            };
            self.work.spawn(work.instrument(span));
        }
    }

    /// Announces the interface's addresses and asks who else has them. Trouble counts as no answer.
    async fn probe(&self, namespace: &NetnsFd, one: &Made, mode: Probing) -> Vec<Conflict> {
        let addresses: Vec<IpAddr> = one.addresses.iter().map(ipnet::IpNet::addr).collect();
        let probed = async {
            let announcer = Announcer::open(
                &self.deps.netns,
                namespace,
                one.link.pod_ifindex,
                one.mac.octets(),
                &addresses,
            )
            .await?;
            match mode {
                Probing::Wait => {
                    let found = announcer.probe(ProbeMode::Wait).await?;
                    if found.is_empty() {
                        announcer.announce().await?;
                    }
                    Ok(found)
                }
                Probing::Async => {
                    let (found, announced) =
                        tokio::join!(announcer.probe(ProbeMode::Async), announcer.announce());
                    announced?;
                    found
                }
                Probing::AnnounceOnly => announcer.announce().await.map(|()| Vec::new()),
            }
        };
        let outcome: Result<Vec<Conflict>, crate::announce::AnnounceError> = probed.await;
        outcome.unwrap_or_else(|error| {
            tracing::debug!(error = %words::chain(&error), "addresses were not probed");
            Vec::new()
        })
    }

    /// Tells the pod's owner and the controller of a conflict.
    async fn report(&self, sandbox: &Sandbox, one: &Made, conflict: Conflict) {
        let holder = MacAddr::new(conflict.holder);
        self.deps.metrics.add_conflict();
        let pool =
            one.claims.iter().find(|claim| claim.address == conflict.address).map(|claim| claim.pool.clone());
        self.pod_event(
            sandbox,
            reason::ADDRESS_CONFLICT,
            format!(
                "interface {} (network {}): {holder} answers for address {}, which this pod was given{}",
                one.wish.interface,
                one.wish.nad,
                conflict.address,
                pool.as_ref().map_or_else(String::new, |pool| format!(" from pool {pool}"))
            ),
        );
        let Some(pool) = pool else { return };
        let request = ReportConflictRequest {
            pod: Some(super::made::pod_message(sandbox)),
            node: String::new(), // the client fills it in
            interface: one.wish.interface.to_string(),
            address: conflict.address.to_string(),
            pool,
            answered_by: holder.to_string(),
        };
        let until = Instant::now() + std::time::Duration::from_secs(5);
        if let Err(error) = self.deps.ipam.report_conflict(request, until).await {
            tracing::warn!(error = %words::chain(&error), "the controller was not told of an address conflict");
        }
    }
}
