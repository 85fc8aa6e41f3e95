//! What Prometheus may know.
//!
//! Owns the metrics' names and labels. Must never label by pod: pods come and go, series stay.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

type Histograms = Family<Outcome, Histogram, fn() -> Histogram>;
type PoolGauges = Family<PoolLabel, Gauge<f64, AtomicU64>>;

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    allocate: Histograms,
    claims: Counter,
    releases: Counter,
    retries: Counter,
    conflicts: Counter,
    gc: Family<Reason, Counter>,
    reviews: Family<Outcome, Counter>,
    pool_total: PoolGauges,
    pool_used: PoolGauges,
    leader: Gauge,
    config_errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From 0.5 ms, doubling, to 8 s.
fn latency() -> Histogram {
    Histogram::new(std::iter::successors(Some(0.0005), |bound| Some(bound * 2.0)).take(15))
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            allocate: Family::new_with_constructor(latency),
            claims: Counter::default(),
            releases: Counter::default(),
            retries: Counter::default(),
            conflicts: Counter::default(),
            gc: Family::default(),
            reviews: Family::default(),
            pool_total: Family::default(),
            pool_used: Family::default(),
            leader: Gauge::default(),
            config_errors: Counter::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("trunkline_controller");
        let add = &mut registry;
        add.register("allocate_seconds", "Duration of Allocate calls by result", self.allocate.clone());
        add.register("claims", "Addresses claimed", self.claims.clone());
        add.register("releases", "Addresses released by agents", self.releases.clone());
        add.register("claim_retries", "Picked addresses that turned out to be claimed", self.retries.clone());
        add.register(
            "address_conflicts",
            "Addresses that another station answered for",
            self.conflicts.clone(),
        );
        add.register("gc_collected", "Abandoned allocations deleted, by reason", self.gc.clone());
        add.register("token_reviews", "Callers judged, by hit or miss of the cache", self.reviews.clone());
        add.register("pool_addresses", "Addresses that a pool can give", self.pool_total.clone());
        add.register("pool_addresses_used", "Addresses of a pool in use", self.pool_used.clone());
        add.register("leader", "1 while this replica leads", self.leader.clone());
        add.register(
            "config_errors",
            "Readings of a configuration that was refused",
            self.config_errors.clone(),
        );
        registry
    }

    /// An Allocate call has ended.
    pub fn allocated(&self, result: &'static str, seconds: f64) {
        self.allocate.get_or_create(&Outcome { result }).observe(seconds);
    }

    /// Addresses were claimed.
    pub fn claimed(&self, count: usize) {
        self.claims.inc_by(count as u64);
    }

    /// Addresses were released.
    pub fn released(&self, count: usize) {
        self.releases.inc_by(count as u64);
    }

    /// A picked address was claimed by somebody else.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// An address conflict was reported.
    pub fn conflict(&self) {
        self.conflicts.inc();
    }

    /// An abandoned allocation was deleted.
    pub fn collected(&self, reason: &'static str) {
        self.gc.get_or_create(&Reason { reason }).inc();
    }

    /// A caller was judged.
    pub fn token_review(&self, hit: bool) {
        self.reviews.get_or_create(&Outcome { result: if hit { "hit" } else { "miss" } }).inc();
    }

    /// A configuration was refused.
    pub fn config_error(&self) {
        self.config_errors.inc();
    }

    /// Whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The pools' figures; pools that are not named have none any more.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 addresses are exact enough")]
    pub fn set_pools(&self, usages: Vec<(String, u128, u128)>) {
        self.pool_total.clear();
        self.pool_used.clear();
        for (pool, total, used) in usages {
            let label = PoolLabel { pool };
            self.pool_total.get_or_create(&label).set(total as f64);
            self.pool_used.get_or_create(&label).set(used as f64);
        }
    }

    /// All of it as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_after_the_controller_and_follow_the_pools() {
        let metrics = Metrics::new();
        metrics.allocated("ok", 0.002);
        metrics.collected("pod_gone");
        metrics.set_pools(vec![("a".to_owned(), 254, 3)]);
        metrics.set_pools(vec![("b".to_owned(), 10, 1)]);
        let text = metrics.text();
        for expected in [
            "trunkline_controller_allocate_seconds_count{result=\"ok\"} 1",
            "trunkline_controller_gc_collected_total{reason=\"pod_gone\"} 1",
            "trunkline_controller_pool_addresses{pool=\"b\"} 10",
            "trunkline_controller_pool_addresses_used{pool=\"b\"} 1",
            "trunkline_controller_leader 0",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains("pool=\"a\""));
    }
}
