//! The node's part: Open vSwitch, bridges, attaching, collecting; started when the gate is first on.
//!
//! One task, which waits for the gate and then for the stop, with tasks of its own in a set that ends with it. Must never
//! wait for Open vSwitch: the handles connect for ever by themselves.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};
use trunkline_ovs::{Ovsdb, OvsdbOptions};

use super::{chain::Chain, gate::Gate, node_events, wiring::Cluster};
use crate::{
    attach::{AttachDeps, Attacher},
    bridge::{Bridges, BridgesOptions},
    cli::{Options, chain},
    config::ConfigHandle,
    flows::{FlowService, FlowsOptions},
    gc,
    http::Readiness,
    journal::{Journal, JournalError},
    kube::{
        events::{Recorder, reason},
        neighbours,
    },
    metrics::Metrics,
    netns::{NetnsError, NetnsThread},
    netwatch::{NetWatch, Sightings},
};

/// Why the node's part cannot be started.
#[derive(Debug, Error)]
enum NodeError {
    /// What is to be undone is not known.
    #[error("cannot open the journal")]
    Journal(#[source] JournalError),
    /// Namespaces cannot be entered.
    #[error("cannot start the thread that enters network namespaces")]
    Netns(#[source] NetnsError),
    /// It is not known which boot this is.
    #[error("cannot read the boot id {}", path.display())]
    BootId {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The plugin's binary is not there.
    #[error("the plugin's binary {} is missing; name it with --plugin", path.display())]
    Plugin {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// What the node's part is made with.
pub(super) struct Node {
    pub(super) options: Options,
    pub(super) name: String,
    pub(super) config: ConfigHandle,
    pub(super) cluster: Cluster,
    pub(super) gate: Gate,
    pub(super) readiness: watch::Sender<Readiness>,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    /// Ends what takes in work, before the rest.
    pub(super) intake_stop: CancellationToken,
    /// Was Antrea's configuration looked at already.
    pub(super) checked: bool,
}

impl Node {
    /// Waits for the gate, starts the node's part, and keeps it until the stop. Returns early when it cannot be started.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut config = self.config.watch();
        tokio::select! { biased;
            () = stop.cancelled() => return,
            on = config.wait_for(|config| config.gates.secondary_network) => if on.is_err() { return },
        }
        if !self.checked
            && let Err(conflict) = neighbours::check(self.cluster.objects.client()).await
        {
            self.recorder.node(reason::ANTREA_CONFLICT, format!("the agent stops: {conflict}"));
            error!(%conflict, "the node's part is not started");
            return;
        }
        let (mut tasks, bridges) = match self.start(&stop) {
            Ok(started) => started,
            Err(problem) => {
                error!(problem = %chain(&problem), "the node's part cannot be started");
                return;
            }
        };
        let apply = async {
            loop {
                let now = Arc::clone(&config.borrow_and_update());
                // With the gate off again, everything stays as it is.
                if now.gates.secondary_network {
                    bridges.apply(&now);
                }
                if config.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! { biased;
            () = stop.cancelled() => {}
            ended = tasks.join_next() => if !stop.is_cancelled() {
                error!(?ended, "a task of the node's part ended by itself");
                return;
            },
            () = apply => {}
        }
        while tasks.join_next().await.is_some() {}
    }

    fn start(&self, stop: &CancellationToken) -> Result<(JoinSet<()>, Bridges), NodeError> {
        let config = self.config.current();
        let journal = Journal::open(&self.options.journal).map_err(NodeError::Journal)?;
        let netns = NetnsThread::start().map_err(NodeError::Netns)?;
        let boot_id = boot_id(&self.options)?;
        let plugin = plugin(&self.options)?;
        let run_dir = config.ovs_run_dir.clone();
        let ovsdb = Ovsdb::connect(OvsdbOptions::new(run_dir.join("db.sock")));
        let replica = ovsdb.replica();
        let bridges = Bridges::start(ovsdb, BridgesOptions { run_dir: run_dir.clone(), boot_id, journal });

        let mut tasks = JoinSet::new();
        let (recorder, metrics) = (|| self.recorder.clone(), || Arc::clone(&self.metrics));
        let task = node_events::follow_ovs(replica, run_dir, recorder(), metrics(), stop.clone());
        tasks.spawn(task.instrument(info_span!("ovs")));
        let task = node_events::follow_bridges(bridges.state(), recorder(), metrics(), stop.clone());
        tasks.spawn(task.instrument(info_span!("bridges")));
        let words = watch::Sender::new("not dealt with yet".to_owned());
        let others = self.watch_namespaces(&netns, stop, &mut tasks);
        let flows = self.flows(&bridges, others);
        if let Ok(service) = &flows {
            tasks.spawn(service.clone().run(stop.clone()).instrument(info_span!("flows")));
        }
        let attacher = self.attacher(&bridges, netns, words.subscribe(), flows);
        let keeper = Chain {
            config: self.config.clone(),
            socket: self.options.socket.clone(),
            plugin,
            conf_dir: config.cni_conf_dir.clone(),
            bin_dir: config.cni_bin_dir.clone(),
            words,
            readiness: self.readiness.clone(),
            recorder: recorder(),
            metrics: metrics(),
        };
        tasks.spawn(keeper.run(stop.clone()).instrument(info_span!("conflist")));
        let (collecting, ending) = (gc::run(attacher.clone(), self.intake_stop.clone()), stop.clone());
        // It ends with the intake; the set is looked at for tasks that end before the stop.
        let collecting = async move {
            collecting.await;
            ending.cancelled().await;
        };
        tasks.spawn(collecting.instrument(info_span!("gc")));
        self.gate.open(attacher);
        info!("the node's part is started");
        Ok((tasks, bridges))
    }

    /// Follows every namespace where `flows.all` asks for it.
    fn watch_namespaces(
        &self,
        netns: &NetnsThread,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Option<watch::Receiver<Arc<Sightings>>> {
        let flows = &self.config.current().flows;
        if !(flows.enabled && flows.all.enabled) {
            return None;
        }
        match NetWatch::new(flows.all.clone(), netns.clone()) {
            Ok((watch, sightings)) => {
                tasks.spawn(watch.run(stop.clone()).instrument(info_span!("netwatch")));
                Some(sightings)
            }
            Err(problem) => {
                error!(problem = %chain(&problem), "only interfaces of Trunkline's have taps");
                None
            }
        }
    }

    /// Taps and flows. A node that cannot have them attaches pods all the same, and says why nothing is seen.
    fn flows(
        &self,
        bridges: &Bridges,
        others: Option<watch::Receiver<Arc<Sightings>>>,
    ) -> Result<FlowService, String> {
        let config = self.config.current().flows.clone();
        if !config.enabled {
            return Err("flows.enabled is false in trunkline-agent.conf".to_owned());
        }
        let options = FlowsOptions {
            node: self.name.clone(),
            config,
            bpffs: self.options.bpffs.clone(),
            bridges: bridges.clone(),
            objects: self.cluster.objects.clone(),
            recorder: self.recorder.clone(),
            metrics: Arc::clone(&self.metrics),
            others,
        };
        FlowService::start(options).map_err(|problem| {
            let words = chain(&problem);
            error!(problem = %words, "no flows are seen");
            self.recorder.node(reason::FLOWS_UNAVAILABLE, format!("no flows are seen: {words}"));
            words
        })
    }

    fn attacher(
        &self,
        bridges: &Bridges,
        netns: NetnsThread,
        conflist: watch::Receiver<String>,
        flows: Result<FlowService, String>,
    ) -> Attacher {
        Attacher::new(AttachDeps {
            node: self.name.clone(),
            config: self.config.clone(),
            conflist,
            objects: self.cluster.objects.clone(),
            bridges: bridges.clone(),
            ipam: self.cluster.ipam.clone(),
            netns,
            events: self.recorder.clone(),
            status: self.cluster.status.clone(),
            metrics: Arc::clone(&self.metrics),
            flows,
        })
    }
}

fn boot_id(options: &Options) -> Result<String, NodeError> {
    let path = &options.boot_id_file;
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(NodeError::BootId { path: path.clone(), source }),
    }
}

/// The plugin's binary: as named, else beside this program.
fn plugin(options: &Options) -> Result<PathBuf, NodeError> {
    let beside = || {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("trunkline-agent"));
        program.with_file_name(crate::conflist::PLUGIN)
    };
    let path = options.plugin.clone().unwrap_or_else(beside);
    if path.is_file() { Ok(path) } else { Err(NodeError::Plugin { path }) }
}
