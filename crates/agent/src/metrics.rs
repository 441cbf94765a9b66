//! What can be counted of the loop.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use policy::model::{Direction, Exemption};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use ruleset::{denied_counter, exemption_counter, invalid_counter};
use runtime::health::Registry;

/// Metrics of the loop.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// From a change to the kernel's answer.
    pub programming_seconds: Histogram,
    /// Transactions that the kernel took.
    pub commits: Counter,
    /// Plans that it did not take.
    pub failures: Counter,
    /// Tables that someone else had changed and that were put right.
    pub repairs: Counter,
    /// Steps of the transactions that it took.
    pub ops: Counter,
    /// Guarded endpoints.
    pub endpoints: Gauge,
    /// Groups with an endpoint here.
    pub groups: Gauge,
    /// What is not in force as written.
    pub problems: Gauge,
    /// What passed whatever the rules say (S36).
    exempted: Family<Labels, Counter>,
    /// What no rule allowed.
    denied: Family<Labels, Counter>,
    /// What belonged to no connection and opened none (S37).
    invalid: Family<Labels, Counter>,
    /// Bridges over which guarded pods get packets that meet no rule.
    pub bridges_escaping: Gauge,
}

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    /// Zero, and registered.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            programming_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            commits: Counter::default(),
            failures: Counter::default(),
            repairs: Counter::default(),
            ops: Counter::default(),
            endpoints: Gauge::default(),
            groups: Gauge::default(),
            problems: Gauge::default(),
            exempted: Family::default(),
            denied: Family::default(),
            invalid: Family::default(),
            bridges_escaping: Gauge::default(),
        };
        registry.register(
            "programming_seconds",
            "From a change until the kernel had taken it; since this agent saw it, or of a member of another node since the operator did",
            metrics.programming_seconds.clone(),
        );
        registry.register("commits", "Transactions that the kernel took", metrics.commits.clone());
        registry.register("commit_failures", "Plans that the kernel did not take", metrics.failures.clone());
        registry.register("repairs", "Times that someone else had changed the table and it was put right", metrics.repairs.clone());
        registry.register("commit_ops", "Steps of the transactions that the kernel took", metrics.ops.clone());
        registry.register("endpoints", "Endpoints of this node that are guarded", metrics.endpoints.clone());
        registry.register("groups", "Security groups with an endpoint on this node", metrics.groups.clone());
        registry.register("problems", "Rules and objects that are not in force as written", metrics.problems.clone());
        registry.register("exempted_packets", "Packets that passed whatever the rules say, by exemption", metrics.exempted.clone());
        registry.register("denied_packets", "Packets that no rule allowed, by the direction seen from the pod", metrics.denied.clone());
        registry.register(
            "invalid_packets",
            "Packets of guarded pods that belonged to no connection and opened none, by direction",
            metrics.invalid.clone(),
        );
        registry.register(
            "bridges_escaping",
            "Linux bridges over which guarded pods of this node get packets that meet no rule",
            metrics.bridges_escaping.clone(),
        );
        // A series that is there before its first packet: an alert on its rate sees that packet.
        metrics.counted(&BTreeMap::new());
        metrics
    }

    /// Takes over what the kernel has counted. A table that is made anew counts from zero, which Prometheus knows to read.
    pub fn counted(&self, counters: &BTreeMap<String, ruleset::Counter>) {
        let take = |family: &Family<Labels, Counter>, label: &'static str, value: String, counter: &str| {
            let metric = family.get_or_create_owned(&vec![(label, value)]);
            if let Some(counted) = counters.get(counter) {
                metric.inner().store(counted.packets, Ordering::Relaxed);
            }
        };
        for exemption in Exemption::ALL {
            take(&self.exempted, "exemption", exemption.to_string(), exemption_counter(exemption));
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            take(&self.denied, "direction", direction.to_string(), denied_counter(direction));
            take(&self.invalid, "direction", direction.to_string(), invalid_counter(direction));
        }
    }
}
