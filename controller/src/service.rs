//! The IPAM service as agents call it.
//!
//! Owns who may call what, and the words of refusals. Every call that writes runs as a task of its own, so that a
//! caller that goes away leaves nothing half done. Must never pick an address; the ledger does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use trunkline_ipam::proto;
use trunkline_ipam::proto::ipam_server::Ipam;

use crate::auth::{AuthError, Authenticator, Caller, Denied};
use crate::claims::{Claims, is_transient};
use crate::guard::{Guard, GuardError};
use crate::keeper::Notices;
use crate::lease::Chain;
use crate::ledger::LedgerHandle;
use crate::metrics::Metrics;
use crate::pods::{PodError, PodRefused, Pods};
use crate::role::{NotServing, RoleReader};
use crate::turns::Turns;

mod allocate;
mod answer;
mod parse;
mod release;

/// Everything that calls need; cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: LedgerHandle,
    claims: Claims,
    guard: Guard,
    pods: Pods,
    turns: Turns,
    auth: Authenticator,
    role: RoleReader,
    metrics: Metrics,
    notices: Notices,
    rest: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Calls under way; they end with the controller.
    calls: Mutex<JoinSet<()>>,
}

/// What the service is made of.
pub struct Parts {
    /// The ledger.
    pub ledger: LedgerHandle,
    /// Writes claims.
    pub claims: Claims,
    /// Writes pools' finalizers.
    pub guard: Guard,
    /// Pods and nodes.
    pub pods: Pods,
    /// Turns of pods.
    pub turns: Turns,
    /// Judges callers.
    pub auth: Authenticator,
    /// Whether this replica serves.
    pub role: RoleReader,
    /// Metrics.
    pub metrics: Metrics,
    /// Events on pools.
    pub notices: Notices,
    /// How long an address rests after a conflict, as configured now.
    pub rest: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl Service {
    /// A service of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { ledger, claims, guard, pods, turns, auth, role, metrics, notices, rest } = parts;
        let calls = Mutex::default();
        let inner = Inner { ledger, claims, guard, pods, turns, auth, role, metrics, notices, rest, calls };
        Self { inner: Arc::new(inner) }
    }

    /// Judges the caller, and whether this replica serves.
    async fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.inner.role.serves().map_err(|error| not_serving(&error))?;
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token =
            header.and_then(|header| header.strip_prefix("Bearer ")).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Status::unauthenticated(Denied::NoToken.to_string()))?;
        self.inner.auth.authenticate(token).await.map_err(|error| auth_status(&error))
    }

    /// Runs a call to its end, whether or not its caller waits for it.
    async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let call = async move {
            // Nobody may be waiting any more; what the call did stands.
            let _ = answer.send(call.await);
        };
        {
            let mut calls = self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner);
            while calls.try_join_next().is_some() {}
            calls.spawn(call.in_current_span());
        }
        answered.await.unwrap_or_else(|_| Err(Status::unavailable("the controller is stopping")))
    }
}

/// A caller speaks for its own node only.
fn same_node(caller: &Caller, node: &str) -> Result<(), Status> {
    if caller.node == node {
        return Ok(());
    }
    let text = format!("the token is bound to node {}, the call is for node {node:?}", caller.node);
    Err(Status::permission_denied(text))
}

fn not_serving(error: &NotServing) -> Status {
    match error {
        // Not transient: agents would wait for it until the pod's deadline.
        NotServing::GateOff => Status::unimplemented(error.to_string()),
        NotServing::Follower { .. } | NotServing::NoLeader | NotServing::Reading => {
            Status::unavailable(error.to_string())
        }
    }
}

fn auth_status(error: &AuthError) -> Status {
    match error {
        AuthError::Denied(Denied::NoToken | Denied::Invalid { .. }) => {
            Status::unauthenticated(error.to_string())
        }
        AuthError::Denied(_) => Status::permission_denied(error.to_string()),
        AuthError::Review(_) => Status::unavailable(Chain(error).to_string()),
    }
}

fn pod_status(error: &PodError) -> Status {
    match error {
        PodError::Refused(PodRefused::OtherNode { .. }) => Status::permission_denied(error.to_string()),
        PodError::Refused(_) => Status::not_found(error.to_string()),
        PodError::Read { .. } => Status::unavailable(Chain(error).to_string()),
    }
}

/// The API server did not do what was asked.
fn api_status(error: &(dyn std::error::Error + 'static), transient: bool) -> Status {
    let text = Chain(error).to_string();
    if transient { Status::unavailable(text) } else { Status::internal(text) }
}

fn guard_status(error: &GuardError) -> Status {
    match error {
        GuardError::Absent { .. } | GuardError::Deleting { .. } => Status::not_found(error.to_string()),
        GuardError::Busy { .. } | GuardError::Gone(_) => Status::unavailable(error.to_string()),
        GuardError::Api { source, .. } => api_status(error, is_transient(source)),
    }
}

fn stopping(error: crate::ledger::LedgerGone) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Ipam for Service {
    async fn allocate(
        &self,
        request: Request<proto::AllocateRequest>,
    ) -> Result<Response<proto::AllocateResponse>, Status> {
        let started = Instant::now();
        let outcome = async {
            let caller = self.admit(&request).await?;
            let asked = parse::allocate(request.into_inner())?;
            same_node(&caller, &asked.node)?;
            let inner = self.inner.clone();
            self.run(async move { inner.allocate(asked).await }).await
        }
        .await;
        let result = outcome.as_ref().map_or_else(|status| result_of(status.code()), |_| "ok");
        self.inner.metrics.allocated(result, started.elapsed().as_secs_f64());
        outcome.map(Response::new)
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let caller = self.admit(&request).await?;
        let asked = request.into_inner();
        same_node(&caller, &asked.node)?;
        let inner = self.inner.clone();
        self.run(async move { inner.release(asked).await }).await.map(Response::new)
    }

    async fn list_by_node(
        &self,
        request: Request<proto::ListByNodeRequest>,
    ) -> Result<Response<proto::ListByNodeResponse>, Status> {
        let caller = self.admit(&request).await?;
        let node = request.into_inner().node;
        same_node(&caller, &node)?;
        let claims = self
            .inner
            .ledger
            .call(move |ledger, _| {
                ledger.of_node(&node).iter().map(|claim| answer::claim(ledger, claim)).collect()
            })
            .await
            .map_err(stopping)?;
        Ok(Response::new(proto::ListByNodeResponse { claims }))
    }

    async fn report_conflict(
        &self,
        request: Request<proto::ReportConflictRequest>,
    ) -> Result<Response<proto::ReportConflictResponse>, Status> {
        let caller = self.admit(&request).await?;
        let asked = request.into_inner();
        same_node(&caller, &asked.node)?;
        self.inner.report_conflict(asked).await?;
        Ok(Response::new(proto::ReportConflictResponse {}))
    }
}

/// Label of the metric.
fn result_of(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::ResourceExhausted => "exhausted",
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => "denied",
        tonic::Code::NotFound => "not_found",
        tonic::Code::InvalidArgument | tonic::Code::AlreadyExists | tonic::Code::Unimplemented => "refused",
        tonic::Code::Unavailable => "unavailable",
        _ => "error",
    }
}
