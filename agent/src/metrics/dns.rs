//! Metrics of questions to name servers.
//!
//! Owns their names and labels. Cardinality is bounded by construction: the node's networks times two directions, and
//! for the counter times seventeen codes; no name that was asked for, no address and no pod is a label.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;

use super::Metrics;

/// Seconds; a cache on the node answers within the first, a resolver far away within the last ones.
const SECONDS: [f64; 15] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Questions on one network.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DnsLabels {
    /// Network as "namespace/name".
    pub network: String,
    /// Its VLAN; 0 when untagged.
    pub vlan: u16,
    /// `sent`: the tap's pod asked; `received`: it was asked.
    pub direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    network: String,
    vlan: u16,
    direction: &'static str,
    code: String,
}

/// All of them.
pub(super) struct DnsMetrics {
    latency: Family<DnsLabels, Histogram, fn() -> Histogram>,
    queries: Family<CodeLabels, Counter>,
    lost: Counter,
}

impl DnsMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let this = Self {
            latency: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            queries: Family::default(),
            lost: Counter::default(),
        };
        r.register(
            "dns_latency_seconds",
            "From the first time that a question was asked to its answer, by network",
            this.latency.clone(),
        );
        r.register(
            "dns_queries",
            "Questions to name servers, by network and by the answer's code; none where no answer came",
            this.queries.clone(),
        );
        r.register(
            "dns_queries_lost",
            "Questions for which there was no room between two looks",
            this.lost.clone(),
        );
        this
    }
}

impl Metrics {
    /// A question, with the name of its answer's code.
    pub fn add_dns(&self, labels: DnsLabels, code: &str, latency: Option<Duration>) {
        if let Some(latency) = latency {
            self.dns.latency.get_or_create(&labels).observe(latency.as_secs_f64());
        }
        let DnsLabels { network, vlan, direction } = labels;
        let labels = CodeLabels { network, vlan, direction, code: code.to_owned() };
        self.dns.queries.get_or_create(&labels).inc();
    }

    /// Questions of which only the number is known.
    pub fn add_lost_dns(&self, questions: u64) {
        self.dns.lost.inc_by(questions);
    }
}
