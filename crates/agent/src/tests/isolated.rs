//! Whichever step the kernel does not take, by name or without a word: what is not about that comes into force, and nothing opens.

use policy::index::Object;
use serde_json::json;

use super::refused::{disliking, everybody, has, opens, problems, settle, shop};
use super::*;

/// A pod in two groups, beside one in each.
fn in_both() -> Vec<Object> {
    and_one_in_both(shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[8080], everybody())))
}

pub(super) fn and_one_in_both(mut objects: Vec<Object>) -> Vec<Object> {
    let both = json!({"securityGroups": ["app", "web"], "podSelector": {"matchLabels": {"app": "both"}}});
    objects.extend([pod("both-0", "both", "10.0.0.3"), Object::attachment(&metadata("both", 1), &both)]);
    objects
}

fn attached(status: &NodeReportStatus) -> Vec<&str> {
    status.attachments.iter().map(|attachment| attachment.name.as_str()).collect()
}

/// Whatever of it is refused: it is guarded, everything else comes into force, and nothing is claimed that is not.
#[test]
fn an_endpoint_that_is_refused_is_closed_while_others_go_on() {
    for (refused, by_name) in [
        // Its chain, a rule of it, its address there, and the class that nobody else is of.
        ("add chain inet k8s-sg in-pod/shop/both-0", true),
        ("add rule inet k8s-sg out-pod/shop/both-0", true),
        ("in-pod/shop/both-0", true),
        ("add chain inet k8s-sg in/shop/app_shop/web", true),
        ("add rule inet k8s-sg in/shop/app_shop/web", true),
        ("in-pod/shop/both-0", false),
        ("add chain inet k8s-sg out/shop/app_shop/web", false),
    ] {
        let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
        node.synced();
        let kernel = node.enforcement.kernel();
        *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = refused.into();
        in_both().into_iter().for_each(|object| node.take(apply(object)));
        let status = node.settled();
        let table = node.table().unwrap();
        assert_eq!(node.chain_of("10.0.0.3").as_deref(), Some("closed-in"), "{refused}: {table}");
        assert!(table.to_string().contains("th dport 8080"), "{refused}: {table}");
        assert_eq!(problems(&status), [("Pod shop/both-0", "RefusedByKernel")], "{refused}");
        assert!(status.problems[0].message.starts_with("it is closed, whatever its groups allow, for"), "{}", status.problems[0].message);
        assert_eq!((status.groups.as_slice(), attached(&status)), (&[][..], vec!["app", "web"]), "{refused}");

        // When the kernel takes it, it is as it should be.
        let kernel = node.enforcement.kernel();
        (kernel.dislikes, kernel.dreads) = (String::new(), String::new());
        (0..5).for_each(|_| node.facts.looked());
        let status = node.settled();
        assert_eq!((problems(&status), attached(&status)), (vec![], vec!["app", "both", "web"]), "{refused}");
        assert!(!has(&mut node, "closed"), "{}", node.table().unwrap());
    }
}

#[test]
fn an_endpoint_in_force_stays_in_its_groups_where_its_new_ones_are_refused() {
    let mut node = Node::with(&in_both(), &[]);
    node.synced();
    disliking(&mut node, "in-pod/shop/web-0");
    node.take(apply(pod("web-0", "both", "10.0.0.1")));
    node.take(apply(opens("app", 2, &[8081], everybody())));
    let status = node.settled();
    assert!(has(&mut node, "jump in/shop/web\n") && has(&mut node, "th dport 8081"), "{}", node.table().unwrap());
    assert_eq!(problems(&status), [("Pod shop/web-0", "RefusedByKernel")]);
    assert!(status.problems[0].message.starts_with("it is in no other groups than before, for"), "{}", status.problems[0].message);
    assert_eq!((generations(&status), attached(&status)), (vec![], vec!["app"]));
    // With another address it would not be guarded as it was.
    node.take(apply(pod("web-0", "both", "10.0.0.9")));
    node.settled();
    assert_eq!(node.chain_of("10.0.0.9").as_deref(), Some("closed-in"));
}

/// It would be allowed what it should not be any more.
#[test]
fn an_endpoint_does_not_stay_in_a_group_that_it_should_have_left() {
    let mut node = Node::with(&in_both(), &[]);
    node.synced();
    disliking(&mut node, "in-pod/shop/web-0");
    node.take(apply(pod("web-0", "app", "10.0.0.1")));
    let status = node.settled();
    assert_eq!(node.chain_of("10.0.0.1").as_deref(), Some("closed-in"));
    assert_eq!((generations(&status), attached(&status)), (vec![("web".to_string(), 1)], vec!["both"]));
}

/// S20: until the kernel takes it, a group that is named is as if it were not there.
#[test]
fn a_named_group_that_comes_later_and_is_refused_keeps_nobody_from_anything() {
    for refused in ["add set inet k8s-sg members4/shop/peers", "saddr @members4/shop/peers"] {
        let naming = opens("web", 1, &[80], json!({"securityGroup": {"name": "peers"}}));
        let mut node = Node::with(&shop(naming, opens("app", 1, &[80], everybody())), &[]);
        node.synced();
        disliking(&mut node, refused);
        node.take(apply(group("peers", 1, &[])));
        let _ = node.sync();
        node.slices(0, Change::Apply(slice("peers", &["10.1.0.1"])));
        node.take(apply(pod("web-1", "web", "10.0.0.5")));
        let status = node.settled();
        assert!(has(&mut node, "in-pod/shop/web-1"), "{refused}: {}", node.table().unwrap());
        assert_eq!(problems(&status), [("SecurityGroup shop/peers", "RefusedByKernel")], "{refused}");
        assert_eq!(generations(&status), [("app".to_string(), 1)], "{refused}");
    }
}

#[test]
fn what_is_held_back_because_of_something_else_is_tried_when_that_is_another() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    // The rules of the class are those that are in force elsewhere: it is the pod's class that is refused.
    disliking(&mut node, "add rule inet k8s-sg in/shop/app_shop/web meta l4proto 6 th dport 8080");
    in_both().into_iter().filter(|object| *object != opens("app", 1, &[8080], everybody())).for_each(|object| node.take(apply(object)));
    node.settled();
    node.take(apply(opens("app", 2, &[8080], everybody())));
    let status = node.settled();
    assert_eq!(problems(&status), [("SecurityGroup shop/app", "RefusedByKernel")]);
    disliking(&mut node, "add rule inet k8s-sg in/shop/app_shop/web");
    node.take(delete(Kind::Pod, "both-0"));
    node.settled();
    node.take(apply(pod("both-0", "both", "10.0.0.3")));
    assert_eq!(problems(&node.settled()), [("Pod shop/both-0", "RefusedByKernel")]);
    disliking(&mut node, "");
    node.take(apply(opens("app", 3, &[8081], everybody())));
    assert_eq!(problems(&node.settled()), [], "other rules of its groups may be taken");
}

/// A report has room for so many, and users may write as many as they like.
#[test]
fn what_is_refused_comes_before_what_is_written_wrongly() {
    let wrong: Vec<_> = (0..150).map(|n| json!({"protocol": format!("NONE{n}"), "from": [{"cidr": "0.0.0.0/0"}]})).collect();
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    disliking(&mut node, "th dport 666");
    node.take(apply(Object::security_group(&metadata("app", 2), &json!({"ingress": wrong, "egress": []}))));
    node.take(apply(opens("web", 2, &[666], everybody())));
    let status = node.settled();
    assert!(status.problems.len() > 100, "{}", status.problems.len());
    assert!(problems(&status).contains(&("SecurityGroup shop/web", "RefusedByKernel")), "{:?}", problems(&status));
}

/// As many refusals as there are steps are known at once.
#[test]
fn many_that_are_named_are_not_sought() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    disliking(&mut node, "add chain inet k8s-sg in-pod/shop/bad-");
    for n in 0..40 {
        node.take(apply(pod(&format!("bad-{n}"), "web", &format!("10.0.3.{n}"))));
        node.take(apply(pod(&format!("good-{n}"), "web", &format!("10.0.4.{n}"))));
    }
    let (refusals, status) = settle(&mut node);
    assert_eq!((refusals, status.problems.len(), node.searching), (2, 40, false));
    assert_eq!(node.table().unwrap().chains.keys().filter(|chain| chain.starts_with("in-pod/shop/good-")).count(), 40);
}

/// What is refused is there for whom names it, though nobody is in it.
#[test]
fn who_names_what_the_kernel_does_not_take_is_not_in_force_and_everybody_else_is() {
    let naming = |generation| opens("web", generation, &[80], json!({"securityGroup": {"name": "peers"}}));
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    disliking(&mut node, "add set inet k8s-sg members4/shop/peers");
    [group("peers", 1, &[]), naming(2), opens("app", 2, &[8080], everybody())].into_iter().for_each(|object| node.take(apply(object)));
    let _ = node.sync();
    node.slices(0, Change::Apply(slice("peers", &[])));
    let status = node.settled();
    assert_eq!(
        (generations(&status), problems(&status)),
        (vec![("app".to_string(), 2)], vec![("SecurityGroup shop/peers", "RefusedByKernel")])
    );
}

/// A node on which this is in force, or which has just booted, learns of everything that rules can name.
fn learning(start: &[Object], refuse: impl FnOnce(&mut Flaky)) -> Node {
    let list = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": "10.7.0.0/24"}]});
    let web = json!([{"protocol": "TCP", "port": 81, "from": [{"securityGroup": {"name": "peers"}}, {"prefixList": {"name": "offices"}}]}]);
    let mut objects = in_both();
    objects.extend([
        Object::security_group(&metadata("web", 2), &json!({"ingress": web, "egress": []})),
        group("peers", 1, &[]),
        Object::prefix_list(&metadata("offices", 1), &list),
    ]);
    let mut node = if start.is_empty() { Node::new() } else { Node::with(start, &[]) };
    node.enforcement.kernel().taken.clear();
    refuse(node.enforcement.kernel());
    node.list(&objects);
    let _ = node.sync();
    node.slices(0, Change::Reset(Kind::MemberSlice, vec![slice("peers", &["10.1.0.1"])]));
    node
}

/// Whichever step of those that name an object is refused, by name or without a word: all that is not about that comes into force.
#[test]
fn no_object_keeps_the_others_from_coming_into_force() {
    let former = shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody()));
    for (start, by_name) in [(&[][..], true), (&former, true), (&former, false)] {
        let mut node = learning(start, |_| {});
        node.settled();
        let steps: BTreeSet<String> = node.enforcement.kernel().taken.iter().flat_map(|it| &it.ops).map(|op| format!("{op}\n")).collect();
        let whole = node.table().unwrap();
        // Of what goes nothing can stay as it was.
        for step in steps.iter().filter(|step| step.contains("shop/") && !step.starts_with("delete")) {
            let refuse = |kernel: &mut Flaky| *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = step.clone();
            let mut node = learning(start, refuse);
            let status = node.settled();
            let (table, problems) = (node.table().unwrap(), problems(&status));
            assert!(problems.len() <= 2, "{step}: {problems:?}");
            assert_eq!(table.maps["in4"].elements.len(), 3, "{step}: all are guarded: {table}");
            let blamed = |object: &str| problems.iter().any(|(blamed, _)| *blamed == object);
            for pod in ["web-0", "app-0", "both-0"].iter().filter(|pod| !blamed(&format!("Pod shop/{pod}"))) {
                let chain = format!("in-pod/shop/{pod}");
                assert_eq!(table.chains[&chain], whole.chains[&chain], "{step}");
            }
            let named = ["SecurityGroup shop/peers", "PrefixList shop/offices"].into_iter().any(blamed);
            for group in ["web", "app"].iter().filter(|group| !named && !blamed(&format!("SecurityGroup shop/{group}"))) {
                let counters = |table: &Ruleset| table.counters.iter().filter(|it| it.starts_with(&format!("in/shop/{group}/"))).count();
                let endpoints = [format!("Pod shop/{group}-0"), "Pod shop/both-0".into()];
                assert!(counters(&table) == counters(&whole) || endpoints.iter().all(|pod| blamed(pod)), "{step}: {group}: {table}");
            }
        }
    }
}

/// Who has left a group has left it, whatever of it is refused: somebody else may have the address.
#[test]
fn members_that_are_as_before_are_without_those_who_have_left() {
    let naming = opens("web", 1, &[80], json!({"securityGroup": {"name": "peers"}}));
    let mut objects = shop(naming, opens("app", 1, &[80], everybody()));
    objects.push(group("peers", 1, &[]));
    let mut node = Node::with(&objects, &[slice("peers", &["10.1.0.1", "10.1.0.2"])]);
    node.synced();
    disliking(&mut node, "10.6.6.6");
    node.slices(0, Change::Apply(slice("peers", &["10.1.0.1", "10.6.6.6"])));
    node.settled();
    assert!(has(&mut node, "10.1.0.1") && !has(&mut node, "10.1.0.2") && !has(&mut node, "10.6.6.6"), "{}", node.table().unwrap());
    node.slices(0, Change::Apply(slice("peers", &["10.6.6.6"])));
    node.settled();
    assert!(!has(&mut node, "10.1.0.1"), "{}", node.table().unwrap());
}

/// However many steps are refused, by name or without a word, and whatever is known of what was in force: the search comes to an end. Where it is
/// about objects alone, a pod that comes is guarded.
#[test]
fn it_comes_to_rest() {
    let former = shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody()));
    let of_objects =
        ["both-0", "in/shop", "members4", "prefixes4", "in-pod", "denied-in/shop", "shop/app", "shop/web", "shop/peers", "shop/"];
    let of_all = ["add counter", "add set", "add chain", "add rule", "add element", "flush", "delete", "th dport", "jump exempt", "drop"];
    let all = [&of_objects[..], &of_all].concat().into_iter().flat_map(|words| {
        let known = [Known::Nothing, Known::All, Known::Forgotten];
        known.into_iter().flat_map(move |known| [true, false].map(|by_name| (words, known, by_name)))
    });
    for (words, known, by_name) in all {
        let mut node = learning(if known == Known::Nothing { &[] } else { &former }, |_| {});
        if known == Known::Forgotten {
            node.settled();
            node = Node::on(Flaky { inner: node.enforcement.kernel().inner.clone(), ..Flaky::default() });
            node.list(&in_both());
        }
        let kernel = node.enforcement.kernel();
        *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = words.into();
        [pod("app-0", "both", "10.0.0.2"), pod("new-0", "web", "10.0.0.9"), opens("app", 3, &[8081, 8082], everybody())]
            .into_iter()
            .for_each(|object| node.take(apply(object)));
        for look in 0..8 {
            let searching: Vec<bool> = (0..40).map(|_| node.sync().is_some() && node.searching).collect();
            assert!(!searching[30..].contains(&true), "{words:?}, {known:?}, look {look}: {searching:?}");
            node.facts.looked();
        }
        if by_name && of_objects.contains(&words) {
            assert!(node.chain_of("10.0.0.9").is_some(), "{words:?}, {known:?}: {}", node.table().unwrap());
        }
    }
}

/// What a node knows of what was in force.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Nothing,
    All,
    Forgotten,
}

/// Rules that are as before are the same steps as before, although they name somebody whom no rule names any more.
#[test]
fn rules_of_before_may_name_who_is_named_no_more() {
    let rules = |generation, port: u16, peer| {
        let from_peer = json!({"protocol": "TCP", "port": port, "from": [peer]});
        let ingress = json!([from_peer, {"protocol": "TCP", "port": 80, "from": [everybody()]}]);
        Object::security_group(&metadata("web", generation), &json!({"ingress": ingress, "egress": []}))
    };
    for peer in [json!({"securityGroup": {"name": "x"}}), json!({"prefixList": {"name": "x"}})] {
        let mut objects = shop(rules(1, 81, peer), opens("app", 1, &[80], everybody()));
        let list = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": "10.7.0.0/24"}]});
        objects.extend([group("x", 1, &[]), Object::prefix_list(&metadata("x", 1), &list)]);
        let mut node = Node::new();
        node.list(&objects);
        if node.sync().is_none() {
            node.slices(0, Change::Reset(Kind::MemberSlice, vec![slice("x", &["10.1.0.1"])]));
        }
        node.synced();
        disliking(&mut node, "add rule inet k8s-sg in/shop/web");
        node.take(apply(rules(2, 82, everybody())));
        node.take(apply(pod("app-1", "app", "10.0.0.7")));
        node.take(apply(opens("app", 2, &[8080], everybody())));
        let (refusals, status) = node.minutes(4);
        assert_eq!(problems(&status), [("SecurityGroup shop/web", "RefusedByKernel")]);
        assert!(node.chain_of("10.0.0.7").is_some() && has(&mut node, "th dport 8080") && refusals < 5, "{refusals}");
        assert!(!has(&mut node, "10.1.0.1") && !has(&mut node, "10.7.0.0"), "nobody knows who they are now");
    }
}

/// It makes rules of all classes be said for that family too.
#[test]
fn the_first_pod_of_another_family_is_closed_where_somebody_elses_rules_are_refused_for_it() {
    for by_name in [true, false] {
        let mut node = Node::with(&shop(opens("web", 1, &[666], json!({"cidr": "::/0"})), opens("app", 1, &[80], everybody())), &[]);
        node.synced();
        let kernel = node.enforcement.kernel();
        *if by_name { &mut kernel.dislikes } else { &mut kernel.dreads } = "th dport 666".into();
        node.take(apply(pod_with("six-0", "app", &["10.0.0.9", "fd00::9"])));
        node.take(apply(pod("app-1", "app", "10.0.0.7")));
        let (_, status) = node.minutes(4);
        assert_eq!(problems(&status), [("Pod shop/six-0", "RefusedByKernel")], "{by_name}");
        assert!(node.chain_of("10.0.0.7").is_some(), "{by_name}");
        assert_eq!(["10.0.0.9", "fd00::9"].map(|address| node.chain_of(address)), [const { "closed-in" }; 2].map(|it| Some(it.into())));
    }
}

/// They were in no table, so nobody knows whether the kernel takes them.
#[test]
fn rules_that_came_while_their_pods_were_closed_are_not_beyond_doubt() {
    let mut node = Node::with(&shop(opens("web", 1, &[80], everybody()), opens("app", 1, &[80], everybody())), &[]);
    node.synced();
    disliking(&mut node, "in-pod/shop/both-0");
    and_one_in_both(vec![]).into_iter().for_each(|object| node.take(apply(object)));
    node.take(delete(Kind::Pod, "web-0"));
    node.settled();
    node.take(apply(opens("web", 2, &[666], everybody())));
    node.settled();
    disliking(&mut node, "th dport 666");
    (0..5).for_each(|_| node.facts.looked());
    node.take(apply(pod("both-1", "both", "10.0.0.4")));
    let status = node.settled();
    assert_eq!(problems(&status), [("SecurityGroup shop/web", "RefusedByKernel")]);
    assert_eq!(node.chain_of("10.0.0.4").as_deref(), Some("in-pod/shop/both-1"));
}

/// What is in force of a group is neither what it was nor what it should be.
#[test]
fn a_generation_that_has_been_replaced_is_not_claimed() {
    let naming = |generation, port| opens("web", generation, &[port], json!({"securityGroup": {"name": "peers"}}));
    let mut objects = shop(naming(1, 80), opens("app", 1, &[80], everybody()));
    objects.push(group("peers", 1, &[]));
    let mut node = Node::with(&objects, &[slice("peers", &["10.1.0.1"])]);
    node.synced();
    disliking(&mut node, "10.6.6.6");
    node.slices(0, Change::Apply(slice("peers", &["10.1.0.1", "10.6.6.6"])));
    assert_eq!(generations(&node.settled()), [("app".to_string(), 1), ("web".to_string(), 1)]);
    node.take(apply(naming(2, 443)));
    let status = node.settled();
    assert!(has(&mut node, "th dport 443"));
    assert_eq!(generations(&status), [("app".to_string(), 1)]);
}
