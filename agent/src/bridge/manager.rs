//! The handle that the rest of the agent holds, and the manager task behind it.
//!
//! Tasks: the manager (one), which drops pod ports of an earlier boot before anything else, starts a task per bridge,
//! and the link watcher's loop inside it. Both end when the last clone of [`Bridges`] is dropped. Each await of the
//! manager's `select!` is a `watch`, a `JoinSet` or a [`LinkWatch`], all cancel-safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::Instrument as _;
use trunkline_api::{AgentConfig, BridgeName};
use trunkline_ovs::{Ovsdb, Replica, del_port};

use super::exec::Executor;
use super::kernel::KernelDatapath;
use super::nics::NicWatcher;
use super::observe::{self, Nics};
use super::plan::Wanted;
use super::ports::keys;
use super::shared::Shared;
use super::state::{BridgeCondition, BridgeState, BridgeStates};
use super::switch::SwitchOptions;
use super::task::{BridgeTask, Context, chain};
use crate::journal::Journal;

/// Pause after something could not be done.
const RETRY: Duration = Duration::from_secs(1);

/// What the bridges are kept with.
#[derive(Clone, Debug)]
pub struct BridgesOptions {
    /// OVS' run directory, where `<bridge>.mgmt` is.
    pub run_dir: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What must be undone exactly.
    pub journal: Journal,
}

/// The node's bridges. Clones share one manager.
#[derive(Clone, Debug)]
pub struct Bridges {
    pub(super) core: Arc<Core>,
    _manager: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the handle and the manager share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) ovsdb: Ovsdb,
    pub(super) options: BridgesOptions,
    pub(super) states: watch::Sender<BridgeStates>,
    pub(super) switches: SwitchOptions,
    /// `None` until the first configuration: without one nothing is known to be unwanted.
    wanted: watch::Sender<Option<BTreeMap<BridgeName, Wanted>>>,
    shared: Mutex<HashMap<String, Arc<Shared>>>,
}

impl Bridges {
    /// Touches nothing before [`Self::apply`] has said which bridges there should be. Must be called inside a tokio runtime.
    pub fn start(ovsdb: Ovsdb, options: BridgesOptions) -> Self {
        let core = Arc::new(Core {
            switches: SwitchOptions { run_dir: options.run_dir.clone() },
            ovsdb,
            options,
            states: watch::Sender::new(BridgeStates::default()),
            wanted: watch::Sender::new(None),
            shared: Mutex::default(),
        });
        let manager = Manager::new(Arc::clone(&core)).run().instrument(tracing::info_span!("bridges"));
        Self { core, _manager: Arc::new(AbortOnDrop(tokio::spawn(manager))) }
    }

    /// Makes the node's bridges what this configuration says. Returns at once; [`Self::state`] tells how it goes.
    pub fn apply(&self, config: &AgentConfig) {
        let wanted: BTreeMap<_, _> = config
            .bridges
            .iter()
            .map(|bridge| (bridge.name.clone(), observe::wanted(bridge, config.datapath)))
            .collect();
        self.core.states.send_if_modified(|states| {
            let fresh: Vec<_> = wanted.keys().filter(|name| !states.contains_key(*name)).cloned().collect();
            let states = Arc::make_mut(states);
            let changed = !fresh.is_empty();
            states.extend(fresh.into_iter().map(|name| (name.clone(), not_yet(name))));
            changed
        });
        self.core.wanted.send_replace(Some(wanted));
    }

    /// The state of every bridge that is configured, or ours and still there; now and as it changes.
    pub fn state(&self) -> watch::Receiver<BridgeStates> {
        self.core.states.subscribe()
    }
}

impl Core {
    /// The lists of one bridge's task, made on first use.
    pub(super) fn shared(&self, bridge: &str) -> Arc<Shared> {
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(bridge.to_owned()).or_default())
    }
}

/// A bridge that its task has not looked at yet.
fn not_yet(name: BridgeName) -> BridgeState {
    let reason = "it is not set up yet".to_owned();
    BridgeState {
        conditions: vec![BridgeCondition::Pending { bridge: name.clone(), reason }],
        name,
        configured: true,
        exists: false,
        ready: false,
        flows_installed: false,
        datapath: None,
        origin: None,
        uplinks: Vec::new(),
        pod_ports: 0,
    }
}

struct Manager {
    core: Arc<Core>,
    replica: watch::Receiver<Arc<Replica>>,
    wanted: watch::Receiver<Option<BTreeMap<BridgeName, Wanted>>>,
    nics: watch::Sender<Nics>,
    executor: Executor,
    kernel: KernelDatapath,
    tasks: JoinSet<BridgeName>,
    running: HashMap<BridgeName, watch::Sender<Option<Wanted>>>,
}

impl Manager {
    fn new(core: Arc<Core>) -> Self {
        let executor = Executor {
            ovsdb: core.ovsdb.clone(),
            journal: core.options.journal.clone(),
            boot_id: core.options.boot_id.clone(),
        };
        Self {
            replica: core.ovsdb.replica(),
            wanted: core.wanted.subscribe(),
            nics: watch::Sender::new(Nics::default()),
            executor,
            kernel: KernelDatapath::default(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            core,
        }
    }

    async fn run(mut self) {
        self.drop_ports_of_earlier_boots().await;
        let mut watcher = NicWatcher::new();
        if self.wanted.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let wanted = self.wanted.borrow_and_update().clone().unwrap_or_default();
            let replica = Arc::clone(&self.replica.borrow_and_update());
            let mut names = interesting_nics(&wanted, &replica);
            names.extend(self.executor.journal.nics());
            if watcher.look(names).await {
                self.nics.send_if_modified(|nics| {
                    let changed = nics != watcher.nics();
                    nics.clone_from(watcher.nics());
                    changed
                });
            }
            if replica.connected {
                self.restore_leftovers(&replica, &wanted).await;
            }
            self.start_tasks(&wanted, &replica);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { break },
                changed = self.replica.changed() => if changed.is_err() { break },
                () = watcher.changed() => {}
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
    }

    /// vswitchd would otherwise re-attach a link of the same name with the old tag (design decision 3).
    async fn drop_ports_of_earlier_boots(&mut self) {
        loop {
            let replica = Arc::clone(&self.replica.borrow_and_update());
            if replica.connected {
                let stale = stale_ports(&replica, &self.core.options.boot_id);
                if stale.is_empty() {
                    return;
                }
                let operations = stale.iter().flat_map(|(bridge, port)| del_port(bridge, *port)).collect();
                match self.core.ovsdb.transact(operations).await {
                    Ok(_) => tracing::info!(count = stale.len(), "ports of an earlier boot dropped"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot drop the ports of an earlier boot, will try again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            } else if self.replica.changed().await.is_err() {
                return;
            }
        }
    }

    /// Offloads of a NIC that is no uplink any more, after a crash between taking it off and putting them back.
    async fn restore_leftovers(&self, replica: &Replica, wanted: &BTreeMap<BridgeName, Wanted>) {
        for nic in self.executor.journal.nics() {
            let is_wanted =
                wanted.values().any(|bridge| bridge.uplinks.iter().any(|uplink| uplink.nic == nic));
            let present = self.nics.borrow().contains_key(&nic);
            if !is_wanted
                && present
                && replica.port(&nic).is_none()
                && let Err(error) = self.executor.offloads_restore(&nic).await
            {
                tracing::warn!(error = %chain(&error), "cannot put offloads back");
            }
        }
    }

    fn start_tasks(&mut self, wanted: &BTreeMap<BridgeName, Wanted>, replica: &Replica) {
        let managed = replica.bridges().filter(|bridge| bridge.external_ids.contains_key(keys::MANAGED));
        let managed: BTreeSet<BridgeName> = managed.filter_map(|bridge| bridge.name.parse().ok()).collect();
        let asked: BTreeSet<BridgeName> = wanted.keys().cloned().collect();
        for name in managed.union(&asked).chain(&self.running.keys().cloned().collect::<BTreeSet<_>>()) {
            let target = wanted.get(name).cloned();
            match self.running.get(name) {
                Some(task) => {
                    task.send_if_modified(|now| {
                        let changed = *now != target;
                        *now = target;
                        changed
                    });
                }
                None => self.start_task(name.clone(), target),
            }
        }
    }

    fn start_task(&mut self, name: BridgeName, wanted: Option<Wanted>) {
        let (sender, receiver) = watch::channel(wanted);
        self.running.insert(name.clone(), sender);
        let context = Context {
            executor: self.executor.clone(),
            replica: self.core.ovsdb.replica(),
            nics: self.nics.subscribe(),
            states: self.core.states.clone(),
            kernel: self.kernel.clone(),
            switches: self.core.switches.clone(),
        };
        let shared = self.core.shared(name.as_str());
        let task = BridgeTask::new(name.clone(), context, receiver, shared);
        let span = tracing::info_span!("bridge", bridge = %name);
        let run = async move {
            task.run().await;
            name
        };
        self.tasks.spawn(run.instrument(span));
    }

    fn ended(&mut self, ended: Result<BridgeName, tokio::task::JoinError>) {
        match ended {
            Ok(name) => {
                self.running.remove(&name);
            }
            Err(error) => {
                // Which one is not known: all senders of ended tasks have no receiver left.
                tracing::error!(%error, "a bridge's task ended, starting it anew");
                self.running.retain(|_, task| task.receiver_count() > 0);
            }
        }
    }
}

/// Ports of pods of another boot: (bridge, port's row).
fn stale_ports(replica: &Replica, boot_id: &str) -> Vec<(String, trunkline_ovs::Uuid)> {
    let is_pod = |port: &trunkline_ovs::Port| {
        port.external_ids.get(keys::TYPE).is_some_and(|kind| kind == keys::TYPE_POD)
    };
    let is_stale =
        |port: &trunkline_ovs::Port| port.external_ids.get(keys::BOOT_ID).is_none_or(|boot| boot != boot_id);
    replica
        .ports()
        .filter(|port| is_pod(port) && is_stale(port))
        .filter_map(|port| Some((replica.bridge_of(port.uuid)?.name.to_string(), port.uuid)))
        .collect()
}

/// NICs that are uplinks of ours, or are to be.
fn interesting_nics(wanted: &BTreeMap<BridgeName, Wanted>, replica: &Replica) -> BTreeSet<String> {
    let asked = wanted.values().flat_map(|bridge| bridge.uplinks.iter().map(|uplink| uplink.nic.clone()));
    let is_uplink = |port: &&Arc<trunkline_ovs::Port>| {
        port.external_ids.get(keys::TYPE).is_some_and(|kind| kind == keys::TYPE_UPLINK)
    };
    asked.chain(replica.ports().filter(is_uplink).map(|port| port.name.to_string())).collect()
}
