//! One bad object never keeps the others from coming into force: what the kernel does not take of it stays as it was.

use policy::index::Object;
use serde_json::json;

use super::*;

/// A group that opens these ports to these peers.
pub(super) fn opens(name: &str, generation: i64, ports: &[u16], peer: serde_json::Value) -> Object {
    let rules: Vec<_> = ports.iter().map(|port| json!({"protocol": "TCP", "port": port, "from": [peer]})).collect();
    Object::security_group(&metadata(name, generation), &json!({"ingress": rules, "egress": []}))
}

pub(super) fn everybody() -> serde_json::Value {
    json!({"cidr": "0.0.0.0/0"})
}

pub(super) fn shop(web: Object, app: Object) -> Vec<Object> {
    vec![pod("web-0", "web", "10.0.0.1"), pod("app-0", "app", "10.0.0.2"), web, app, attachment("web"), attachment("app")]
}

/// A node in whose kernel these ports and addresses are in force nowhere, however often it is asked.
pub(super) fn disliking(node: &mut Node, what: &str) {
    node.enforcement.kernel().dislikes = what.into();
}

/// Syncs, as the loop does, until the kernel takes something; how often it refused.
pub(super) fn settle(node: &mut Node) -> (usize, NodeReportStatus) {
    for refusals in 0..10 {
        if let Ok(status) = node.sync().unwrap() {
            return (refusals, status);
        }
    }
    panic!("the kernel takes nothing");
}

pub(super) fn has(node: &mut Node, words: &str) -> bool {
    node.table().unwrap().to_string().contains(words)
}

pub(super) fn problems(status: &NodeReportStatus) -> Vec<(&str, &str)> {
    status.problems.iter().map(|problem| (problem.object.as_str(), problem.reason.as_str())).collect()
}

#[test]
fn a_group_that_is_refused_stays_as_it_was_while_others_go_on() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    disliking(&mut node, "th dport 666");
    node.take(apply(opens("web", 2, &[81, 666], everybody())));
    node.take(apply(opens("app", 2, &[8080], everybody())));
    let (refusals, status) = settle(&mut node);
    assert_eq!(refusals, 2, "by what we believed to be there, and by what is");
    assert_eq!(generations(&status), [("app".to_string(), 2), ("web".to_string(), 1)]);
    assert!(has(&mut node, "th dport 8080") && has(&mut node, "th dport 80 "), "{}", node.table().unwrap());
    assert!(!has(&mut node, "th dport 81 "), "an object comes into force as a whole or not at all");
    assert_eq!(problems(&status), [("SecurityGroup shop/web", "RefusedByKernel")]);
    let message = &status.problems[0].message;
    assert!(message.starts_with("its rules are as before, for") && message.contains("EINVAL"), "{message}");

    // It is not tried again with every change elsewhere, but as soon as it is another.
    node.take(apply(opens("app", 3, &[8081], everybody())));
    assert_eq!(generations(&node.synced()), [("app".to_string(), 3), ("web".to_string(), 1)]);
    node.take(apply(opens("web", 3, &[82], everybody())));
    let status = node.synced();
    assert_eq!((generations(&status), problems(&status)), (vec![("app".to_string(), 3), ("web".to_string(), 3)], vec![]));
}

#[test]
fn what_is_left_over_and_cannot_be_removed_changes_nothing_of_what_is_in_force() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    // Old kernels know a chain as in use for a while after its last packet.
    disliking(&mut node, "delete chain");
    node.take(delete(Kind::Pod, "web-0"));
    let status = node.synced();
    assert_eq!((generations(&status), problems(&status)), (vec![("app".to_string(), 1)], vec![]));
    let ready = |status: &NodeReportStatus| status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    assert!(ready(&status) && has(&mut node, "web-0"), "{}", node.table().unwrap());
    assert_eq!(node.enforcement.recheck(), Ok(false), "nobody else has changed anything");

    disliking(&mut node, "th dport 666");
    node.take(apply(opens("app", 2, &[666], everybody())));
    let failure = node.sync().unwrap().unwrap_err();
    assert_eq!(failure.stands.as_ref(), Some(&status.ruleset_hash), "what was reported is in force still");

    disliking(&mut node, "");
    node.take(apply(opens("app", 3, &[81], everybody())));
    assert!(ready(&node.synced()) && !has(&mut node, "web-0"), "{}", node.table().unwrap());
}

#[test]
fn what_was_never_in_force_allows_nothing_until_the_kernel_takes_it() {
    let mut node = Node::new();
    disliking(&mut node, "th dport 666");
    node.list(&shop(opens("web", 1, &[80, 666], everybody()), opens("app", 1, &[8080], everybody())));
    node.sync();
    let (_, status) = settle(&mut node);
    assert_eq!(generations(&status), [("app".to_string(), 1)]);
    let table = node.table().unwrap();
    assert!(table.maps["in4"].elements.len() == 2 && table.chains["in/shop/web"].rules.is_empty(), "guarded, and closed: {table}");

    disliking(&mut node, "");
    for _ in 0..4 {
        node.facts.looked();
        assert_eq!(problems(&node.synced()).len(), 1, "too early for another try");
    }
    node.facts.looked();
    let status = node.synced();
    assert_eq!((generations(&status), problems(&status)), (vec![("app".to_string(), 1), ("web".to_string(), 1)], vec![]));
}

#[test]
fn members_that_are_refused_are_as_before_and_everybody_elses_go_on() {
    let naming = |name| opens(name, 1, &[80], json!({"securityGroup": {"name": "peers"}}));
    let other = opens("app", 1, &[80], json!({"securityGroup": {"name": "others"}}));
    let mut objects = shop(naming("web"), other);
    objects.extend([group("peers", 1, &[]), group("others", 1, &[])]);
    let mut node = Node::with(&objects, &[slice("peers", &["10.1.0.1"]), slice("others", &["10.2.0.1"])]);
    node.synced();
    disliking(&mut node, "10.6.6.6");
    node.slices(0, Change::Apply(slice("peers", &["10.1.0.1", "10.6.6.6"])));
    node.slices(0, Change::Apply(slice("others", &["10.2.0.1", "10.2.0.2"])));
    let (_, status) = settle(&mut node);
    assert!(has(&mut node, "10.2.0.2") && has(&mut node, "10.1.0.1") && !has(&mut node, "10.6.6.6"));
    assert_eq!(problems(&status), [("SecurityGroup shop/peers", "RefusedByKernel")]);
    assert_eq!(generations(&status), [("app".to_string(), 1), ("web".to_string(), 1)], "what was in force is");
    node.slices(0, Change::Apply(slice("peers", &["10.1.0.2"])));
    assert_eq!(problems(&node.synced()), []);
    assert!(has(&mut node, "10.1.0.2") && !has(&mut node, "10.1.0.1"));
}

/// Members may change all the time, and everybody else waits while the kernel is asked.
#[test]
fn what_changes_all_the_time_is_tried_a_few_times_until_the_table_is_looked_at() {
    let naming = opens("web", 1, &[80], json!({"securityGroup": {"name": "peers"}}));
    let mut objects = shop(naming, opens("app", 1, &[80], everybody()));
    objects.push(group("peers", 1, &[]));
    let mut node = Node::with(&objects, &[slice("peers", &["10.1.0.1"])]);
    node.synced();
    disliking(&mut node, "10.6.6.6");
    let churn = |node: &mut Node| -> usize {
        let mut change = |n: u8| {
            node.slices(0, Change::Apply(slice("peers", &["10.1.0.1", "10.6.6.6", &format!("10.2.0.{n}")])));
            (0..9).take_while(|_| node.sync().unwrap().is_err()).count()
        };
        (0..100).map(&mut change).sum()
    };
    assert_eq!(churn(&mut node), 10, "the first time and four more, each by what we believed to be there, and by what is");
    assert_eq!(churn(&mut node), 0);
    node.take(apply(opens("app", 2, &[8080], everybody())));
    assert_eq!(generations(&node.synced()), [("app".to_string(), 2), ("web".to_string(), 1)]);
    node.facts.looked();
    assert_eq!(churn(&mut node), 8);
    disliking(&mut node, "");
    node.facts.looked();
    assert_eq!(problems(&node.synced()), [], "it has been another for a while");
    assert!(has(&mut node, "10.6.6.6"));
}

/// One group more that may the same: all of them are looked for in a map then.
#[test]
fn a_map_that_is_refused_keeps_the_rules_that_need_it_as_before_and_nobody_elses() {
    let to = |name, generation, peers: &[&str]| {
        let from: Vec<_> = peers.iter().map(|peer| json!({"securityGroup": {"name": peer}})).collect();
        let rules = json!([{"protocol": "TCP", "port": 80, "from": from}]);
        Object::security_group(&metadata(name, generation), &json!({"ingress": rules, "egress": []}))
    };
    let mut objects = shop(to("web", 1, &["a", "b"]), to("app", 1, &["a"]));
    objects.extend(["a", "b", "c"].map(|name| group(name, 1, &[])));
    let slices = [("a", "10.1.0.1"), ("b", "10.1.0.2"), ("c", "10.1.0.3")].map(|(group, address)| slice(group, &[address]));
    let mut node = Node::with(&objects, &slices);
    node.synced();
    assert!(node.table().unwrap().counter_maps.is_empty());
    disliking(&mut node, "add map inet k8s-sg members4/");
    node.take(apply(to("web", 2, &["a", "b", "c"])));
    node.take(apply(to("app", 2, &["a", "c"])));
    let _ = node.sync();
    node.slices(1, Change::Reset(Kind::MemberSlice, slices.to_vec()));
    let (_, status) = settle(&mut node);
    assert_eq!(problems(&status), [("SecurityGroup shop/web", "RefusedByKernel")]);
    assert_eq!(generations(&status), [("app".to_string(), 2), ("web".to_string(), 1)]);
    assert!(has(&mut node, "10.1.0.3"), "{}", node.table().unwrap());
}

#[test]
fn a_prefix_list_that_is_refused_is_as_before_and_not_reported() {
    let list = |generation, cidr: &str| {
        let spec = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": cidr}]});
        Object::prefix_list(&metadata("offices", generation), &spec)
    };
    let mut objects = shop(opens("web", 1, &[80], json!({"prefixList": {"name": "offices"}})), opens("app", 1, &[80], everybody()));
    objects.push(list(1, "10.1.0.0/24"));
    let mut node = Node::with(&objects, &[]);
    assert_eq!(node.synced().prefix_lists.len(), 1);
    disliking(&mut node, "10.6.6.0");
    node.take(apply(list(2, "10.6.6.0/24")));
    let (_, status) = settle(&mut node);
    assert!(has(&mut node, "10.1.0.0-10.1.0.255"));
    assert_eq!((status.prefix_lists, problems(&node.synced())), (vec![], vec![("PrefixList shop/offices", "RefusedByKernel")]));
}

#[test]
fn what_fits_our_belief_and_not_the_table_is_nobodys_fault() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    // Somebody has changed what is there: the step fits no longer, until the table has been read.
    disliking(&mut node, "flush chain inet k8s-sg in/shop/web");
    node.take(apply(opens("web", 2, &[81], everybody())));
    assert_eq!(node.sync().unwrap().unwrap_err().refused, None);
    disliking(&mut node, "");
    let status = node.synced();
    assert_eq!((generations(&status), problems(&status)), (vec![("app".to_string(), 1), ("web".to_string(), 2)], vec![]));
}

#[test]
fn after_a_restart_what_is_refused_is_not_said_to_be_in_force_as_it_was() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    let status = node.synced();
    let mut again = Node::on(std::mem::take(node.enforcement.kernel()));
    again.report = Report::continuing(status);
    disliking(&mut again, "th dport 666");
    again.list(&shop(opens("web", 2, &[666], everybody()), opens("app", 1, &[80], everybody())));
    let (_, status) = settle(&mut again);
    assert_eq!(
        (generations(&status), problems(&status)),
        (vec![("app".to_string(), 1)], vec![("SecurityGroup shop/web", "RefusedByKernel")])
    );
    assert!(again.table().unwrap().chains["in/shop/web"].rules.is_empty(), "nobody knows what it was");
    assert!(status.problems[0].message.starts_with("it allows nothing, for"), "{}", status.problems[0].message);
}

#[test]
fn rules_that_stay_while_the_list_that_they_name_has_gone_are_not_said_to_be_in_force() {
    let list = |name, cidr: &str| {
        let spec = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": cidr}]});
        Object::prefix_list(&metadata(name, 1), &spec)
    };
    let naming = |generation, list| opens("web", generation, &[80], json!({"prefixList": {"name": list}}));
    let mut objects = shop(naming(1, "x"), opens("app", 1, &[80], everybody()));
    objects.extend([list("x", "10.1.0.0/24"), list("y", "10.2.0.0/24")]);
    let mut node = Node::with(&objects, &[]);
    assert_eq!(generations(&node.synced()).len(), 2);
    disliking(&mut node, "saddr @prefixes4/shop/y");
    node.take(apply(naming(2, "y")));
    let (_, status) = settle(&mut node);
    assert_eq!(
        (generations(&status), problems(&status)),
        (vec![("app".to_string(), 1)], vec![("SecurityGroup shop/web", "RefusedByKernel")])
    );
    assert_eq!(status.prefix_lists, [], "nobody names it there");
}

#[test]
fn rules_that_stay_while_whom_they_name_has_gone_are_not_said_to_be_in_force() {
    let naming = |generation, peer| opens("web", generation, &[80], json!({"securityGroup": {"name": peer}}));
    let mut objects = shop(naming(1, "x"), opens("app", 1, &[80], everybody()));
    objects.extend([group("x", 1, &[]), group("y", 1, &[])]);
    let mut node = Node::with(&objects, &[slice("x", &["10.1.0.1"])]);
    assert_eq!(generations(&node.synced()).len(), 2);
    disliking(&mut node, "saddr @members4/shop/y");
    node.take(apply(naming(2, "y")));
    let _ = node.sync();
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("y", &["10.1.0.2"])]));
    let (_, status) = settle(&mut node);
    assert_eq!(
        (generations(&status), problems(&status)),
        (vec![("app".to_string(), 1)], vec![("SecurityGroup shop/web", "RefusedByKernel")])
    );
}
