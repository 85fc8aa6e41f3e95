//! Takes every bridge, port and offload change of ours off the node.
//!
//! Owns the last word: must touch only what carries our marks or stands in the journal. Needs no running agent, and
//! must not run beside one.

use trunkline_ovs::{Operation, Ovsdb, Replica, TransactError, del_port};

use super::exec::{Executor, operations};
use super::observe;
use super::plan::{PortKind, Step};
use super::ports::keys;
use super::state::Origin;
use super::task::chain;
use crate::journal::Journal;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UninstallReport {
    /// Bridges that we had made, deleted.
    pub deleted: Vec<String>,
    /// Bridges that we had adopted, given back.
    pub released: Vec<String>,
    /// Pod ports removed.
    pub pod_ports: usize,
    /// NICs whose offloads are as they were.
    pub restored: Vec<String>,
    /// What could not be done.
    pub failures: Vec<String>,
}

/// Why nothing could be done in OVSDB.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The database refused or did not answer.
    #[error("cannot remove Trunkline's bridges from Open vSwitch's database")]
    Database {
        /// What it said.
        source: TransactError,
    },
}

/// Removes everything of ours: pod ports, bridges that we made, marks on those that we adopted, offload changes.
/// The replica of `ovsdb` must be connected.
pub async fn uninstall(ovsdb: &Ovsdb, journal: &Journal) -> Result<UninstallReport, UninstallError> {
    let mut report = UninstallReport::default();
    let replica = ovsdb.snapshot();
    let operations = everything(&replica, &mut report);
    if !operations.is_empty() {
        ovsdb.transact(operations).await.map_err(|source| UninstallError::Database { source })?;
    }
    let executor = Executor { ovsdb: ovsdb.clone(), journal: journal.clone(), boot_id: String::new() };
    for nic in journal.nics() {
        match executor.offloads_restore(&nic).await {
            Ok(()) => report.restored.push(nic),
            Err(error) => report.failures.push(chain(&error)),
        }
    }
    Ok(report)
}

/// One transaction for all of it.
fn everything(replica: &Replica, report: &mut UninstallReport) -> Vec<Operation> {
    let mut all = Vec::new();
    let managed = replica.bridges().filter(|bridge| bridge.external_ids.contains_key(keys::MANAGED));
    for bridge in managed {
        let name: &str = &bridge.name;
        let Some(row) = observe::bridge_row_of(replica, name) else { continue };
        let mut steps = Vec::new();
        for (port, facts) in &row.ports {
            match facts.kind {
                PortKind::Pod => {
                    report.pod_ports += 1;
                    all.extend(replica.port(port).map(|row| del_port(name, row.uuid)).unwrap_or_default());
                }
                PortKind::Uplink(Origin::Adopted) => steps.push(Step::ReleaseUplink { nic: port.clone() }),
                PortKind::Uplink(Origin::Created) => steps.push(Step::RemoveUplink { nic: port.clone() }),
                PortKind::Foreign => {}
            }
        }
        // Others' ports on a bridge of ours keep it alive, open again and without our marks.
        let others = row.ports.values().any(|port| port.kind == PortKind::Foreign);
        if row.origin == Some(Origin::Created) && !others {
            steps.push(Step::DeleteBridge);
            report.deleted.push(name.to_owned());
        } else {
            steps.push(Step::ReleaseBridge { fail_mode: row.previous_fail_mode.clone() });
            report.released.push(name.to_owned());
        }
        all.extend(steps.iter().flat_map(|step| operations(name, step, replica)));
    }
    all
}
