//! The agent's socket: requests of the CNI plugin and of `dump`, answered by a handler.
//!
//! Tasks: one accepts; each connection has one of its own, kept in a [`JoinSet`] and bounded by [`CONNECTIONS`]. A
//! connection carries one request. Dropping a handler's future is how an expired deadline or a plugin that hung up
//! cancels it, so a handler must undo from its own state (a guard, a later DEL), never from code after an await.
//! Owns the wire; must not know what attaching means.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::protocol::{self, Failure, Operation, Outcome, Request, Response};

/// Connections served at once; further ones wait in the socket's backlog.
pub const CONNECTIONS: usize = 256;

/// Longest request in bytes: annotations have at most 256 KiB, a previous result a few.
const MAX_REQUEST: u64 = 2 * 1024 * 1024;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of the deadline that a plugin may ask for.
const MAX_DEADLINE: Duration = Duration::from_mins(3);

/// How long open requests may go on after a stop.
const DRAIN: Duration = Duration::from_secs(10);

/// CNI error codes that we use (CNI specification 1.1, section 5).
pub mod code {
    /// Environment variables of the plugin are missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// A message could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// Ours: the request was understood and could not be carried out.
    pub const FAILED: u32 = 100;
    /// Ours: it took longer than the deadline.
    pub const DEADLINE: u32 = 101;
    /// Ours: the agent is starting; the plugin asks again by itself until its deadline.
    pub const NOT_READY: u32 = 102;
}

/// The pod sandbox that a request is about.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxRequest {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; `None` where the runtime has lost it (DEL only).
    pub netns: Option<PathBuf>,
    /// The primary interface's name.
    pub ifname: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// `K8S_POD_UID`; absent with very old runtimes. For a static pod it is the hash of its manifest.
    pub pod_uid: Option<String>,
    /// Name of the network configuration list: what the primary network is called in network-status.
    pub network: String,
    /// The pod's annotations; `None` when the runtime hands over none and the pod has to be looked up.
    pub annotations: Option<BTreeMap<String, String>>,
    /// The primary plugin's result.
    pub prev_result: Option<Value>,
    /// When the plugin was started, by the wall clock.
    pub started: SystemTime,
}

/// When a request must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline that far from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What an ADD attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddReply {
    /// Names of the interfaces inside the pod, in the order of the annotation; empty if it asked for none.
    pub interfaces: Vec<String>,
}

/// Carries out what the plugin asks for.
///
/// The server drops a returned future when the deadline passes or the plugin hangs up.
pub trait CniHandler: Send + Sync + 'static {
    /// Attaches all networks that the pod asks for, or none.
    fn add(
        &self,
        request: SandboxRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<AddReply, Failure>> + Send;

    /// Undoes what `add` did for this sandbox; succeeds when there is nothing.
    fn del(
        &self,
        request: SandboxRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Verifies that the sandbox's interfaces still exist.
    fn check(
        &self,
        request: SandboxRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The agent's view of the node, for `trunkline-agent dump`.
    fn dump(&self) -> Value;

    /// The flows of the node, for `trunkline-agent flows`; or why there are none.
    fn flows(&self) -> Result<Value, Failure>;
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process serves it.
    #[error("another agent already serves {}; stop it first", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The directory or the socket could not be made.
    #[error("cannot open the agent's socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The agent's listening socket.
#[derive(Debug)]
pub struct CniServer {
    listener: UnixListener,
    path: PathBuf,
}

impl CniServer {
    /// Does an agent serve this socket now.
    pub fn is_served(path: &Path) -> bool {
        std::os::unix::net::UnixStream::connect(path).is_ok()
    }

    /// Opens the socket: directory 0755, socket 0600, a leftover of an earlier agent replaced.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
            std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).map_err(failed)?;
        }
        if Self::is_served(path) {
            return Err(ServerError::InUse { path: path.to_owned() });
        }
        // Bound aside and renamed: the socket is never there with other rights, and never missing once it was there.
        let aside = path.with_extension("new");
        remove_if_there(&aside).map_err(failed)?;
        let listener = UnixListener::bind(&aside).map_err(failed)?;
        std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&aside, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop`, then lets open requests end for up to ten seconds and cancels the rest.
    ///
    /// The socket file stays: a plugin that finds nobody there retries until the next agent has replaced it.
    pub async fn run<H: CniHandler>(self, handler: Arc<H>, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let permit = tokio::select! { biased;
                () = stop.cancelled() => break,
                permit = Arc::clone(&permits).acquire_owned() => permit,
            };
            let accepted = tokio::select! { biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    let serve = async move {
                        serve_connection(stream, &*handler).await;
                        drop(permit);
                    };
                    connections.spawn(serve.instrument(tracing::info_span!("cni")));
                }
                Err(error) => {
                    // Out of descriptors, most likely: leave the others time to return theirs.
                    tracing::warn!(%error, socket = %self.path.display(), "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(open = connections.len(), "requests cancelled at stop");
            connections.shutdown().await;
        }
    }
}

async fn serve_connection<H: CniHandler>(stream: UnixStream, handler: &H) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    let mut line = Vec::new();
    match timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(length)) if length > 0 => {}
        // Nobody asked: a liveness probe, or a plugin that was killed.
        _ => return,
    }
    let (version, work) = match decode(&line) {
        Ok(request) => (request.version, request),
        Err(failure) => return answer(&mut writer, protocol::VERSION, Outcome::Error(failure)).await,
    };
    let outcome = tokio::select! { biased;
        outcome = dispatch(work, handler) => outcome,
        () = hung_up(&mut reader) => {
            tracing::info!("the plugin hung up; request cancelled");
            return;
        }
    };
    answer(&mut writer, version, outcome).await;
}

/// Returns when the client has closed its end. Cancel-safe: what it reads is thrown away in any case.
async fn hung_up(reader: &mut (impl AsyncReadExt + Unpin)) {
    let mut ignored = [0; 64];
    while matches!(reader.read(&mut ignored).await, Ok(length) if length > 0) {}
}

fn decode(line: &[u8]) -> Result<Request, Failure> {
    // The version first: a later one may have changed the rest.
    let undecodable = |error: serde_json::Error| Failure {
        code: code::DECODE,
        msg: "the agent cannot read the plugin's request".to_owned(),
        details: error.to_string(),
    };
    let head: protocol::VersionOnly = serde_json::from_slice(line).map_err(undecodable)?;
    let oldest = protocol::VERSION.saturating_sub(1).max(1);
    if !(oldest..=protocol::VERSION).contains(&head.version) {
        return Err(Failure {
            code: code::TRY_AGAIN,
            msg: format!(
                "trunkline-cni speaks protocol version {}, this trunkline-agent {oldest} to {}: one of the two was \
                 not updated, wait for the agent's rollout to end",
                head.version,
                protocol::VERSION
            ),
            details: String::new(),
        });
    }
    serde_json::from_slice(line).map_err(undecodable)
}

async fn dispatch<H: CniHandler>(request: Request, handler: &H) -> Outcome {
    let operation = request.op;
    match operation {
        Operation::Ping => return Outcome::Ok(json!({})),
        Operation::Dump => return Outcome::Ok(handler.dump()),
        Operation::Flows => return handler.flows().map_or_else(Outcome::Error, Outcome::Ok),
        Operation::Add | Operation::Del | Operation::Check => {}
    }
    let allowed = Duration::from_millis(request.deadline_ms.max(1)).min(MAX_DEADLINE);
    let deadline = Deadline::after(allowed);
    let sandbox = match sandbox_of(request) {
        Ok(sandbox) => sandbox,
        Err(failure) => return Outcome::Error(failure),
    };
    let pod = format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name);
    let work = async {
        match operation {
            Operation::Add => {
                handler.add(sandbox, deadline).await.map(|reply| json!({ "interfaces": reply.interfaces }))
            }
            Operation::Del => handler.del(sandbox, deadline).await.map(|()| json!({})),
            _ => handler.check(sandbox, deadline).await.map(|()| json!({})),
        }
    };
    match timeout_at(deadline.instant(), work).await {
        Ok(Ok(value)) => Outcome::Ok(value),
        Ok(Err(failure)) => Outcome::Error(failure),
        Err(_) => Outcome::Error(Failure {
            code: code::DEADLINE,
            msg: format!(
                "pod {pod}: its secondary networks were not ready within {} s",
                allowed.as_secs_f32()
            ),
            details: "what was begun is undone; the runtime tries again with a new sandbox".to_owned(),
        }),
    }
}

fn sandbox_of(request: Request) -> Result<SandboxRequest, Failure> {
    let mut args = request.args;
    let mut needed = |key: &str| {
        args.remove(key).filter(|value| !value.is_empty()).ok_or_else(|| Failure {
            code: code::INVALID_ENVIRONMENT,
            msg: format!("CNI_ARGS has no {key}; Trunkline serves Kubernetes pods only"),
            details: String::new(),
        })
    };
    Ok(SandboxRequest {
        pod_namespace: needed("K8S_POD_NAMESPACE")?,
        pod_name: needed("K8S_POD_NAME")?,
        pod_uid: needed("K8S_POD_UID").ok(),
        container_id: request.container_id,
        netns: (!request.netns.is_empty()).then(|| PathBuf::from(request.netns)),
        ifname: request.ifname,
        network: request.network,
        annotations: request.annotations,
        prev_result: request.prev_result,
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(request.started_unix_ms),
    })
}

async fn answer(writer: &mut (impl AsyncWriteExt + Unpin), version: u32, outcome: Outcome) {
    let response = Response { version, outcome };
    let mut line = serde_json::to_vec(&response).expect("strings and JSON values always serialise");
    line.push(b'\n');
    if let Err(error) = writer.write_all(&line).await {
        tracing::warn!(%error, "the plugin did not wait for its answer");
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
