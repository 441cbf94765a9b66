//! Objects that are written to be a burden: what comes of them is measured in rules and elements, not in seconds.

use policy::model::NodeName;
use serde_json::{Value, json};
use testkit::history::State;
use testkit::{Manifest, from_scratch};

use crate::pipeline::size;

fn ruleset_size(objects: &[Manifest]) -> usize {
    let (_, ruleset) = from_scratch(&State::of(objects).cluster(), &NodeName("n1".into()));
    size(&ruleset)
}

fn cidrs(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"cidr": format!("10.{}.{}.0/24", n / 256, n % 256)})).collect()
}

/// A group `web` with these rules, an attachment to it, and one pod.
fn guarded(ingress: Value) -> Vec<Manifest> {
    vec![
        Manifest::group("shop/web", json!({"ingress": ingress, "egress": []})),
        Manifest::attachment("shop/a", "web", &["web"]),
        Manifest::pod("shop/p", "n1", "web").at(&["10.0.0.1"]),
    ]
}

#[test]
fn s2_thousands_of_attachments_that_say_the_same_are_as_one() {
    let one = guarded(json!([]));
    let mut many = one.clone();
    many.extend((0..5_000).map(|n| Manifest::attachment(&format!("shop/a-{n}"), "web", &["web"])));
    assert_eq!(ruleset_size(&many), ruleset_size(&one));
}

#[test]
fn s10_a_rule_with_many_peers_costs_a_rule_for_each() {
    let of = |rules: usize, peers: usize| {
        let rules: Vec<Value> = (1..=rules).map(|port| json!({"protocol": "TCP", "port": port, "from": cidrs(peers)})).collect();
        ruleset_size(&guarded(json!(rules)))
    };
    let (none, some, most) = (of(0, 0), of(10, 200), of(200, 200));
    // A rule and a counter a pair.
    assert!(some - none <= 2 * 10 * 200 && most - none <= 2 * 200 * 200, "{none}, {some}, {most}");
    assert!(most - none <= 20 * (some - none), "no faster than the pairs: {none}, {some}, {most}");
}

#[test]
fn s21_a_large_prefix_list_is_there_once_however_many_rules_name_it() {
    let of = |rules: usize, entries: usize| {
        let rules: Vec<Value> =
            (1..=rules).map(|port| json!({"protocol": "TCP", "port": port, "from": [{"prefixList": {"name": "list"}}]})).collect();
        let spec = json!({"addressFamily": "IPv4", "maxEntries": 1000, "entries": cidrs(entries)});
        let mut objects = guarded(json!(rules));
        objects.push(Manifest::new("PrefixList", "shop/list").set("/spec", spec));
        ruleset_size(&objects)
    };
    let (small, large) = (of(1, 1_000), of(200, 1_000));
    assert!(large - small <= 200 * 4, "{small}, {large}");
    assert!(of(1, 1_000) <= of(1, 10) + 1_000);
}

#[test]
fn s20_peers_that_do_not_exist_cost_no_rule() {
    let peers: Vec<Value> = (0..200).map(|n| json!({"securityGroup": {"name": format!("gone-{n}")}})).collect();
    let (none, many) = (ruleset_size(&guarded(json!([]))), ruleset_size(&guarded(json!([{"protocol": "All", "from": peers}]))));
    assert!(many - none <= 200, "a counter each and nothing else: {none}, {many}");
}

/// A pod of another node, and a group that no pod of this node is in, are nothing to this node.
#[test]
fn p24_what_is_elsewhere_costs_nothing_here() {
    let here = guarded(json!([{"protocol": "All", "from": [{"cidr": "10.0.0.0/8"}]}]));
    let mut more = here.clone();
    for n in 0..500 {
        more.push(Manifest::pod(&format!("shop/far-{n}"), "n2", "web").at(&[&format!("10.9.{}.{}", n / 250, n % 250 + 1)]));
        more.push(Manifest::group(&format!("shop/other-{n}"), json!({"ingress": [{"type": "SSH", "from": [{"self": true}]}]})));
    }
    assert_eq!(ruleset_size(&more), ruleset_size(&here));
}

/// The report of a node quotes what cannot be read: an object that is as large as the API server takes must not make it unwritable.
#[test]
fn s38_p23_what_cannot_be_read_is_quoted_in_few_words() {
    let huge = "ä".repeat(500_000);
    let rules =
        json!([huge.clone(), {"protocol": huge.clone()}, {"type": huge.clone()}, {"protocol": "TCP", "from": [{"cidr": huge.clone()}]}]);
    let mut objects = guarded(rules);
    objects.push(Manifest::group("shop/other", json!({ (huge.clone()): 1 })));
    objects.push(Manifest::attachment("shop/b", "web", &["other"]));
    objects.push(Manifest::new("Attachment", "shop/c").set("/spec", json!(huge)));
    let (compiled, _) = from_scratch(&State::of(&objects).cluster(), &NodeName("n1".into()));
    assert!(compiled.problems.len() >= 6, "{}", compiled.problems.len());
    for problem in compiled.problems {
        assert!(problem.message.chars().count() <= 600, "{} characters of {}", problem.message.chars().count(), problem.reason);
    }
}
