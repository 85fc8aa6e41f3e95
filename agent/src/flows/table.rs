//! The flow table: what closed epochs add up to, and which records follow.
//!
//! Pure: the time is a parameter, in nanoseconds of the programs' clock. Its size is bounded by the same budget as
//! the kernel's maps: a flow that finds no room leaves as a record of its own at once, so nothing is lost.

use std::collections::HashMap;
use std::time::Duration;

use indexmap::IndexMap;
use indexmap::map::Entry;
use trunkline_ebpf::{DnsAnswer, FlowKey, FlowTotals, Slot, Totals};

use super::record::EndReason;

const FIN: u16 = 0x01;
const RST: u16 = 0x04;

/// When records are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A flow that goes on is recorded this often.
    pub active: Duration,
    /// A flow that was silent for this long has ended.
    pub idle: Duration,
}

/// One flow as the table holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// Since the last record.
    pub stretch: FlowTotals,
    /// Since the flow was first seen.
    pub whole: Totals,
    /// The largest rate by which any of that was scaled; 1: exact.
    pub one_in: u32,
    /// First packet of all, nanoseconds.
    pub began: u64,
    /// What the last epoch added.
    pub last_epoch: Totals,
    /// The handshake's round trip, of this flow or the one that answers it.
    pub rtt: Option<u32>,
    /// OR of all TCP flags.
    pub flags: u16,
    /// Questions to name servers that were asked and answered in it and in the flow the other way.
    pub dns: Option<Box<DnsSummary>>,
    /// Whether the tap was off for a part of the stretch.
    pub gap: bool,
    /// Whether the stretch has any packet.
    unrecorded: bool,
    /// TCP's end was recorded; the flow is shown until it has been silent for the idle timeout.
    ended: bool,
}

impl LiveFlow {
    fn new(totals: FlowTotals) -> Self {
        Self {
            stretch: totals,
            whole: totals.totals,
            one_in: totals.one_in,
            began: totals.first,
            last_epoch: totals.totals,
            rtt: totals.rtt,
            flags: totals.tcp_flags,
            dns: None,
            gap: false,
            unrecorded: true,
            ended: false,
        }
    }

    fn add(&mut self, totals: &FlowTotals) {
        if self.ended {
            *self = Self::new(*totals); // the ports are used again
            return;
        }
        if self.unrecorded {
            self.stretch.merge(totals);
        } else {
            self.stretch = *totals;
            self.unrecorded = true;
        }
        self.whole += totals.totals;
        self.one_in = self.one_in.max(totals.one_in);
        self.last_epoch += totals.totals;
        self.rtt = totals.rtt.or(self.rtt);
        self.flags |= totals.tcp_flags;
    }
}

/// What became of a flow's questions to name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSummary {
    /// How many were answered.
    pub answered: u32,
    /// How many were not.
    pub unanswered: u32,
    /// How many of the answers had another code than NOERROR.
    pub failed: u32,
    /// The longest that an answer took.
    pub slowest: Option<Duration>,
    /// The code of the last answer; `None` where the last question has none.
    pub last_code: Option<u8>,
}

impl DnsSummary {
    fn add(&mut self, answer: Option<DnsAnswer>) {
        self.last_code = answer.map(|answer| answer.code);
        let Some(DnsAnswer { code, latency }) = answer else {
            self.unanswered += 1;
            return;
        };
        self.answered += 1;
        self.failed += u32::from(code != 0);
        self.slowest = self.slowest.max(Some(latency));
    }

    /// Takes in what came later.
    fn merge(&mut self, later: &Self) {
        self.answered += later.answered;
        self.unanswered += later.unanswered;
        self.failed += later.failed;
        self.slowest = self.slowest.max(later.slowest);
        self.last_code = later.last_code;
    }
}

/// A record before it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Which flow.
    pub key: FlowKey,
    /// What the stretch held.
    pub totals: FlowTotals,
    /// The handshake's round trip, nanoseconds.
    pub rtt: Option<u32>,
    /// Whether the tap was off for a part of it.
    pub gap: bool,
    /// Why.
    pub reason: EndReason,
}

/// All flows of this node.
#[derive(Debug)]
pub struct FlowTable {
    /// Close together, and never moved to twice the room: what the budget says of a flow is what it takes.
    flows: IndexMap<FlowKey, LiveFlow>,
    /// Questions whose flows are in the epoch that runs: they are told when it is taken in.
    questions: HashMap<FlowKey, DnsSummary>,
    most: usize,
    timeouts: Timeouts,
}

impl FlowTable {
    /// An empty table of at most this many flows.
    pub fn new(most: usize, timeouts: Timeouts) -> Self {
        Self { flows: IndexMap::with_capacity(most), questions: HashMap::new(), most, timeouts }
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Every flow, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, &LiveFlow)> {
        self.flows.iter()
    }

    /// Takes in a closed epoch's flows. What finds no room comes back as records.
    pub fn absorb(&mut self, flows: &[(FlowKey, FlowTotals)]) -> Vec<Closed> {
        self.flows.values_mut().for_each(|flow| flow.last_epoch = Totals::default());
        let mut refused = Vec::new();
        for (key, totals) in flows {
            let full = self.flows.len() >= self.most;
            match self.flows.entry(*key) {
                Entry::Occupied(mut held) => held.get_mut().add(totals),
                Entry::Vacant(room) if !full => {
                    room.insert(LiveFlow::new(*totals));
                }
                Entry::Vacant(_) => {
                    let held = LiveFlow::new(*totals);
                    refused.push(closed(*key, &held, EndReason::LackOfResources));
                }
            }
        }
        for (key, totals) in flows {
            if let Some(rtt) = totals.rtt {
                self.tell_the_answering_flow(key, rtt);
            }
        }
        for (key, told) in std::mem::take(&mut self.questions) {
            // One whose flow has left the table since, or found no room, is told by its own record alone.
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.dns.get_or_insert_default().merge(&told);
            }
        }
        refused
    }

    /// A question to a name server and its answer, in the flow of either: it is told to both directions.
    pub fn tell_of_question(&mut self, key: &FlowKey, answer: Option<DnsAnswer>) {
        for key in [Some(*key), key.reversed()].into_iter().flatten() {
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.dns.get_or_insert_default().add(answer);
            } else if self.questions.contains_key(&key) || self.questions.len() < self.most {
                self.questions.entry(key).or_default().add(answer);
            }
        }
    }

    /// A handshake's round trip is that of the connection, whichever direction's packet ended it.
    fn tell_the_answering_flow(&mut self, key: &FlowKey, rtt: u32) {
        if let Some(other) = key.reversed().and_then(|reversed| self.flows.get_mut(&reversed)) {
            other.rtt = Some(rtt);
        }
    }

    /// The records that are due at `now`; flows that have ended leave the table.
    pub fn expire(&mut self, now: u64) -> Vec<Closed> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (active, idle) = (nanos(self.timeouts.active), nanos(self.timeouts.idle));
        let due = |key: &FlowKey, flow: &LiveFlow| {
            // The last acknowledgement may come an interval after the last FIN.
            let quiet = flow.last_epoch.skbs == 0;
            if now.saturating_sub(flow.stretch.last) >= idle {
                Some(EndReason::Idle)
            } else if !flow.ended && quiet && self.has_ended(key, flow) {
                Some(EndReason::EndOfFlow)
            } else {
                let long = flow.unrecorded && now.saturating_sub(flow.stretch.first) >= active;
                long.then_some(EndReason::Active)
            }
        };
        let due: Vec<(FlowKey, EndReason)> =
            self.flows.iter().filter_map(|(key, flow)| Some((*key, due(key, flow)?))).collect();
        due.into_iter().filter_map(|(key, reason)| self.close(&key, reason)).collect()
    }

    /// TCP's own end: FIN both ways, or a reset either way (RFC 9293 3.6).
    fn has_ended(&self, key: &FlowKey, flow: &LiveFlow) -> bool {
        if flow.flags == 0 {
            return false; // no TCP
        }
        let answer =
            key.reversed().and_then(|reversed| self.flows.get(&reversed)).map_or(0, |other| other.flags);
        (flow.flags | answer) & RST != 0 || (flow.flags & answer & FIN != 0)
    }

    /// Makes the record of a flow. One that goes on stays, and one that TCP has ended stays to be seen for a while;
    /// anything else is forgotten.
    fn close(&mut self, key: &FlowKey, reason: EndReason) -> Option<Closed> {
        if matches!(reason, EndReason::Active | EndReason::EndOfFlow) {
            let flow = self.flows.get_mut(key)?;
            let record = flow.unrecorded.then(|| closed(*key, flow, reason));
            (flow.unrecorded, flow.gap) = (false, false);
            flow.ended = reason == EndReason::EndOfFlow;
            return record;
        }
        let flow = self.flows.swap_remove(key)?;
        flow.unrecorded.then(|| closed(*key, &flow, reason))
    }

    /// Ends every flow of a tap that is gone.
    pub fn end_tap(&mut self, slot: Slot) -> Vec<Closed> {
        self.end_where(|key| key.slot() == slot)
    }

    /// Ends every flow: the agent stops.
    pub fn end_all(&mut self) -> Vec<Closed> {
        self.end_where(|_| true)
    }

    fn end_where(&mut self, ends: impl Fn(&FlowKey) -> bool) -> Vec<Closed> {
        let keys: Vec<FlowKey> = self.flows.keys().filter(|key| ends(key)).copied().collect();
        keys.iter().filter_map(|key| self.close(key, EndReason::Forced)).collect()
    }

    /// Packets of this tap may have been missed: says so in the records of the flows that are open now.
    pub fn mark_gap(&mut self, slot: Slot) {
        let of_tap = self.flows.iter_mut().filter(|(key, _)| key.slot() == slot);
        of_tap.for_each(|(_, flow)| flow.gap = true);
    }
}

fn closed(key: FlowKey, flow: &LiveFlow, reason: EndReason) -> Closed {
    Closed { key, totals: flow.stretch, rtt: flow.rtt, gap: flow.gap, reason }
}

#[cfg(test)]
mod tests;
