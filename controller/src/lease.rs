//! Leader election on a Lease of the API server.
//!
//! One task looks at the Lease, writes it when the election says so, and publishes the role. Its awaits are cancel
//! safe: a write that was sent and not seen is found by the next look. Must never decide; `election` does.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trunkline_ipam::{ADDRESS_ANNOTATION, LEASE_NAME};

use crate::election::{Decision, Election, Record};
use crate::role::Role;

/// Keeps the Lease.
pub struct LeaseKeeper {
    api: Api<Lease>,
    election: Election,
    /// `<ip>:<port>` at which agents reach this replica.
    address: String,
    role: watch::Sender<Role>,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("cannot {doing} Lease {LEASE_NAME}")]
    Api { doing: &'static str, source: kube::Error },
    #[error("the API server did not answer for Lease {LEASE_NAME} in time")]
    Timeout,
}

impl LeaseKeeper {
    /// A keeper that has done nothing yet.
    pub fn new(api: Api<Lease>, election: Election, address: String, role: watch::Sender<Role>) -> Self {
        Self { api, election, address, role }
    }

    /// Runs until stopped, then gives the Lease up so that another replica need not wait.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let outcome = tokio::select! { biased;
                () = stop.cancelled() => break,
                outcome = timeout(self.election.timings().renew, self.look()) => outcome,
            };
            if let Err(error) = outcome.unwrap_or(Err(LeaseError::Timeout)) {
                tracing::warn!(error = %Chain(&error), "cannot look after the lease");
            }
            self.publish();
            tokio::select! { biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.election.timings().retry) => {}
            }
        }
        let leads = self.election.leads(Instant::now());
        self.role.send_modify(|role| role.until = None);
        if leads && timeout(Duration::from_secs(3), self.give_up()).await.is_err() {
            tracing::warn!("the lease could not be given up in time");
        }
    }

    async fn look(&mut self) -> Result<(), LeaseError> {
        let lease = self.api.get_opt(LEASE_NAME).await.map_err(api("read"))?;
        let now = Instant::now();
        match self.election.decide(lease.as_ref().map(record), now) {
            Decision::Follow => Ok(()),
            Decision::Acquire { transitions } => self.write(lease, transitions, true).await,
            Decision::Renew { transitions } => self.write(lease, transitions, false).await,
        }
    }

    /// Writes the Lease over what was read; somebody else's write in between makes ours fail, which is no error.
    async fn write(
        &mut self,
        read: Option<Lease>,
        transitions: i32,
        acquire: bool,
    ) -> Result<(), LeaseError> {
        let started = Instant::now();
        let lease = self.lease(read, transitions, acquire);
        let written = if lease.metadata.resource_version.is_some() {
            self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await
        } else {
            self.api.create(&PostParams::default(), &lease).await
        };
        match written {
            Ok(_) => {
                self.election.written(started);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(()),
            Err(source) => Err(LeaseError::Api { doing: "write", source }),
        }
    }

    fn lease(&self, read: Option<Lease>, transitions: i32, acquire: bool) -> Lease {
        let mut lease = read.unwrap_or_default();
        lease.metadata.name = Some(LEASE_NAME.to_owned());
        lease.annotations_mut().insert(ADDRESS_ANNOTATION.to_owned(), self.address.clone());
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if acquire {
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.election.identity().to_owned());
        spec.lease_duration_seconds = i32::try_from(self.election.timings().lease.as_secs()).ok();
        spec.lease_transitions = Some(transitions);
        spec.renew_time = Some(now);
        lease
    }

    async fn give_up(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(LEASE_NAME).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.election.identity()) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease.annotations_mut().remove(ADDRESS_ANNOTATION);
        if let Err(error) = self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await {
            tracing::warn!(error = %Chain(&error), "the lease could not be given up");
        }
    }

    /// Publishes the role, with a new term where we did not lead a moment ago.
    fn publish(&self) {
        let now = Instant::now();
        let until = self.election.leads_until().filter(|until| now < *until);
        let holder = if until.is_some() { Some(self.election.identity()) } else { self.election.holder() };
        let holder = holder.map(str::to_owned);
        self.role.send_if_modified(|role| {
            let led = role.leads(now);
            if until.is_some() && !led {
                role.term += 1;
                tracing::info!(identity = self.election.identity(), term = role.term, "this replica leads");
            } else if until.is_none() && role.until.is_some() {
                tracing::info!(holder = holder.as_deref(), "this replica does not lead any more");
            }
            let changed = role.until != until || role.holder != holder;
            role.until = until;
            role.holder = holder;
            changed
        });
    }
}

fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> LeaseError {
    move |source| LeaseError::Api { doing, source }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let LeaseSpec { holder_identity, renew_time, lease_duration_seconds, lease_transitions, .. } = spec;
    Record {
        holder: holder_identity.unwrap_or_default(),
        renewed: renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        duration: Duration::from_secs(
            lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
        ),
        transitions: lease_transitions.unwrap_or(0),
    }
}

/// An error with its sources, for logs and callers.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut said = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(&text);
            }
            source = error.source();
        }
        Ok(())
    }
}
