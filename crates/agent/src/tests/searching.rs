//! What the kernel refuses without a word of steps is found by trying, and where there is nothing to find the search ends.

use policy::index::Object;
use serde_json::json;

use super::refused::{everybody, opens, shop};
use super::*;

/// So many groups, each of one pod, each of a generation that opens this port, or another one.
fn groups(count: usize, generation: i64, port: impl Fn(usize) -> u16) -> Vec<Object> {
    let one = |n: usize| {
        let rule = json!({"protocol": "TCP", "port": port(n), "from": [{"cidr": "0.0.0.0/0"}]});
        Object::security_group(&metadata(&format!("g{n:03}"), generation), &json!({"ingress": [rule], "egress": []}))
    };
    (0..count).map(one).collect()
}

/// A node where all of them have come into force with port 80.
fn node(count: usize) -> Node {
    let mut objects = groups(count, 1, |_| 80);
    for n in 0..count {
        let name = format!("g{n:03}");
        objects.extend([pod(&format!("{name}-0"), &name, &format!("10.0.{}.{}", n / 250, n % 250)), attachment(&name)]);
    }
    let mut node = Node::with(&objects, &[]);
    assert_eq!(node.synced().groups.len(), count);
    node
}

/// Syncs until nothing more is to be found out; how often, and what is said in the end.
fn search(node: &mut Node) -> (usize, NodeReportStatus) {
    for tries in 1..200 {
        match node.sync().unwrap() {
            Ok(status) if !node.searching => return (tries, status),
            Ok(status) => assert!(status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "False"), "not all is in force"),
            Err(_) => {}
        }
    }
    panic!("it does not end")
}

fn refused(status: &NodeReportStatus) -> Vec<&str> {
    status.problems.iter().map(|problem| problem.object.strip_prefix("SecurityGroup shop/").unwrap()).collect()
}

/// The groups that are as before.
fn behind(status: &NodeReportStatus) -> Vec<String> {
    generations(status).into_iter().filter(|(_, generation)| *generation == 1).map(|(name, _)| name).collect()
}

#[test]
fn few_are_found_among_many() {
    for (count, bad, most) in
        [(20, vec![13], 40), (200, vec![0], 60), (200, vec![199], 60), (60, vec![3, 17, 30, 44, 58], 150), (2, vec![1], 12)]
    {
        let mut node = node(count);
        node.enforcement.kernel().dreads = "th dport 666".into();
        groups(count, 2, |n| if bad.contains(&n) { 666 } else { 81 }).into_iter().for_each(|group| node.take(apply(group)));
        let (tries, status) = search(&mut node);
        let names: Vec<String> = bad.iter().map(|n| format!("g{n:03}")).collect();
        assert_eq!((refused(&status), behind(&status)), (names.iter().map(String::as_str).collect(), names.clone()), "of {count}");
        assert!(tries < most, "{tries} tries for {bad:?} of {count}");
        // What is refused so is tried again soon: the kernel may have lacked memory.
        node.enforcement.kernel().dreads = String::new();
        node.facts.looked();
        let status = node.synced();
        assert_eq!((refused(&status), behind(&status)), (vec![], vec![]));
    }
}

/// Rules of a group all of whose pods are closed meanwhile are not in the table: that they pass proves nothing.
#[test]
fn the_rules_of_a_new_group_are_found_though_its_pods_are_suspected_as_well() {
    for start in ["booted", "removed", "running"] {
        let mut objects = shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody()));
        let both = json!({"securityGroups": ["bad", "web"], "podSelector": {"matchLabels": {"app": "badly"}}});
        let mut bad = vec![opens("bad", 1, &[666], everybody()), Object::attachment(&metadata("badly", 1), &both)];
        bad.extend((0..6).map(|n| pod(&format!("b-{n}"), "badly", &format!("10.0.1.{n}"))));
        bad.push(pod("zeta-0", "app", "10.0.2.1"));
        let mut node = if start == "booted" { Node::new() } else { Node::with(&objects, &[]) };
        match start {
            "booted" => {
                objects.append(&mut bad);
                node.list(&objects);
            }
            "removed" => {
                bad.drain(..).for_each(|object| node.take(apply(object)));
                node.synced();
                node.enforcement.kernel().inner = FakeKernel::default();
                assert_eq!(node.enforcement.recheck(), Ok(true));
            }
            _ => drop(node.synced()),
        }
        node.enforcement.kernel().dreads = "th dport 666".into();
        bad.into_iter().for_each(|object| node.take(apply(object)));
        let (refusals, status) = node.minutes(10);
        assert_eq!(status.problems.iter().map(|it| it.object.as_str()).collect::<Vec<_>>(), ["SecurityGroup shop/bad"], "{start}");
        assert!(node.chain_of("10.0.2.1").is_some_and(|chain| chain.starts_with("in-pod/")), "{start}");
        assert!(refusals < 80, "{refusals}");
    }
}

/// Wherever they stand among the others: the kernel takes those.
#[test]
fn several_beside_one_another_are_found() {
    for bad in [0..4, 4..8, 14..20] {
        let mut node = node(20);
        node.enforcement.kernel().dreads = "th dport 666".into();
        groups(20, 2, |n| if bad.contains(&n) { 666 } else { 81 }).into_iter().for_each(|group| node.take(apply(group)));
        node.take(apply(pod("late-0", "g012", "10.0.9.9")));
        let (refusals, status) = node.minutes(10);
        assert_eq!((behind(&status).len(), refused(&status).len()), (bad.len(), bad.len()), "{bad:?}");
        assert!(node.chain_of("10.0.9.9").is_some() && refusals < 250, "{refusals}");
    }
    let mut node = node(2);
    node.enforcement.kernel().dreads = "in-pod/shop/bad-".into();
    (0..30).for_each(|n| node.take(apply(pod(&format!("bad-{n}"), "g000", &format!("10.0.3.{n}")))));
    node.take(apply(pod("good-0", "g000", "10.0.4.1")));
    groups(2, 2, |_| 81).into_iter().for_each(|group| node.take(apply(group)));
    node.minutes(10);
    let (_, status) = search(&mut node);
    assert_eq!(node.chain_of("10.0.4.1").as_deref(), Some("in-pod/shop/good-0"));
    assert!((0..30).all(|n| node.chain_of(&format!("10.0.3.{n}")).as_deref() == Some("closed-in")), "{}", node.table().unwrap());
    assert_eq!((behind(&status), status.problems.len()), (vec![], 30), "those that are still to be tried are named, too");
}

#[test]
fn where_the_kernel_takes_nothing_nobody_is_blamed() {
    let mut node = node(7);
    for port in [81, 82] {
        groups(7, i64::from(port), |_| port).into_iter().for_each(|group| node.take(apply(group)));
        node.take(apply(pod("new", "g001", &format!("10.0.9.{port}"))));
        node.enforcement.kernel().dreads = "inet k8s-sg".into();
        let tries: Vec<(bool, bool)> = (0..60).map(|_| (node.sync().unwrap().is_ok(), node.searching)).collect();
        assert!(tries[40..].iter().all(|tried| *tried == (false, false)), "it gives up: {tries:?}");
        node.enforcement.kernel().dreads = String::new();
        let status = node.synced();
        assert_eq!((refused(&status), status.groups.len()), (vec![], 7));
        assert!(generations(&status).iter().all(|(_, generation)| *generation == i64::from(port)), "{status:?}");
    }
}

#[test]
fn a_search_that_was_given_up_does_not_keep_from_what_is_named() {
    let mut node = node(7);
    groups(7, 2, |n| if n == 3 { 666 } else { 81 }).into_iter().for_each(|group| node.take(apply(group)));
    node.enforcement.kernel().dreads = "inet k8s-sg".into();
    (0..60).for_each(|_| drop(node.sync()));
    node.enforcement.kernel().dreads = String::new();
    node.enforcement.kernel().dislikes = "th dport 666".into();
    let (_, status) = search(&mut node);
    assert_eq!((refused(&status), behind(&status)), (vec!["g003"], vec!["g003".to_string()]));
}

#[test]
fn a_search_that_was_given_up_begins_anew_when_the_table_is_looked_at() {
    let mut node = node(7);
    groups(7, 2, |n| if n == 3 { 666 } else { 81 }).into_iter().for_each(|group| node.take(apply(group)));
    node.enforcement.kernel().dreads = "inet k8s-sg".into();
    (0..60).for_each(|_| drop(node.sync()));
    node.enforcement.kernel().dreads = "th dport 666".into();
    assert!((0..10).all(|_| node.sync().unwrap().is_err()), "not before");
    node.facts.looked();
    let (_, status) = search(&mut node);
    assert_eq!((refused(&status), behind(&status)), (vec!["g003"], vec!["g003".to_string()]));
}

#[test]
fn what_is_no_part_is_not_sought_for_ever() {
    // Where nothing has come into force yet, everything is refused.
    let mut fresh = Node::new();
    fresh.enforcement.kernel().dreads = "inet k8s-sg".into();
    let mut objects = groups(3, 1, |_| 80);
    objects.extend([pod("g001-0", "g001", "10.0.0.1"), attachment("g001"), pod("g002-0", "g002", "10.0.0.2"), attachment("g002")]);
    fresh.list(&objects);
    // And where what is new has never been in force: held back, it is there and empty.
    let mut new = node(1);
    groups(4, 2, |_| 81).into_iter().for_each(|group| new.take(apply(group)));
    for n in 1..4 {
        new.take(apply(pod(&format!("g{n:03}-0"), &format!("g{n:03}"), &format!("10.0.0.{n}"))));
        new.take(apply(attachment(&format!("g{n:03}"))));
    }
    new.enforcement.kernel().dreads = "inet k8s-sg".into();
    for mut node in [new, fresh] {
        let tries: Vec<(bool, bool)> = (0..60).map(|_| (node.sync().unwrap().is_ok(), node.searching)).collect();
        assert!(tries[40..].iter().all(|tried| *tried == (false, false)), "it gives up: {tries:?}");
    }
}

/// Of what goes nothing can stay as it was. But the same table can be made in another way.
#[test]
fn where_a_step_is_refused_that_removes_something_the_table_is_replaced() {
    for by_name in [true, false] {
        let mut node = node(3);
        groups(3, 2, |_| 81).into_iter().for_each(|group| node.take(apply(group)));
        node.take(delete(Kind::Pod, "g001-0"));
        let kernel = node.enforcement.kernel();
        *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = "delete element".into();
        let (tries, status) = search(&mut node);
        assert_eq!((refused(&status), behind(&status), status.groups.len()), (vec![], vec![], 2));
        assert!(tries <= 4 && node.enforcement.kernel().taken.last().unwrap().replaces(), "{tries}");
        node.take(apply(pod("g002-1", "g002", "10.0.9.9")));
        node.synced();
        assert!(!node.enforcement.kernel().taken.last().unwrap().replaces(), "what can be done by steps is");
    }
}

#[test]
fn what_passes_by_itself_is_not_sought() {
    let mut node = node(3);
    node.enforcement.kernel().refuse = 2;
    groups(3, 2, |_| 81).into_iter().for_each(|group| node.take(apply(group)));
    assert!((0..2).all(|_| node.sync().unwrap().is_err() && !node.searching));
    let status = node.synced();
    assert_eq!((refused(&status), behind(&status)), (vec![], vec![]));
}

/// S41: what was in force before a restart stays, where the kernel takes nothing.
#[test]
fn after_a_restart_nothing_is_held_back_that_nobody_has_seen() {
    let mut before = node(3);
    let table = before.table();
    let mut again = Node::on(std::mem::take(before.enforcement.kernel()));
    again.enforcement.kernel().dreads = "th dport 81".into();
    let mut objects = groups(3, 2, |_| 81);
    for n in 0..3 {
        objects.extend([pod(&format!("g{n:03}-0"), &format!("g{n:03}"), &format!("10.0.0.{n}")), attachment(&format!("g{n:03}"))]);
    }
    again.list(&objects);
    for _ in 0..20 {
        assert!(again.sync().unwrap().is_err());
    }
    assert_eq!(again.table(), table);
}
