//! Taps on interfaces that are not ours, kept as they should be.
//!
//! Owns the order of a pass: first taps come off, then a few go on; the rest waits for the next pass, so that a pod's
//! ADD never waits behind a thousand interfaces. An interface whose tap is off was deleted, or somebody took it off:
//! either way it gets a new slot, and the flows of before end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use trunkline_ebpf::{LinkState, Slot, TapSet};

use super::super::others::{OtherWish, is_other};
use super::super::owner::OwnerGone;
use super::super::record::TapIdentity;
use super::{Taps, given_up, keep};
use crate::cli::chain;
use crate::netns::run_aside;

/// How many taps one pass attaches: each takes 30–80 ms, and pods' taps wait behind it.
const AT_ONCE: usize = 4;

/// An interface that has no tap, and why.
#[derive(Clone, Debug)]
pub(in super::super) struct Refusal {
    /// Which interface.
    pub(in super::super) identity: Arc<TapIdentity>,
    /// What is wrong.
    pub(in super::super) words: String,
    /// How many regular looks have found it so.
    looks: u32,
}

/// What is known of these taps.
#[derive(Debug, Default)]
pub(in super::super) struct Others {
    /// How many there should be.
    pub(in super::super) wanted: usize,
    /// Those that cannot be made, by the tap's name.
    pub(in super::super) refused: BTreeMap<String, Refusal>,
    /// Which interface each tap was made for, by the tap's name.
    instances: HashMap<String, u64>,
}

/// What a pass changed.
#[derive(Debug, Default)]
pub(in super::super) struct OtherChanges {
    /// There is more to attach.
    pub(in super::super) more: bool,
    /// Taps that were attached.
    pub(in super::super) attached: Vec<Arc<TapIdentity>>,
    /// Programs of another version that were exchanged: frames in between were not counted.
    pub(in super::super) gaps: Vec<Slot>,
    /// What taps were on before their interface or namespace was renamed, or it was known whose they are.
    pub(in super::super) renamed: Vec<Arc<TapIdentity>>,
    /// Those that have no tap and will hardly get one soon, told once.
    pub(in super::super) refused: Vec<Refusal>,
}

/// What became of one wish.
enum Outcome {
    On(Slot),
    New(Slot),
    Gap(Slot),
    Refused(String),
    /// Not tried in this pass.
    Waits,
}

impl Taps {
    /// One pass. `complete` says whether what is not wished for is not wanted; `regular`, whether those that could not
    /// be made are tried again.
    pub(in super::super) async fn settle_others(
        &self,
        wishes: Vec<OtherWish>,
        complete: bool,
        regular: bool,
    ) -> Result<OtherChanges, OwnerGone> {
        let pass = {
            let known = self.known();
            Pass {
                complete,
                regular,
                attached: known.taps.keys().copied().collect(),
                instances: known.others.instances.clone(),
                refused: known.others.refused.clone(),
                budget: AT_ONCE,
                more: false,
            }
        };
        let work = move |set: &mut TapSet| {
            let mut pass = pass;
            let outcomes = pass.run(set, wishes);
            (outcomes, given_up(set), pass.more)
        };
        let (outcomes, left, more) = self.set.run(work).await?;
        Ok(OtherChanges { more, ..self.take_in_others(outcomes, left, regular) })
    }

    fn take_in_others(
        &self,
        outcomes: Vec<(OtherWish, Outcome)>,
        left: Vec<(Slot, String)>,
        regular: bool,
    ) -> OtherChanges {
        let mut changes = OtherChanges::default();
        let mut known = self.known();
        let before = std::mem::take(&mut known.others);
        known.others.wanted = outcomes.len();
        known.leave(left);
        for (wish, outcome) in outcomes {
            let name = wish.tap.name;
            let mut identity = wish.identity;
            let slot = match outcome {
                Outcome::On(slot) => slot,
                Outcome::Gap(slot) => {
                    changes.gaps.push(slot);
                    slot
                }
                Outcome::New(slot) => {
                    changes.attached.push(Arc::new(identity.clone()));
                    slot
                }
                Outcome::Refused(words) => {
                    let held = before.refused.get(&name).filter(|held| held.words == words);
                    let looks = held.map_or(0, |held| held.looks) + u32::from(regular);
                    let refusal = Refusal { identity: Arc::new(identity), words, looks };
                    if looks == 2 && regular {
                        changes.refused.push(refusal.clone());
                    }
                    known.others.refused.insert(name, refusal);
                    continue;
                }
                Outcome::Waits => continue,
            };
            known.others.instances.insert(name, wish.instance);
            if let Some(held) = known.taps.get(&slot).cloned() {
                identity.since = held.since;
                let TapIdentity { device, netns, pod, .. } = &identity;
                if (&held.device, &held.netns, &held.pod) != (device, netns, pod) {
                    changes.renamed.push(held);
                }
            }
            keep(&mut known, slot, Arc::new(identity));
        }
        changes
    }
}

struct Pass {
    complete: bool,
    regular: bool,
    /// Slots whose tap was on when it was last looked at.
    attached: HashSet<Slot>,
    instances: HashMap<String, u64>,
    refused: BTreeMap<String, Refusal>,
    budget: usize,
    more: bool,
}

impl Pass {
    fn run(&mut self, set: &mut TapSet, mut wishes: Vec<OtherWish>) -> Vec<(OtherWish, Outcome)> {
        let slots = self.let_go(set, &wishes);
        // Those that have failed come last, the least tried first.
        wishes.sort_by_key(|wish| self.refused.get(&wish.tap.name).map_or(0, |refusal| refusal.looks));
        let own: HashSet<String> =
            set.taps().map(|(_, name)| name.to_owned()).filter(|name| !is_other(name)).collect();
        let judged = wishes.into_iter().map(|wish| {
            let slot = slots.get(&wish.tap.name).copied();
            let outcome = if wish.namespace.is_none() && own.contains(&wish.tap.interface) {
                Outcome::Waits // the tap that it has as ours is about to come off
            } else {
                self.judge(set, &wish, slot)
            };
            (wish, outcome)
        });
        judged.collect()
    }

    /// Takes off what is not wanted, and what was for an earlier interface of that index; returns the slots of the rest.
    fn let_go(&self, set: &mut TapSet, wishes: &[OtherWish]) -> HashMap<String, Slot> {
        let wanted: HashMap<&str, u64> =
            wishes.iter().map(|wish| (wish.tap.name.as_str(), wish.instance)).collect();
        let (mut slots, mut gone) = (HashMap::new(), Vec::new());
        for (slot, name) in set.taps().filter(|(_, name)| is_other(name)) {
            let right = match wanted.get(name) {
                Some(instance) => self.instances.get(name).is_none_or(|held| held == instance),
                None => !self.complete,
            };
            if right {
                slots.insert(name.to_owned(), slot);
            } else {
                gone.push(slot);
            }
        }
        for slot in gone {
            give_up(set, slot);
        }
        slots
    }

    fn judge(&mut self, set: &mut TapSet, wish: &OtherWish, slot: Option<Slot>) -> Outcome {
        if let Some(words) = wish.refused {
            return Outcome::Refused(words.to_owned());
        }
        let (mut slot, mut exchanged) = (slot, false);
        if let Some(held) = slot {
            match set.state(held, &wish.tap) {
                Ok(LinkState::Attached { .. }) => return Outcome::On(held),
                Ok(LinkState::OtherProgram { .. }) => exchanged = true,
                Ok(LinkState::Gone) if self.attached.contains(&held) => {
                    give_up(set, held);
                    slot = None;
                }
                Ok(LinkState::Gone) => {}
                Err(error) => return Outcome::Refused(chain(&error)),
            }
        }
        let before = self.refused.get(&wish.tap.name).map(|refusal| refusal.words.clone());
        if let Some(words) = before
            && (!self.regular || self.budget == 0)
        {
            return Outcome::Refused(words);
        }
        if slot.is_none()
            && let Some(words) = no_room(set)
        {
            return Outcome::Refused(words);
        }
        if self.budget == 0 {
            self.more = true;
            return Outcome::Waits;
        }
        self.budget -= 1;
        match attach(set, wish) {
            Ok(slot) if exchanged => Outcome::Gap(slot),
            Ok(slot) => Outcome::New(slot),
            Err(words) => Outcome::Refused(words),
        }
    }
}

/// Pods' interfaces come first: an eighth of all slots is theirs alone.
fn no_room(set: &TapSet) -> Option<String> {
    let all = usize::from(set.capacity().taps);
    let most = all - all / 8;
    let taken = set.taps().count() + set.given_up().count();
    (taken >= most).then(|| {
        format!("{taken} of {all} taps are in use, and the rest is kept for pods: raise flows.maxTaps, or choose fewer with flows.all")
    })
}

fn give_up(set: &mut TapSet, slot: Slot) {
    if let Err(error) = set.give_up(slot) {
        tracing::warn!(error = %chain(&error), "a tap cannot be taken off, will try again");
    }
}

fn attach(set: &mut TapSet, wish: &OtherWish) -> Result<Slot, String> {
    let OtherWish { tap, namespace, .. } = wish;
    let (interface, ifindex) = (tap.interface.clone(), tap.ifindex);
    // Programs are attached by name, and names change hands.
    let still = move || {
        let found = if_nametoindex(interface.as_str()).ok();
        if found == Some(ifindex) {
            Ok(())
        } else {
            Err(format!("{interface} is another interface by now, or none"))
        }
    };
    let slot = match namespace {
        None => {
            still()?;
            set.ensure(tap).map_err(|error| chain(&error))?
        }
        Some(namespace) => {
            let enter = |job: Box<dyn FnOnce() -> Result<(), trunkline_ebpf::TapError> + Send>| {
                run_aside(namespace, move || still().and_then(|()| job().map_err(|error| chain(&error))))
            };
            let (slot, done) = set.ensure_inside(tap, enter).map_err(|error| chain(&error))?;
            done.unwrap_or(Ok(Ok(()))).map_err(|error| chain(&error)).and_then(|done| done)?;
            slot
        }
    };
    match set.state(slot, tap) {
        Ok(LinkState::Attached { .. }) => Ok(slot),
        Ok(_) => Err("the interface was exchanged while its tap was attached".to_owned()),
        Err(error) => Err(chain(&error)),
    }
}
