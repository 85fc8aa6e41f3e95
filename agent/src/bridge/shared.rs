//! What the task of a bridge and the callers that want ports on it have in common.
//!
//! Owns the waiters' lists; locks are held for moments only, never across an await.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::ports::{PortError, PortReady};

/// Someone who waits for a pod port to pass traffic.
pub(super) type PortWaiter = oneshot::Sender<Result<PortReady, PortError>>;

/// Between callers and one bridge's task.
#[derive(Debug, Default)]
pub(super) struct Shared {
    lists: Mutex<Lists>,
    kick: Notify,
}

#[derive(Debug, Default)]
struct Lists {
    arriving: HashMap<String, Vec<PortWaiter>>,
    leaving: HashSet<String>,
    departures: Vec<oneshot::Sender<()>>,
}

impl Shared {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the task.
    pub(super) fn kick(&self) {
        self.kick.notify_one();
    }

    /// Waits for [`Self::kick`]; a kick that came before counts. Cancel-safe (`tokio::sync::Notify`).
    pub(super) async fn kicked(&self) {
        self.kick.notified().await;
    }

    /// Registers for the port's readiness.
    pub(super) fn arrive(&self, port: &str) -> oneshot::Receiver<Result<PortReady, PortError>> {
        let (sender, receiver) = oneshot::channel();
        let mut lists = self.lists();
        lists.leaving.remove(port);
        lists.arriving.entry(port.to_owned()).or_default().push(sender);
        receiver
    }

    /// Says that the ports lose their flows; the receiver hears when they have.
    pub(super) fn depart<'a>(&self, ports: impl Iterator<Item = &'a str>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut lists = self.lists();
        lists.leaving.extend(ports.map(str::to_owned));
        lists.departures.push(sender);
        drop(lists);
        self.kick();
        receiver
    }

    /// The ports stay after all, or are gone.
    pub(super) fn departed<'a>(&self, ports: impl Iterator<Item = &'a str>) {
        let mut lists = self.lists();
        for port in ports {
            lists.leaving.remove(port);
        }
    }

    /// Ports that are to have no flow.
    pub(super) fn leaving(&self) -> HashSet<String> {
        self.lists().leaving.clone()
    }

    /// Takes those who wait for flows to go; to be answered once the next change of flows is in.
    pub(super) fn take_departures(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.lists().departures)
    }

    /// Puts them back after a failure.
    pub(super) fn return_departures(&self, departures: Vec<oneshot::Sender<()>>) {
        self.lists().departures.extend(departures);
    }

    /// Answers everyone whose port `judge` has a verdict on, and forgets those who no longer listen.
    pub(super) fn resolve(&self, judge: impl Fn(&str) -> Option<Result<PortReady, PortFailure>>) {
        self.lists().arriving.retain(|port, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                return false;
            }
            let Some(verdict) = judge(port) else { return true };
            for waiter in waiters.drain(..) {
                // A caller that has given up meanwhile removes the port itself.
                let _ = waiter.send(verdict.clone().map_err(PortFailure::into_error));
            }
            false
        });
    }
}

/// vswitchd's refusal of a port, for several waiters.
#[derive(Clone, Debug)]
pub(super) struct PortFailure {
    pub(super) port: String,
    pub(super) bridge: trunkline_api::BridgeName,
    pub(super) message: String,
}

impl PortFailure {
    fn into_error(self) -> PortError {
        PortError::Refused { port: self.port, bridge: self.bridge, message: self.message }
    }
}
