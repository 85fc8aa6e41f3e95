//! Addresses that nobody has and that are kept back for a while.
//!
//! Owns the two reasons, a rest after use (soft: the pool may need it) and a quarantine after a conflict (hard).
//! Must never know who has an address now.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::Owner;

/// Rests and quarantines of one pool, by address value.
#[derive(Clone, Debug, Default)]
pub(super) struct Rests {
    resting: HashMap<u128, (Instant, Owner)>,
    quarantined: HashMap<u128, Instant>,
    by_end: BTreeSet<(Instant, u128)>,
    /// (pod UID, interface) → the address it gave back last.
    by_owner: HashMap<(String, String), u128>,
}

impl Rests {
    pub(super) fn rest(&mut self, value: u128, owner: &Owner, until: Instant) {
        self.forget_rest(value);
        self.resting.insert(value, (until, owner.clone()));
        self.by_end.insert((until, value));
        self.by_owner.insert((owner.pod_uid.clone(), owner.interface.clone()), value);
    }

    pub(super) fn quarantine(&mut self, value: u128, until: Instant) {
        if let Some(earlier) = self.quarantined.insert(value, until)
            && self.resting.get(&value).is_none_or(|(end, _)| *end != earlier)
        {
            self.by_end.remove(&(earlier, value));
        }
        self.by_end.insert((until, value));
    }

    pub(super) fn forget_rest(&mut self, value: u128) {
        let Some((until, owner)) = self.resting.remove(&value) else { return };
        if self.quarantined.get(&value) != Some(&until) {
            self.by_end.remove(&(until, value));
        }
        let key = (owner.pod_uid, owner.interface);
        if self.by_owner.get(&key) == Some(&value) {
            self.by_owner.remove(&key);
        }
    }

    /// Removes one entry whose time has come and names its address.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u128> {
        let &(until, value) = self.by_end.first().filter(|(until, _)| *until <= now)?;
        if self.quarantined.get(&value) == Some(&until) {
            self.quarantined.remove(&value);
        }
        if self.resting.get(&value).is_some_and(|(end, _)| *end == until) {
            self.forget_rest(value);
        }
        self.by_end.remove(&(until, value));
        Some(value)
    }

    pub(super) fn holds(&self, value: u128) -> bool {
        self.resting.contains_key(&value) || self.quarantined.contains_key(&value)
    }

    pub(super) fn quarantined_until(&self, value: u128) -> Option<Instant> {
        self.quarantined.get(&value).copied()
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = u128> {
        self.quarantined.keys().copied()
    }

    /// The address that this interface of this pod gave back, while it rests.
    pub(super) fn of(&self, owner: &Owner) -> Option<u128> {
        self.by_owner.get(&(owner.pod_uid.clone(), owner.interface.clone())).copied()
    }

    /// Resting addresses, the one freed longest ago first.
    pub(super) fn oldest(&self) -> impl Iterator<Item = u128> {
        self.by_end.iter().map(|(_, value)| *value).filter(|value| self.resting.contains_key(value))
    }

    pub(super) fn all(&self) -> Vec<u128> {
        self.resting.keys().chain(self.quarantined.keys()).copied().collect()
    }
}
