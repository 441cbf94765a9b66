//! What the kernel refuses after a start, or after somebody has removed the table: nobody remembers what was in force, but the table says it.

use policy::index::Object;

use super::isolated::and_one_in_both;
use super::refused::{disliking, everybody, has, opens, problems, shop};
use super::*;

/// Two groups that so many ports are open of, each with a pod.
fn two(count: u16) -> Vec<Object> {
    let ports = |first: u16| (0..count).map(|n| first + 2 * n).collect::<Vec<_>>();
    shop(opens("web", 1, &ports(80), everybody()), opens("app", 1, &ports(8080), everybody()))
}

/// The program on a node where these are in force starts again.
fn restarted(objects: &[Object]) -> Node {
    let inner = Node::with(objects, &[]).enforcement.kernel().inner.clone();
    Node::on(Flaky { inner, ..Flaky::default() })
}

/// Whatever step of what is its own alone: who stands in the table as it should be, and what the kernel takes of a table that is made anew, is
/// not to blame for it.
#[test]
fn an_endpoint_that_is_refused_closes_no_other() {
    let few = ["add chain inet k8s-sg in-pod/shop/both-0\n", "add chain inet k8s-sg out/shop/app_shop/web\n"];
    let rules = ["add rule inet k8s-sg in/shop/app_shop/web", "in/shop/app_shop/web meta l4proto 6 th dport 8080 "];
    let many =
        ["vmap @in/shop/app_shop/web", "add chain inet k8s-sg in/shop/app_shop/web/tcp/8080\n", "add map inet k8s-sg in/shop/app_shop/web"];
    let cases = few.into_iter().chain(rules).map(|refused| (refused, 1)).chain(many.into_iter().map(|refused| (refused, 20)));
    for (refused, count) in cases {
        let whole = Node::with(&two(count), &[]).table().unwrap();
        for mut node in [restarted(&two(count)), Node::new()] {
            disliking(&mut node, refused);
            node.list(&and_one_in_both(two(count)));
            let status = node.settled();
            assert_eq!(problems(&status), [("Pod shop/both-0", "RefusedByKernel")], "{refused}");
            let table = node.table().unwrap();
            let of_others = |name: &&String| !name.contains("both-0") && !name.contains("app_shop/web") && !name.starts_with("closed-");
            for chain in table.chains.keys().filter(of_others) {
                assert_eq!(table.chains.get(chain), whole.chains.get(chain), "{refused}: {chain}");
            }
            assert!(whole.chains.keys().all(|chain| table.chains.contains_key(chain)), "{refused}: {table}");
            assert_eq!(node.chain_of("10.0.0.3").as_deref(), Some("closed-in"), "{refused}");
        }
    }
}

/// Also where the rules of others are not what they were, and it may be about several: pods that come are guarded.
#[test]
fn one_of_several_that_is_refused_after_a_start_is_found() {
    for mut node in [Node::new(), restarted(&two(1))] {
        disliking(&mut node, "vmap @in/shop/app_shop/web");
        node.list(&and_one_in_both(two(20)));
        assert!(node.sync().unwrap().is_err(), "there is a map of ports, and it is refused");
        node.settled();
        let table = node.table().unwrap();
        assert_eq!(table.maps["in4"].elements.len(), 3, "all are guarded: {table}");
    }
}

/// S41: groups that were others before stay as they were. But who is not in the table at all is open, until it is closed.
#[test]
fn after_a_restart_who_is_new_is_guarded_though_nobody_knows_what_is_refused() {
    let mut node = restarted(&two(1));
    node.enforcement.kernel().dreads = "in-pod/shop/both-0".into();
    node.list(&and_one_in_both(two(1)));
    assert_eq!(problems(&node.settled()), [("Pod shop/both-0", "RefusedByKernel")]);
    assert_eq!(node.chain_of("10.0.0.3").as_deref(), Some("closed-in"));

    let mut node = restarted(&two(1));
    let table = node.table();
    node.enforcement.kernel().dreads = "th dport 82 ".into();
    node.list(&two(2));
    assert!((0..20).all(|_| node.sync().unwrap().is_err()));
    assert_eq!(node.table(), table, "its rules of before are better than none");
}

/// Not for ever: whoever comes would be open, and no change would come into force.
#[test]
fn after_a_restart_a_group_that_changed_and_is_refused_allows_nothing_in_the_end() {
    let mut node = restarted(&two(1));
    let table = node.table();
    node.enforcement.kernel().dreads = "th dport 82 ".into();
    let changed = shop(opens("web", 2, &[82], everybody()), opens("app", 1, &[8080], everybody()));
    node.list(&changed);
    node.take(apply(pod("app-1", "app", "10.0.0.5")));
    assert!((0..60).all(|_| node.sync().unwrap().is_err()));
    assert_eq!(node.table(), table);
    node.facts.looked();
    let (_, status) = node.minutes(3);
    assert_eq!(problems(&status), [("SecurityGroup shop/web", "RefusedByKernel")]);
    assert!(status.problems[0].message.starts_with("it allows nothing, for"), "{}", status.problems[0].message);
    assert_eq!((generations(&status), node.chain_of("10.0.0.5").as_deref()), (vec![("app".to_string(), 1)], Some("in-pod/shop/app-1")));
    assert!(node.chain_of("10.0.0.1").is_some());
}

/// Nothing of it is in force any more, so nothing of it stays as it was: all are guarded again, but for what is refused.
#[test]
fn a_table_that_was_removed_comes_back_without_what_the_kernel_does_not_take() {
    for by_name in [true, false] {
        for refused in ["th dport 8080 ", "in-pod/shop/app-0"] {
            let mut node = Node::with(&two(1), &[]);
            node.synced();
            node.enforcement.kernel().inner = FakeKernel::default();
            let kernel = node.enforcement.kernel();
            *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = refused.into();
            assert_eq!(node.enforcement.recheck(), Ok(true));
            let status = node.settled();
            assert_eq!(status.problems.len(), 1, "{refused}: {:?}", problems(&status));
            assert_eq!(generations(&status), [("web".to_string(), 1)], "{refused}");
            assert!(has(&mut node, "th dport 80 ") && node.chain_of("10.0.0.2").is_some(), "{}", node.table().unwrap());
            let kernel = node.enforcement.kernel();
            (kernel.dislikes, kernel.dreads) = (String::new(), String::new());
            (0..5).for_each(|_| node.facts.looked());
            assert_eq!((problems(&node.settled()), node.table()), (vec![], Node::with(&two(1), &[]).table()));
        }
    }
}

/// Another version's table cannot be read, and guards: it is not closed because of nobody knows what.
#[test]
fn a_table_of_another_version_stays_while_nobody_knows_what_the_kernel_does_not_take() {
    let inner = Node::with(&two(1), &[]).enforcement.kernel().inner.clone();
    let mut node = Node::on(Flaky { inner, unreadable: usize::MAX, dreads: "th dport 80 ".into(), ..Flaky::default() });
    let table = node.table();
    node.list(&and_one_in_both(two(1)));
    assert!((0..40).all(|_| node.sync().unwrap().is_err()));
    assert_eq!(node.table(), table);
}

/// As where it was removed: what somebody has taken out of the table is not in force, whatever we remember.
#[test]
fn a_table_that_was_flushed_guards_again_but_for_what_the_kernel_does_not_take() {
    for by_name in [true, false] {
        let mut node = Node::with(&two(1), &[]);
        node.synced();
        let chains: Vec<String> = node.table().unwrap().chains.keys().cloned().collect();
        node.enforcement.kernel().inner.commit(&Transaction { ops: chains.into_iter().map(ruleset::Op::FlushChain).collect() }).unwrap();
        let kernel = node.enforcement.kernel();
        *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = "th dport 8080 ".into();
        assert_eq!(node.enforcement.recheck(), Ok(true));
        assert_eq!(problems(&node.minutes(10).1), [("SecurityGroup shop/app", "RefusedByKernel")]);
        let table = node.table().unwrap();
        assert!(!table.chains["forward-ingress"].rules.is_empty() && has(&mut node, "th dport 80 "), "{table}");
    }
}

/// It loses nothing by that.
#[test]
fn after_a_restart_who_was_closed_may_be_closed_again_and_what_allowed_nothing_may_allow_nothing() {
    for (refused, blamed) in [("in-pod/shop/both-0", "Pod shop/both-0"), ("th dport 80 ", "SecurityGroup shop/web")] {
        let mut node = Node::new();
        node.enforcement.kernel().dreads = refused.into();
        node.list(&and_one_in_both(two(1)));
        assert_eq!(problems(&node.minutes(2).1), [(blamed, "RefusedByKernel")]);
        let inner = node.enforcement.kernel().inner.clone();
        let mut node = Node::on(Flaky { inner, dreads: refused.into(), ..Flaky::default() });
        node.list(&and_one_in_both(two(1)));
        node.take(apply(pod("app-1", "app", "10.0.0.5")));
        assert_eq!(problems(&node.minutes(10).1), [(blamed, "RefusedByKernel")]);
        assert_eq!(node.chain_of("10.0.0.5").as_deref(), Some("in-pod/shop/app-1"), "{refused}");
    }
}
