//! Who is in which group, and what a node gets to enforce (S2–S9, S17–S20, S38).

use std::net::IpAddr;

use super::facts::{attachment, cluster, default_group, group, group_ref, node, pod, pod_ref, pod_with, raw_attachment, slice};
use policy::index::{Changed, Key, Kind, Object};
use policy::model::NodeName;
use policy::{Cluster, compile, missing_default_group, resolve};
use serde_json::json;

fn addresses<T: FromIterator<IpAddr>>(texts: &[&str]) -> T {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn groups_of(cluster: &Cluster, pod: &str) -> Option<Vec<String>> {
    let resolution = resolve(cluster);
    resolution.endpoints.get(&pod_ref(pod)).map(|m| m.groups.iter().map(|group| group.name.clone()).collect())
}

#[test]
fn s2_a_pod_is_in_the_groups_of_all_attachments_that_select_it() {
    let cluster = cluster([
        group("web", json!({})),
        group("common", json!({})),
        attachment("a", "web", &["web"]),
        attachment("b", "web", &["common"]),
        attachment("c", "other", &["common"]),
        pod("p", "n1", "web", &["10.0.0.1", "fd00::1"]),
    ]);
    assert_eq!(groups_of(&cluster, "p"), Some(vec!["common".into(), "web".into()]));
    assert_eq!(resolve(&cluster).addresses(&group_ref("web")), addresses(&["10.0.0.1", "fd00::1"]));
}

#[test]
fn s3_a_pod_in_no_group_is_not_guarded_and_a_default_group_takes_it() {
    let mut cluster = cluster([group("base", json!({})), pod("p", "n1", "web", &["10.0.0.1"])]);
    assert_eq!(groups_of(&cluster, "p"), None);
    assert_eq!(cluster.apply(default_group("base")), Changed::Yes);
    assert_eq!(groups_of(&cluster, "p"), Some(vec!["base".into()]));
    // In another group, it leaves the default one.
    let _ = cluster.apply(group("web", json!({})));
    let _ = cluster.apply(attachment("a", "web", &["web"]));
    assert_eq!(groups_of(&cluster, "p"), Some(vec!["web".into()]));
}

#[test]
fn s3_a_default_group_that_does_not_exist_closes() {
    let cluster = cluster([default_group("nobody"), pod("p", "n1", "web", &["10.0.0.1"])]);
    assert_eq!(groups_of(&cluster, "p"), Some(vec![]));
    assert_eq!(missing_default_group(&cluster, "shop").map(|problem| problem.reason), Some("GroupNotFound"));
    // A node with a pod of the namespace says so, and no other.
    let said_by = |node: &str| compile(&cluster, &resolve(&cluster), &NodeName(node.into())).problems.len();
    assert_eq!((said_by("n1"), said_by("n2")), (1, 0));
}

#[test]
fn a_missing_group_leaves_a_pod_guarded_by_the_others_and_closed_without_others() {
    let mut cluster = cluster([group("web", json!({})), attachment("a", "web", &["web", "gone"]), pod("p", "n1", "web", &["10.0.0.1"])]);
    assert_eq!(groups_of(&cluster, "p"), Some(vec!["web".into()]));
    let _ = cluster.delete(&Key::SecurityGroup(group_ref("web")));
    let compiled = compile(&cluster, &resolve(&cluster), &node());
    assert!(compiled.policy.endpoints[&pod_ref("p")].groups.is_empty(), "guarded, and in no group that allows anything");
    assert_eq!(compiled.problems.len(), 2, "both missing groups are named: {:?}", compiled.problems);
}

#[test]
fn s8_a_finished_pod_leaves_every_group_although_its_address_is_still_shown() {
    let finished = |phase: &str| pod_with("p", "n1", "web", &["10.0.0.1"], json!({}), json!({"phase": phase}));
    for phase in ["Succeeded", "Failed"] {
        let cluster = cluster([group("web", json!({})), attachment("a", "web", &["web"]), finished(phase)]);
        assert_eq!(groups_of(&cluster, "p"), None, "{phase}");
    }
}

#[test]
fn s8_p10_the_newest_unfinished_pod_owns_an_address_in_either_order() {
    let old = pod_with("old", "n1", "web", &["10.0.0.1"], json!({}), json!({"phase": "Running", "created": "2026-01-01T00:00:00Z"}));
    let new = pod_with("new", "n1", "app", &["10.0.0.1"], json!({}), json!({"phase": "Running", "created": "2026-01-01T00:00:09Z"}));
    for pods in [[old.clone(), new.clone()], [new, old]] {
        let mut cluster =
            cluster([group("web", json!({})), group("app", json!({})), attachment("a", "web", &["web"]), attachment("b", "app", &["app"])]);
        let _ = cluster.reset(Kind::Pod, pods.into());
        assert_eq!(resolve(&cluster).addresses(&group_ref("web")), addresses(&[]));
        assert_eq!(resolve(&cluster).addresses(&group_ref("app")), addresses(&["10.0.0.1"]));
    }
}

#[test]
fn s9_p47_a_host_network_pod_is_skipped_and_never_a_member() {
    let cluster = cluster([
        group("web", json!({})),
        default_group("web"),
        attachment("a", "web", &["web"]),
        pod_with("p", "n1", "web", &["10.99.0.11"], json!({"hostNetwork": true}), json!({"phase": "Running"})),
        pod_with("q", "n1", "other", &["10.99.0.11"], json!({"hostNetwork": true}), json!({"phase": "Running"})),
    ]);
    let resolution = resolve(&cluster);
    assert!(resolution.endpoints.is_empty() && resolution.members.is_empty());
    assert_eq!(resolution.skipped.values().flatten().collect::<Vec<_>>(), vec![&pod_ref("p")]);
}

#[test]
fn s7_an_attachment_reaches_its_own_namespace_only() {
    let cluster = cluster([group("web", json!({})), attachment("a", "web", &["web"])]);
    let mut other = cluster.clone();
    let Object::Pod(_, facts) = pod("p", "n1", "web", &["10.0.0.1"]) else { panic!("a pod") };
    let _ = other.apply(Object::Pod(policy::model::PodRef { namespace: "shop-2".into(), name: "p".into() }, facts));
    assert!(resolve(&other).endpoints.is_empty());
}

#[test]
fn s38_an_attachment_that_cannot_be_read_guards_everything_it_may_have_meant() {
    for spec in [
        json!({}),
        json!(null),
        json!({"securityGroups": ["web"], "podSelector": null}),
        json!({"securityGroups": ["web"]}),
        json!({"securityGroups": ["web"], "podSelector": {}, "novelty": 1}),
        json!({"securityGroups": ["web"], "podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}}),
    ] {
        let cluster = cluster([group("web", json!({})), raw_attachment("a", spec.clone()), pod("p", "n1", "x", &["10.0.0.1"])]);
        assert!(groups_of(&cluster, "p").is_some(), "{spec}");
        let compiled = compile(&cluster, &resolve(&cluster), &node());
        assert!(compiled.problems.iter().any(|problem| problem.reason == "NotUnderstood"), "{spec}");
    }
}

#[test]
fn a_selector_follows_the_rules_of_kubernetes() {
    let selects = |selector: serde_json::Value| {
        let spec = json!({"securityGroups": ["web"], "podSelector": selector});
        groups_of(&cluster([group("web", json!({})), raw_attachment("a", spec), pod("p", "n1", "web", &["10.0.0.1"])]), "p").is_some()
    };
    assert!(selects(json!({})), "an empty selector selects all");
    assert!(selects(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]})));
    assert!(selects(json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]})), "NotIn holds without the label");
    assert!(!selects(json!({"matchLabels": {"app": "web", "tier": "x"}})));
    assert!(!selects(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})));
}

fn names_db() -> serde_json::Value {
    json!({"ingress": [{"protocol": "All", "from": [{"securityGroup": {"name": "db"}}]}]})
}

#[test]
fn s17_members_elsewhere_come_from_slices_and_those_here_from_the_node_itself() {
    let cluster = cluster([
        group("web", names_db()),
        group("db", json!({})),
        attachment("a", "web", &["web"]),
        attachment("b", "db", &["db"]),
        pod("w", "n1", "web", &["10.0.0.1"]),
        pod("d", "n1", "db", &["10.0.0.2"]),
        pod("gone", "n1", "other", &["10.0.0.3"]),
        // The slice is late: it lacks d and still lists a pod of this node that has left the group.
        slice("s", "db", true, &["10.1.0.1", "10.0.0.3"]),
    ]);
    let compiled = compile(&cluster, &resolve(&cluster), &node());
    assert_eq!(compiled.policy.members[&group_ref("db")], addresses(&["10.1.0.1", "10.0.0.2"]));
    assert!(compiled.awaited.is_empty());
}

#[test]
fn s17_a_slice_is_believed_of_every_address_that_no_running_pod_of_this_node_has() {
    let told = ["10.0.0.2", "10.0.0.3", "10.1.0.1"];
    let cluster = cluster([
        group("web", names_db()),
        group("db", json!({})),
        attachment("a", "web", &["web"]),
        pod("w", "n1", "web", &["10.0.0.1"]),
        // S8: finished here, its address may be a member's elsewhere by now. S9: the address of a hostNetwork pod is its node's.
        pod_with("done", "n1", "other", &["10.0.0.2"], json!({}), json!({"phase": "Succeeded"})),
        pod_with("host", "n1", "other", &["10.0.0.3"], json!({"hostNetwork": true}), json!({"phase": "Running"})),
        pod("far", "n2", "other", &["10.1.0.1"]),
        slice("s", "db", true, &told),
    ]);
    assert_eq!(compile(&cluster, &resolve(&cluster), &node()).policy.members[&group_ref("db")], addresses(&told));
}

#[test]
fn a_named_group_is_awaited_until_the_head_of_its_slices_is_here() {
    let mut cluster =
        cluster([group("web", names_db()), group("db", json!({})), attachment("a", "web", &["web"]), pod("w", "n1", "web", &["10.0.0.1"])]);
    let _ = cluster.apply(slice("s", "db", false, &["10.1.0.1"]));
    assert!(compile(&cluster, &resolve(&cluster), &node()).awaited.contains(&group_ref("db")));
    let _ = cluster.apply(slice("h", "db", true, &[]));
    assert!(compile(&cluster, &resolve(&cluster), &node()).awaited.is_empty());
}

#[test]
fn p58_a_slice_of_another_namespace_says_nothing() {
    let mut cluster =
        cluster([group("web", names_db()), group("db", json!({})), attachment("a", "web", &["web"]), pod("w", "n1", "web", &["10.0.0.1"])]);
    let Object::MemberSlice((_, name), forged) = slice("s", "db", true, &["10.66.0.1"]) else { panic!("a slice") };
    let _ = cluster.apply(Object::MemberSlice(("elsewhere".into(), name), forged));
    let compiled = compile(&cluster, &resolve(&cluster), &node());
    assert!(compiled.policy.members[&group_ref("db")].is_empty());
    assert!(compiled.awaited.contains(&group_ref("db")), "nor is it taken for the head");
}

#[test]
fn s20_a_group_that_does_not_exist_matches_nothing_whatever_slices_are_left() {
    let cluster = cluster([
        group("web", names_db()),
        attachment("a", "web", &["web"]),
        pod("w", "n1", "web", &["10.0.0.1"]),
        slice("s", "db", true, &["10.1.0.1"]),
    ]);
    let compiled = compile(&cluster, &resolve(&cluster), &node());
    assert!(compiled.policy.members.is_empty());
    assert!(compiled.named.is_empty() && compiled.awaited.is_empty());
}

#[test]
fn a_node_gets_its_own_endpoints_and_only_what_they_need() {
    let cluster = cluster([
        group("web", json!({})),
        group("db", names_db()),
        attachment("a", "web", &["web"]),
        attachment("b", "db", &["db"]),
        pod("w", "n1", "web", &["10.0.0.1"]),
        pod("d", "n2", "db", &["10.0.1.1"]),
    ]);
    let policy = compile(&cluster, &resolve(&cluster), &node()).policy;
    assert_eq!(policy.endpoints.keys().collect::<Vec<_>>(), vec![&pod_ref("w")]);
    assert_eq!(policy.groups.keys().collect::<Vec<_>>(), vec![&group_ref("web")]);
    assert!(policy.members.is_empty());
}

#[test]
fn s32_an_endpoint_rejects_only_when_all_its_groups_do_and_none_is_missing() {
    let on_deny = |groups: &[&str]| {
        let cluster = cluster([
            group("loud", json!({"onDeny": "Reject"})),
            group("quiet", json!({})),
            attachment("a", "web", groups),
            pod("p", "n1", "web", &["10.0.0.1"]),
        ]);
        compile(&cluster, &resolve(&cluster), &node()).policy.endpoints[&pod_ref("p")].on_deny
    };
    assert_eq!(on_deny(&["loud"]), api::OnDeny::Reject);
    assert_eq!(on_deny(&["loud", "quiet"]), api::OnDeny::Drop);
    assert_eq!(on_deny(&["loud", "missing"]), api::OnDeny::Drop);
    assert_eq!(on_deny(&["missing"]), api::OnDeny::Drop);
}

/// State sequences: whatever the order of arrival, with whatever detours, the same facts give the same policy (S6, P08, P34).
#[test]
fn p08_the_order_of_arrival_does_not_matter() {
    let objects = [
        group("web", names_db()),
        group("db", json!({})),
        attachment("a", "web", &["web"]),
        attachment("b", "db", &["db", "web"]),
        pod("w", "n1", "web", &["10.0.0.1"]),
        pod("d", "n1", "db", &["10.0.0.2"]),
        slice("s", "db", true, &["10.1.0.1"]),
        default_group("web"),
    ];
    let wanted = |cluster: &Cluster| compile(cluster, &resolve(cluster), &node());
    let straight = wanted(&cluster(objects.clone()));
    for turn in 0..objects.len() {
        let mut rotated = objects.to_vec();
        rotated.rotate_left(turn);
        assert_eq!(wanted(&cluster(rotated.clone())), straight, "rotated by {turn}");
        rotated.reverse();
        assert_eq!(wanted(&cluster(rotated.clone())), straight, "reversed, rotated by {turn}");
        // With everything else seen and forgotten on the way, and everything twice.
        let mut detour = cluster([pod("x", "n1", "db", &["10.0.0.9"]), attachment("x", "web", &["db"]), group("x", json!({}))]);
        for object in rotated.iter().chain(&rotated) {
            let _ = detour.apply(object.clone());
        }
        let _ = detour.delete(&Key::Pod(pod_ref("x")));
        let _ = detour.delete(&Key::SecurityGroup(group_ref("x")));
        let _ = detour.delete(&Key::Attachment(policy::AttachmentRef { namespace: "shop".into(), name: "x".into() }));
        assert_eq!(wanted(&detour), straight, "detour {turn}");
    }
}

#[test]
fn a_fact_that_is_the_same_is_no_change() {
    let mut cluster = cluster([pod("w", "n1", "web", &["10.0.0.1"])]);
    assert_eq!(cluster.apply(pod("w", "n1", "web", &["10.0.0.1"])), Changed::No);
    assert_eq!(cluster.apply(pod("w", "n1", "web", &["10.0.0.2"])), Changed::Yes);
    assert_eq!(cluster.reset(Kind::Pod, vec![pod("w", "n1", "web", &["10.0.0.2"])]), Changed::No);
    assert_eq!(cluster.reset(Kind::Pod, vec![]), Changed::Yes);
    assert_eq!(cluster.delete(&Key::Pod(pod_ref("w"))), Changed::No);
}
