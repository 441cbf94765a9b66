use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::index::{Key, Object};
use crate::model::{Peer, PodRef};
use crate::resolve;
use k8s_openapi::api::core::v1::Pod as K8sPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn group_ref(name: &str) -> GroupRef {
    GroupRef { namespace: "shop".into(), name: name.into() }
}

fn metadata(name: &str, uid: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some("shop".into()), uid: Some(uid.into()), ..ObjectMeta::default() }
}

/// A group whose one rule names `peers`.
fn add_group(cluster: &mut Cluster, name: &str, uid: &str, peers: &[&str]) {
    let from: Vec<_> = peers.iter().map(|peer| json!({"securityGroup": {"name": peer}})).collect();
    let ingress = if from.is_empty() { json!([]) } else { json!([{"type": "SSH", "from": from}]) };
    let _ = cluster.apply(Object::security_group(&metadata(name, uid), &json!({"ingress": ingress})));
    let attachment = json!({"securityGroups": [name], "podSelector": {"matchLabels": {"app": name}}});
    let _ = cluster.apply(Object::attachment(&metadata(name, &format!("attachment-{uid}")), &attachment));
}

/// A dual-stack pod, the `n`th, in the group `app`.
fn add_pod(cluster: &mut Cluster, app: &str, n: u16) {
    let [high, low] = n.to_be_bytes();
    let (v4, v6) = (Ipv4Addr::new(10, 244, high, low), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n));
    let pod: K8sPod = serde_json::from_value(json!({
        "metadata": {"name": format!("p{n}"), "namespace": "shop", "uid": format!("p{n}"), "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIPs": [{"ip": v4.to_string()}, {"ip": v6.to_string()}]}
    }))
    .expect("a pod");
    let _ = cluster.apply(Object::pod(&pod));
}

fn remove_pod(cluster: &mut Cluster, n: u16) {
    let _ = cluster.delete(&Key::Pod(PodRef { namespace: "shop".into(), name: format!("p{n}") }));
}

/// `web` is named by `db`; nobody names `db`.
fn shop(pods: impl IntoIterator<Item = u16>) -> Cluster {
    let mut cluster = Cluster::default();
    add_group(&mut cluster, "web", "uid-web", &[]);
    add_group(&mut cluster, "db", "uid-db", &["web"]);
    for n in pods {
        add_pod(&mut cluster, "web", n);
    }
    cluster
}

fn plan_of(cluster: &Cluster) -> Vec<SliceOp> {
    plan(cluster, &resolve(cluster))
}

/// Makes one write, as strictly as the API server: nothing is created twice, nothing is changed or deleted that is not there.
fn write(cluster: &mut Cluster, op: &SliceOp) {
    let there = cluster.slices.all().contains_key(op.key());
    assert_eq!(there, !matches!(op, SliceOp::Create { .. }), "{op:?}");
    match op.outcome() {
        Some(slice) => {
            assert!(slice.addresses.len() <= CAPACITY, "{op:?}");
            cluster.slices.insert(op.key().clone(), slice.clone());
        }
        None => {
            cluster.slices.remove(op.key());
        }
    }
}

fn settle(cluster: &mut Cluster) -> usize {
    let ops = plan_of(cluster);
    ops.iter().for_each(|op| write(cluster, op));
    ops.len()
}

fn published(cluster: &Cluster, group_id: &str) -> BTreeSet<IpAddr> {
    cluster.slices.all().values().filter(|s| s.group_id == group_id).flat_map(|s| &s.addresses).copied().collect()
}

/// What slices should say, group by group: the definition, written without `plan`.
fn wanted(cluster: &Cluster) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let resolution = resolve(cluster);
    let is_named = |group: &GroupRef| {
        let mut rules = cluster.groups.values().flat_map(|g| g.rules.ingress.iter().chain(&g.rules.egress));
        rules.any(|rule| rule.peer == Peer::Group(group.clone()))
    };
    let named = cluster.groups.iter().filter(|(group, _)| is_named(group));
    named.map(|(group, facts)| (facts.id.clone(), resolution.addresses(group))).collect()
}

fn assert_settled(cluster: &Cluster) {
    let wanted = wanted(cluster);
    let group_ids: BTreeSet<&String> = cluster.slices.all().values().map(|slice| &slice.group_id).collect();
    assert_eq!(group_ids, wanted.keys().collect());
    for (id, addresses) in &wanted {
        let slices: Vec<&MemberSlice> = cluster.slices.all().values().filter(|slice| slice.group_id == *id).collect();
        assert_eq!(published(cluster, id), *addresses);
        assert_eq!(slices.iter().map(|slice| slice.addresses.len()).sum::<usize>(), addresses.len(), "an address is in one slice only");
        assert_eq!(slices.iter().filter(|slice| slice.head).count(), 1, "one head");
        assert!(slices.iter().all(|slice| slice.head || !slice.addresses.is_empty()), "no empty slice but the head");
    }
    assert_eq!(plan_of(cluster), []);
}

#[test]
fn a_named_group_without_members_has_an_empty_head_and_others_have_nothing() {
    let mut cluster = shop([]);
    add_pod(&mut cluster, "db", 1);
    assert_eq!(settle(&mut cluster), 1);
    assert_settled(&cluster);
    let slice = cluster.slices.all().values().next().expect("the head");
    assert!(slice.head && slice.addresses.is_empty());
    assert_eq!(slice.group_id, cluster.groups[&group_ref("web")].id);
}

#[test]
fn a_group_that_names_itself_has_slices_s18() {
    let mut cluster = Cluster::default();
    add_group(&mut cluster, "web", "uid-web", &["web"]);
    add_pod(&mut cluster, "web", 1);
    settle(&mut cluster);
    assert_settled(&cluster);
    assert_eq!(cluster.slices.all().len(), 1);
}

#[test]
fn a_peer_that_does_not_exist_has_no_slices_s20() {
    let mut cluster = Cluster::default();
    add_group(&mut cluster, "db", "uid-db", &["web"]);
    assert_eq!(plan_of(&cluster), []);
}

#[test]
fn the_head_is_written_last_when_a_group_is_published() {
    let cluster = shop(1..=100);
    let ops = plan_of(&cluster);
    assert_eq!(ops.len(), 7, "200 addresses, 32 a slice");
    let heads: Vec<bool> = ops.iter().filter_map(SliceOp::outcome).map(|slice| slice.head).collect();
    assert_eq!(heads, [false, false, false, false, false, false, true]);
}

#[test]
fn one_pod_more_is_one_write_and_so_is_one_less_s6() {
    for size in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
        let mut cluster = shop(1..=size);
        settle(&mut cluster);
        add_pod(&mut cluster, "web", 1000);
        assert_eq!(settle(&mut cluster), 1, "a pod joins {size}");
        assert_settled(&cluster);
        remove_pod(&mut cluster, 1000);
        assert_eq!(settle(&mut cluster), 1, "a pod leaves {size}");
        assert_settled(&cluster);
    }
}

#[test]
fn a_pod_that_takes_the_place_of_another_is_one_write() {
    let mut cluster = shop(1..=100);
    settle(&mut cluster);
    remove_pod(&mut cluster, 50);
    add_pod(&mut cluster, "web", 1000);
    assert_eq!(settle(&mut cluster), 1);
    assert_settled(&cluster);
}

#[test]
fn a_group_that_nobody_names_any_more_loses_its_head_first() {
    let mut cluster = shop(1..=40);
    settle(&mut cluster);
    add_group(&mut cluster, "db", "uid-db", &[]);
    let ops = plan_of(&cluster);
    assert_eq!(ops.len(), 3);
    let first = ops.first().map(|op| cluster.slices.all()[op.key()].head);
    assert_eq!(first, Some(true));
    settle(&mut cluster);
    assert!(cluster.slices.all().is_empty());
}

#[test]
fn slices_left_of_a_group_made_again_go_and_the_new_group_gets_its_own_s20() {
    let mut cluster = shop(1..=3);
    settle(&mut cluster);
    let old: BTreeSet<SliceKey> = cluster.slices.all().keys().cloned().collect();
    add_group(&mut cluster, "web", "another-uid", &[]);
    settle(&mut cluster);
    assert_settled(&cluster);
    assert!(old.is_disjoint(&cluster.slices.all().keys().cloned().collect()));
}

#[test]
fn a_half_deleted_group_that_is_named_again_is_whole_before_it_has_a_head() {
    let mut cluster = shop(1..=40);
    settle(&mut cluster);
    let head = cluster.slices.all().iter().find(|(_, slice)| slice.head).map(|(key, _)| key.clone()).expect("a head");
    cluster.slices.remove(&head);
    let ops = plan_of(&cluster);
    assert_eq!(ops.iter().filter_map(SliceOp::outcome).map(|slice| slice.head).collect::<Vec<_>>(), [true]);
    settle(&mut cluster);
    assert_settled(&cluster);
}

#[test]
fn one_change_is_at_most_two_kib_on_the_wire() {
    // A slice as the API server sends it, with long names and what the server adds, full of long addresses as clusters have them.
    let addresses: Vec<String> =
        (0..CAPACITY as u16 / 2).flat_map(|n| [format!("10.244.113.1{n:02}"), format!("fd00:10:244:113::{:x}", 0x100 + n)]).collect();
    let group = "checkout-backend";
    let slice = json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice", "addresses": addresses,
        "metadata": {
            "name": format!("{group}-7k2xq"), "namespace": "online-shop-production", "generation": 1234567,
            "uid": "0b5c1f5e-5a3c-4c8e-9d0f-0f7a5f0c6f10", "resourceVersion": "1234567890", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {api::LABEL_GROUP: group, api::LABEL_GROUP_ID: "sg-0c1f6c1c2f0a4b7d1", api::LABEL_HEAD: "true"},
            "ownerReferences": [{"apiVersion": "securitygroups.dev/v1alpha1", "kind": "SecurityGroup", "name": group,
                "uid": "0b5c1f5e-5a3c-4c8e-9d0f-0f7a5f0c6f11", "blockOwnerDeletion": false, "controller": true}],
            "managedFields": [{"apiVersion": "securitygroups.dev/v1alpha1", "fieldsType": "FieldsV1", "manager": "operator",
                "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:addresses": {}, "f:metadata": {
                    "f:labels": {".": {}, "f:securitygroups.dev/group": {}, "f:securitygroups.dev/group-id": {}, "f:securitygroups.dev/head": {}},
                    "f:ownerReferences": {".": {}, "k:{\"uid\":\"0b5c1f5e-5a3c-4c8e-9d0f-0f7a5f0c6f11\"}": {}}}}}]
        }
    });
    let event = json!({"type": "MODIFIED", "object": slice}).to_string();
    assert!(event.len() <= 2048, "{} bytes", event.len());
}

/// A cluster in some state: three groups that may name each other, pods in them, and slices as they are or as nobody would have left them.
fn clusters() -> impl Strategy<Value = Cluster> {
    let pods = btree_map(0u16..200, 0usize..3, 0..120);
    let names = vec(btree_set(0usize..4, 0..3), 3);
    let slices = vec((0usize..4, 0usize..8, any::<bool>(), btree_set(0u16..200, 0..16)), 0..6);
    (pods, names, vec(any::<bool>(), 3), slices).prop_map(|(pods, names, exists, slices)| {
        const GROUPS: [&str; 4] = ["web", "app", "db", "nobody"];
        let mut cluster = Cluster::default();
        for (i, peers) in names.iter().enumerate().filter(|(i, _)| exists[*i]) {
            let peers: Vec<&str> = peers.iter().map(|peer| GROUPS[*peer]).collect();
            add_group(&mut cluster, GROUPS[i], &format!("uid-{i}"), &peers);
        }
        for (n, group) in pods {
            add_pod(&mut cluster, GROUPS[group], n);
        }
        for (group, n, head, pods) in slices {
            let addresses = pods.iter().map(|n| IpAddr::from(Ipv4Addr::new(10, 244, 0, *n as u8))).collect();
            let slice = MemberSlice { group_id: crate::id::group(&format!("uid-{group}")), head, addresses };
            cluster.slices.insert(("shop".into(), format!("{}-{n}", GROUPS[group])), slice);
        }
        cluster
    })
}

proptest! {
    #[test]
    fn after_the_plan_the_slices_say_who_is_in_and_nothing_is_left_to_do(mut cluster in clusters()) {
        settle(&mut cluster);
        assert_settled(&cluster);
    }

    #[test]
    fn from_any_settled_state_to_any_other(mut cluster in clusters(), next in clusters()) {
        settle(&mut cluster);
        cluster = Cluster { slices: cluster.slices, ..next };
        settle(&mut cluster);
        assert_settled(&cluster);
    }

    #[test]
    fn no_step_loses_an_address_that_was_in_and_stays_in(mut cluster in clusters()) {
        let (before, wanted) = (cluster.clone(), wanted(&cluster));
        for op in plan_of(&cluster) {
            write(&mut cluster, &op);
            for (id, addresses) in &wanted {
                let stay: BTreeSet<IpAddr> = published(&before, id).intersection(addresses).copied().collect();
                prop_assert!(published(&cluster, id).is_superset(&stay), "{op:?}");
            }
        }
    }

    #[test]
    fn who_sees_a_new_head_has_seen_the_whole_membership(mut cluster in clusters()) {
        let wanted = wanted(&cluster);
        let has_head = |cluster: &Cluster, id: &String| cluster.slices.all().values().any(|slice| slice.head && slice.group_id == *id);
        let unpublished: Vec<&String> = wanted.keys().filter(|id| !has_head(&cluster, id)).collect();
        for op in plan_of(&cluster) {
            write(&mut cluster, &op);
            for id in unpublished.iter().filter(|id| has_head(&cluster, id)) {
                prop_assert_eq!(&published(&cluster, id), &wanted[*id]);
            }
        }
    }

    #[test]
    fn any_one_pod_joining_or_leaving_is_one_write(pods in btree_set(0u16..300, 0..150), joins in 300u16..400, leaves in any::<prop::sample::Index>()) {
        let mut cluster = shop(pods.iter().copied());
        settle(&mut cluster);
        add_pod(&mut cluster, "web", joins);
        prop_assert_eq!(settle(&mut cluster), 1);
        if !pods.is_empty() {
            let pods: Vec<u16> = pods.into_iter().collect();
            remove_pod(&mut cluster, *leaves.get(&pods));
            prop_assert_eq!(settle(&mut cluster), 1);
        }
        assert_settled(&cluster);
    }

    #[test]
    fn slices_stay_half_full_on_average_as_a_group_grows(batches in vec(1u16..60, 1..12)) {
        let (mut cluster, mut count) = (shop([]), 0);
        for batch in batches {
            (count..count + batch).for_each(|n| add_pod(&mut cluster, "web", n));
            count += batch;
            settle(&mut cluster);
            prop_assert!(cluster.slices.all().len() <= 1 + usize::from(count) * 2 / (CAPACITY / 2), "{} slices for {count} pods", cluster.slices.all().len());
        }
    }
}
