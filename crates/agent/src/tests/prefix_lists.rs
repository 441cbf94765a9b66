//! Prefix lists on a node: their edits, what is reported of them (S20, S21), and what is exempt (S36).

use std::collections::BTreeSet;

use policy::index::{Kind, Object};
use policy::model::{Exemption, NodeName};
use serde_json::json;

use super::{Flaky, Node, apply, attachment, delete, metadata, pod};
use crate::facts::Facts;
use crate::report::PROBLEMS;

fn list(generation: i64, entries: &[&str]) -> Object {
    let entries: Vec<_> = entries.iter().map(|cidr| json!({"cidr": cidr})).collect();
    Object::prefix_list(&metadata("offices", generation), &json!({"addressFamily": "IPv4", "maxEntries": 20, "entries": entries}))
}

fn naming() -> Object {
    let rule = json!({"type": "SSH", "from": [{"prefixList": {"name": "offices"}}]});
    Object::security_group(&metadata("web", 1), &json!({"ingress": [rule], "egress": []}))
}

fn ranges(node: &mut Node) -> Vec<String> {
    let table = node.table().unwrap();
    let set = table.intervals.get("prefixes4/shop/offices");
    set.into_iter().flat_map(|set| &set.ranges).map(|(first, last)| format!("{first}-{last}")).collect()
}

#[test]
fn s21_an_edit_of_the_list_changes_its_set_alone_and_is_reported() {
    let objects = [pod("web-0", "web", "10.0.0.1"), naming(), attachment("web"), list(1, &["10.1.0.0/16", "10.1.2.0/24"])];
    let mut node = Node::with(&objects, &[]);
    assert_eq!(ranges(&mut node), ["10.1.0.0-10.1.255.255"]);
    let status = node.synced();
    assert_eq!(status.prefix_lists.iter().map(|list| (list.name.as_str(), list.generation)).collect::<Vec<_>>(), [("offices", 1)]);

    let steps_before = node.enforcement.kernel().taken.len();
    node.take(apply(list(2, &["10.1.2.0/24", "192.0.2.7/32"])));
    let status = node.synced();
    assert_eq!(ranges(&mut node), ["10.1.2.0-10.1.2.255", "192.0.2.7-192.0.2.7"]);
    assert_eq!(status.prefix_lists[0].generation, 2);
    assert_eq!(status.groups[0].generation, 1);
    let steps: Vec<String> = node.enforcement.kernel().taken[steps_before].ops.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "delete element inet k8s-sg prefixes4/shop/offices { 10.1.0.0-10.1.255.255 }",
            "add element inet k8s-sg prefixes4/shop/offices { 10.1.2.0-10.1.2.255, 192.0.2.7 }",
        ]
    );
}

#[test]
fn s20_a_list_that_goes_matches_nothing_and_comes_alive_again() {
    let objects = [pod("web-0", "web", "10.0.0.1"), naming(), attachment("web"), list(1, &["10.1.0.0/16"])];
    let mut node = Node::with(&objects, &[]);
    let with_list = node.table();
    node.take(delete(Kind::PrefixList, "offices"));
    let status = node.synced();
    assert!(status.prefix_lists.is_empty() && node.table().unwrap().chains["in/shop/web"].rules.is_empty());
    node.take(apply(list(1, &["10.1.0.0/16"])));
    assert_eq!(node.synced().prefix_lists.len(), 1);
    assert_eq!(node.table(), with_list);
}

#[test]
fn s38_an_entry_that_is_not_understood_matches_nothing_and_is_reported() {
    let spec = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": "10.1.0.0/16"}, {"novelty": 1}]});
    let objects = [pod("web-0", "web", "10.0.0.1"), naming(), attachment("web"), Object::prefix_list(&metadata("offices", 1), &spec)];
    let mut node = Node::with(&objects, &[]);
    assert_eq!(ranges(&mut node), ["10.1.0.0-10.1.255.255"]);
    let problems = node.synced().problems;
    assert_eq!((problems[0].object.as_str(), problems[0].rule.as_str()), ("PrefixList shop/offices", "entries[1]"));
    assert_eq!(problems[0].reason, "NotUnderstood");
}

#[test]
fn s36_the_report_has_a_line_for_each_exemption_with_its_switch_and_its_counter() {
    let mut node = Node::on(Flaky::default());
    let exempt: BTreeSet<Exemption> = [Exemption::NeighbourDiscovery, Exemption::ClusterDns].into();
    node.facts = Facts::new(NodeName("n1".into()), exempt);
    node.list(&[pod("web-0", "web", "10.0.0.1"), naming(), attachment("web")]);
    assert!(node.sync().is_none(), "where DNS answers has not been listed yet");
    node.take(super::reset(Kind::Dns, &[Object::Dns(("kube-system".into(), "kube-dns-1".into()), ["10.0.9.9".parse().unwrap()].into())]));
    let status = node.synced();
    let table = node.table().unwrap();
    assert_eq!(status.exemptions.len(), Exemption::ALL.len());
    for line in status.exemptions {
        assert_eq!(line.exempt, ["NeighbourDiscovery", "ClusterDNS"].contains(&line.name.as_str()), "{}", line.name);
        assert_eq!(table.counters.contains(&line.counter), line.exempt, "{}", line.counter);
    }
    assert_eq!(table.sets["dns4"].elements.len(), 1);
}

#[test]
fn s38_a_report_stays_small_however_much_is_not_understood() {
    let entries: Vec<_> = (0..500).map(|n| json!({"novelty": n})).collect();
    let spec = json!({"addressFamily": "IPv4", "maxEntries": 500, "entries": entries});
    let objects = [pod("web-0", "web", "10.0.0.1"), naming(), attachment("web"), Object::prefix_list(&metadata("offices", 1), &spec)];
    let problems = Node::with(&objects, &[]).synced().problems;
    assert_eq!(problems.len(), PROBLEMS + 1);
    let more = problems.iter().find(|problem| problem.reason == "TooManyProblems");
    assert!(more.is_some_and(|more| more.message.starts_with("400 more")), "{more:?}");
}
