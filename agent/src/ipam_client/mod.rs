//! The agent's client of the IPAM service: asks the leading controller for addresses and gives them back.
//!
//! Owns the one channel, its CA and token, and every retry. Connects to the address on the Lease, so neither Service
//! nor DNS is needed, and checks the name in the certificate. Must never choose an address, nor write an `IPPool`.
//!
//! Every call is idempotent by (pod UID, interface), so a call may be dropped at any await and repeated.

mod connection;
mod error;
mod releases;
mod retry;

pub use error::IpamError;
pub use releases::ReleaseWorker;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{Response, Status, transport::Channel};
use trunkline_ipam::proto::{
    AllocateRequest, AllocateResponse, Claim, ListByNodeRequest, ReleaseRequest, ReportConflictRequest,
    ipam_client::IpamClient as Stub,
};

use self::{
    connection::{Connection, Target},
    retry::Backoff,
};
use crate::metrics::Metrics;

/// One attempt; a leader that has died silently costs no more than this.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Releases that wait for the worker; more are left to the controller's garbage collection.
const RELEASES: usize = 1024;
/// Attempts that the service may refuse for the token's sake before that is believed.
const TOKEN_ATTEMPTS: u32 = 3;

/// Where the service is and how to be believed there.
#[derive(Clone, Debug)]
pub struct IpamOptions {
    /// This node's name; the service checks it against the token.
    pub node: String,
    /// File with a service-account token of audience `trunkline-ipam`, bound to this node.
    pub token_file: PathBuf,
    /// `<ip>:<port>` of the leader, as it comes and changes.
    pub address: watch::Receiver<Option<String>>,
    /// PEM bundle of the CA, as it comes and changes.
    pub ca: watch::Receiver<Option<String>>,
}

/// A handle on the IPAM service; cheap to clone.
#[derive(Clone, Debug)]
pub struct IpamClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: String,
    connection: Connection,
    releases: mpsc::Sender<ReleaseRequest>,
    metrics: Arc<Metrics>,
}

impl IpamClient {
    /// A client, and the worker that must be run for [`IpamClient::release_later`] to do anything. Does not connect.
    pub fn new(options: IpamOptions, metrics: Arc<Metrics>) -> (Self, ReleaseWorker) {
        let (releases, queue) = mpsc::channel(RELEASES);
        let connection = Connection::new(options.token_file, options.address, options.ca);
        let inner = Inner { node: options.node, connection, releases, metrics };
        let client = Self { inner: Arc::new(inner) };
        (client.clone(), ReleaseWorker::new(client, queue))
    }

    /// Claims addresses for every interface of a pod, all or none. `node` is filled in.
    pub async fn allocate(
        &self,
        mut request: AllocateRequest,
        deadline: Instant,
    ) -> Result<AllocateResponse, IpamError> {
        request.node.clone_from(&self.inner.node);
        let send = |mut stub: Stub<Channel>, request| async move { stub.allocate(request).await };
        self.call("allocate", request, deadline, send).await
    }

    /// Gives back what a pod's sandbox holds; returns the names of the released objects. `node` is filled in.
    pub async fn release(
        &self,
        mut request: ReleaseRequest,
        deadline: Instant,
    ) -> Result<Vec<String>, IpamError> {
        request.node.clone_from(&self.inner.node);
        let send = |mut stub: Stub<Channel>, request| async move { stub.release(request).await };
        Ok(self.call("release", request, deadline, send).await?.released)
    }

    /// Gives back in the background, with retries. Never waits; what is lost here (a full queue, a killed agent) the
    /// controller collects.
    pub fn release_later(&self, request: ReleaseRequest) {
        if let Err(refused) = self.inner.releases.try_send(request) {
            let pod = refused.into_inner().pod.unwrap_or_default();
            tracing::warn!(
                namespace = %pod.namespace, pod = %pod.name,
                "release is left to the controller's garbage collection: too many wait"
            );
        }
        self.count_backlog(0);
    }

    /// Everything that is claimed for pods of this node.
    pub async fn list_by_node(&self, deadline: Instant) -> Result<Vec<Claim>, IpamError> {
        let request = ListByNodeRequest { node: self.inner.node.clone() };
        let send = |mut stub: Stub<Channel>, request| async move { stub.list_by_node(request).await };
        Ok(self.call("list_by_node", request, deadline, send).await?.claims)
    }

    /// A duplicate-address probe was answered: the address is to rest. `node` is filled in.
    pub async fn report_conflict(
        &self,
        mut request: ReportConflictRequest,
        deadline: Instant,
    ) -> Result<(), IpamError> {
        request.node.clone_from(&self.inner.node);
        let send = |mut stub: Stub<Channel>, request| async move { stub.report_conflict(request).await };
        self.call("report_conflict", request, deadline, send).await.map(|_| ())
    }

    fn count_backlog(&self, working: usize) {
        let queue = &self.inner.releases;
        self.inner.metrics.set_release_backlog(queue.max_capacity() - queue.capacity() + working);
    }

    /// Repeats a call until it is answered, refused for good, or `deadline` passes.
    async fn call<Req, Resp, Sent>(
        &self,
        method: &'static str,
        request: Req,
        deadline: Instant,
        send: impl Fn(Stub<Channel>, tonic::Request<Req>) -> Sent,
    ) -> Result<Resp, IpamError>
    where
        Req: Clone,
        Sent: Future<Output = Result<Response<Resp>, Status>>,
    {
        let started = Instant::now();
        let result = self.repeat(method, request, deadline, send).await;
        let label = result.as_ref().map_or_else(IpamError::label, |_| "ok");
        self.inner.metrics.observe_ipam(method, label, started.elapsed());
        result
    }

    async fn repeat<Req, Resp, Sent>(
        &self,
        method: &'static str,
        request: Req,
        deadline: Instant,
        send: impl Fn(Stub<Channel>, tonic::Request<Req>) -> Sent,
    ) -> Result<Resp, IpamError>
    where
        Req: Clone,
        Sent: Future<Output = Result<Response<Resp>, Status>>,
    {
        let connection = &self.inner.connection;
        let mut backoff = Backoff::default();
        let mut unauthenticated = 0;
        loop {
            let target = connection.target(deadline).await?;
            let mut error = match self.attempt(&target, request.clone(), deadline, &send).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.is_unauthenticated() {
                connection.forget_token();
                unauthenticated += 1;
                if unauthenticated < TOKEN_ATTEMPTS {
                    error = error.into_transient(&target.address);
                }
            }
            let pause = backoff.next_pause();
            if !error.is_transient() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            self.inner.metrics.add_ipam_retry(method);
            connection.pause(&target, pause).await;
        }
    }

    /// One attempt, given up when the target changes under it: the old leader may be gone.
    async fn attempt<Req, Resp, Sent>(
        &self,
        target: &Target,
        request: Req,
        deadline: Instant,
        send: &impl Fn(Stub<Channel>, tonic::Request<Req>) -> Sent,
    ) -> Result<Resp, IpamError>
    where
        Sent: Future<Output = Result<Response<Resp>, Status>>,
    {
        let connection = &self.inner.connection;
        let (channel, token) = connection.open(target).await?;
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("authorization", token);
        let until = deadline.min(Instant::now() + ATTEMPT);
        let unavailable = |message: &str| IpamError::Unavailable {
            address: target.address.clone(),
            message: message.to_owned(),
        };
        tokio::select! { biased;
            answer = send(Stub::new(channel), request) => match answer {
                Ok(response) => Ok(response.into_inner()),
                Err(status) => Err(IpamError::from_status(&target.address, &status)),
            },
            () = connection.replaced(target) => Err(unavailable("another controller leads now")),
            () = tokio::time::sleep_until(until) => Err(unavailable("no answer in time")),
        }
    }
}

#[cfg(test)]
mod tests;
