//! One bridge's flow table through its `.mgmt` socket.
//!
//! Owns the translation between `flows` and `OpenFlow`; decides nothing.

use std::path::PathBuf;

use tokio::sync::watch;
use trunkline_ovs::{
    Action, AllowFlow, Connection, FlowError, FlowFilter, FlowMod, FlowStats, Match, OpenFlow,
    OpenFlowOptions,
};

use super::flows::{self, Admit, FlowDiff, FlowTable, Listed, Listing, PortFlow};

/// The upper 16 bits of a cookie, which mark it as ours.
const OUR_MASK: u64 = 0xffff_0000_0000_0000;

/// Where the sockets are.
#[derive(Clone, Debug)]
pub(super) struct SwitchOptions {
    pub(super) run_dir: PathBuf,
}

impl SwitchOptions {
    /// Starts connecting to a bridge.
    pub(super) fn connect(&self, bridge: &str) -> Switch {
        let flows = OpenFlow::connect(OpenFlowOptions::new(self.run_dir.join(format!("{bridge}.mgmt"))));
        Switch { connection: flows.connection(), flows }
    }
}

/// A connection to one bridge that is re-made for ever.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    flows: OpenFlow,
    connection: watch::Receiver<Connection>,
}

impl Switch {
    /// Whether vswitchd answers now.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.borrow().connected
    }

    /// Waits until vswitchd answers.
    pub(super) async fn connected(&self) -> Result<(), FlowError> {
        self.flows.connected().await.map(|_| ())
    }

    /// Waits until the connection comes or goes. Cancel-safe (`watch`).
    pub(super) async fn changed(&mut self) {
        if self.connection.changed().await.is_err() {
            // The client's task ends with the process only.
            std::future::pending::<()>().await;
        }
    }

    /// Changes flows from what is known to be there; in the switch when this returns.
    pub(super) async fn change(&self, diff: &FlowDiff) -> Result<(), FlowError> {
        let removals =
            diff.remove.iter().map(|(ofport, flow)| allow(*ofport, flow.admit).delete_owned(flow.cookie));
        let changes: Vec<FlowMod> = removals.chain(diff.add.iter().map(add)).collect();
        if changes.is_empty() { Ok(()) } else { self.flows.bundle(changes).await }
    }

    /// Lists, and changes what differs. Where more is wrong than single flows, everything that we may remove is
    /// replaced at one moment.
    pub(super) async fn converge(&self, wanted: &FlowTable, exclusive: bool) -> Result<(), FlowError> {
        let listing = self.list().await?;
        if listing.is_clean(exclusive) {
            return self.change(&flows::diff(wanted, &listing.ours)).await;
        }
        tracing::warn!(
            foreign = listing.others,
            standalone = listing.standalone,
            "the bridge has flows that it must not have, replacing all"
        );
        let wipe = if exclusive {
            FlowMod::delete_all()
        } else {
            FlowMod::delete_by_cookie(flows::OUR_COOKIE, OUR_MASK)
        };
        let entries = wanted.iter().map(|(ofport, flow)| (*ofport, *flow));
        self.flows.bundle(std::iter::once(wipe).chain(entries.map(|entry| add(&entry))).collect()).await
    }

    /// What is on the switch.
    pub(super) async fn list(&self) -> Result<Listing, FlowError> {
        let flows = self.stats().await?;
        Ok(flows::sort(flows.iter().map(listed)))
    }

    /// All flows with their counters.
    pub(super) async fn stats(&self) -> Result<Vec<FlowStats>, FlowError> {
        self.flows.flows(FlowFilter::default()).await
    }
}

fn allow(in_port: u32, admit: Admit) -> AllowFlow {
    match admit {
        Admit::Everything => AllowFlow::Everything { in_port },
        Admit::Untagged => AllowFlow::Untagged { in_port },
    }
}

fn add((ofport, flow): &(u32, PortFlow)) -> FlowMod {
    allow(*ofport, flow.admit).add(flow.cookie)
}

fn listed(stats: &FlowStats) -> Listed {
    match stats.allow() {
        Some(allowed) => {
            let admit = match allowed {
                AllowFlow::Everything { .. } => Admit::Everything,
                AllowFlow::Untagged { .. } => Admit::Untagged,
            };
            Listed::Port { ofport: allowed.in_port(), flow: PortFlow { admit, cookie: stats.cookie } }
        }
        None if is_standalone(stats) => Listed::Standalone,
        None => Listed::Other { cookie: stats.cookie },
    }
}

/// `ofproto/fail-open` installs exactly this on a bridge with `fail_mode=standalone`.
fn is_standalone(stats: &FlowStats) -> bool {
    stats.priority == 0
        && stats.cookie == 0
        && stats.table == 0
        && stats.matching == Match::default()
        && stats.actions == [Action::Normal]
}
