//! Which part is given which other part.
//!
//! Owns construction and nothing after it; every task goes into one of the two sets of [`super`]. Must never wait for
//! something that another process has to do.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::{RunError, Tasks, gate::Gate, node::Node};
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
    server::CniServer,
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

/// What talks to the API server and the controller.
pub(super) struct Cluster {
    pub(super) objects: ObjectCache,
    pub(super) ipam: IpamClient,
    pub(super) status: StatusWriter,
}

/// Starts every task. Antrea's configuration was looked at if `checked`.
pub(super) fn start(parts: Parts, checked: bool) -> Result<(Tasks, Tasks, Gate), RunError> {
    let (mut intake, mut needed) = (Tasks::new(), Tasks::new());
    let server = CniServer::bind(&parts.options.socket)?;
    let gate = Gate::new(parts.node.clone(), parts.config.clone());
    let conflist = !parts.config.current().gates.secondary_network;
    let readiness = watch::Sender::new(Readiness { config: true, socket: true, conflist });
    serve_http(&parts, readiness.subscribe(), &mut needed);
    let (options, name) = (parts.options.clone(), parts.node.clone());
    let (config, recorder, metrics) =
        (parts.config.clone(), parts.recorder.clone(), Arc::clone(&parts.metrics));
    let cluster = start_cluster(parts, &mut needed);
    let node = Node {
        options,
        name,
        config,
        cluster,
        gate: gate.clone(),
        readiness,
        recorder,
        metrics,
        intake_stop: intake.stop(),
        checked,
    };
    let stop = needed.stop();
    needed.spawn("node", node.run(stop));
    let stop = intake.stop();
    intake.spawn("socket", server.run(Arc::new(gate.clone()), stop));
    Ok((intake, needed, gate))
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
    let scope =
        WatchOptions { node: node.clone(), namespace: options.namespace, ca_file: options.ipam_ca_file };
    let watches = WatchTasks::start(&objects, scope, recorder, &metrics, &stop);
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
