//! Which part is given which other part.
//!
//! Owns construction and nothing after it; every task goes into one of the two sets of [`super`]. Must never wait for
//! something that another process has to do.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::{RunError, Tasks};
use crate::{
    cli::Options,
    config::{ConfigFollower, ConfigHandle},
    http::{self, Readiness},
    ipam_client::{IpamClient, IpamOptions},
    kube::{
        ObjectCache, WatchOptions, WatchTasks,
        events::{Recorder, Writer},
        status::StatusWriter,
    },
    metrics::Metrics,
    protocol::Failure,
    server::{AddReply, CniHandler, CniServer, Deadline, SandboxRequest},
};

/// What exists before anything is started.
pub(super) struct Parts {
    pub(super) options: Options,
    pub(super) node: String,
    pub(super) metrics: Arc<Metrics>,
    pub(super) recorder: Recorder,
    pub(super) writer: Writer,
    pub(super) config: ConfigHandle,
    pub(super) follower: ConfigFollower,
    pub(super) client: ::kube::Client,
}

/// The pods' work, which outlives the connections that asked for it.
pub(super) struct Work;

impl Work {
    /// Returns when what is under way has ended.
    pub(super) async fn settled(&self) {}
}

/// What talks to the API server and the controller.
struct Cluster {
    objects: ObjectCache,
    ipam: IpamClient,
    status: StatusWriter,
}

/// Starts every task.
pub(super) fn start(parts: Parts) -> Result<(Tasks, Tasks, Work), RunError> {
    let (mut intake, mut needed) = (Tasks::new(), Tasks::new());
    let server = CniServer::bind(&parts.options.socket)?;
    let readiness = watch::Sender::new(Readiness {
        config: true,
        socket: true,
        conflist: !parts.config.current().gates.secondary_network,
    });
    serve_http(&parts, readiness.subscribe(), &mut needed);
    let config = parts.config.clone();
    let recorder = parts.recorder.clone();
    let cluster = start_cluster(parts, &mut needed);
    let _ = (config, recorder, cluster.objects, cluster.ipam, cluster.status);
    let stop = intake.stop();
    intake.spawn("socket", server.run(Arc::new(NotReady), stop));
    Ok((intake, needed, Work))
}

fn serve_http(parts: &Parts, readiness: watch::Receiver<Readiness>, needed: &mut Tasks) {
    let config = parts.config.current();
    let port = parts.options.metrics_port.unwrap_or(config.metrics_port);
    let address = SocketAddr::new(config.metrics_bind_address, port);
    let metrics = Arc::clone(&parts.metrics);
    let serving = http::serve(address, metrics, readiness, needed.stop());
    needed.spawn("http", serving);
}

fn start_cluster(parts: Parts, needed: &mut Tasks) -> Cluster {
    let Parts { options, node, metrics, recorder, writer, follower, client, .. } = parts;
    let objects = ObjectCache::new(client.clone());
    let stop = needed.stop();
    needed.spawn("config", follower.run(stop.clone()));
    needed.spawn("events", writer.run(client.clone(), objects.node_uid(), stop.clone()));
    let watched =
        WatchOptions { node: node.clone(), namespace: options.namespace, ca_file: options.ipam_ca_file };
    let watches = WatchTasks::start(&objects, watched, recorder, &metrics, &stop);
    needed.spawn("watches", watches.join());
    let ipam = IpamOptions {
        node,
        token_file: options.ipam_token_file,
        address: objects.controller_address(),
        ca: objects.ca(),
    };
    let (ipam, releases) = IpamClient::new(ipam, metrics);
    needed.spawn("releases", releases.run(stop));
    Cluster { objects, ipam, status: StatusWriter::new(client) }
}

/// Answers until there is something that can attach pods.
struct NotReady;

impl NotReady {
    fn failure() -> Failure {
        Failure {
            code: crate::server::code::TRY_AGAIN,
            msg: "the agent is not ready to attach pods yet".to_owned(),
            details: String::new(),
        }
    }
}

impl CniHandler for NotReady {
    async fn add(&self, _: SandboxRequest, _: Deadline) -> Result<AddReply, Failure> {
        Err(Self::failure())
    }

    async fn del(&self, _: SandboxRequest, _: Deadline) -> Result<(), Failure> {
        Err(Self::failure())
    }

    async fn check(&self, _: SandboxRequest, _: Deadline) -> Result<(), Failure> {
        Err(Self::failure())
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}
