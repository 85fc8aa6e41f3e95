//! Metrics of taps and flows.
//!
//! Owns their names and labels. Cardinality is bounded by construction: counters of a tap by `flows.maxTaps` times two
//! directions, flows by the node's networks times seven protocol families, exact or not; nothing has an address or a port for a label.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;
use trunkline_ebpf::{Counters, Ran, Totals};

use super::Metrics;
use crate::flows::export::ExporterCounts;

/// Seconds; a drain waits for a grace period and then copies.
const DRAIN_SECONDS: [f64; 9] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// One direction of one tap.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TapLabels {
    /// Device that carries it.
    pub device: String,
    /// Network namespace of an interface that is not ours; empty for pods' interfaces and uplinks.
    pub netns: String,
    /// Pod's namespace; empty for an uplink.
    pub namespace: String,
    /// Pod; empty for an uplink.
    pub pod: String,
    /// Interface in the pod, or the uplink.
    pub interface: String,
    /// Network as "namespace/name"; empty for an uplink.
    pub network: String,
    /// The network's VLAN; 0 when untagged or on an uplink.
    pub vlan: u16,
    /// `sent` or `received`, as the pod sees it.
    pub direction: &'static str,
}

/// Flows of one network and one family of protocols.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FlowSample {
    /// Network as "namespace/name".
    pub network: String,
    /// Its VLAN; 0 when untagged.
    pub vlan: u16,
    /// `tcp`, `udp`, `sctp`, `icmp`, `other-ip`, `arp` or `ethernet`.
    pub protocol: &'static str,
    /// `true` where not every frame was looked at and what is added is scaled.
    pub estimated: bool,
}

/// One exporter.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExporterLabels {
    exporter: &'static str,
    target: String,
}

type TapFamily = Family<TapLabels, Counter>;

/// All of them.
#[derive(Default)]
pub(super) struct FlowMetrics {
    skbs: TapFamily,
    skb_bytes: TapFamily,
    packets: TapFamily,
    bytes: TapFamily,
    without_flow: TapFamily,
    forwarded: TapFamily,
    lost: Family<TapLabels, Gauge>,
    flow_packets: Family<FlowSample, Counter>,
    flow_bytes: Family<FlowSample, Counter>,
    names: Gauge,
    runs: Counter,
    run_time: Counter<f64, AtomicU64>,
    desired: Gauge,
    attached: Gauge,
    namespaces: Gauge,
    gaps: Counter,
    flows: Gauge,
    capacity: Gauge,
    memory: Gauge,
    entries: Gauge,
    drain: Option<Histogram>,
    records: Counter,
    inexact: Counter,
    lost_epochs: Counter,
    exported: Family<ExporterLabels, Counter>,
    not_exported: Family<ExporterLabels, Counter>,
    export_errors: Family<ExporterLabels, Counter>,
    export_skipped: Family<ExporterLabels, Counter>,
}

impl FlowMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let drain = Histogram::new(DRAIN_SECONDS);
        let this = Self { drain: Some(drain.clone()), ..Self::default() };
        this.register_taps(r);
        r.register("flow_packets", "Packets of flows, by network and protocol", this.flow_packets.clone());
        r.register(
            "flow_bytes",
            "Bytes on the wire of flows, by network and protocol",
            this.flow_bytes.clone(),
        );
        r.register("flows", "Flows in the table", this.flows.clone());
        r.register("flow_capacity", "Flows that there is room for in each epoch", this.capacity.clone());
        r.register(
            "flow_memory_bytes",
            "Bytes that flow maps and table may take at most",
            this.memory.clone(),
        );
        r.register("flow_map_entries", "Entries of the flow map that was read last", this.entries.clone());
        r.register("flow_drain_seconds", "Time of reading one epoch, its grace period included", drain);
        r.register("flow_records", "Flow records that were made", this.records.clone());
        r.register(
            "flow_epochs_inexact",
            "Epochs whose flows and losses did not add up to their taps' counters: never any",
            this.inexact.clone(),
        );
        r.register(
            "flow_epochs_lost",
            "Epochs whose records died with an agent that was killed while it read them",
            this.lost_epochs.clone(),
        );
        r.register(
            "flow_records_exported",
            "Flow records that an exporter handed over; an OTLP collector has acknowledged them",
            this.exported.clone(),
        );
        r.register(
            "flow_records_dropped",
            "Flow records that an exporter could not hand over: its queue was full, sending failed, or the collector \
             rejected them",
            this.not_exported.clone(),
        );
        r.register("flow_export_errors", "Failed sends, writes and connections", this.export_errors.clone());
        r.register(
            "flow_export_skipped",
            "Flow records that an exporter does not want, by its filters",
            this.export_skipped.clone(),
        );
        this
    }

    fn register_taps(&self, r: &mut Registry) {
        r.register("tap_skbs", "Socket buffers that a tap saw: what the device counts", self.skbs.clone());
        r.register("tap_skb_bytes", "Bytes of those", self.skb_bytes.clone());
        r.register("tap_packets", "Packets on the wire that a tap saw: segments", self.packets.clone());
        r.register("tap_bytes", "Bytes of those, each segment's headers included", self.bytes.clone());
        r.register(
            "tap_skbs_without_flow",
            "Socket buffers that a tap counted and for whose flow there was no room",
            self.without_flow.clone(),
        );
        r.register(
            "tap_forwarded_packets",
            "Packets of a pod's port that its own flow in the switch counted since the flow was made",
            self.forwarded.clone(),
        );
        r.register(
            "tap_unforwarded_packets",
            "What the tap saw the pod send minus what the switch forwarded: lost between the two, or dropped",
            self.lost.clone(),
        );
        r.register("flow_names", "Addresses whose pods are known, to name peers by", self.names.clone());
        r.register(
            "tap_runs",
            "Times that taps ran, where the node counts it (kernel.bpf_stats_enabled)",
            self.runs.clone(),
        );
        r.register("tap_run_seconds", "For how long they ran in all", self.run_time.clone());
        r.register("taps_desired", "Interfaces that should have a tap", self.desired.clone());
        r.register("taps_attached", "Interfaces that have one", self.attached.clone());
        r.register(
            "watched_namespaces",
            "Network namespaces whose interfaces are followed",
            self.namespaces.clone(),
        );
        r.register("tap_gaps", "Times that somebody else took a tap off", self.gaps.clone());
    }
}

fn set(family: &TapFamily, labels: &TapLabels, value: u64) {
    family.get_or_create(labels).inner().store(value, Ordering::Relaxed);
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    /// What a tap counted since it was attached.
    pub fn set_tap(&self, labels: &TapLabels, counters: &Counters) {
        let flows = &self.flows;
        set(&flows.skbs, labels, counters.seen.skbs);
        set(&flows.skb_bytes, labels, counters.seen.skb_bytes);
        set(&flows.packets, labels, counters.seen.packets);
        set(&flows.bytes, labels, counters.seen.bytes);
        set(&flows.without_flow, labels, counters.lost.skbs);
    }

    /// What the switch forwarded of what a tap saw.
    pub fn set_tap_loss(&self, labels: &TapLabels, forwarded: u64, lost: u64) {
        set(&self.flows.forwarded, labels, forwarded);
        self.flows.lost.get_or_create(labels).set(i64::try_from(lost).unwrap_or(i64::MAX));
    }

    /// The tap is gone.
    pub fn forget_tap(&self, labels: &TapLabels) {
        let flows = &self.flows;
        for family in [
            &flows.skbs,
            &flows.skb_bytes,
            &flows.packets,
            &flows.bytes,
            &flows.without_flow,
            &flows.forwarded,
        ] {
            family.remove(labels);
        }
        flows.lost.remove(labels);
    }

    /// An epoch's traffic of one flow.
    pub fn add_flow(&self, sample: &FlowSample, totals: Totals) {
        self.flows.flow_packets.get_or_create(sample).inc_by(totals.packets);
        self.flows.flow_bytes.get_or_create(sample).inc_by(totals.bytes);
    }

    /// Addresses that name peers.
    pub fn set_names(&self, names: usize) {
        self.flows.names.set(gauge(names));
    }

    /// How often taps ran, and for how long.
    pub fn set_ran(&self, ran: Ran) {
        self.flows.runs.inner().store(ran.runs, Ordering::Relaxed);
        self.flows.run_time.inner().store(ran.time.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// Taps that should be, and that are.
    pub fn set_taps(&self, desired: usize, attached: usize) {
        self.flows.desired.set(gauge(desired));
        self.flows.attached.set(gauge(attached));
    }

    /// Network namespaces whose interfaces are followed.
    pub fn set_watched_namespaces(&self, namespaces: usize) {
        self.flows.namespaces.set(gauge(namespaces));
    }

    /// Somebody had taken a tap off.
    pub fn add_tap_gap(&self) {
        self.flows.gaps.inc();
    }

    /// Flows in the table now.
    pub fn set_flows(&self, flows: usize) {
        self.flows.flows.set(gauge(flows));
    }

    /// What the memory budget comes to.
    pub fn set_flow_capacity(&self, flows: u32, bytes: u64) {
        self.flows.capacity.set(flows.into());
        self.flows.memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// An epoch was read.
    pub fn observe_drain(&self, took: Duration, entries: usize) {
        if let Some(drain) = &self.flows.drain {
            drain.observe(took.as_secs_f64());
        }
        self.flows.entries.set(gauge(entries));
    }

    /// What became of an exporter's records so far.
    pub fn set_exporter(&self, counts: &ExporterCounts) {
        let labels = ExporterLabels { exporter: counts.kind.name(), target: counts.target.clone() };
        for (family, value) in [
            (&self.flows.exported, counts.sent),
            (&self.flows.not_exported, counts.dropped),
            (&self.flows.export_errors, counts.errors),
            (&self.flows.export_skipped, counts.skipped),
        ] {
            family.get_or_create(&labels).inner().store(value, Ordering::Relaxed);
        }
    }

    /// Records were made.
    pub fn add_records(&self, records: usize) {
        self.flows.records.inc_by(records as u64);
    }

    /// An epoch did not add up.
    pub fn add_inexact_epoch(&self) {
        self.flows.inexact.inc();
    }

    /// An epoch's records were lost with the process that read them.
    pub fn add_lost_epoch(&self) {
        self.flows.lost_epochs.inc();
    }
}
