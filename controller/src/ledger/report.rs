//! What the ledger knows of a pool, for its status, its Events and the metrics.
//!
//! Owns the figures. Must never word a condition; the keeper does.

use std::net::IpAddr;
use std::time::Instant;

use trunkline_ipam::Overlap;

use super::Ledger;
use crate::objects::PoolObject;

/// A pool's state.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolReport {
    /// The object as last seen.
    pub object: PoolObject,
    /// Addresses that can be given out.
    pub total: u128,
    /// Those in use.
    pub used: u128,
    /// Claims, also of addresses outside the ranges.
    pub claims: usize,
    /// Nothing can be given.
    pub exhausted: bool,
    /// Ranges that give nothing, each with its reason.
    pub problems: Vec<String>,
    /// Pools that share addresses on the same VLAN.
    pub overlaps: Vec<Overlap>,
    /// Addresses that rest after a conflict.
    pub conflicts: Vec<IpAddr>,
    /// The address to look at first.
    pub cursor: Option<IpAddr>,
}

impl Ledger {
    /// Pools that changed since this was asked last.
    pub fn take_dirty(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// Every pool counts as changed.
    pub fn mark_all_dirty(&mut self) {
        self.dirty = self.pools.keys().cloned().collect();
    }

    /// These pools count as changed.
    pub fn mark_again(&mut self, pools: Vec<String>) {
        self.dirty.extend(pools);
    }

    /// A pool's state.
    pub fn report(&mut self, name: &str, now: Instant) -> Option<PoolReport> {
        self.refresh_networks();
        let object = self.pools.get(name)?.clone();
        if let Some(pool) = self.table.pool_mut(name) {
            pool.expire(now);
        }
        let pool = self.table.pool(name)?;
        let conflicts = pool.conflicts();
        let report = PoolReport {
            object,
            total: pool.total(),
            used: pool.used(),
            claims: pool.claims(),
            exhausted: pool.is_exhausted(),
            problems: pool.problems().iter().map(ToString::to_string).collect(),
            overlaps: self.table.overlaps(name),
            conflicts,
            cursor: pool.cursor(),
        };
        // Their end is no event of its own.
        if !report.conflicts.is_empty() {
            self.mark_dirty(name);
        }
        Some(report)
    }

    /// Name, total and used of every pool.
    pub fn usages(&self) -> Vec<(String, u128, u128)> {
        let pools = self.table.names().filter_map(|name| self.table.pool(name));
        pools.map(|pool| (pool.name().to_owned(), pool.total(), pool.used())).collect()
    }
}
