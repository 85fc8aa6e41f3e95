//! Carries out steps: OVSDB transactions, offloads with their journal, links.
//!
//! Owns the translation of each step. Decides nothing; stops at the first failure, the next plan goes on from there.

use std::collections::BTreeMap;

use trunkline_ovs::{
    BridgeSpec, Operation, Ovsdb, PortSpec, Replica, Table, TransactError, Value, VlanMode, add_bridge,
    add_port, del_bridge, del_port, init_root, mutate_external_ids, mutate_map, set_bridge_columns,
    set_interface_columns, set_port_columns,
};

use super::observe::{FLOOD_KEYS, Nic, PREVIOUS_FAIL_MODE};
use super::plan::{Step, UplinkSettings};
use super::ports::keys;
use super::state::Origin;
use crate::journal::{Journal, JournalError};
use crate::link::{self, LinkError, OffloadSet};

/// Every key of ours on a bridge.
const BRIDGE_KEYS: [&str; 4] = [keys::MANAGED, keys::ORIGIN, keys::DATAPATH, PREVIOUS_FAIL_MODE];

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// OVSDB said no.
    #[error("cannot change bridge {bridge} in Open vSwitch's database")]
    Database { bridge: String, source: TransactError },
    /// A link could not be changed.
    #[error("cannot prepare uplink {nic}")]
    Link { nic: String, source: LinkError },
    /// What must be undone could not be written down, so that it was not done.
    #[error("cannot write down the offloads of uplink {nic}, which are therefore left as they are")]
    Journal { nic: String, source: JournalError },
}

/// What steps are carried out with.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub(super) ovsdb: Ovsdb,
    pub(super) journal: Journal,
    pub(super) boot_id: String,
}

impl Executor {
    /// Carries out all steps in order; neighbours in OVSDB share a transaction.
    pub(super) async fn run(
        &self,
        bridge: &str,
        steps: &[Step],
        nics: &BTreeMap<String, Nic>,
    ) -> Result<(), StepError> {
        for group in steps.chunk_by(|left, right| left.is_database() && right.is_database()) {
            if group[0].is_database() {
                let replica = self.ovsdb.snapshot();
                let operations = group.iter().flat_map(|step| operations(bridge, step, &replica)).collect();
                let failed = |source| StepError::Database { bridge: bridge.to_owned(), source };
                self.ovsdb.transact(operations).await.map_err(failed)?;
            } else {
                self.local(&group[0], nics).await?;
            }
        }
        Ok(())
    }

    async fn local(&self, step: &Step, nics: &BTreeMap<String, Nic>) -> Result<(), StepError> {
        match step {
            Step::OffloadsOff { nic } => self.offloads_off(nic).await,
            Step::OffloadsRestore { nic } => self.offloads_restore(nic).await,
            Step::LinkUp { nic } => {
                let Some(facts) = nics.get(nic) else { return Ok(()) };
                let failed = |source| StepError::Link { nic: nic.clone(), source };
                link::set_link_up(nic, facts.link.ifindex).await.map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// Read, write down, change: a crash between any two leaves either nothing done or everything undoable.
    async fn offloads_off(&self, nic: &str) -> Result<(), StepError> {
        let failed = |source| StepError::Link { nic: nic.to_owned(), source };
        let before = link::set_uplink_offloads(nic, &OffloadSet::default()).await.map_err(failed)?;
        let (name, boot_id) = (nic.to_owned(), self.boot_id.clone());
        self.journalled(nic, move |journal| journal.record_offloads(&name, &boot_id, &before)).await?;
        link::set_uplink_offloads(nic, &OffloadSet::coalescing_off()).await.map_err(failed)?;
        tracing::info!(%nic, "receive coalescing switched off for the userspace datapath");
        Ok(())
    }

    /// Puts back what the journal has; nothing where it has nothing.
    pub(super) async fn offloads_restore(&self, nic: &str) -> Result<(), StepError> {
        let Some(before) = self.journal.offloads(nic) else { return Ok(()) };
        let failed = |source| StepError::Link { nic: nic.to_owned(), source };
        link::set_uplink_offloads(nic, &before).await.map_err(failed)?;
        let name = nic.to_owned();
        self.journalled(nic, move |journal| journal.forget_offloads(&name)).await?;
        tracing::info!(%nic, "offloads put back");
        Ok(())
    }

    /// The journal waits for the disk: never on a runtime worker.
    async fn journalled(
        &self,
        nic: &str,
        change: impl FnOnce(&Journal) -> Result<(), JournalError> + Send + 'static,
    ) -> Result<(), StepError> {
        let journal = self.journal.clone();
        let written = tokio::task::spawn_blocking(move || change(&journal)).await;
        let failed = |source| StepError::Journal { nic: nic.to_owned(), source };
        written.unwrap_or_else(|error| Err(JournalError::interrupted(&self.journal, error))).map_err(failed)
    }
}

/// One step as OVSDB operations. A row that is gone meanwhile needs none.
pub(super) fn operations(bridge: &str, step: &Step, replica: &Replica) -> Vec<Operation> {
    match step {
        Step::CreateBridge { datapath, wish, snooping } => {
            let mut spec = BridgeSpec::new(bridge, datapath.as_str());
            spec.mcast_snooping_enable = *snooping;
            spec.external_ids = bridge_ids(Origin::Created, wish);
            let root = if replica.open_vswitch().is_none() { init_root() } else { Vec::new() };
            root.into_iter().chain(add_bridge(&spec)).collect()
        }
        Step::AdoptBridge { wish, previous_fail_mode } => {
            let mut ids = bridge_ids(Origin::Adopted, wish);
            ids.insert(PREVIOUS_FAIL_MODE.to_owned(), previous_fail_mode.clone());
            let mut operations = mutate_external_ids(Table::Bridge, bridge, &ids, &[]);
            operations.extend(adopted_columns(bridge, replica));
            operations
        }
        Step::CloseBridge => set_bridge_columns(bridge, [("fail_mode", "secure".into())]),
        Step::SetSnooping(on) => set_bridge_columns(bridge, [("mcast_snooping_enable", (*on).into())]),
        Step::SetMtu(mtu) => set_interface_columns(bridge, [("mtu_request", i64::from(mtu.get()).into())]),
        Step::AddUplink { nic, settings } => add_port(bridge, &uplink_spec(nic, settings)),
        Step::ClaimUplink { nic } => {
            mutate_external_ids(Table::Port, nic.as_str(), &uplink_ids(Origin::Adopted), &[])
        }
        Step::SetUplink { nic, settings } => set_uplink(nic, settings),
        Step::RemoveUplink { nic } => {
            replica.port(nic).map_or_else(Vec::new, |port| del_port(bridge, port.uuid))
        }
        Step::ReleaseUplink { nic } => {
            mutate_external_ids(Table::Port, nic.as_str(), &BTreeMap::new(), &[keys::TYPE, keys::ORIGIN])
        }
        Step::DeleteBridge => replica.bridge(bridge).map_or_else(Vec::new, |row| del_bridge(row.uuid)),
        Step::ReleaseBridge { fail_mode } => {
            let mode = if fail_mode.is_empty() { Value::empty() } else { fail_mode.as_str().into() };
            let mut operations = mutate_external_ids(Table::Bridge, bridge, &BTreeMap::new(), &BRIDGE_KEYS);
            operations.extend(set_bridge_columns(bridge, [("fail_mode", mode)]));
            operations
        }
        Step::OffloadsOff { .. } | Step::OffloadsRestore { .. } | Step::LinkUp { .. } => Vec::new(),
    }
}

/// A bridge that is restricted to other `OpenFlow` versions has to speak ours as well.
fn adopted_columns(bridge: &str, replica: &Replica) -> Vec<Operation> {
    let mut columns: Vec<(&'static str, Value)> = vec![("fail_mode", "secure".into())];
    let protocols = replica.bridge(bridge).map(|row| row.protocols.clone()).unwrap_or_default();
    if !protocols.is_empty() && !protocols.contains("OpenFlow13") {
        let all = protocols.into_iter().chain(["OpenFlow13".to_owned()]);
        columns.push(("protocols", all.map(trunkline_ovs::Atom::String).collect()));
    }
    set_bridge_columns(bridge, columns)
}

fn bridge_ids(origin: Origin, wish: &str) -> BTreeMap<String, String> {
    let pairs = [(keys::MANAGED, "true"), (keys::ORIGIN, origin.as_str()), (keys::DATAPATH, wish)];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn uplink_ids(origin: Origin) -> BTreeMap<String, String> {
    let pairs = [(keys::TYPE, keys::TYPE_UPLINK), (keys::ORIGIN, origin.as_str())];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn flood_config() -> BTreeMap<String, String> {
    FLOOD_KEYS.iter().map(|key| ((*key).to_owned(), "true".to_owned())).collect()
}

fn uplink_spec(nic: &str, settings: &UplinkSettings) -> PortSpec {
    PortSpec {
        vlan_mode: Some(VlanMode::Trunk),
        trunks: settings.trunks.iter().copied().collect(),
        other_config: if settings.flood_multicast { flood_config() } else { BTreeMap::new() },
        external_ids: uplink_ids(Origin::Created),
        ..PortSpec::new(nic)
    }
}

fn set_uplink(nic: &str, settings: &UplinkSettings) -> Vec<Operation> {
    let trunks: Value =
        settings.trunks.iter().map(|vlan| trunkline_ovs::Atom::Integer(i64::from(*vlan))).collect();
    let columns = [("tag", Value::empty()), ("vlan_mode", "trunk".into()), ("trunks", trunks)];
    let mut operations = set_port_columns(nic, columns);
    let (set, remove) =
        if settings.flood_multicast { (flood_config(), &[][..]) } else { (BTreeMap::new(), &FLOOD_KEYS[..]) };
    operations.extend(mutate_map(Table::Port, nic, "other_config", &set, remove));
    operations
}
