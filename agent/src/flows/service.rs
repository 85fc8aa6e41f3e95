//! The task that keeps taps as they should be, reads what they counted, and makes records of it.
//!
//! One task. It reconciles every two seconds and drains every interval; each await is a timer or an answer of an owner
//! thread, and a dropped answer costs nothing: what is pinned is read by the next look. On a stop it drains once more
//! and closes every flow, so that an ordinary restart loses no record; taps stay attached and go on counting.

mod others;
mod told;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_api::FlowsConfig;
use trunkline_ebpf::{
    Budget, BudgetError, ClosedEpoch, Conversation, Counters, Direction, Inherited, Reader, Slot, TapError,
    TapSet, Totals, possible_processors,
};

use super::allocations::Allocations;
use super::export::{ExportError, Exporters};
use super::loss::Losses;
use super::owner::{Owner, OwnerGone};
use super::record::{Endpoint, TapIdentity};
use super::table::{Closed, FlowTable, Timeouts};
use super::taps::{Changes, Taps};
use super::view::FlowsDump;
use super::wishes;
use crate::bridge::{Bridges, PodPortRow};
use crate::cli::chain;
use crate::dump::TapDump;
use crate::kube::ObjectCache;
use crate::kube::events::{Recorder, reason};
use crate::metrics::{FlowSample, Metrics, TapLabels};
use crate::netwatch::Sightings;

/// How often desired taps are compared with those found.
const RECONCILE: Duration = Duration::from_secs(2);
/// After this long, bridges that are still not set up do not keep the taps of uplinks that nobody wants.
const SETTLED: Duration = Duration::from_mins(1);
/// How long the switch may take to tell what it forwarded.
const SWITCH: Duration = Duration::from_secs(2);
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
        let domain = observation_domain(&options.node);
        let inner = Inner {
            started: Instant::now(),
            exporters: Exporters::start(&options.config.export, domain, &options.node)?,
            taps: Taps::start(set, options.others.is_some()).map_err(StartError::Thread)?,
            reader: Owner::start("flow-reader", reader).map_err(StartError::Thread)?,
            state: Mutex::new(State { table, totals: HashMap::new(), as_of: SystemTime::now() }),
            allocations: Mutex::new(Allocations::new(options.objects.clone())),
            losses: Mutex::default(),
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
        for timer in [&mut reconcile, &mut drain] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut prompt = others::Prompt::new(inner.options.others.clone());
        loop {
            let done = tokio::select! { biased;
                () = stop.cancelled() => break,
                _ = reconcile.tick() => inner.reconcile().await.map(|more| prompt.done(more)),
                _ = drain.tick() => inner.drain().await,
                () = prompt.wait() => inner.settle_others(false).await.map(|more| prompt.done(more)),
            };
            if let Err(gone) = done {
                tracing::error!(%gone, "flows are read no more");
                return;
            }
        }
        // What was counted until now is recorded; what comes is the next process's.
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

    /// What an earlier process closed and did not read.
    async fn read_leftover(&self) {
        let inherited = std::mem::take(&mut *self.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        for epoch in &inherited {
            self.take_in(epoch, HashMap::new());
        }
        match self.reader.run(Reader::drain_leftover).await {
            Ok(Ok(Some(epoch))) => self.take_in(&epoch, HashMap::new()),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "what an earlier agent left cannot be read");
            }
            Err(gone) => tracing::error!(%gone, "flows cannot be read"),
        }
    }

    async fn drain(&self) -> Result<(), OwnerGone> {
        // Before the taps are read: the switch has then counted no frame that they have not.
        let forwarded = self.ask_the_switch().await;
        if self.read().await? {
            self.compare_with_the_switch(&forwarded);
            self.free_slots().await?;
        }
        Ok(())
    }

    /// Reads the running epoch; `false` when the kernel did not let us.
    async fn read(&self) -> Result<bool, OwnerGone> {
        let slots: HashSet<Slot> = {
            let known = self.taps.known();
            known.taps.keys().chain(known.leaving.keys()).copied().collect()
        };
        let started = Instant::now();
        let work = move |reader: &mut Reader| {
            let epoch = reader.drain().map_err(|error| (error, reader.interrupted()))?;
            let totals = reader.all_totals().filter(|(slot, ..)| slots.contains(slot));
            let totals = totals.map(|(slot, direction, counters)| ((slot, direction), counters));
            let ran = reader.ran().unwrap_or_default();
            Ok::<_, (TapError, bool)>((epoch, totals.collect(), ran))
        };
        match self.reader.run(work).await? {
            Ok((epoch, totals, ran)) => {
                self.options.metrics.observe_drain(started.elapsed(), epoch.entries);
                self.options.metrics.set_ran(ran);
                self.take_in(&epoch, totals);
                Ok(true)
            }
            Err((error, lost)) => {
                if lost {
                    self.options.metrics.add_lost_epoch();
                }
                tracing::warn!(error = %chain(&error), "flows cannot be read, will try again");
                Ok(false)
            }
        }
    }

    /// A closed epoch into the table, records out, metrics set.
    fn take_in(&self, epoch: &ClosedEpoch, totals: HashMap<(Slot, Direction), Counters>) {
        let wrong = epoch.inexact();
        if !wrong.is_empty() {
            tracing::error!(taps = ?wrong, epoch = epoch.epoch, "flows and losses do not add up to the taps' counters");
            self.options.metrics.add_inexact_epoch();
        }
        let closed = {
            let mut state = self.state();
            let mut closed = state.table.absorb(&epoch.flows);
            closed.extend(state.table.expire(Reader::now()));
            state.totals.extend(totals);
            state.as_of = SystemTime::now();
            closed
        };
        self.count(epoch);
        self.emit(&closed);
    }

    fn count(&self, epoch: &ClosedEpoch) {
        let metrics = &self.options.metrics;
        metrics.set_flows(self.state().table.len());
        for counts in self.exporters.counts() {
            metrics.set_exporter(&counts);
        }
        for (slot, direction, counters) in self.counters() {
            let Some(tap) = self.taps.known().owner(slot) else { continue };
            metrics.set_tap(&tap_labels(&tap, direction), &counters);
        }
        let mut families = HashMap::<_, Totals>::new();
        for (key, flow) in &epoch.flows {
            *families.entry((key.slot(), family(&key.conversation()))).or_default() += flow.totals;
        }
        for ((slot, protocol), totals) in families {
            let Some(tap) = self.taps.known().owner(slot) else { continue };
            let Some(network) = &tap.network else { continue };
            let sample =
                FlowSample { network: network.clone(), vlan: tap.vlan.map_or(0, u16::from), protocol };
            metrics.add_flow(&sample, totals);
        }
    }

    fn counters(&self) -> Vec<(Slot, Direction, Counters)> {
        let state = self.state();
        state.totals.iter().map(|((slot, direction), counters)| (*slot, *direction, *counters)).collect()
    }

    /// What the switch forwarded so far, by port of a pod. Bridges that do not answer in time have nothing here.
    async fn ask_the_switch(&self) -> HashMap<String, u64> {
        let rows = self.options.bridges.pod_ports();
        let names: Vec<trunkline_api::BridgeName> = {
            let states = self.options.bridges.state();
            let states = states.borrow();
            states.iter().filter(|(_, state)| state.exists).map(|(name, _)| name.clone()).collect()
        };
        let asked = names.iter().map(|bridge| async move {
            let answer = tokio::time::timeout(SWITCH, self.options.bridges.flow_stats(bridge)).await;
            (bridge, answer.ok().and_then(Result::ok).unwrap_or_default())
        });
        let mut forwarded = HashMap::new();
        for (bridge, counts) in futures::future::join_all(asked).await {
            for row in rows.iter().filter(|row| row.bridge == bridge.as_str()) {
                let count = counts.iter().find(|count| Some(count.ofport) == row.ofport);
                forwarded.extend(count.map(|count| (row.name.clone(), count.packets)));
            }
        }
        forwarded
    }

    /// What the taps saw against what the switch had forwarded before.
    fn compare_with_the_switch(&self, forwarded: &HashMap<String, u64>) {
        let known = self.taps.known();
        let state = self.state();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, tap) in known.taps.iter().filter(|(_, tap)| tap.netns.is_none()) {
            let Some(&packets) = forwarded.get(&tap.device) else { continue };
            let Some(sent) = state.totals.get(&(*slot, Direction::Sent)) else { continue };
            let lost = losses.look(&tap.device, sent.seen.skbs, packets);
            self.options.metrics.set_tap_loss(&tap_labels(tap, Direction::Sent), packets, lost);
        }
    }

    /// Slots whose last flows have been read: their flows end, their counters are set back, others may have them.
    async fn free_slots(&self) -> Result<(), OwnerGone> {
        for slot in self.taps.drained() {
            let closed = self.state().table.end_tap(slot);
            self.emit(&closed);
            let freed = match self.reader.run(move |reader| reader.zero(slot)).await? {
                Ok(()) => self.taps_forget(slot).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = freed {
                tracing::warn!(error = %chain(&error), "a tap's slot cannot be freed, will try again");
            }
        }
        let alive: Vec<String> = self.taps.known().taps.values().map(|tap| tap.device.clone()).collect();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.retain(|port| alive.iter().any(|device| device == port));
        Ok(())
    }

    async fn taps_forget(&self, slot: Slot) -> Result<Result<(), TapError>, OwnerGone> {
        let owner = self.taps.known().owner(slot);
        let freed = self.taps.forget(slot).await?;
        if freed.is_ok() {
            self.state().totals.retain(|(held, _), _| *held != slot);
            if let Some(tap) = owner {
                for direction in Direction::BOTH {
                    self.options.metrics.forget_tap(&tap_labels(&tap, direction));
                }
            }
        }
        Ok(freed)
    }

    fn emit(&self, closed: &[Closed]) {
        let records = self.records(closed);
        self.options.metrics.add_records(records.len());
        self.exporters.offer(&records);
    }
}

/// Tells this node's IPFIX records from another's at one collector (RFC 7011 3.1): a hash of its name, never 0.
fn observation_domain(node: &str) -> u32 {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(node);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}

/// A small closed set, for a metric's label.
fn family(conversation: &Conversation) -> &'static str {
    match conversation {
        Conversation::Ip { protocol: 6, .. } => "tcp",
        Conversation::Ip { protocol: 17, .. } => "udp",
        Conversation::Ip { protocol: 132, .. } => "sctp",
        Conversation::Ip { .. } => "other-ip",
        Conversation::Icmp { .. } => "icmp",
        Conversation::Arp { .. } => "arp",
        Conversation::Ethernet { .. } => "ethernet",
    }
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
        direction: match direction {
            Direction::Received => "received",
            Direction::Sent => "sent",
        },
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
