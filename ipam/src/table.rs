//! All pools together: which one serves a request, and which share a network.
//!
//! Owns the order in which pools are tried and the check against overlapping pools. Must never know objects or
//! sandboxes; the controller does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use crate::Reserved;
use crate::address::{Family, Requested};
use crate::error::{PickError, PoolUsage, Refusal};
use crate::pool::{Owner, Pool, Release};
use crate::spec::{Network, PoolSpec};

/// What one interface asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// For whom.
    pub owner: &'a Owner,
    /// Pools in the order to try.
    pub pools: &'a [String],
    /// Addresses asked for by name, at most one of a family.
    pub requested: &'a [Requested],
    /// VLAN that overrides the pools', 0–4094.
    pub vlan: Option<u16>,
    /// Bridge that the network names.
    pub bridge: Option<&'a str>,
    /// Families that the interface has an address of already.
    pub held: &'a [Family],
}

/// An address, given but not claimed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
}

/// Two pools that share addresses on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The other pool.
    pub other: String,
    /// The VLAN they share, 0 is untagged.
    pub vlan: u16,
}

/// All pools, and claims of pools that are not known yet.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pools: BTreeMap<String, Entry>,
    /// Claims whose pool has not been seen, or is gone.
    strays: HashMap<String, HashMap<IpAddr, Owner>>,
}

#[derive(Clone, Debug)]
struct Entry {
    pool: Pool,
    /// The networks that use the pool; empty: the pool's own VLAN on any bridge.
    networks: BTreeSet<Network>,
    /// Pools that share addresses with this one, on whatever network.
    neighbours: Vec<String>,
    deleting: bool,
}

impl Table {
    /// Takes a pool, new or changed. A deleting one gives nothing more. True if its cursor may be set: it is new.
    pub fn upsert(&mut self, spec: PoolSpec, deleting: bool) -> bool {
        let name = spec.name.clone();
        if let Some(entry) = self.pools.get_mut(&name) {
            entry.deleting = deleting;
            if *entry.pool.spec() == spec {
                return false;
            }
        }
        let known = self.take_entry(&name);
        let is_new = known.is_none();
        let (mut pool, networks) = match known {
            Some(entry) => (entry.pool, entry.networks),
            None => (Pool::new(spec.clone()), BTreeSet::new()),
        };
        pool.respecify(spec);
        for (address, owner) in self.strays.remove(&name).unwrap_or_default() {
            pool.mark(address, owner);
        }
        let mut neighbours = Vec::new();
        for (other, entry) in &mut self.pools {
            if entry.pool.meets(&pool) {
                entry.neighbours.push(name.clone());
                neighbours.push(other.clone());
            }
        }
        self.pools.insert(name, Entry { pool, networks, neighbours, deleting });
        is_new
    }

    /// Forgets a pool; its claims are kept, should it come back.
    pub fn remove(&mut self, name: &str) {
        if let Some(entry) = self.take_entry(name)
            && entry.pool.claims() > 0
        {
            let claims = entry.pool.owners().map(|(address, owner)| (address, owner.clone())).collect();
            self.strays.insert(name.to_owned(), claims);
        }
    }

    fn take_entry(&mut self, name: &str) -> Option<Entry> {
        let entry = self.pools.remove(name)?;
        for other in &entry.neighbours {
            if let Some(other) = self.pools.get_mut(other) {
                other.neighbours.retain(|neighbour| neighbour != name);
            }
        }
        Some(entry)
    }

    /// Sets the networks of all pools; a pool that is not in it is used by none.
    pub fn set_networks(&mut self, mut networks: BTreeMap<String, BTreeSet<Network>>) {
        for (name, entry) in &mut self.pools {
            entry.networks = networks.remove(name).unwrap_or_default();
        }
    }

    /// A pool.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name).map(|entry| &entry.pool)
    }

    /// A pool, to set its cursor or a quarantine.
    pub fn pool_mut(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.get_mut(name).map(|entry| &mut entry.pool)
    }

    /// Is the pool being deleted?
    pub fn is_deleting(&self, name: &str) -> bool {
        self.pools.get(name).is_some_and(|entry| entry.deleting)
    }

    /// Names of all pools, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pools.keys().map(String::as_str)
    }

    /// The pools that share addresses with this one on a network of its own.
    pub fn overlaps(&self, name: &str) -> Vec<Overlap> {
        let Some(entry) = self.pools.get(name) else { return Vec::new() };
        let ours = entry.networks();
        let mut overlaps = Vec::new();
        for other in &entry.neighbours {
            let Some(neighbour) = self.pools.get(other) else { continue };
            let theirs = neighbour.networks();
            let shared = ours.iter().find(|network| theirs.iter().any(|other| other.may_meet(network)));
            overlaps.extend(shared.map(|network| Overlap { other: other.clone(), vlan: network.vlan }));
        }
        overlaps.sort_by(|one, other| one.other.cmp(&other.other));
        overlaps
    }

    /// Names of the pools that share addresses with this one, whatever the network.
    pub fn neighbours(&self, name: &str) -> &[String] {
        self.pools.get(name).map_or(&[], |entry| &entry.neighbours)
    }

    /// Gives one address of every family that the pools have and the interface lacks: all of them, or none. What is
    /// given is marked as the owner's until it is released.
    pub fn pick(&mut self, ask: &Ask<'_>, now: Instant) -> Result<Vec<Pick>, PickError> {
        let families = self.families(ask)?;
        let mut picks: Vec<Pick> = Vec::new();
        for family in families {
            let requested = ask.requested.iter().find(|asked| Family::of(asked.address) == family);
            let picked = match requested {
                Some(asked) => self.pick_requested(ask, *asked, now),
                None => self.pick_next(ask, family, now),
            };
            match picked {
                Ok(pick) => picks.push(pick),
                Err(error) => {
                    for pick in picks {
                        self.release(&pick.pool, pick.address, ask.owner, Release::NeverAnnounced, now);
                    }
                    return Err(error);
                }
            }
        }
        Ok(picks)
    }

    /// Families still to be served, in the order of the pools.
    fn families(&self, ask: &Ask<'_>) -> Result<Vec<Family>, PickError> {
        let mut families = Vec::new();
        for name in ask.pools {
            let entry = self.pools.get(name).ok_or_else(|| PickError::NoSuchPool { pool: name.clone() })?;
            let family = entry.pool.family();
            if !families.contains(&family) {
                families.push(family);
            }
        }
        for (index, asked) in ask.requested.iter().enumerate() {
            let family = Family::of(asked.address);
            if let Some(first) =
                ask.requested[..index].iter().find(|first| Family::of(first.address) == family)
            {
                return Err(PickError::FamilyTwice { family, first: first.address, second: asked.address });
            }
            if !families.contains(&family) {
                let pools = format!("the network's IPPools: none of them is of family {family}");
                return Err(refused(*asked, Refusal::OutsideRanges { pools }));
            }
        }
        families.retain(|family| !ask.held.contains(family));
        Ok(families)
    }

    fn pick_next(&mut self, ask: &Ask<'_>, family: Family, now: Instant) -> Result<Pick, PickError> {
        let mut tried = Vec::new();
        for name in ask.pools {
            let Some(mut entry) = self.pools.remove(name) else { continue };
            let mut address = None;
            if entry.pool.family() == family {
                if !entry.deleting {
                    let network = entry.network(ask);
                    let blocked = |address| self.blocked(&entry.neighbours, &network, address).is_some();
                    address = entry.pool.take(ask.owner, now, blocked);
                }
                if address.is_none() {
                    tried.push(entry.usage());
                }
            }
            self.pools.insert(name.clone(), entry);
            if let Some(address) = address {
                return Ok(Pick { pool: name.clone(), address });
            }
        }
        Err(PickError::Exhausted { family, pools: tried })
    }

    fn pick_requested(&mut self, ask: &Ask<'_>, asked: Requested, now: Instant) -> Result<Pick, PickError> {
        let holds =
            |name: &&String| self.pools.get(*name).is_some_and(|entry| entry.pool.contains(asked.address));
        let Some(name) = ask.pools.iter().find(holds) else {
            return Err(refused(asked, Refusal::OutsideRanges { pools: self.ranges_text(ask, asked) }));
        };
        let mut entry = self.pools.remove(name).expect("found just above");
        let network = entry.network(ask);
        let outcome = if entry.deleting {
            Err(Refusal::Deleting { pool: name.clone() })
        } else if let Some(refusal) = self.blocked(&entry.neighbours, &network, asked.address) {
            Err(refusal)
        } else {
            entry.pool.take_requested(asked, ask.owner, now)
        };
        self.pools.insert(name.clone(), entry);
        outcome.map_err(|refusal| refused(asked, refusal))?;
        Ok(Pick { pool: name.clone(), address: asked.address })
    }

    /// Why an address cannot be given, going by the overlapping pools of the same network.
    fn blocked(&self, neighbours: &[String], network: &Network, address: IpAddr) -> Option<Refusal> {
        neighbours.iter().find_map(|name| {
            let entry = self.pools.get(name).filter(|entry| entry.is_on(network))?;
            let pool = name.clone();
            if entry.pool.is_gateway(address) {
                return Some(Refusal::Reserved { pool, reserved: Reserved::Gateway });
            }
            let owner = Box::new(entry.pool.owner(address)?.clone());
            Some(Refusal::Used { pool, owner })
        })
    }

    fn ranges_text(&self, ask: &Ask<'_>, asked: Requested) -> String {
        let family = Family::of(asked.address);
        let of_family = |name: &String| {
            let entry = self.pools.get(name).filter(|entry| entry.pool.family() == family)?;
            Some(format!("IPPool {name} ({})", entry.pool.ranges_text()))
        };
        ask.pools.iter().filter_map(of_family).collect::<Vec<_>>().join(" or ")
    }

    /// Notes a claim.
    pub fn mark(&mut self, pool: &str, address: IpAddr, owner: Owner) {
        match self.pools.get_mut(pool) {
            Some(entry) => entry.pool.mark(address, owner),
            None => {
                self.strays.entry(pool.to_owned()).or_default().insert(address, owner);
            }
        }
    }

    /// Takes an address back, if this owner has it.
    pub fn release(&mut self, pool: &str, address: IpAddr, owner: &Owner, how: Release, now: Instant) {
        if let Some(entry) = self.pools.get_mut(pool) {
            entry.pool.release(address, owner, how, now);
        } else if let Some(strays) = self.strays.get_mut(pool) {
            if strays.get(&address).is_some_and(|holder| holder.is_same(owner)) {
                strays.remove(&address);
            }
            if strays.is_empty() {
                self.strays.remove(pool);
            }
        }
    }
}

impl Entry {
    /// The networks on which the pool's addresses are used.
    fn networks(&self) -> BTreeSet<Network> {
        if self.networks.is_empty() {
            BTreeSet::from([Network { vlan: self.pool.spec().vlan, bridge: None }])
        } else {
            self.networks.clone()
        }
    }

    /// Are the pool's addresses used where frames of this network are seen?
    fn is_on(&self, network: &Network) -> bool {
        if self.networks.is_empty() {
            self.pool.spec().vlan == network.vlan
        } else {
            self.networks.iter().any(|other| other.may_meet(network))
        }
    }

    /// Figures for messages.
    fn usage(&self) -> PoolUsage {
        let usage = PoolUsage { deleting: self.deleting, ..self.pool.usage() };
        if self.pool.is_exhausted() {
            usage
        } else {
            PoolUsage { shared_with: self.neighbours.clone(), ..usage }
        }
    }

    /// The network that a request is for.
    fn network(&self, ask: &Ask<'_>) -> Network {
        let vlan = ask.vlan.unwrap_or(self.pool.spec().vlan);
        Network { vlan, bridge: ask.bridge.map(str::to_owned) }
    }
}

fn refused(asked: Requested, refusal: Refusal) -> PickError {
    PickError::Requested { address: asked.address, refusal }
}

#[cfg(test)]
mod tests;
