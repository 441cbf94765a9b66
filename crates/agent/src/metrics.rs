//! What can be counted of the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use policy::model::{Direction, Exemption, GroupRef, RulesOf};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use ruleset::{Ruleset, denied_counter, exemption_counter, group_denied_counter, invalid_counter, rule_counter};
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
    /// New connections that each (rule, peer) allowed.
    allowed_by_rule: Family<Labels, Counter>,
    /// What none of an endpoint's groups allowed, for each of them.
    denied_by_group: Family<Labels, Counter>,
    /// Rules that are not among the series, because they are too many.
    uncounted: Gauge,
    /// Groups likewise.
    uncounted_groups: Gauge,
    /// The series of rules and groups that there are.
    shown: BTreeSet<Labels>,
    /// 1 where all rules of this node are in force and packets meet them.
    pub enforcing: Gauge,
    /// Bridges over which guarded pods get packets that meet no rule.
    pub bridges_escaping: Gauge,
    /// How large the table is, by what it holds.
    ruleset: Family<Labels, Gauge>,
    /// Connections that the node tracks, and how many it can.
    conntrack: [Gauge; 2],
}

/// Where the kernel says how many connections the node tracks, and how many it can.
const CONNTRACK: [&str; 2] = ["/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max"];

/// Rules that have series of their own at most: a scrape of all nodes must stay small, whatever is written in all namespaces.
const RULES: usize = 5_000;
/// And groups, two series each.
const GROUPS: usize = 1_000;

type Labels = Vec<(&'static str, String)>;

/// Shows what a counter has counted; what could not be read stays as it was, for a counter that falls has begun anew.
fn show(family: &Family<Labels, Counter>, labels: &Labels, counted: Option<&ruleset::Counter>) {
    let metric = family.get_or_create_owned(labels);
    if let Some(counted) = counted {
        metric.inner().store(counted.packets, Ordering::Relaxed);
    }
}

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
            allowed_by_rule: Family::default(),
            denied_by_group: Family::default(),
            uncounted: Gauge::default(),
            uncounted_groups: Gauge::default(),
            shown: BTreeSet::new(),
            enforcing: Gauge::default(),
            bridges_escaping: Gauge::default(),
            ruleset: Family::default(),
            conntrack: Default::default(),
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
            "rule_allowed_packets",
            "First packets of connections that a rule and peer allowed, by group, direction and the rule's id (sgr-); ICMP and UDP without an \
             answer count each packet. What several rules allow counts for one of them",
            metrics.allowed_by_rule.clone(),
        );
        registry.register(
            "group_denied_packets",
            "Packets to or from members of a group that none of the pod's groups allowed, by direction",
            metrics.denied_by_group.clone(),
        );
        registry.register("rules_without_series", "Rules beyond the 5,000 that have series here", metrics.uncounted.clone());
        registry.register("groups_without_series", "Groups beyond the 1,000 that have series here", metrics.uncounted_groups.clone());
        registry.register(
            "enforcing",
            "1 where the rules of this node are in force and its guarded pods' packets meet them; 0 where the NodeReport is not Ready",
            metrics.enforcing.clone(),
        );
        registry.register(
            "bridges_escaping",
            "Linux bridges over which guarded pods of this node get packets that meet no rule",
            metrics.bridges_escaping.clone(),
        );
        registry.register(
            "ruleset_size",
            "Size of the table in force, by what it holds: chains, rules, sets, maps, elements (of sets and maps) and counters",
            metrics.ruleset.clone(),
        );
        let [count, max] = metrics.conntrack.clone();
        registry.register("conntrack_entries", "Connections that the node's kernel tracks; 0 where it does not say", count);
        registry.register("conntrack_limit", "Connections that it can track: beyond, it drops new ones; 0 where it does not say", max);
        metrics.sized(&Ruleset::default());
        // A series that is there before its first packet: an alert on its rate sees that packet.
        metrics.counted(&BTreeMap::new());
        metrics
    }

    /// The table in force is this one.
    pub fn sized(&self, ruleset: &Ruleset) {
        let Ruleset { counters, sets, intervals, maps, port_maps, counter_maps, chains } = ruleset;
        let of_sets = sets.values().map(|set| set.elements.len()).chain(intervals.values().map(|set| set.ranges.len()));
        let of_maps = maps.values().map(|map| map.elements.len()).chain(port_maps.values().map(|map| map.elements.len()));
        let of_maps = of_maps.chain(counter_maps.values().map(|map| map.elements.len()));
        for (what, size) in [
            ("chains", chains.len()),
            ("rules", chains.values().map(|chain| chain.rules.len()).sum()),
            ("sets", sets.len() + intervals.len()),
            ("maps", maps.len() + port_maps.len() + counter_maps.len()),
            ("elements", of_sets.chain(of_maps).sum()),
            ("counters", counters.len()),
        ] {
            self.ruleset.get_or_create_owned(&vec![("of", what.to_string())]).set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }

    /// How full the node's table of connections is: once it is full, what rules allow does not pass either.
    pub fn tracked(&self) {
        for (gauge, path) in self.conntrack.iter().zip(CONNTRACK) {
            let said = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            gauge.set(said.unwrap_or_default());
        }
    }

    /// Takes over what the kernel has counted.
    pub fn counted(&self, counters: &BTreeMap<String, ruleset::Counter>) {
        let take = |family: &Family<Labels, Counter>, label: &'static str, value: String, counter: &str| {
            show(family, &vec![(label, value)], counters.get(counter));
        };
        for exemption in Exemption::ALL {
            take(&self.exempted, "exemption", exemption.to_string(), exemption_counter(exemption));
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            take(&self.denied, "direction", direction.to_string(), denied_counter(direction));
            take(&self.invalid, "direction", direction.to_string(), invalid_counter(direction));
        }
    }

    /// The same of the rules in force, and of the groups that they are of. What is not in force any more has no series.
    pub fn counted_of(&mut self, counters: &BTreeMap<String, ruleset::Counter>, groups: &RulesOf) {
        let mut shown = BTreeSet::new();
        let labels = |group: &GroupRef, direction: Direction| {
            vec![("namespace", group.namespace.clone()), ("group", group.name.clone()), ("direction", direction.to_string())]
        };
        let mut take = |family: &Family<Labels, Counter>, labels: Labels, counter: &str| {
            show(family, &labels, counters.get(counter));
            shown.insert(labels);
        };
        let mut left = RULES;
        let mut uncounted = 0;
        for (number, (group, rules)) in groups.iter().enumerate() {
            for (direction, rules) in [(Direction::Ingress, &rules.ingress), (Direction::Egress, &rules.egress)] {
                if number < GROUPS {
                    take(&self.denied_by_group, labels(group, direction), &group_denied_counter(direction, group));
                }
                for rule in rules.iter().take(left) {
                    let mut labels = labels(group, direction);
                    labels.push(("rule", rule.id.clone()));
                    take(&self.allowed_by_rule, labels, &rule_counter(direction, group, &rule.id));
                }
                uncounted += rules.len().saturating_sub(left);
                left = left.saturating_sub(rules.len());
            }
        }
        for gone in self.shown.difference(&shown) {
            self.allowed_by_rule.remove(gone);
            self.denied_by_group.remove(gone);
        }
        self.shown = shown;
        self.uncounted.set(i64::try_from(uncounted).unwrap_or(i64::MAX));
        self.uncounted_groups.set(i64::try_from(groups.len().saturating_sub(GROUPS)).unwrap_or(i64::MAX));
    }
}
