//! What can be counted of the loop.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use runtime::health::Registry;

/// Metrics of the loop.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// From the first fact that called for a sync to the kernel's answer.
    pub sync_seconds: Histogram,
    /// Transactions that the kernel took.
    pub commits: Counter,
    /// Plans that it did not take.
    pub failures: Counter,
    /// Steps of the transactions that it took.
    pub ops: Counter,
    /// Guarded endpoints.
    pub endpoints: Gauge,
    /// Groups with an endpoint here.
    pub groups: Gauge,
    /// What is not in force as written.
    pub problems: Gauge,
}

impl Metrics {
    /// Zero, and registered.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            sync_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            commits: Counter::default(),
            failures: Counter::default(),
            ops: Counter::default(),
            endpoints: Gauge::default(),
            groups: Gauge::default(),
            problems: Gauge::default(),
        };
        registry.register(
            "sync_seconds",
            "From the first change that called for it until the kernel had taken it",
            metrics.sync_seconds.clone(),
        );
        registry.register("commits", "Transactions that the kernel took", metrics.commits.clone());
        registry.register("commit_failures", "Plans that the kernel did not take", metrics.failures.clone());
        registry.register("commit_ops", "Steps of the transactions that the kernel took", metrics.ops.clone());
        registry.register("endpoints", "Endpoints of this node that are guarded", metrics.endpoints.clone());
        registry.register("groups", "Security groups with an endpoint on this node", metrics.groups.clone());
        registry.register("problems", "Rules and objects that are not in force as written", metrics.problems.clone());
        metrics
    }
}
