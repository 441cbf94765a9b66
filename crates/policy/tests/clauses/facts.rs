//! Objects as the API server would send them, in one line each.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::index::{Cluster, Object};
use policy::model::{GroupRef, NodeName, PodRef};
use serde_json::{Value, json};

/// `shop/web` as a pod's name.
pub fn pod_ref(name: &str) -> PodRef {
    PodRef { namespace: "shop".into(), name: name.into() }
}

/// A group of the namespace `shop`.
pub fn group_ref(name: &str) -> GroupRef {
    GroupRef { namespace: "shop".into(), name: name.into() }
}

/// The node that the tests look at.
pub fn node() -> NodeName {
    NodeName("n1".into())
}

fn metadata(name: &str, generation: i64) -> ObjectMeta {
    serde_json::from_value(json!({"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": generation}))
        .expect("metadata")
}

/// A security group.
pub fn group(name: &str, spec: Value) -> Object {
    Object::security_group(&metadata(name, 1), &spec)
}

/// An attachment of pods with `app: LABEL` to groups.
pub fn attachment(name: &str, label: &str, groups: &[&str]) -> Object {
    Object::attachment(&metadata(name, 1), &json!({"securityGroups": groups, "podSelector": {"matchLabels": {"app": label}}}))
}

/// An attachment with any spec.
pub fn raw_attachment(name: &str, spec: Value) -> Object {
    Object::attachment(&metadata(name, 1), &spec)
}

/// A running pod on a node with `app: LABEL` and some addresses.
pub fn pod(name: &str, node: &str, label: &str, addresses: &[&str]) -> Object {
    pod_with(name, node, label, addresses, json!({}), json!({"phase": "Running"}))
}

/// A pod with more in its spec and its status; `status.created` is its creation time.
pub fn pod_with(name: &str, node: &str, label: &str, addresses: &[&str], mut spec: Value, mut status: Value) -> Object {
    spec["nodeName"] = json!(node);
    spec["containers"] = json!([]);
    status["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let created = status["created"].as_str().unwrap_or("2026-01-01T00:00:00Z").to_string();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": {"app": label}, "creationTimestamp": created},
        "spec": spec, "status": status,
    }))
    .expect("a pod");
    Object::pod(&pod)
}

/// The namespace `shop` with a default group.
pub fn default_group(name: &str) -> Object {
    let metadata = json!({"name": "shop", "labels": {"securitygroups.dev/default-group": name}});
    Object::namespace(&serde_json::from_value(metadata).expect("metadata"))
}

/// A member slice of a group of the namespace `shop`.
pub fn slice(name: &str, group: &str, head: bool, addresses: &[&str]) -> Object {
    let slice = json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice",
        "metadata": {"namespace": "shop", "name": name, "labels": {
            "securitygroups.dev/group-id": policy::id::group(&format!("uid-{group}")), "securitygroups.dev/head": head.to_string()}},
        "addresses": addresses,
    });
    Object::member_slice(&serde_json::from_value(slice).expect("a slice"))
}

/// All of these, in this order.
pub fn cluster(objects: impl IntoIterator<Item = Object>) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        let _ = cluster.apply(object);
    }
    cluster
}
