//! The agent's Prometheus metrics: names, labels, buckets, and verbs that speak of what happened.
//!
//! Owns the registry; must never decide anything from a value it holds.

mod dns;
mod flows;

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use dns::DnsLabels;
use dns::DnsMetrics;
use flows::FlowMetrics;
pub use flows::{FlowSample, TapLabels};

/// Upper bounds in seconds: an ADD without addresses takes 5–20 ms, its deadline is at most 180 s.
const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 180.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BridgeLabel {
    bridge: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UplinkLabels {
    bridge: String,
    uplink: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DatapathLabels {
    bridge: String,
    datapath: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

/// One bridge as its task sees it, for [`Metrics::set_bridge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeSample {
    /// May pods be attached.
    pub ready: bool,
    /// `system` or `netdev`; empty while undecided.
    pub datapath: String,
    /// Number of pod ports.
    pub pod_ports: usize,
    /// Name and carrier of every uplink.
    pub uplinks: Vec<(String, bool)>,
}

type Seconds = Histogram;

/// Every metric of the agent, with a prefix of `trunkline_agent_`.
pub struct Metrics {
    registry: Registry,
    attach: Family<StepLabels, Seconds, fn() -> Seconds>,
    detach: Family<ResultLabel, Seconds, fn() -> Seconds>,
    bridge_ready: Family<BridgeLabel, Gauge>,
    bridge_pod_ports: Family<BridgeLabel, Gauge>,
    bridge_datapath: Family<DatapathLabels, Gauge>,
    uplink_carrier: Family<UplinkLabels, Gauge>,
    config_errors: Counter,
    config_valid: Gauge,
    ovs_connected: Gauge,
    conflist: Family<StateLabel, Gauge>,
    orphans: Family<KindLabel, Counter>,
    ipam: Family<MethodLabels, Seconds, fn() -> Seconds>,
    ipam_retries: Family<MethodLabel, Counter>,
    ipam_release_backlog: Gauge,
    events_dropped: Counter,
    malformed: Family<ResourceLabel, Gauge>,
    conflicts: Counter,
    events_refused: Counter,
    dns: DnsMetrics,
    flows: FlowMetrics,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

fn seconds() -> Seconds {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// A registry in which every metric is registered and zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("trunkline_agent");
        let dns = DnsMetrics::new(&mut registry);
        let flows = FlowMetrics::new(&mut registry);
        let mut metrics = Self {
            registry,
            attach: Family::new_with_constructor(seconds),
            detach: Family::new_with_constructor(seconds),
            bridge_ready: Family::default(),
            bridge_pod_ports: Family::default(),
            bridge_datapath: Family::default(),
            uplink_carrier: Family::default(),
            config_errors: Counter::default(),
            config_valid: Gauge::default(),
            ovs_connected: Gauge::default(),
            conflist: Family::default(),
            orphans: Family::default(),
            ipam: Family::new_with_constructor(seconds),
            ipam_retries: Family::default(),
            ipam_release_backlog: Gauge::default(),
            events_dropped: Counter::default(),
            malformed: Family::default(),
            conflicts: Counter::default(),
            events_refused: Counter::default(),
            dns,
            flows,
        };
        metrics.register_node();
        metrics.register_control();
        Arc::new(metrics)
    }

    fn register_node(&mut self) {
        let r = &mut self.registry;
        r.register(
            "attach_seconds",
            "Time of each step of attaching a pod; step \"total\" is the whole ADD",
            self.attach.clone(),
        );
        r.register("detach_seconds", "Time of detaching a pod's sandbox", self.detach.clone());
        r.register("bridge_ready", "1 when pods can be attached to the bridge", self.bridge_ready.clone());
        r.register("bridge_pod_ports", "Pod ports on the bridge", self.bridge_pod_ports.clone());
        r.register(
            "bridge_datapath_info",
            "1 for the datapath type that the bridge runs on",
            self.bridge_datapath.clone(),
        );
        r.register("uplink_carrier", "1 when the bridge's uplink has carrier", self.uplink_carrier.clone());
        r.register(
            "ovs_connected",
            "1 while the OVSDB connection is up and its replica in step",
            self.ovs_connected.clone(),
        );
        r.register(
            "conflist_state",
            "1 for the state that the chained CNI configuration is in",
            self.conflist.clone(),
        );
        r.register(
            "orphans_collected",
            "Ports, links and addresses of gone pods that were removed",
            self.orphans.clone(),
        );
        r.register("address_conflicts", "Duplicate addresses that a probe found", self.conflicts.clone());
    }

    fn register_control(&mut self) {
        let r = &mut self.registry;
        r.register(
            "config_errors",
            "Reads of the configuration file that were refused",
            self.config_errors.clone(),
        );
        r.register(
            "config_valid",
            "1 when the newest configuration file is in force",
            self.config_valid.clone(),
        );
        r.register(
            "ipam_call_seconds",
            "Time of calls to the IPAM service, retries included",
            self.ipam.clone(),
        );
        r.register(
            "ipam_retries",
            "Attempts that were repeated because the IPAM service was away",
            self.ipam_retries.clone(),
        );
        r.register(
            "ipam_release_backlog",
            "Releases that wait to be repeated",
            self.ipam_release_backlog.clone(),
        );
        r.register(
            "events_dropped",
            "Kubernetes Events dropped because the queue was full",
            self.events_dropped.clone(),
        );
        r.register(
            "events_refused",
            "Kubernetes Events that the API server did not take",
            self.events_refused.clone(),
        );
        r.register("malformed_objects", "Watched objects that could not be read", self.malformed.clone());
    }

    /// Everything in the `OpenMetrics` text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// One step of an ADD ended; `step` is `total` for the whole.
    pub fn observe_attach(&self, step: &'static str, ok: bool, took: Duration) {
        let result = outcome(ok);
        self.attach.get_or_create(&StepLabels { step, result }).observe(took.as_secs_f64());
    }

    /// A DEL ended.
    pub fn observe_detach(&self, ok: bool, took: Duration) {
        let result = outcome(ok);
        self.detach.get_or_create(&ResultLabel { result }).observe(took.as_secs_f64());
    }

    /// What is true of a bridge now; datapath types and uplinks of an earlier sample are cleared by
    /// [`Metrics::forget_bridge`].
    pub fn set_bridge(&self, bridge: &str, sample: &BridgeSample) {
        let label = BridgeLabel { bridge: bridge.to_owned() };
        self.bridge_ready.get_or_create(&label).set(i64::from(sample.ready));
        let ports = i64::try_from(sample.pod_ports).unwrap_or(i64::MAX);
        self.bridge_pod_ports.get_or_create(&label).set(ports);
        for datapath in ["system", "netdev"] {
            let labels = DatapathLabels { bridge: bridge.to_owned(), datapath: datapath.to_owned() };
            self.bridge_datapath.get_or_create(&labels).set(i64::from(sample.datapath == datapath));
        }
        for (uplink, carrier) in &sample.uplinks {
            let labels = UplinkLabels { bridge: bridge.to_owned(), uplink: uplink.clone() };
            self.uplink_carrier.get_or_create(&labels).set(i64::from(*carrier));
        }
    }

    /// The bridge left the configuration, or lost the named uplinks.
    pub fn forget_bridge(&self, bridge: &str, uplinks: &[String]) {
        let label = BridgeLabel { bridge: bridge.to_owned() };
        self.bridge_ready.remove(&label);
        self.bridge_pod_ports.remove(&label);
        for datapath in ["system", "netdev"] {
            let labels = DatapathLabels { bridge: bridge.to_owned(), datapath: datapath.to_owned() };
            self.bridge_datapath.remove(&labels);
        }
        for uplink in uplinks {
            self.uplink_carrier.remove(&UplinkLabels { bridge: bridge.to_owned(), uplink: uplink.clone() });
        }
    }

    /// The configuration file was read; `valid` says whether it is in force now.
    pub fn set_config(&self, valid: bool) {
        self.config_valid.set(i64::from(valid));
        if !valid {
            self.config_errors.inc();
        }
    }

    /// The OVSDB connection came or went.
    pub fn set_ovs_connected(&self, connected: bool) {
        self.ovs_connected.set(i64::from(connected));
    }

    /// The chained CNI configuration entered a state, e.g. `written`, `no-primary`.
    pub fn set_conflist_state(&self, state: &str) {
        self.conflist.clear();
        self.conflist.get_or_create(&StateLabel { state: state.to_owned() }).set(1);
    }

    /// Something of a gone pod was removed; `kind` is `port`, `link` or `address`.
    pub fn add_orphan(&self, kind: &'static str) {
        self.orphans.get_or_create(&KindLabel { kind }).inc();
    }

    /// A duplicate-address probe was answered.
    pub fn add_conflict(&self) {
        self.conflicts.inc();
    }

    /// A call to the IPAM service ended; `result` is `ok` or the gRPC code in lower case.
    pub fn observe_ipam(&self, method: &'static str, result: &'static str, took: Duration) {
        self.ipam.get_or_create(&MethodLabels { method, result }).observe(took.as_secs_f64());
    }

    /// An attempt of a call to the IPAM service is repeated.
    pub fn add_ipam_retry(&self, method: &'static str) {
        self.ipam_retries.get_or_create(&MethodLabel { method }).inc();
    }

    /// How many releases wait to be repeated.
    pub fn set_release_backlog(&self, waiting: usize) {
        self.ipam_release_backlog.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// An Event was dropped: the queue was full.
    pub fn add_event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// The API server did not take an Event.
    pub fn add_event_refused(&self) {
        self.events_refused.inc();
    }

    /// How many objects of a watched resource cannot be read at present.
    pub fn set_malformed(&self, resource: &'static str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.malformed.get_or_create(&ResourceLabel { resource }).set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_printed_with_its_prefix_and_labels() {
        let metrics = Metrics::new();
        metrics.observe_attach("total", true, Duration::from_millis(12));
        metrics.set_config(false);
        let sample = BridgeSample {
            ready: true,
            datapath: "netdev".into(),
            pod_ports: 3,
            uplinks: vec![("ens4".into(), false)],
        };
        metrics.set_bridge("br1", &sample);
        let text = metrics.encode().expect("text is writable");
        for line in [
            r#"trunkline_agent_attach_seconds_count{step="total",result="ok"} 1"#,
            "trunkline_agent_config_errors_total 1",
            "trunkline_agent_config_valid 0",
            r#"trunkline_agent_bridge_ready{bridge="br1"} 1"#,
            r#"trunkline_agent_bridge_datapath_info{bridge="br1",datapath="netdev"} 1"#,
            r#"trunkline_agent_uplink_carrier{bridge="br1",uplink="ens4"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_reference_has_every_metric() {
        let reference = include_str!("../../docs/reference.md");
        let text = Metrics::new().encode().expect("text is writable");
        for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, _) = help.split_once(' ').expect("name and help");
            let listed = [format!("`{name}`"), format!("`{name}_total`")];
            assert!(listed.iter().any(|name| reference.contains(name)), "docs/reference.md lacks {name}");
        }
    }

    #[test]
    fn a_forgotten_bridge_is_printed_no_more() {
        let metrics = Metrics::new();
        let sample = BridgeSample { uplinks: vec![("ens4".into(), true)], ..BridgeSample::default() };
        metrics.set_bridge("br1", &sample);
        metrics.forget_bridge("br1", &["ens4".to_owned()]);
        assert!(!metrics.encode().expect("text is writable").contains("br1"));
    }

    #[test]
    fn the_conflist_is_in_one_state_at_a_time() {
        let metrics = Metrics::new();
        metrics.set_conflist_state("no-primary");
        metrics.set_conflist_state("written");
        let text = metrics.encode().expect("text is writable");
        assert!(text.contains(r#"conflist_state{state="written"} 1"#));
        assert!(!text.contains("no-primary"));
    }
}
