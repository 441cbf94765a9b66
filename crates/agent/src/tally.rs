//! What groups have counted, for the node's report: seldom, because every report of a node is a write and an event for the operator.
//!
//! What it costs: a node whose counts change writes its report once a minute more, some kilobytes. 1,000 nodes make 17 writes a second, at
//! different times since their agents started at different times; nobody watches reports but the operator, which sums counts up at a pace of
//! its own. `--counts-interval` stretches it for more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::PacketCounts;
use policy::model::{Direction, GroupRef, GroupRules, Rule, RulesOf};
use ruleset::{Counter, group_denied_counter, rule_counter};
use tokio::time::Instant;

/// When counts are told.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    every: Duration,
    /// Between two looks at the counters.
    look: Duration,
    told: Option<Instant>,
}

impl Tally {
    /// At most so often, by one who looks so often.
    pub fn new(every: Duration, look: Duration) -> Tally {
        Tally { every, look, told: None }
    }

    /// What each group has counted, if it is time to tell; a group that has counted nothing is left out. Without counters nobody knows.
    pub fn take(
        &mut self,
        counters: &BTreeMap<String, Counter>,
        groups: &RulesOf,
        now: Instant,
    ) -> Option<BTreeMap<GroupRef, PacketCounts>> {
        // The look that is nearest to the time, not the first one behind it.
        let early = self.told.is_some_and(|told| now + self.look / 2 < told + self.every);
        if early || counters.is_empty() {
            return None;
        }
        self.told = Some(now);
        let all = groups.iter().map(|(group, rules)| (group.clone(), packets(counters, group, rules)));
        Some(all.filter(|(_, packets)| !packets.is_none()).collect())
    }
}

fn packets(counters: &BTreeMap<String, Counter>, group: &GroupRef, rules: &GroupRules) -> PacketCounts {
    let of = |name: &str| counters.get(name).map_or(0, |counter| counter.packets);
    let told = |packets: u64| i64::try_from(packets).unwrap_or(i64::MAX);
    let denied = |direction| told(of(&group_denied_counter(direction, group)));
    let allowed = |direction, rules: &BTreeSet<Rule>| {
        let each = rules.iter().map(|rule| of(&rule_counter(direction, group, &rule.id)));
        told(each.fold(0, u64::saturating_add))
    };
    PacketCounts {
        ingress_allowed: allowed(Direction::Ingress, &rules.ingress),
        ingress_denied: denied(Direction::Ingress),
        egress_allowed: allowed(Direction::Egress, &rules.egress),
        egress_denied: denied(Direction::Egress),
    }
}
