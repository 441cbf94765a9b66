//! What groups have counted, in the node's report: seldom, and never taken back by a report of something else.

use std::time::Duration;

use api::PacketCounts;
use policy::model::{Direction, GroupRef};
use ruleset::{Counter, group_denied_counter, rule_counter};
use tokio::time::Instant;

use super::*;
use crate::tally::Tally;
use crate::throttle::{COUNTS, Throttle};

const MINUTE: Duration = Duration::from_secs(60);

fn web() -> GroupRef {
    GroupRef { namespace: "shop".into(), name: "web".into() }
}

fn shop() -> [Object; 4] {
    [pod("web-0", "web", "10.0.0.1"), group("web", 1, &["lb"]), group("lb", 1, &[]), attachment("web")]
}

/// What the kernel has counted: of the one rule inbound, of "everything goes out", and of denials.
fn counters(node: &Node, allowed: u64, denied: u64) -> BTreeMap<String, Counter> {
    let rules = &node.rules[&web()];
    let count = |packets| Counter { packets, bytes: 0 };
    let of = |direction, rules: &BTreeSet<policy::model::Rule>, packets| {
        let rule = rules.first().expect("one rule");
        (rule_counter(direction, &web(), &rule.id), count(packets))
    };
    [
        of(Direction::Ingress, &rules.ingress, allowed),
        of(Direction::Egress, &rules.egress, 2 * allowed),
        (group_denied_counter(Direction::Ingress, &web()), count(denied)),
        (group_denied_counter(Direction::Egress, &web()), count(0)),
    ]
    .into()
}

fn packets(ingress_allowed: i64, ingress_denied: i64) -> PacketCounts {
    PacketCounts { ingress_allowed, ingress_denied, egress_allowed: 2 * ingress_allowed, egress_denied: 0 }
}

#[test]
fn counts_are_told_once_a_minute_and_every_other_report_carries_them_along() {
    let mut node = Node::with(&shop(), &[slice("lb", &["10.1.0.1"])]);
    assert_eq!(node.synced().groups[0].packets, packets(0, 0));
    let (mut tally, start) = (Tally::new(MINUTE, Duration::from_secs(10)), Instant::now());
    let mut look = |node: &mut Node, allowed, denied, seconds| {
        let counters = counters(node, allowed, denied);
        let told = tally.take(&counters, &node.rules, start + Duration::from_secs(seconds))?;
        node.report.counted(told)
    };
    assert_eq!(look(&mut node, 7, 3, 0).expect("the first at once").groups[0].packets, packets(7, 3));
    for seconds in [10, 20, 30, 40, 50] {
        assert_eq!(look(&mut node, 8, 3, seconds), None, "after {seconds} s");
    }
    node.take(apply(pod("web-1", "web", "10.0.0.2")));
    assert_eq!(node.synced().groups[0].packets, packets(7, 3), "of something else");
    node.enforcement.kernel().refuse = 1;
    node.take(apply(pod("web-2", "web", "10.0.0.3")));
    assert!(node.sync().expect("all lists are in").is_err());
    assert_eq!(node.report.continued().groups[0].packets, packets(7, 3), "of a failure");
    // A timer that is a little early is not sent away for another round.
    let before = node.report.continued();
    let after = look(&mut node, 9, 4, 59).expect("a minute is over");
    assert_eq!(after.groups[0].packets, packets(9, 4));
    assert_eq!(look(&mut node, 9, 4, 119), None, "as before");

    let (mut throttle, now) = (Throttle::default(), Instant::now());
    throttle.written(before, now);
    assert_eq!(throttle.due(&after, now), now + COUNTS, "nobody waits for it");
}

#[test]
fn a_kernel_that_does_not_answer_takes_nothing_back_and_is_asked_again_soon() {
    let mut node = Node::with(&shop(), &[slice("lb", &["10.1.0.1"])]);
    node.synced();
    let (mut tally, start) = (Tally::new(MINUTE, Duration::from_secs(10)), Instant::now());
    assert_eq!(tally.take(&BTreeMap::new(), &node.rules, start), None);
    let told = tally.take(&counters(&node, 1, 1), &node.rules, start + Duration::from_secs(10));
    assert_eq!(told, Some([(web(), packets(1, 1))].into()));
}

#[test]
fn a_program_that_starts_again_goes_on_from_the_last_report_and_a_group_that_is_gone_is_not_counted() {
    let mut node = Node::with(&shop(), &[slice("lb", &["10.1.0.1"])]);
    node.synced();
    let told = Tally::new(MINUTE, MINUTE).take(&counters(&node, 7, 3), &node.rules, Instant::now()).expect("the first");
    let earlier = node.report.counted(told).expect("it is new");
    let kernel = std::mem::take(node.enforcement.kernel());

    let mut again = Node::on(kernel);
    again.report = Report::continuing(earlier);
    again.list(&shop());
    assert!(again.sync().is_none(), "slices are waited for");
    again.slices(0, Change::Reset(Kind::MemberSlice, vec![slice("lb", &["10.1.0.1"])]));
    assert_eq!(again.synced().groups[0].packets, packets(7, 3));

    again.take(delete(Kind::Pod, "web-0"));
    assert_eq!(again.synced().groups, []);
    let told = Tally::new(MINUTE, MINUTE).take(&counters(&node, 8, 4), &again.rules, Instant::now()).expect("the first");
    assert_eq!((told.len(), again.report.counted(told)), (0, None));
}
