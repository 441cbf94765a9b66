//! Reading never widens: whatever cannot be understood is kept, allows nothing, and is never taken for "left out" (S38).

use api::{Attachment, IngressRule, ProtocolField, SecurityGroup, SecurityGroupSpec, Stored};
use serde_json::{Value, json};

fn group(spec: Value) -> Result<SecurityGroup, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "SecurityGroup",
        "metadata": { "name": "web", "namespace": "shop" }, "spec": spec,
    }))
}

fn attachment(spec: Value) -> Result<Attachment, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "Attachment",
        "metadata": { "name": "web", "namespace": "shop" }, "spec": spec,
    }))
}

/// The only ingress rule of a group that has this one and a good neighbour; the neighbour must be understood whatever the other is.
fn ingress(rule: Value) -> Stored<IngressRule> {
    let neighbour = json!({ "type": "HTTP", "from": [{ "self": true }] });
    let spec: SecurityGroupSpec = group(json!({ "ingress": [rule, neighbour] })).expect("a bad rule does not hide its group").spec;
    let mut rules = spec.ingress.expect("it has ingress rules");
    assert!(matches!(rules.pop(), Some(Stored::Understood(_))), "S38: the rule beside it stays in force");
    rules.remove(0)
}

#[test]
fn left_out_and_empty_are_not_the_same() {
    assert_eq!(group(json!({})).unwrap().spec.egress, None, "S5: everything");
    assert_eq!(group(json!({ "egress": [] })).unwrap().spec.egress, Some(vec![]), "S5: nothing");
}

#[test]
fn a_null_of_the_group_makes_it_unreadable() {
    for field in ["description", "ingress", "egress", "connections", "onDeny"] {
        assert!(group(json!({ field: null })).is_err(), "{field}");
    }
    assert!(group(json!(null)).is_err(), "spec");
}

#[test]
fn a_null_of_a_rule_makes_the_rule_not_understood() {
    for field in ["description", "type", "protocol", "port", "endPort", "icmpType", "icmpCode", "from"] {
        let mut rule = json!({ "protocol": "TCP", "from": [{ "self": true }] });
        rule[field] = Value::Null;
        assert!(matches!(ingress(rule), Stored::NotUnderstood { .. }), "{field}");
    }
    assert!(matches!(ingress(Value::Null), Stored::NotUnderstood { .. }));
}

#[test]
fn a_null_of_a_peer_makes_the_rule_not_understood() {
    for field in ["description", "cidr", "securityGroup", "prefixList", "self"] {
        let rule = json!({ "protocol": "TCP", "from": [{ field: null }, { "cidr": "10.0.0.0/8" }] });
        assert!(matches!(ingress(rule), Stored::NotUnderstood { .. }), "{field}");
    }
    let rule = json!({ "protocol": "TCP", "from": [{ "securityGroup": { "name": "app", "namespace": null } }] });
    assert!(matches!(ingress(rule), Stored::NotUnderstood { .. }), "namespace");
}

#[test]
fn what_a_newer_schema_may_hold_is_not_understood() {
    for (what, rule) in [
        ("a field of the rule", json!({ "protocol": "TCP", "sourcePort": 53, "from": [{ "self": true }] })),
        ("a field of a peer", json!({ "protocol": "TCP", "from": [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }] })),
        ("a kind of peer", json!({ "protocol": "TCP", "from": [{ "fqdn": "example.com" }] })),
        ("a field of a peer's object", json!({ "protocol": "TCP", "from": [{ "securityGroup": { "name": "app", "cluster": "b" } }] })),
        ("a kind of protocol", json!({ "protocol": ["TCP", "UDP"], "from": [{ "self": true }] })),
        ("a number too large", json!({ "protocol": "TCP", "port": 4_294_967_376_u64, "from": [{ "self": true }] })),
        ("no peers", json!({ "protocol": "TCP" })),
    ] {
        assert!(matches!(ingress(rule), Stored::NotUnderstood { .. }), "{what}");
    }
    assert!(group(json!({ "denyAll": true })).is_err(), "a field of the group");
    assert!(group(json!({ "onDeny": "Tarpit" })).is_err(), "a value of the group");
}

#[test]
fn what_is_not_understood_is_written_back_as_it_is() {
    let written = json!({ "protocol": "TCP", "sourcePort": 53, "from": [{ "self": true }] });
    let Stored::NotUnderstood { value, why } = ingress(written.clone()) else { panic!("understood") };
    assert_eq!(value, written);
    assert!(why.contains("sourcePort"), "the reason names the field: {why}");
    assert_eq!(serde_json::to_value(Stored::<IngressRule>::NotUnderstood { value, why }).unwrap(), written);
}

#[test]
fn a_protocol_is_a_name_or_a_number() {
    for (written, read) in [(json!(6), ProtocolField::Number(6)), (json!("TCP"), ProtocolField::Name("TCP".into()))] {
        let Stored::Understood(rule) = ingress(json!({ "protocol": written, "from": [{ "self": true }] })) else { panic!("{written}") };
        assert_eq!(rule.protocol, Some(read));
    }
}

#[test]
fn a_null_in_a_selector_makes_the_attachment_unreadable() {
    for selector in [
        json!(null),
        json!({ "matchLabels": null }),
        json!({ "matchLabels": { "app": null } }),
        json!({ "matchExpressions": null }),
        json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": null }] }),
    ] {
        let read = attachment(json!({ "securityGroups": ["web"], "podSelector": selector }));
        assert!(read.is_err(), "it would select more than was meant: {selector}");
    }
    assert!(attachment(json!({ "securityGroups": null, "podSelector": {} })).is_err());
    assert!(attachment(json!({ "securityGroups": ["web"], "podSelector": {}, "serviceAccount": "x" })).is_err(), "an unknown field");
    let all = attachment(json!({ "securityGroups": ["web"], "podSelector": {} })).unwrap();
    assert_eq!(all.spec.pod_selector, Some(Default::default()), "{{}} selects all pods");
    let full = json!({ "matchLabels": { "app": "" }, "matchExpressions": [{ "key": "a", "operator": "In", "values": ["b"] }, { "key": "c", "operator": "Exists" }] });
    for selector in [full, json!({ "matchLabels": {}, "matchExpressions": [] })] {
        assert!(attachment(json!({ "securityGroups": ["web"], "podSelector": selector })).is_ok(), "{selector}");
    }
}

#[test]
fn a_selector_with_an_unknown_field_is_unreadable() {
    let read = attachment(json!({ "securityGroups": ["web"], "podSelector": { "matchNames": ["a"] } }));
    assert!(read.is_err(), "without the field that it does not know it would select everything");
}
