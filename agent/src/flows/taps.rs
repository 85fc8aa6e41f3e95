//! The taps as they are, kept as they should be.
//!
//! Owns the set of pinned taps, on a thread of its own, and who each slot belongs to. A tap is attached inside ADD,
//! before the pod's end goes up; everything else is the reconciler's: what a crash left, what somebody detached, what
//! is gone. Must never take a pod's ADD down: a node without BPF still attaches pods, and says that they are not seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trunkline_ebpf::{LinkState, Slot, TapError, TapSet, Way};

use super::others::is_other;
use super::owner::{Owner, OwnerGone};
use super::record::TapIdentity;
use super::wishes::{TapWish, Wishes};
use crate::attach::is_host_link_name;
use crate::cli::chain;

pub(super) mod others;

/// Slots and their owners; shared by whoever attaches and whoever reads.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Taps that are to be.
    pub(super) taps: BTreeMap<Slot, Arc<TapIdentity>>,
    /// Taps that were given up and whose last flows are still to be read; the number counts drains since.
    pub(super) leaving: BTreeMap<Slot, (Arc<TapIdentity>, u8)>,
    /// Taps that could not be made, by name: what is wrong.
    pub(super) failed: BTreeMap<String, (Arc<TapIdentity>, String)>,
    /// Links that should have a tap and are not there.
    pub(super) missing: Vec<String>,
    /// Interfaces that are not ours.
    pub(super) others: others::Others,
}

impl Known {
    /// Who a slot's flows belong to.
    pub(super) fn owner(&self, slot: Slot) -> Option<Arc<TapIdentity>> {
        self.taps.get(&slot).or_else(|| self.leaving.get(&slot).map(|(identity, _)| identity)).cloned()
    }

    /// These taps were given up, and keep their owners until their last flows have been read.
    fn leave(&mut self, left: Vec<(Slot, String)>) {
        for (slot, name) in left {
            if let Some(identity) = self.taps.remove(&slot) {
                self.leaving.insert(slot, (identity, 0));
            }
            self.leaving.entry(slot).or_insert_with(|| (nameless(&name), 0));
        }
    }
}

/// A handle; clones share the thread.
#[derive(Clone)]
pub(super) struct Taps {
    set: Owner<TapSet>,
    known: Arc<Mutex<Known>>,
    way: Way,
    /// Whether interfaces that are not ours have taps, too.
    with_others: bool,
}

/// What a reconciliation changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Taps that somebody had taken off, back on: frames in between were not counted.
    pub(super) attached_again: Vec<(Slot, Arc<TapIdentity>)>,
    /// Taps that cannot be made, new since the last look.
    pub(super) failed: Vec<(Arc<TapIdentity>, String)>,
}

/// One tap's fate in a reconciliation.
enum Fate {
    Right(Slot),
    New(Slot),
    Again(Slot),
    Failed(String),
}

impl Taps {
    /// Takes over the set, with the taps that an earlier process pinned: they are known by their link's name until
    /// the first reconciliation says more.
    pub(super) fn start(set: TapSet, with_others: bool) -> std::io::Result<Self> {
        let mut known = Known::default();
        known.taps.extend(set.taps().map(|(slot, name)| (slot, nameless(name))));
        known.leaving.extend(set.given_up().map(|(slot, name)| (slot, (nameless(name), 0))));
        let way = set.way();
        Ok(Self { set: Owner::start("taps", set)?, known: Arc::new(Mutex::new(known)), way, with_others })
    }

    /// How taps hang on interfaces.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// What is known now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches one tap. An error is kept for whoever asks, and the reconciler tries again.
    pub(super) async fn attach(&self, wish: TapWish) -> Result<(), String> {
        let TapWish { tap, identity } = wish;
        let (name, identity) = (tap.name.clone(), Arc::new(identity));
        let made = self.set.run(move |set| set.ensure(&tap)).await;
        let outcome =
            made.map_err(|gone| gone.to_string()).and_then(|made| made.map_err(|error| chain(&error)));
        let mut known = self.known();
        match outcome {
            Ok(slot) => {
                known.failed.remove(&name);
                known.taps.insert(slot, identity);
                Ok(())
            }
            Err(words) => {
                known.failed.insert(name, (identity, words.clone()));
                Err(words)
            }
        }
    }

    /// Makes the taps what they should be. `present` says whether a link of this name is there.
    pub(super) async fn reconcile(
        &self,
        wishes: Wishes,
        present: fn(&str) -> bool,
    ) -> Result<Changes, OwnerGone> {
        let Wishes { taps: wishes, missing, complete } = wishes;
        let identities: HashMap<String, Arc<TapIdentity>> =
            wishes.iter().map(|wish| (wish.tap.name.clone(), Arc::new(wish.identity.clone()))).collect();
        let with_others = self.with_others;
        let work = move |set: &mut TapSet| {
            let fates: Vec<(String, Fate)> =
                wishes.iter().map(|wish| (wish.tap.name.clone(), fate(set, wish))).collect();
            let wanted = |name: &str| {
                // A pod's port that is being made has its tap before OVSDB knows it, and an uplink of a bridge that
                // nobody has looked at yet may be wanted.
                fates.iter().any(|(wish, _)| wish == name)
                    || (with_others && is_other(name))
                    || ((is_host_link_name(name) || !complete) && present(name))
            };
            let gone: Vec<Slot> =
                set.taps().filter(|(_, name)| !wanted(name)).map(|(slot, _)| slot).collect();
            for slot in &gone {
                if let Err(error) = set.give_up(*slot) {
                    tracing::warn!(error = %chain(&error), "a tap cannot be taken off, will try again");
                }
            }
            (fates, given_up(set))
        };
        let (fates, left) = self.set.run(work).await?;
        Ok(self.take_in(fates, left, &identities, missing))
    }

    fn take_in(
        &self,
        fates: Vec<(String, Fate)>,
        left: Vec<(Slot, String)>,
        identities: &HashMap<String, Arc<TapIdentity>>,
        missing: Vec<String>,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut known = self.known();
        let before = std::mem::take(&mut known.failed);
        known.missing = missing;
        for (name, fate) in fates {
            let identity = Arc::clone(&identities[&name]);
            match fate {
                Fate::Right(slot) | Fate::New(slot) => keep(&mut known, slot, identity),
                Fate::Again(slot) => {
                    keep(&mut known, slot, Arc::clone(&identity));
                    changes.attached_again.push((slot, identity));
                }
                Fate::Failed(words) => {
                    if before.get(&name).is_none_or(|(_, said)| *said != words) {
                        changes.failed.push((Arc::clone(&identity), words.clone()));
                    }
                    known.failed.insert(name, (identity, words));
                }
            }
        }
        known.leave(left);
        changes
    }

    /// Counts a drain, and says which slots have had their last: both parities were read since they were given up.
    pub(super) fn drained(&self) -> Vec<Slot> {
        let mut known = self.known();
        known.leaving.values_mut().for_each(|(_, drains)| *drains = drains.saturating_add(1));
        known.leaving.iter().filter(|(_, (_, drains))| *drains > 2).map(|(slot, _)| *slot).collect()
    }

    /// Frees a slot that has been set back.
    pub(super) async fn forget(&self, slot: Slot) -> Result<Result<(), TapError>, OwnerGone> {
        let freed = self.set.run(move |set| set.forget(slot)).await?;
        if freed.is_ok() {
            self.known().leaving.remove(&slot);
        }
        Ok(freed)
    }
}

/// Slots whose tap was given up, with its name.
fn given_up(set: &TapSet) -> Vec<(Slot, String)> {
    set.given_up().map(|(slot, name)| (slot, name.to_owned())).collect()
}

/// The identity of a tap stays the same object while it says the same: flows refer to it.
fn keep(known: &mut Known, slot: Slot, identity: Arc<TapIdentity>) {
    let same = known
        .taps
        .get(&slot)
        .is_some_and(|held| TapIdentity { since: held.since, ..(*identity).clone() } == **held);
    if !same {
        known.taps.insert(slot, identity);
    }
}

fn fate(set: &mut TapSet, wish: &TapWish) -> Fate {
    let held = set.taps().find(|(_, name)| *name == wish.tap.name).map(|(slot, _)| slot);
    let state = held.map(|slot| set.state(slot, &wish.tap));
    let (made, was_off) = match (held, state) {
        (Some(slot), Some(Ok(LinkState::Attached { .. }))) => return Fate::Right(slot),
        (_, Some(Err(error))) => (Err(error), false),
        // Another version's program is exchanged under the link: no frame is missed.
        (_, Some(Ok(LinkState::OtherProgram { .. }))) => (set.ensure(&wish.tap), false),
        _ => (set.ensure(&wish.tap), held.is_some()),
    };
    match made {
        Ok(slot) if was_off => Fate::Again(slot),
        Ok(slot) => Fate::New(slot),
        Err(error) => Fate::Failed(chain(&error)),
    }
}

/// A tap of an earlier process, before OVSDB has said whose it is.
fn nameless(name: &str) -> Arc<TapIdentity> {
    Arc::new(TapIdentity {
        device: name.to_owned(),
        ifindex: 0,
        interface: name.to_owned(),
        netns: None,
        pod: None,
        network: None,
        vlan: None,
        bridge: None,
        since: std::time::SystemTime::now(),
    })
}
