//! Counters as metrics: what is in force has series, what is not has none, and there are not too many.

use std::sync::Arc;
use std::time::Duration;

use policy::model::{Direction, GroupRef, GroupRules, Peer, Rule, Traffic, Transport};
use ruleset::{Counter, Ruleset, group_denied_counter, rule_counter};
use runtime::calls::Calls;
use runtime::health::{Readiness, Registry};
use runtime::watch::Watches;
use runtime::{client, health};

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

/// All that the agent serves, each at least once.
#[tokio::test]
async fn the_page_of_metrics_lists_what_is_served_and_nothing_else() {
    let mut registry = health::registry("securitygroups_agent", "1.2.3");
    let calls = Calls::new(&mut registry);
    // Nobody listens there: the first call fails, and is counted.
    let client = client::of(kube::Config::new("http://127.0.0.1:1".parse().unwrap()), &calls).unwrap();
    let (watches, _messages) = Watches::<Message>::new(client, Readiness::default(), &mut registry);
    let _open = watches.namespaces(Message::Fact);
    let mut metrics = Metrics::new(&mut registry);
    metrics.counted_of(&BTreeMap::new(), &imbl::ordmap! {GroupRef { namespace: "shop".into(), name: "web".into() } => Arc::new(rules(1))});
    for _ in 0..500 {
        if page(&registry).contains("api_requests_total{") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    testkit::metrics::documented("securitygroups_agent", &page(&registry)).unwrap_or_else(|why| panic!("{why}"));
}

/// The size of the table, and how full the node's table of connections is.
#[test]
fn what_is_in_force_and_tracked_is_counted() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let set = ruleset::Set {
        family: policy::model::Family::V4,
        elements: ["10.0.0.1", "10.0.0.2"].iter().map(|ip| ip.parse::<std::net::IpAddr>().unwrap()).collect(),
    };
    let table = Ruleset { counters: imbl::ordset!["one".to_string()], sets: imbl::ordmap! {"set".into() => set}, ..Ruleset::default() };
    metrics.sized(&table);
    metrics.tracked();
    let text = page(&registry);
    for (of, size) in [("chains", 0), ("rules", 0), ("sets", 1), ("maps", 0), ("elements", 2), ("counters", 1)] {
        assert!(text.contains(&format!("ruleset_size{{of=\"{of}\"}} {size}\n")), "{text}");
    }
    let of_this_node =
        std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").map_or("0".into(), |text| text.trim().to_string());
    assert!(text.contains(&format!("conntrack_limit {of_this_node}\n")), "{text}");
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

    let many = (0..1_002).map(|n| (GroupRef { namespace: "shop".into(), name: format!("g{n}") }, Arc::new(rules(0)))).collect();
    metrics.counted_of(&counters, &many);
    let text = page(&registry);
    assert_eq!(text.matches("group_denied_packets_total{").count(), 2_000);
    assert!(text.contains("groups_without_series 2\n"), "{text}");
}
