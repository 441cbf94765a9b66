use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::index::Object;

fn metadata(namespace: &str, name: &str, deleting: bool) -> ObjectMeta {
    let mut metadata = json!({"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "generation": 1});
    if deleting {
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    serde_json::from_value(metadata).expect("metadata")
}

/// A group of `shop` whose rules let these peers in.
fn group(name: &str, peers: &[Value], deleting: bool) -> Object {
    Object::security_group(&metadata("shop", name, deleting), &letting_in(peers))
}

fn letting_in(peers: &[Value]) -> Value {
    let rules: Vec<Value> = peers.iter().map(|peer| json!({"type": "SSH", "from": [peer]})).collect();
    json!({"ingress": rules, "egress": []})
}

fn peer(name: &str) -> Value {
    json!({"securityGroup": {"name": name}})
}

fn attachment(name: &str, groups: &[&str], deleting: bool) -> Object {
    Object::attachment(&metadata("shop", name, deleting), &json!({"securityGroups": groups, "podSelector": {}}))
}

fn namespace(name: &str, default_group: Option<&str>, deleting: bool) -> Object {
    let mut metadata = metadata("", name, deleting);
    metadata.labels = default_group.map(|group| [(api::LABEL_DEFAULT_GROUP.to_string(), group.to_string())].into());
    Object::namespace(&metadata)
}

/// What blocks a group of `shop`, in words.
fn blocking(objects: impl IntoIterator<Item = Object>, name: &str) -> Vec<String> {
    let mut cluster = Cluster::default();
    for object in objects {
        let _ = cluster.apply(object);
    }
    let group = GroupRef { namespace: "shop".into(), name: name.into() };
    let mut found = blockers(&cluster);
    let found = found.remove(&ObjectRef::SecurityGroup(group)).unwrap_or_default();
    assert_eq!(found.count, found.named.len());
    found.named.iter().map(ToString::to_string).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn nothing_blocks_a_group_that_nobody_names_and_its_own_rules_do_not() {
    assert_eq!(blocking([group("web", &[], false)], "web"), NOTHING);
    let own = [json!({"self": true}), peer("web"), json!({"securityGroup": {"name": "web", "namespace": "shop"}})];
    assert_eq!(blocking([group("web", &own, false), group("db", &[peer("other")], false)], "web"), NOTHING);
}

#[test]
fn an_attachment_blocks_though_it_selects_nobody() {
    assert_eq!(blocking([group("web", &[], false), attachment("a", &["web", "db"], false)], "web"), ["Attachment shop/a"]);
}

#[test]
fn another_groups_rule_blocks_by_its_first_place_also_from_another_namespace() {
    let mut peers: Vec<Value> = (0..11).map(|n| json!({"cidr": format!("10.{n}.0.0/16")})).collect();
    peers[2] = peer("web");
    peers[10] = peer("web");
    peers[10]["description"] = "again".into();
    let elsewhere = json!({"ingress": [], "egress": [{"type": "SSH", "to": [{"securityGroup": {"name": "web", "namespace": "shop"}}]}]});
    let both = [
        group("web", &[], false),
        group("db", &peers, false),
        Object::security_group(&metadata("ops", "far", false), &elsewhere),
        // Its own namespace's web is another group.
        Object::security_group(&metadata("ops", "near", false), &letting_in(&[peer("web")])),
    ];
    assert_eq!(blocking(both, "web"), ["SecurityGroup ops/far (egress[0].to[0])", "SecurityGroup shop/db (ingress[2].from[0])"]);
}

#[test]
fn s3_a_namespaces_default_group_blocks() {
    let objects = || [group("web", &[], false), namespace("ops", Some("web"), false)];
    assert_eq!(blocking(objects(), "web"), NOTHING, "it means the group of its own namespace");
    let own = namespace("shop", Some("web"), false);
    assert_eq!(blocking(objects().into_iter().chain([own]), "web"), ["Namespace shop (securitygroups.dev/default-group)"]);
}

#[test]
fn what_is_being_deleted_blocks_nothing() {
    assert_eq!(blocking([group("web", &[], true), attachment("a", &["web"], true)], "web"), NOTHING);
    let each_other = |a, b| [group("web", &[peer("db")], a), group("db", &[peer("web")], b)];
    assert_eq!(blocking(each_other(true, false), "web"), ["SecurityGroup shop/db (ingress[0].from[0])"]);
    assert_eq!(blocking(each_other(true, false), "db"), NOTHING);
    for name in ["web", "db"] {
        assert_eq!(blocking(each_other(true, true), name), NOTHING, "they go together");
    }
}

#[test]
fn in_a_namespace_that_is_being_deleted_nothing_waits_and_from_there_nothing_blocks() {
    let ending = namespace("shop", Some("web"), true);
    let elsewhere = letting_in(&[json!({"securityGroup": {"name": "web", "namespace": "shop"}})]);
    let outside = Object::security_group(&metadata("ops", "far", false), &elsewhere);
    let objects = [group("web", &[], false), attachment("a", &["web"], false), group("db", &[peer("web")], false), outside, ending];
    assert_eq!(blocking(objects, "web"), NOTHING);

    let inside = Object::security_group(&metadata("ops", "far", false), &elsewhere);
    assert_eq!(blocking([group("web", &[], false), inside.clone(), namespace("ops", None, true)], "web"), NOTHING);
    assert_eq!(blocking([group("web", &[], false), inside, namespace("ops", None, false)], "web").len(), 1);
}

#[test]
fn s21_a_rule_that_names_a_prefix_list_blocks_it() {
    let list = |namespace, deleting| {
        Object::prefix_list(&metadata(namespace, "offices", deleting), &json!({"addressFamily": "IPv4", "maxEntries": 5}))
    };
    let names = [json!({"prefixList": {"name": "offices"}})];
    let mut cluster = Cluster::default();
    for object in [list("shop", true), list("ops", false), group("web", &names, false), group("gone", &names, true)] {
        let _ = cluster.apply(object);
    }
    let found = blockers(&cluster);
    let blocked: Vec<String> = found.iter().map(|(object, by)| format!("{object} by {} of {}", by.named[0], by.count)).collect();
    assert_eq!(blocked, ["PrefixList shop/offices by SecurityGroup shop/web (ingress[0].from[0]) of 1"]);
    let _ = cluster.apply(namespace("shop", None, true));
    assert!(blockers(&cluster).is_empty());
}

#[test]
fn ten_are_kept_by_name_and_all_are_counted() {
    let mut cluster = Cluster::default();
    let _ = cluster.apply(group("web", &[], false));
    for n in 0..25 {
        let _ = cluster.apply(attachment(&format!("a{n:02}"), &["web", "absent"], false));
    }
    let found = blockers(&cluster);
    assert_eq!(found.len(), 1, "nothing is kept of groups that do not exist");
    let web = found.values().next().expect("web");
    assert_eq!((web.count, web.named.len()), (25, 10));
    assert_eq!(web.named[9].to_string(), "Attachment shop/a09");
}
