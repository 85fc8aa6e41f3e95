//! The task that owns one bridge: plans and carries out, keeps its flows, answers those who wait for ports.
//!
//! There is one such task per bridge that is configured or ours; it is the only one that changes the bridge's columns,
//! uplinks and flows. It ends when the bridge is neither configured nor there, or with the manager.
//!
//! Everything follows from states (configuration, replica, links), never from events: missing one loses nothing. Each
//! await of the `select!` is a `watch`, a `Notify`, an interval or the switch's epoch, all cancel-safe.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use trunkline_api::BridgeName;
use trunkline_ovs::Replica;

use super::exec::Executor;
use super::flows::{self, FlowTable};
use super::kernel::KernelDatapath;
use super::observe::{self, FlowCache, Nics};
use super::plan::{self, Actual, FlowCensus, Plan, Step, Wanted};
use super::ports::{PortReady, keys};
use super::shared::{PortFailure, Shared};
use super::state::{BridgeCondition, BridgeState, BridgeStates};
use super::switch::{Switch, SwitchOptions};

/// How often flows are compared and everything is planned anew, whatever happened.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// After vswitchd came back or `fail_mode` changed, it may still drop flows: look again this soon.
const RECHECKS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// Pause after a step or a change of flows failed.
const RETRY: Duration = Duration::from_millis(500);

/// What all bridges' tasks share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) executor: Executor,
    pub(super) replica: watch::Receiver<Arc<Replica>>,
    pub(super) nics: watch::Receiver<Nics>,
    pub(super) states: watch::Sender<BridgeStates>,
    pub(super) kernel: KernelDatapath,
    pub(super) switches: SwitchOptions,
}

/// One bridge.
pub(super) struct BridgeTask {
    name: BridgeName,
    context: Context,
    wanted: watch::Receiver<Option<Wanted>>,
    shared: Arc<Shared>,
    switch: Option<Switch>,
    /// Flows believed to be on the switch; `None` until they were listed on this connection.
    present: Option<FlowTable>,
    census: FlowCensus,
    not_before: Option<Instant>,
    rechecks: Vec<Instant>,
    cookies: FlowCache,
}

impl BridgeTask {
    pub(super) fn new(
        name: BridgeName,
        context: Context,
        wanted: watch::Receiver<Option<Wanted>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            name,
            context,
            wanted,
            shared,
            switch: None,
            present: None,
            census: FlowCensus::Unknown,
            not_before: None,
            rechecks: Vec::new(),
            cookies: FlowCache::new(),
        }
    }

    /// Runs until the bridge is neither wanted nor there.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval_at(Instant::now() + COMPARE_EVERY, COMPARE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let replica = Arc::clone(&self.context.replica.borrow_and_update());
            let wanted = self.wanted.borrow_and_update().clone();
            self.follow_switch(&replica);
            self.sync_flows(&replica).await;
            let plan = self.reconcile(&replica, wanted.as_ref()).await;
            self.publish(&replica, wanted.as_ref(), plan);
            if wanted.is_none() && replica.connected && self.is_gone() {
                break;
            }
            self.wait(&mut tick).await;
        }
        self.context.states.send_if_modified(|states| Arc::make_mut(states).remove(&self.name).is_some());
    }

    fn is_gone(&self) -> bool {
        let replica = self.context.replica.borrow();
        let ours = |bridge: &Arc<trunkline_ovs::Bridge>| bridge.external_ids.contains_key(keys::MANAGED);
        !replica.bridge(self.name.as_str()).is_some_and(ours)
    }

    async fn wait(&mut self, tick: &mut tokio::time::Interval) {
        let wake = self.rechecks.iter().copied().chain(self.not_before).min();
        let alarm = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let Self { context, wanted, shared, switch, .. } = self;
        let epoch = async {
            match switch {
                Some(switch) => switch.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = wanted.changed() => {}
            _ = context.replica.changed() => {}
            _ = context.nics.changed() => {}
            () = shared.kicked() => {}
            () = epoch => {
                self.present = None;
                self.recheck_soon();
            }
            () = alarm => {
                let now = Instant::now();
                self.rechecks.retain(|at| {
                    if *at <= now { self.present = None; }
                    *at > now
                });
                self.not_before = self.not_before.filter(|at| *at > now);
            }
            _ = tick.tick() => self.present = None,
        }
    }

    fn recheck_soon(&mut self) {
        let now = Instant::now();
        self.rechecks = RECHECKS.iter().map(|after| now + *after).collect();
    }

    fn back_off(&mut self) {
        self.not_before = Some(Instant::now() + RETRY);
    }

    /// Connects to the bridge's `OpenFlow` socket while the bridge exists.
    fn follow_switch(&mut self, replica: &Replica) {
        let exists = replica.bridge(self.name.as_str()).is_some();
        if exists && self.switch.is_none() {
            self.switch = Some(self.context.switches.connect(self.name.as_str()));
            self.present = None;
        } else if !exists && replica.connected && self.switch.is_some() {
            self.switch = None;
            self.present = None;
            self.census = FlowCensus::Unknown;
        }
    }

    async fn reconcile(&mut self, replica: &Replica, wanted: Option<&Wanted>) -> Plan {
        let mut actual = self.observe(replica, wanted);
        if needs_kernel(wanted, &actual) {
            actual.kernel_datapath = Some(self.context.kernel.present().await);
        }
        let plan = plan::plan(&self.name, wanted, &actual);
        let paused = self.not_before.is_some_and(|at| at > Instant::now());
        if plan.steps.is_empty() || paused || !replica.connected {
            return plan;
        }
        let nics = Arc::clone(&self.context.nics.borrow());
        match self.context.executor.run(self.name.as_str(), &plan.steps, &nics).await {
            Ok(()) => {
                for step in &plan.steps {
                    tracing::info!(?step, "carried out");
                }
                self.shared.kick();
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot carry out a step, will try again");
                self.back_off();
            }
        }
        if plan.steps.iter().any(|step| matches!(step, Step::AdoptBridge { .. } | Step::CloseBridge)) {
            self.recheck_soon();
        }
        plan
    }

    fn observe(&self, replica: &Replica, wanted: Option<&Wanted>) -> Actual {
        let nics = self.context.nics.borrow();
        let journal = &self.context.executor.journal;
        let journalled = |nic: &str| journal.offloads(nic).is_some();
        let actual = observe::actual(self.name.as_str(), wanted, replica, &nics, &journalled);
        Actual { flows: self.census, ..actual }
    }

    /// Brings the switch's flows to what the replica says, and answers those who wait for it.
    async fn sync_flows(&mut self, replica: &Replica) {
        let managed = replica
            .bridge(self.name.as_str())
            .is_some_and(|row| row.external_ids.contains_key(keys::MANAGED));
        let departures = self.shared.take_departures();
        let settled = if managed { self.sync_managed(replica).await } else { self.count_foreign().await };
        if settled {
            for departure in departures {
                let _ = departure.send(());
            }
        } else {
            self.shared.return_departures(departures);
        }
        self.resolve(replica);
    }

    async fn sync_managed(&mut self, replica: &Replica) -> bool {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.is_connected()) else { return false };
        let exclusive = !self.wanted.borrow().as_ref().is_some_and(|wanted| wanted.adopt);
        let leaving = self.shared.leaving();
        let wanted = observe::wanted_flows(
            self.name.as_str(),
            replica,
            &self.context.executor.boot_id,
            &leaving,
            &mut self.cookies,
        );
        let result = match self.present.take() {
            Some(present) => switch.change(&flows::diff(&wanted, &present)).await,
            None => switch.converge(&wanted, exclusive).await,
        };
        match result {
            Ok(()) => {
                self.present = Some(wanted);
                true
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot set the bridge's flows, will try again");
                self.back_off();
                false
            }
        }
    }

    /// A bridge that is not ours: only looks.
    async fn count_foreign(&mut self) -> bool {
        self.present = None;
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.is_connected()) else { return true };
        self.census = match switch.list().await {
            Ok(listing) => FlowCensus::Foreign(listing.others),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot list the bridge's flows, will try again");
                self.back_off();
                FlowCensus::Unknown
            }
        };
        true
    }

    fn resolve(&self, replica: &Replica) {
        self.shared.resolve(|port| {
            let row = replica.port(port)?;
            let interface = replica.interfaces_of(row).next()?;
            if let Some(ofport) = interface.ready_ofport() {
                let flow = self.present.as_ref()?.get(&ofport)?;
                let (_, right) = self.cookies.get(&row.uuid)?;
                return (flow == right).then_some(Ok(PortReady { ofport, cookie: flow.cookie }));
            }
            let refused = interface.ofport == Some(-1) || interface.error.is_some();
            let message = interface.error.clone().unwrap_or_else(|| "ofport is -1".to_owned());
            refused.then(|| Err(PortFailure { port: port.to_owned(), bridge: self.name.clone(), message }))
        });
    }

    fn publish(&self, replica: &Replica, wanted: Option<&Wanted>, plan: Plan) {
        let summary = observe::summary(replica, self.name.as_str());
        let mut conditions = plan.conditions;
        let exists = summary.is_some();
        if !replica.connected {
            let reason = "Open vSwitch's database does not answer".to_owned();
            conditions.push(BridgeCondition::Pending { bridge: self.name.clone(), reason });
        } else if plan.ready && exists && self.present.is_none() {
            let reason = "Open vSwitch's switch daemon does not answer".to_owned();
            conditions.push(BridgeCondition::Pending { bridge: self.name.clone(), reason });
        }
        let nics = self.context.nics.borrow();
        let state = BridgeState {
            name: self.name.clone(),
            configured: wanted.is_some(),
            exists,
            ready: plan.ready && exists && replica.connected && self.present.is_some(),
            flows_installed: self.present.is_some(),
            datapath: summary.as_ref().map(|summary| summary.datapath),
            origin: plan.origin,
            uplinks: wanted.map(|wanted| observe::uplinks(wanted, replica, &nics)).unwrap_or_default(),
            pod_ports: summary.map_or(0, |summary| summary.pod_ports),
            conditions,
        };
        drop(nics);
        self.context.states.send_if_modified(|states| {
            let changed = states.get(&self.name) != Some(&state);
            if changed {
                Arc::make_mut(states).insert(self.name.clone(), state);
            }
            changed
        });
    }
}

/// Whether the choice of the datapath hangs on the kernel.
fn needs_kernel(wanted: Option<&Wanted>, actual: &Actual) -> bool {
    use trunkline_api::DatapathType::Netdev;
    actual.bridge.is_none() && wanted.is_some_and(|wanted| wanted.datapath != Netdev)
}

/// An error with its sources, for the log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
