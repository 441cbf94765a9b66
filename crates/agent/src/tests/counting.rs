//! Counters as metrics: what is in force has series, what is not has none, and there are not too many.

use std::sync::Arc;

use policy::model::{Direction, GroupRef, GroupRules, Peer, Rule, Traffic, Transport};
use ruleset::{Counter, group_denied_counter, rule_counter};
use runtime::health::Registry;

use super::*;
use crate::metrics::Metrics;

fn rules(count: usize) -> GroupRules {
    let rule = |n: usize| Rule {
        traffic: Traffic::Transport(Transport::Tcp, None),
        peer: Peer::Net(format!("10.{}.{}.0/24", n / 250, n % 250).parse().unwrap()),
        id: format!("sgr-{n:05}"),
    };
    GroupRules { ingress: (0..count).map(rule).collect(), egress: BTreeSet::new() }
}

fn page(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[test]
fn rules_and_groups_in_force_have_series_and_no_others() {
    let mut registry = Registry::default();
    let mut metrics = Metrics::new(&mut registry);
    let web = GroupRef { namespace: "shop".into(), name: "web".into() };
    let counted = |name: String, packets| (name, Counter { packets, bytes: 0 });
    let counters =
        [counted(rule_counter(Direction::Ingress, &web, "sgr-00001"), 7), counted(group_denied_counter(Direction::Ingress, &web), 3)]
            .into();
    metrics.counted_of(&counters, &imbl::ordmap! {web.clone() => Arc::new(rules(2))});
    let text = page(&registry);
    for series in [
        r#"rule_allowed_packets_total{namespace="shop",group="web",direction="ingress",rule="sgr-00000"} 0"#,
        r#"rule_allowed_packets_total{namespace="shop",group="web",direction="ingress",rule="sgr-00001"} 7"#,
        r#"group_denied_packets_total{namespace="shop",group="web",direction="ingress"} 3"#,
        r#"group_denied_packets_total{namespace="shop",group="web",direction="egress"} 0"#,
    ] {
        assert!(text.contains(series), "{series} in {text}");
    }

    metrics.counted_of(&BTreeMap::new(), &imbl::ordmap! {web.clone() => Arc::new(rules(2))});
    assert!(page(&registry).contains(r#"rule="sgr-00001"} 7"#), "a kernel that did not answer takes nothing back");

    metrics.counted_of(&counters, &imbl::ordmap! {web.clone() => Arc::new(rules(1))});
    assert!(!page(&registry).contains("sgr-00001"), "a rule that is gone");
    metrics.counted_of(&counters, &imbl::OrdMap::new());
    assert!(!page(&registry).contains("shop"), "a group that is gone");

    metrics.counted_of(&counters, &imbl::ordmap! {web => Arc::new(rules(5_003))});
    let text = page(&registry);
    assert_eq!(text.matches("rule_allowed_packets_total{").count(), 5_000);
    assert!(text.contains("rules_without_series 3\n"), "{text}");
}
