//! P14: no field is forgotten. Every field that the schemas have is edited here, and so is every field of pods, namespaces and slices
//! that we read: what is derived afterwards is what a new object would give, and it differs from before unless the field says nothing.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::history::{State, TELLINGS, tell};
use testkit::{Manifest, Program, from_scratch};

/// Whether the rules in the kernel are others after an edit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Means {
    /// Yes.
    Rules,
    /// No: it is said in a status, and nothing more.
    Words,
    /// Nothing at all is derived from it.
    Nothing,
}
use Means::{Nothing, Rules, Words};

/// The same in both directions.
fn rules(list: &str) -> Value {
    let cidr = json!([{"cidr": "10.0.0.0/8", "description": "a network"}]);
    let mut rules = json!([
        {"description": "a preset", "type": "HTTP"},
        {"protocol": "TCP", "port": 9100, "endPort": 9110},
        {"protocol": "ICMP", "icmpType": 8, "icmpCode": 0},
    ]);
    rules[0][list] = cidr.clone();
    rules[1][list] = json!([{"securityGroup": {"name": "peer", "namespace": "shop-2"}}, {"self": true}, {"prefixList": {"name": "list", "namespace": "shop-2"}}]);
    rules[2][list] = cidr;
    rules
}

fn group() -> Manifest {
    let spec =
        json!({"description": "all fields", "ingress": rules("from"), "egress": rules("to"), "connections": "Preserve", "onDeny": "Drop"});
    Manifest::group("shop/web", spec)
}

fn group_edits() -> Vec<(String, String, Value, Means)> {
    let mut edits = vec![
        ("description".to_string(), "/spec/description".to_string(), json!("other"), Nothing),
        ("connections".into(), "/spec/connections".into(), json!("Revoke"), Words),
        ("onDeny".into(), "/spec/onDeny".into(), json!("Reject"), Rules),
    ];
    for (direction, list) in [("ingress", "from"), ("egress", "to")] {
        for (field, place, value, means) in [
            ("[].description", "/0/description", json!("other"), Nothing),
            ("[].type", "/0/type", json!("HTTPS"), Rules),
            ("[].protocol", "/1/protocol", json!("UDP"), Rules),
            ("[].port", "/1/port", json!(9101), Rules),
            ("[].endPort", "/1/endPort", json!(9111), Rules),
            ("[].icmpType", "/2/icmpType", json!(13), Rules),
            ("[].icmpCode", "/2/icmpCode", json!(1), Rules),
            ("[].LIST[].description", "/0/LIST/0/description", json!("other"), Nothing),
            ("[].LIST[].cidr", "/0/LIST/0/cidr", json!("10.0.0.0/9"), Rules),
            ("[].LIST[].securityGroup.name", "/1/LIST/0/securityGroup/name", json!("other"), Rules),
            ("[].LIST[].securityGroup.namespace", "/1/LIST/0/securityGroup/namespace", json!("shop"), Rules),
            ("[].LIST[].prefixList.name", "/1/LIST/2/prefixList/name", json!("other"), Rules),
            ("[].LIST[].prefixList.namespace", "/1/LIST/2/prefixList/namespace", json!("shop"), Rules),
            ("[].LIST[].self", "/1/LIST/1", json!({"cidr": "192.0.2.0/24"}), Rules),
        ] {
            let [field, place] = [field, place].map(|text| text.replace("LIST", list));
            edits.push((format!("{direction}{field}"), format!("/spec/{direction}{place}"), value, means));
        }
    }
    edits
}

fn attachment() -> Manifest {
    let selector = json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "other"]}],
    });
    Manifest::new("Attachment", "shop/web").set("/spec", json!({"securityGroups": ["web"], "podSelector": selector}))
}

fn attachment_edits() -> Vec<(&'static str, &'static str, Value, Means)> {
    vec![
        ("securityGroups[]", "/spec/securityGroups/0", json!("peer"), Rules),
        ("podSelector.matchLabels", "/spec/podSelector/matchLabels/app", json!("db"), Rules),
        ("podSelector.matchExpressions[].key", "/spec/podSelector/matchExpressions/0/key", json!("tier"), Rules),
        ("podSelector.matchExpressions[].operator", "/spec/podSelector/matchExpressions/0/operator", json!("NotIn"), Rules),
        ("podSelector.matchExpressions[].values[]", "/spec/podSelector/matchExpressions/0/values/0", json!("db"), Rules),
    ]
}

/// The cluster in which all these objects matter.
fn cluster() -> State {
    State::of(&[
        group(),
        attachment(),
        Manifest::group("shop/peer", json!({})),
        Manifest::group("shop-2/peer", json!({})),
        Manifest::slice("shop-2/slice", "uid-peer", true, &["10.1.0.1"]),
        Manifest::prefix_list("shop-2/list", &["192.0.2.0/25"]),
        Manifest::namespace("shop", None),
        Manifest::pod("shop/web-0", "n1", "web").at(&["10.0.0.1"]),
        Manifest::pod("shop/free", "n1", "free").at(&["10.0.0.2"]),
    ])
}

/// The edit is told in every way; what comes of it is what a new object gives.
fn edits(name: &str, before: &Manifest, after: &Manifest, means: Means) {
    let (before, after) = (cluster().with(before), cluster().with(after));
    for telling in TELLINGS {
        let mut program = Program::new("n1");
        let states =
            if telling == testkit::history::Telling::Reversed { [after.clone(), before.clone()] } else { [before.clone(), after.clone()] };
        for batch in tell(&states, telling, 7) {
            if batch.restart {
                program.restart();
            }
            batch.events.iter().for_each(|event| program.take(event));
            program.sync().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(program.cluster, after.cluster(), "{name}, {telling:?}");
        assert_eq!(program.kernel.table(), Some(&from_scratch(&after.cluster(), &program.node).1), "{name}, {telling:?}");
    }
    let derived = |state: &State| from_scratch(&state.cluster(), &policy::model::NodeName("n1".into()));
    let ((said, rules), (said_after, rules_after)) = (derived(&before), derived(&after));
    let changed = match (rules == rules_after, said == said_after) {
        (false, _) => Rules,
        (true, false) => Words,
        (true, true) => Nothing,
    };
    assert_eq!(changed, means, "{name}\n{rules}\n{rules_after}");
}

/// The leaves of a schema's spec, such as `ingress[].from[].cidr`.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let fields = schema["properties"].as_object().filter(|fields| !fields.is_empty());
    if let Some(fields) = fields {
        for (name, field) in fields {
            leaves(field, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
        }
    } else if schema["items"].is_object() {
        leaves(&schema["items"], &format!("{path}[]"), found);
    } else {
        found.insert(path.into());
    }
}

fn fields_of(kind: &str) -> BTreeSet<String> {
    let crd = api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("the kind");
    let crd = serde_json::to_value(crd).expect("JSON");
    let mut found = BTreeSet::new();
    leaves(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "", &mut found);
    found
}

/// Fields that the API server refuses in this version, so that no edit can be made.
const REFUSED: [&str; 1] = ["nodeSelector"];

fn covers(kind: &str, edited: impl IntoIterator<Item = String>) {
    let edited: BTreeSet<String> = edited.into_iter().collect();
    let fields = fields_of(kind).into_iter().filter(|field| !REFUSED.iter().any(|refused| field.contains(refused)));
    assert_eq!(fields.collect::<BTreeSet<_>>(), edited, "every field of {kind} has its edit");
}

#[test]
fn s6_p14_every_field_of_a_group() {
    covers("SecurityGroup", group_edits().into_iter().map(|(field, ..)| field));
    for (field, place, value, means) in group_edits() {
        edits(&field, &group(), &group().set(&place, value), means);
    }
}

#[test]
fn s6_p14_every_field_of_an_attachment() {
    covers("Attachment", attachment_edits().into_iter().map(|(field, ..)| field.to_string()));
    for (field, place, value, means) in attachment_edits() {
        edits(field, &attachment(), &attachment().set(place, value), means);
    }
}

#[test]
fn s21_p14_every_field_of_a_prefix_list() {
    let list = Manifest::prefix_list("shop-2/list", &["192.0.2.0/25"]).set("/spec/entries/0/description", "offices");
    let edited = [
        ("addressFamily", "/spec/addressFamily", json!("IPv6"), Rules),
        ("maxEntries", "/spec/maxEntries", json!(11), Nothing),
        ("entries[].cidr", "/spec/entries/0/cidr", json!("192.0.2.0/24"), Rules),
        ("entries[].description", "/spec/entries/0/description", json!("other"), Nothing),
    ];
    covers("PrefixList", edited.iter().map(|(field, ..)| field.to_string()));
    for (field, place, value, means) in edited {
        edits(field, &list, &list.clone().set(place, value), means);
    }
}

#[test]
fn s6_p14_every_field_of_pods_namespaces_and_slices_that_is_read() {
    let pod = Manifest::pod("shop/web-0", "n1", "web").at(&["10.0.0.1"]);
    for (place, value) in [
        ("/metadata/labels/app", json!("db")),
        ("/spec/nodeName", json!("n2")),
        ("/spec/hostNetwork", json!(true)),
        ("/status/phase", json!("Succeeded")),
        ("/status/podIPs", json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])),
        ("/status/podIP", json!("10.0.0.3")),
    ] {
        edits(place, &pod, &pod.clone().set(place, value), Rules);
    }
    let default = |group| Manifest::namespace("shop", Some(group));
    edits("default group, set", &Manifest::namespace("shop", None), &default("peer"), Rules);
    edits("default group, changed", &default("peer"), &default("web"), Rules);
    edits("default group, gone", &default("peer"), &Manifest::namespace("shop", None), Rules);
    let slice = Manifest::slice("shop-2/slice", "uid-peer", true, &["10.1.0.1"]);
    edits("addresses", &slice, &slice.clone().set("/addresses/0", "10.1.0.2"), Rules);
    edits("group id", &slice, &Manifest::slice("shop-2/slice", "another", true, &["10.1.0.1"]), Rules);
    edits("head", &slice, &Manifest::slice("shop-2/slice", "uid-peer", false, &["10.1.0.1"]), Words);
}
