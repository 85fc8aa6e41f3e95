//! One pool: who has which of its addresses, and which is next.
//!
//! Owns cursor, rests and quarantines of the pool. Must never look at another pool; `table` does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::Reserved;
use crate::address::{Family, Requested, value};
use crate::error::{PoolUsage, Refusal};
use crate::slots::Slots;
use crate::spec::{PoolSpec, Range, RangeProblem, reserved, usable_ranges};

mod rest;

use rest::Rests;

/// How long a freed address is kept back while others are free: long enough for neighbours' ARP and ND entries to
/// go stale. A pool with nothing else gives out the one freed longest ago.
const REST: Duration = Duration::from_secs(300);

/// One interface of one pod. Identity is (pod UID, interface).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Pod UID; a static pod's is its configuration hash.
    pub pod_uid: String,
    /// Interface in the pod.
    pub interface: String,
    /// Pod namespace, for messages.
    pub namespace: String,
    /// Pod name, for messages.
    pub pod: String,
}

impl Owner {
    /// Are both the same interface of the same pod?
    pub fn is_same(&self, other: &Self) -> bool {
        self.pod_uid == other.pod_uid && self.interface == other.interface
    }
}

/// How an address comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// A pod may have used it on the network, so it rests.
    Announced,
    /// No pod ever had it.
    NeverAnnounced,
}

/// A pool of addresses of one family.
#[derive(Clone, Debug)]
pub struct Pool {
    spec: PoolSpec,
    family: Family,
    segments: Vec<Segment>,
    problems: Vec<RangeProblem>,
    owners: HashMap<u128, Owner>,
    rests: Rests,
    /// Segment and slot to look at first.
    cursor: (usize, u128),
}

#[derive(Clone, Debug)]
struct Segment {
    range: Range,
    reserved: Vec<(u128, Reserved)>,
    slots: Slots,
    used: u128,
}

impl Pool {
    /// A pool in which nothing is in use. Ranges that cannot be used are among its [`Self::problems`].
    pub fn new(spec: PoolSpec) -> Self {
        let (ranges, problems) = usable_ranges(&spec);
        let never = spec.subnet.as_ref().map_or_else(|_| Vec::new(), |subnet| reserved(*subnet));
        let family = spec.subnet.as_ref().map_or(Family::V4, |subnet| Family::of(subnet.addr()));
        let segments = ranges.into_iter().map(|range| Segment::new(range, &never)).collect();
        Self {
            spec,
            family,
            segments,
            problems,
            owners: HashMap::new(),
            rests: Rests::default(),
            cursor: (0, 0),
        }
    }

    /// Takes a changed specification; owners, rests and cursor stay.
    pub fn respecify(&mut self, spec: PoolSpec) {
        if spec == self.spec {
            return;
        }
        let cursor = self.cursor();
        let mut next = Self::new(spec);
        next.owners = std::mem::take(&mut self.owners);
        next.rests = std::mem::take(&mut self.rests);
        *self = next;
        let taken: Vec<u128> = self.owners.keys().copied().collect();
        for value in taken {
            self.count(value, true);
            self.refresh(value);
        }
        for value in self.rests.all() {
            self.refresh(value);
        }
        if let Some(cursor) = cursor {
            self.set_cursor(cursor);
        }
    }

    /// As the user wrote it.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Pool name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The pool's family, by its gateway; IPv4 while that cannot be read.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Gateway with the subnet's prefix length, where readable.
    pub fn subnet(&self) -> Option<IpNet> {
        self.spec.subnet.as_ref().ok().copied()
    }

    /// What is wrong with ranges that give nothing.
    pub fn problems(&self) -> &[RangeProblem] {
        &self.problems
    }

    /// Number of addresses that can be given out.
    pub fn total(&self) -> u128 {
        self.segments.iter().map(Segment::total).fold(0, u128::saturating_add)
    }

    /// Number of addresses in use, of those that can be given out.
    pub fn used(&self) -> u128 {
        self.segments.iter().map(|segment| segment.used).sum()
    }

    /// Number of claims, those outside the ranges too.
    pub fn claims(&self) -> usize {
        self.owners.len()
    }

    /// Number of addresses that rest after a conflict and that nobody has.
    pub fn quarantined(&self) -> u128 {
        let free = |value: &u128| !self.owners.contains_key(value) && self.segment_of(*value).is_some();
        self.rests.quarantined().filter(free).count() as u128
    }

    /// Can nothing more be given? Addresses that rest after use do count as free, quarantined ones do not.
    pub fn is_exhausted(&self) -> bool {
        self.used() + self.quarantined() >= self.total()
    }

    /// Addresses in quarantine, whoever has them.
    pub fn conflicts(&self) -> Vec<IpAddr> {
        self.rests.quarantined().map(|value| self.family.address(value)).collect()
    }

    /// Figures for messages.
    pub fn usage(&self) -> PoolUsage {
        PoolUsage {
            name: self.spec.name.clone(),
            used: self.used(),
            total: self.total(),
            quarantined: self.quarantined(),
            deleting: false,
            shared_with: Vec::new(),
            problems: self.problems.iter().map(ToString::to_string).collect(),
        }
    }

    /// The ranges that give addresses, "10.0.0.1-10.0.0.9, …".
    pub fn ranges_text(&self) -> String {
        let text = |segment: &Segment| {
            let (first, last) = (segment.range.first, segment.range.last);
            format!("{}-{}", self.family.address(first), self.family.address(last))
        };
        self.segments.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// Who has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Owner> {
        if Family::of(address) == self.family { self.owners.get(&value(address)) } else { None }
    }

    /// Is this the gateway of a subnet that reserves it?
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.subnet().is_some_and(|subnet| {
            subnet.addr() == address
                && reserved(subnet).iter().any(|&(reserved, _)| reserved == value(address))
        })
    }

    /// Do two pools share an address?
    pub fn meets(&self, other: &Self) -> bool {
        let meets = |range: Range| other.segments.iter().any(|segment| segment.range.meets(range));
        self.family == other.family && self.segments.iter().any(|segment| meets(segment.range))
    }

    /// Is the address in a range that gives addresses?
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && self.segment_of(value(address)).is_some()
    }

    /// The address that is looked at first, and that a restarted controller should go on from.
    pub fn cursor(&self) -> Option<IpAddr> {
        let (index, slot) = self.cursor;
        let segment = self.segments.get(index)?;
        Some(self.family.address(segment.range.first.checked_add(slot)?))
    }

    /// Goes on from a saved cursor; one outside the ranges is ignored.
    pub fn set_cursor(&mut self, address: IpAddr) {
        let at = value(address);
        if Family::of(address) != self.family {
            return;
        }
        if let Some(index) = self.segment_of(at) {
            self.cursor = (index, at - self.segments[index].range.first);
        }
    }

    /// Gives the next address: the one that this owner gave back last, else the next free one, else the one freed
    /// longest ago. `blocked` tells of addresses that others have on the same network.
    pub fn take(&mut self, owner: &Owner, now: Instant, blocked: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        self.expire(now);
        let usable = |value: &u128| !blocked(self.family.address(*value));
        let earlier = self.rests.of(owner).filter(|value| self.can_reuse(*value)).filter(usable);
        let (value, moves) = match earlier {
            Some(value) => (value, false),
            None => match self.next_free(&blocked) {
                Some(value) => (value, true),
                None => (self.rests.oldest().find(|value| self.can_reuse(*value) && usable(value))?, false),
            },
        };
        if moves {
            self.advance_past(value);
        }
        let address = self.family.address(value);
        self.mark(address, owner.clone());
        Some(address)
    }

    /// Gives a named address, or says why not.
    pub fn take_requested(&mut self, asked: Requested, owner: &Owner, now: Instant) -> Result<(), Refusal> {
        self.expire(now);
        let pool = || self.spec.name.clone();
        let value = value(asked.address);
        let Some(index) = self.segment_of(value).filter(|_| self.contains(asked.address)) else {
            return Err(Refusal::OutsideRanges {
                pools: format!("IPPool {} ({})", pool(), self.ranges_text()),
            });
        };
        let length = self.subnet().map_or(self.family.bits(), |subnet| subnet.prefix_len());
        if let Some(asked) = asked.prefix_length.filter(|asked| *asked != length) {
            return Err(Refusal::PrefixLength { pool: pool(), asked, length });
        }
        if let Some(&(_, reserved)) = self.segments[index].reserved.iter().find(|(other, _)| *other == value)
        {
            return Err(Refusal::Reserved { pool: pool(), reserved });
        }
        if let Some(holder) = self.owners.get(&value) {
            return Err(Refusal::Used { pool: pool(), owner: Box::new(holder.clone()) });
        }
        if let Some(until) = self.rests.quarantined_until(value) {
            return Err(Refusal::Quarantined { seconds: until.saturating_duration_since(now).as_secs() });
        }
        self.mark(asked.address, owner.clone());
        Ok(())
    }

    /// Notes that an address is in use, whether or not a range holds it. Of another family: ignored.
    pub fn mark(&mut self, address: IpAddr, owner: Owner) {
        if Family::of(address) != self.family {
            return;
        }
        let value = value(address);
        self.rests.forget_rest(value);
        if self.owners.insert(value, owner).is_none() {
            self.count(value, true);
        }
        self.refresh(value);
    }

    /// Takes an address back. Nobody else's: unless `owner` has it, nothing happens.
    pub fn release(&mut self, address: IpAddr, owner: &Owner, how: Release, now: Instant) {
        if !self.owner(address).is_some_and(|holder| holder.is_same(owner)) {
            return;
        }
        let value = value(address);
        self.owners.remove(&value);
        self.count(value, false);
        if how == Release::Announced && self.contains(address) && !self.is_reserved(value) {
            self.rests.rest(value, owner, now + REST);
        }
        self.refresh(value);
    }

    /// Keeps an address back until then, because somebody unknown uses it on the network.
    pub fn quarantine(&mut self, address: IpAddr, until: Instant) {
        if self.contains(address) {
            self.rests.quarantine(value(address), until);
            self.refresh(value(address));
        }
    }

    /// Ends rests and quarantines whose time has come.
    pub fn expire(&mut self, now: Instant) {
        while let Some(value) = self.rests.pop_expired(now) {
            self.refresh(value);
        }
    }

    /// Every claim: address and owner, in no order.
    pub fn owners(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.owners.iter().map(|(value, owner)| (self.family.address(*value), owner))
    }

    fn can_reuse(&self, value: u128) -> bool {
        let is_kept = self.owners.contains_key(&value) || self.rests.quarantined_until(value).is_some();
        !is_kept && !self.is_reserved(value)
    }

    fn is_reserved(&self, value: u128) -> bool {
        let segment = self.segment_of(value).map(|index| &self.segments[index]);
        segment.is_some_and(|segment| segment.reserved.iter().any(|(reserved, _)| *reserved == value))
    }

    fn segment_of(&self, value: u128) -> Option<usize> {
        self.segments.iter().position(|segment| segment.range.contains(value))
    }

    fn next_free(&self, blocked: &impl Fn(IpAddr) -> bool) -> Option<u128> {
        let (start, slot) = self.cursor;
        let count = self.segments.len();
        // From the cursor to the end of its segment, the other segments, and that segment's beginning.
        let places =
            (0..=count).map(|step| ((start + step) % count.max(1), if step == 0 { slot } else { 0 }));
        for (index, from) in places {
            let Some(segment) = self.segments.get(index) else { continue };
            let mut from = from;
            while let Some(slot) = segment.slots.next_clear(from) {
                let value = segment.range.first + slot;
                if !blocked(self.family.address(value)) {
                    return Some(value);
                }
                from = slot + 1;
            }
        }
        None
    }

    fn advance_past(&mut self, value: u128) {
        let Some(index) = self.segment_of(value) else { return };
        let range = self.segments[index].range;
        self.cursor = if value < range.last {
            (index, value - range.first + 1)
        } else {
            ((index + 1) % self.segments.len(), 0)
        };
    }

    /// Corrects the number of used addresses.
    fn count(&mut self, value: u128, taken: bool) {
        if let Some(index) = self.segment_of(value) {
            let segment = &mut self.segments[index];
            // A claim on a reserved address, of an earlier gateway say, is no part of what can be given out.
            if segment.reserved.iter().all(|(reserved, _)| *reserved != value) {
                if taken { segment.used += 1 } else { segment.used -= 1 }
            }
        }
    }

    /// Writes one slot anew from what is known of its address.
    fn refresh(&mut self, value: u128) {
        let Some(index) = self.segment_of(value) else { return };
        let busy = self.owners.contains_key(&value) || self.rests.holds(value);
        let segment = &mut self.segments[index];
        let reserved = segment.reserved.iter().any(|(reserved, _)| *reserved == value);
        segment.slots.write(value - segment.range.first, busy || reserved);
    }
}

impl Segment {
    fn new(range: Range, never: &[(u128, Reserved)]) -> Self {
        let reserved: Vec<_> = never.iter().copied().filter(|(value, _)| range.contains(*value)).collect();
        let mut slots = Slots::new(range.size());
        for (value, _) in &reserved {
            slots.write(value - range.first, true);
        }
        Self { range, reserved, slots, used: 0 }
    }

    fn total(&self) -> u128 {
        self.range.size() - self.reserved.len() as u128
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
