//! Closed epochs come in: into the table, into metrics, and as records to the exporters.
//!
//! Owns the order: the switch is asked before taps are read, and a slot is free once its last flows were.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::PoisonError;
use std::time::SystemTime;

use tokio::time::Instant;
use trunkline_ebpf::{ClosedEpoch, Conversation, Counters, Direction, Reader, Slot, TapError, Totals};

use super::{Inner, tap_labels};
use crate::cli::chain;
use crate::flows::owner::OwnerGone;
use crate::flows::table::Closed;
use crate::metrics::FlowSample;

/// Whether the kernel counts how often programs run, and for how long.
fn runs_are_counted() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() != "0")
}

impl Inner {
    /// What an earlier process closed and did not read.
    pub(super) async fn read_leftover(&self) {
        let inherited = std::mem::take(&mut *self.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        for epoch in &inherited {
            self.take_in(epoch, HashMap::new());
        }
        match self.reader.run(Reader::drain_leftover).await {
            Ok(Ok(Some(epoch))) => self.take_in(&epoch, HashMap::new()),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "what an earlier agent left cannot be read");
            }
            Err(gone) => tracing::error!(%gone, "flows cannot be read"),
        }
    }

    pub(super) async fn drain(&self) -> Result<(), OwnerGone> {
        // Rates are in force from the epoch on that begins with this drain.
        self.set_sampling().await?;
        // Before the taps are read: the switch has then counted no frame that they have not.
        let forwarded = self.ask_the_switch().await;
        if self.read().await? {
            self.compare_with_the_switch(&forwarded);
            self.free_slots().await?;
        }
        Ok(())
    }

    /// Reads the running epoch; `false` when the kernel did not let us.
    pub(super) async fn read(&self) -> Result<bool, OwnerGone> {
        let slots: HashSet<Slot> = {
            let known = self.taps.known();
            known.taps.keys().chain(known.leaving.keys()).copied().collect()
        };
        let started = Instant::now();
        let work = move |reader: &mut Reader| {
            let epoch = reader.drain().map_err(|error| (error, reader.interrupted()))?;
            let totals = reader.all_totals().filter(|(slot, ..)| slots.contains(slot));
            let totals = totals.map(|(slot, direction, counters)| ((slot, direction), counters)).collect();
            // A walk over all programs of the node, for nothing where nobody counts.
            let ran = runs_are_counted().then(|| reader.ran().unwrap_or_default());
            Ok::<_, (TapError, bool)>((epoch, totals, ran))
        };
        match self.reader.run(work).await? {
            Ok((epoch, totals, ran)) => {
                self.options.metrics.observe_drain(started.elapsed(), epoch.entries);
                if let Some(ran) = ran {
                    self.options.metrics.set_ran(ran);
                }
                self.take_in(&epoch, totals);
                Ok(true)
            }
            Err((error, lost)) => {
                if lost {
                    self.options.metrics.add_lost_epoch();
                }
                tracing::warn!(error = %chain(&error), "flows cannot be read, will try again");
                Ok(false)
            }
        }
    }

    /// A closed epoch into the table, records out, metrics set.
    fn take_in(&self, epoch: &ClosedEpoch, totals: HashMap<(Slot, Direction), Counters>) {
        let wrong = epoch.inexact();
        if !wrong.is_empty() {
            tracing::error!(taps = ?wrong, epoch = epoch.epoch, "flows and losses do not add up to the taps' counters");
            self.options.metrics.add_inexact_epoch();
        }
        let closed = {
            let mut state = self.state();
            let mut closed = state.table.absorb(&epoch.flows);
            closed.extend(state.table.expire(Reader::now()));
            state.totals.extend(totals);
            state.as_of = SystemTime::now();
            closed
        };
        self.count(epoch);
        self.emit(&closed);
    }

    fn count(&self, epoch: &ClosedEpoch) {
        let metrics = &self.options.metrics;
        metrics.set_flows(self.state().table.len());
        for counts in self.exporters.counts() {
            metrics.set_exporter(&counts);
        }
        for (slot, direction, counters) in self.counters() {
            let Some(tap) = self.taps.known().owner(slot) else { continue };
            metrics.set_tap(&tap_labels(&tap, direction), &counters);
        }
        let mut families = HashMap::<_, Totals>::new();
        for (key, flow) in &epoch.flows {
            let family = (key.slot(), family(&key.conversation()), flow.one_in > 1);
            *families.entry(family).or_default() += flow.totals;
        }
        for ((slot, protocol, estimated), totals) in families {
            let Some(tap) = self.taps.known().owner(slot) else { continue };
            let Some(network) = &tap.network else { continue };
            let vlan = tap.vlan.map_or(0, u16::from);
            let sample = FlowSample { network: network.clone(), vlan, protocol, estimated };
            metrics.add_flow(&sample, totals);
        }
    }

    fn counters(&self) -> Vec<(Slot, Direction, Counters)> {
        let state = self.state();
        state.totals.iter().map(|((slot, direction), counters)| (*slot, *direction, *counters)).collect()
    }

    /// Slots whose last flows have been read: their flows end, their counters are set back, others may have them.
    async fn free_slots(&self) -> Result<(), OwnerGone> {
        let drained = self.taps.drained();
        if self.dns && !drained.is_empty() {
            // What the kernel still keeps of these taps would be the next owner's.
            self.read_dns().await?;
        }
        for slot in drained {
            let closed = self.state().table.end_tap(slot);
            self.emit(&closed);
            let freed = match self.reader.run(move |reader| reader.zero(slot)).await? {
                Ok(()) => self.taps_forget(slot).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = freed {
                tracing::warn!(error = %chain(&error), "a tap's slot cannot be freed, will try again");
            }
        }
        let alive: Vec<String> = self.taps.known().taps.values().map(|tap| tap.device.clone()).collect();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.retain(|port| alive.iter().any(|device| device == port));
        Ok(())
    }

    async fn taps_forget(&self, slot: Slot) -> Result<Result<(), TapError>, OwnerGone> {
        let owner = self.taps.known().owner(slot);
        let freed = self.taps.forget(slot).await?;
        if freed.is_ok() {
            self.state().totals.retain(|(held, _), _| *held != slot);
            if let Some(tap) = owner {
                for direction in Direction::BOTH {
                    self.options.metrics.forget_tap(&tap_labels(&tap, direction));
                }
            }
        }
        Ok(freed)
    }

    pub(super) fn emit(&self, closed: &[Closed]) {
        let records = self.records(closed);
        self.options.metrics.add_records(records.len());
        self.exporters.offer(&records);
    }
}

/// A small closed set, for a metric's label.
fn family(conversation: &Conversation) -> &'static str {
    match conversation {
        Conversation::Ip { protocol: 6, .. } => "tcp",
        Conversation::Ip { protocol: 17, .. } => "udp",
        Conversation::Ip { protocol: 132, .. } => "sctp",
        Conversation::Ip { .. } => "other-ip",
        Conversation::Icmp { .. } => "icmp",
        Conversation::Arp { .. } => "arp",
        Conversation::Ethernet { .. } => "ethernet",
    }
}
