//! The task that keeps taps as they should be, reads what they counted, and makes records of it.
//!
//! One task. It reconciles every two seconds, drains every interval and reads questions to name servers every second;
//! each await is a timer or an answer of an owner thread, and a dropped answer costs nothing: what is pinned is read by
//! the next look. On a stop it drains once more and closes every flow, so that an ordinary restart loses no record; taps
//! stay attached and go on counting.

mod dns;
mod others;
mod reading;
mod sampling;
mod switch;
mod told;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_api::FlowsConfig;
use trunkline_ebpf::{
    Budget, BudgetError, ClosedEpoch, Counters, Direction, Inherited, Reader, Slot, TapError, TapSet,
    possible_processors,
};

use super::allocations::Allocations;
use super::export::{ExportError, Exporters};
use super::loss::Losses;
use super::owner::{Owner, OwnerGone};
use super::record::{Endpoint, TapIdentity};
use super::table::{FlowTable, Timeouts};
use super::taps::{Changes, Taps};
use super::view::FlowsDump;
use super::wishes;
use crate::bridge::{Bridges, PodPortRow};
use crate::cli::chain;
use crate::dump::TapDump;
use crate::kube::ObjectCache;
use crate::kube::events::{Recorder, reason};
use crate::metrics::{Metrics, TapLabels};
use crate::netwatch::Sightings;

/// How often desired taps are compared with those found.
const RECONCILE: Duration = Duration::from_secs(2);
/// After this long, bridges that are still not set up do not keep the taps of uplinks that nobody wants.
const SETTLED: Duration = Duration::from_mins(1);
/// How long exporters may take at a stop to send what they have.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// Why there are no flows.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The budget is too small.
    #[error("flows.memoryMiB is too small")]
    Budget(#[from] BudgetError),
    /// The kernel or its BPF file system.
    #[error("taps cannot be had")]
    Taps(#[from] TapError),
    /// The BPF file system could not be mounted.
    #[error("cannot mount a BPF file system at {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// An exporter cannot work.
    #[error("flows.export cannot be served")]
    Export(#[from] ExportError),
}

/// What the service is made with.
pub struct FlowsOptions {
    /// This node's name.
    pub node: String,
    /// The configuration's `flows`.
    pub config: FlowsConfig,
    /// Where pins go: a BPF file system, or a folder where one is mounted.
    pub bpffs: PathBuf,
    /// This node's bridges.
    pub bridges: Bridges,
    /// NADs and pools.
    pub objects: ObjectCache,
    /// Where Events go.
    pub recorder: Recorder,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// What `flows.all` finds.
    pub others: Option<watch::Receiver<Arc<Sightings>>>,
}

/// What the task and those who ask share.
struct State {
    table: FlowTable,
    /// Counters of every tap since it was attached.
    totals: HashMap<(Slot, Direction), Counters>,
    as_of: SystemTime,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct FlowService {
    inner: Arc<Inner>,
}

struct Inner {
    options: FlowsOptions,
    taps: Taps,
    reader: Owner<Reader>,
    state: Mutex<State>,
    allocations: Mutex<Allocations>,
    losses: Mutex<Losses>,
    /// What the reader was told last: taps of which one frame in so many is looked at.
    sampling: Mutex<Option<HashMap<Slot, u32>>>,
    networks_compared: Once,
    /// Whether questions to name servers are followed.
    dns: bool,
    /// Whether the last look at them failed.
    dns_failing: AtomicBool,
    exporters: Exporters,
    /// What taps of another memory budget or version still held when this process took them over.
    inherited: Mutex<Vec<ClosedEpoch>>,
    started: Instant,
}

impl FlowService {
    /// Loads the programs and takes over what an earlier process left. Blocks for as long as the verifier takes.
    pub fn start(options: FlowsOptions) -> Result<Self, StartError> {
        let FlowsConfig { memory_bytes, max_taps, active_timeout, idle_timeout, .. } = options.config;
        let processors = possible_processors();
        let capacity = Budget { bytes: memory_bytes, taps: max_taps, processors }.capacity()?;
        mount_if_needed(&options.bpffs)?;
        let mut set = TapSet::open(&options.bpffs.join("trunkline"), capacity)?;
        let mut reader = set.reader()?;
        let inherited = inherited(&mut set, &options.metrics);
        if reader.interrupted() {
            tracing::warn!(
                "an earlier agent was killed while it read flows: one interval's records are lost"
            );
            options.metrics.add_lost_epoch();
        }
        tracing::info!(
            flows = capacity.flows,
            taps = capacity.taps,
            map_bytes = capacity.map_bytes,
            table_bytes = capacity.table_bytes,
            "flow memory: what flows.memoryMiB comes to"
        );
        options.metrics.set_flow_capacity(capacity.flows, capacity.map_bytes + capacity.table_bytes);
        let table =
            FlowTable::new(capacity.flows as usize, Timeouts { active: active_timeout, idle: idle_timeout });
        let dns = dns::follow(&mut reader, options.config.dns.followed());
        let domain = observation_domain(&options.node);
        let inner = Inner {
            started: Instant::now(),
            exporters: Exporters::start(&options.config.export, domain, &options.node)?,
            taps: Taps::start(set, options.others.is_some()).map_err(StartError::Thread)?,
            reader: Owner::start("flow-reader", reader).map_err(StartError::Thread)?,
            state: Mutex::new(State { table, totals: HashMap::new(), as_of: SystemTime::now() }),
            allocations: Mutex::new(Allocations::new(options.objects.clone())),
            losses: Mutex::default(),
            sampling: Mutex::default(),
            networks_compared: Once::new(),
            dns,
            dns_failing: AtomicBool::new(false),
            inherited: Mutex::new(inherited),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Attaches the tap of a pod's port, before the pod's end goes up. An error is for the log and an Event: the pod
    /// is attached all the same.
    pub async fn attach(&self, row: &PodPortRow, ifindex: u32) -> Result<(), String> {
        let states = self.inner.options.bridges.state();
        let datapath = {
            let states = states.borrow();
            let found = states.iter().find(|(name, _)| name.as_str() == row.bridge);
            found.and_then(|(_, state)| state.datapath)
        };
        self.inner.taps.attach(wishes::of_port(row, ifindex, datapath)).await
    }

    /// Keeps everything going until the stop.
    pub async fn run(self, stop: CancellationToken) {
        let inner = &*self.inner;
        // Before anything is read: flows of an earlier process then have names.
        if let Err(gone) = inner.reconcile().await {
            tracing::error!(%gone, "flows are not read");
            return;
        }
        inner.read_leftover().await;
        let mut reconcile = tokio::time::interval(RECONCILE);
        let mut drain = tokio::time::interval(inner.options.config.interval);
        let mut dns = tokio::time::interval(dns::EVERY);
        for timer in [&mut reconcile, &mut drain, &mut dns] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut prompt = others::Prompt::new(inner.options.others.clone());
        loop {
            let done = tokio::select! { biased;
                () = stop.cancelled() => break,
                _ = reconcile.tick() => inner.reconcile().await.map(|more| prompt.done(more)),
                _ = drain.tick() => inner.drain().await,
                _ = dns.tick(), if inner.dns => inner.read_dns().await,
                () = prompt.wait() => inner.settle_others(false).await.map(|more| prompt.done(more)),
            };
            if let Err(gone) = done {
                tracing::error!(%gone, "flows are read no more");
                return;
            }
        }
        // What was counted until now is recorded; what comes is the next process's.
        if inner.dns && inner.read_dns().await.is_err() {
            return;
        }
        if inner.read().await.is_ok() {
            let closed = inner.state().table.end_all();
            inner.emit(&closed);
        }
        inner.exporters.stop(LAST_RECORDS).await;
    }

    /// The flows as they are, the busiest first.
    pub fn flows(&self) -> FlowsDump {
        self.inner.flows()
    }

    /// Every tap, and everything that should have one.
    pub fn taps(&self) -> Vec<TapDump> {
        self.inner.tap_dumps()
    }
}

/// Reads what sets of another memory budget or version held; their taps count in this one already.
fn inherited(set: &mut TapSet, metrics: &Metrics) -> Vec<ClosedEpoch> {
    let Inherited { epochs, lost, problems } = set.drain_older();
    for problem in &problems {
        tracing::warn!(error = %chain(problem), "taps of another memory budget or version");
    }
    if !epochs.is_empty() {
        let flows = epochs.iter().map(|epoch| epoch.flows.len()).sum::<usize>();
        tracing::info!(flows, "taps of another memory budget or version were taken over with what they held");
    }
    (0..lost).for_each(|_| metrics.add_lost_epoch());
    epochs
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether there is more to do at once.
    async fn reconcile(&self) -> Result<bool, OwnerGone> {
        let more = self.settle_others(true).await?;
        if !self.options.bridges.ovs_connected() {
            return Ok(more); // which ports there are is not known
        }
        let rows = self.options.bridges.pod_ports();
        let mut wishes = {
            let states = self.options.bridges.state();
            let states = states.borrow().clone();
            wishes::all(&rows, &states, ifindex)
        };
        // A node without any bridge stays without: its uplinks of before are wanted no more.
        wishes.complete |= self.started.elapsed() > SETTLED;
        let desired = wishes.taps.len() + wishes.missing.len() + self.taps.known().others.wanted;
        let changes = self.taps.reconcile(wishes, |name| ifindex(name).is_some()).await?;
        self.tell(&changes);
        self.follow_pools(&rows);
        self.warn_of_strange_networks();
        let known = self.taps.known();
        self.options.metrics.set_taps(desired, known.taps.len());
        Ok(more)
    }

    fn tell(&self, changes: &Changes) {
        for (slot, identity) in &changes.attached_again {
            self.state().table.mark_gap(*slot);
            self.options.metrics.add_tap_gap();
            let words = format!(
                "somebody took the tap off interface {} ({}); it is back on, and frames in between were not counted",
                identity.interface, identity.device
            );
            self.event(identity, reason::TAP_ATTACHED_AGAIN, words);
        }
        for (identity, error) in &changes.failed {
            let words = format!(
                "interface {} ({}) has no tap, its flows are not seen: {error}",
                identity.interface, identity.device
            );
            self.event(identity, reason::TAP_FAILED, words);
        }
    }

    fn event(&self, identity: &TapIdentity, reason: reason::Reason, words: String) {
        match &identity.pod {
            Some(pod) => self.options.recorder.pod_named(&pod.namespace, &pod.name, &pod.uid, reason, words),
            None => self.options.recorder.node(reason, words),
        }
    }

    fn follow_pools(&self, rows: &[PodPortRow]) {
        let mut allocations = self.allocations();
        allocations.follow(rows.iter().flat_map(|row| row.pools.iter().map(String::as_str)));
        let mut names = allocations.names();
        names.forget(SystemTime::now());
        self.options.metrics.set_names(names.len());
        let ports =
            rows.iter().filter_map(|row| Some((row.bridge.clone(), row.mac?, Arc::new(Endpoint::from(row)))));
        names.set_ports(ports);
    }
}

/// Tells this node's IPFIX records from another's at one collector (RFC 7011 3.1): a hash of its name, never 0.
fn observation_domain(node: &str) -> u32 {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(node);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}

fn tap_labels(tap: &TapIdentity, direction: Direction) -> TapLabels {
    let pod = tap.pod.as_ref();
    TapLabels {
        device: tap.device.clone(),
        netns: tap.netns.clone().unwrap_or_default(),
        namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
        pod: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
        interface: tap.interface.clone(),
        network: tap.network.clone().unwrap_or_default(),
        vlan: tap.vlan.map_or(0, u16::from),
        direction: direction.name(),
    }
}

fn ifindex(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Mounts a BPF file system where there is none.
fn mount_if_needed(path: &std::path::Path) -> Result<(), StartError> {
    use nix::mount::{MsFlags, mount};
    use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
    let failed = |source| StartError::Mount { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    if statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| failed(errno.into()))
}
