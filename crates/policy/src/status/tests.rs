use api::{AppliedGroup, AppliedObject};
use k8s_openapi::api::core::v1::Pod as K8sPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::index::{Key, Object as Fact};
use crate::resolve;

mod attachments;
mod prefix_lists;
mod stopped;

/// A cluster and what its nodes report.
#[derive(Default)]
struct World {
    cluster: Cluster,
    reports: BTreeMap<NodeName, NodeReportStatus>,
}

fn metadata(name: &str, uid: &str, generation: i64) -> ObjectMeta {
    let name = Some(name.to_string());
    ObjectMeta { name, namespace: Some("shop".into()), uid: Some(uid.into()), generation: Some(generation), ..ObjectMeta::default() }
}

fn group_ref(name: &str) -> GroupRef {
    GroupRef { namespace: "shop".into(), name: name.into() }
}

impl World {
    fn group(&mut self, name: &str, uid: &str, generation: i64, spec: Value) -> &mut World {
        let _ = self.cluster.apply(Fact::security_group(&metadata(name, uid, generation), &spec));
        self
    }

    fn delete_group(&mut self, name: &str) -> &mut World {
        let _ = self.cluster.delete(&Key::SecurityGroup(group_ref(name)));
        self
    }

    /// An attachment of the pods labelled with its own name.
    fn attachment(&mut self, name: &str, generation: i64, groups: &[&str]) -> &mut World {
        let spec = json!({"securityGroups": groups, "podSelector": {"matchLabels": {"app": name}}});
        let _ = self.cluster.apply(Fact::attachment(&metadata(name, &format!("uid-{name}"), generation), &spec));
        self
    }

    fn pod(&mut self, name: &str, app: &str, node: &str, address: &str) -> &mut World {
        self.apply_pod(name, app, node, address, false)
    }

    fn apply_pod(&mut self, name: &str, app: &str, node: &str, address: &str, host_network: bool) -> &mut World {
        let pod: K8sPod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "hostNetwork": host_network, "containers": []},
            "status": {"podIP": address}
        }))
        .expect("a pod");
        let _ = self.cluster.apply(Fact::pod(&pod));
        self
    }

    fn reports(&mut self, node: &str, groups: &[(&str, &str, i64)], attachments: &[(&str, &str, i64)]) -> &mut World {
        let group = |&(name, uid, generation): &(&str, &str, i64)| AppliedGroup {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            generation,
            endpoints: 1,
            packets: PacketCounts::default(),
        };
        let attachment = |&(name, uid, generation): &(&str, &str, i64)| AppliedObject {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            generation,
        };
        let report = NodeReportStatus {
            groups: groups.iter().map(group).collect(),
            attachments: attachments.iter().map(attachment).collect(),
            ..NodeReportStatus::default()
        };
        self.reports.insert(NodeName(node.into()), report);
        self
    }

    fn group_status(&self, name: &str) -> SecurityGroupStatus {
        let resolution = resolve(&self.cluster);
        View::new(&self.cluster, &resolution, &self.reports).group(&group_ref(name)).expect("the group exists")
    }

    fn attachment_status(&self, name: &str) -> AttachmentStatus {
        let resolution = resolve(&self.cluster);
        let attachment = AttachmentRef { namespace: "shop".into(), name: name.into() };
        View::new(&self.cluster, &resolution, &self.reports).attachment(&attachment).expect("the attachment exists")
    }

    /// `True Programmed` and the like.
    fn group_says(&self, name: &str, condition: &str) -> String {
        word(&self.group_status(name).conditions, condition)
    }

    fn attachment_says(&self, name: &str, condition: &str) -> String {
        word(&self.attachment_status(name).conditions, condition)
    }
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> &'a Condition {
    conditions.iter().find(|condition| condition.type_ == type_).unwrap_or_else(|| panic!("no {type_}"))
}

fn word(conditions: &[Condition], type_: &str) -> String {
    let condition = find(conditions, type_);
    format!("{} {}", condition.status, condition.reason)
}

fn message(conditions: &[Condition], type_: &str) -> String {
    find(conditions, type_).message.clone()
}

/// Group `web`, UID u, generation 4, with a pod on n1 and one on n2.
fn two_nodes() -> World {
    let mut world = World::default();
    world.group("web", "u", 4, json!({"ingress": []})).attachment("web", 1, &["web"]);
    world.pod("web-0", "web", "n1", "10.244.1.5").pod("web-1", "web", "n2", "10.244.2.5");
    world
}

#[test]
fn programmed_only_when_every_node_with_a_member_has_this_generation_of_this_object() {
    let mut world = two_nodes();
    let say =
        |world: &World| (world.group_says("web", PROGRAMMED), world.group_says("web", READY), world.group_status("web").nodes.summary);
    let programming = |n: &str| ("False Programming".to_string(), "Unknown Programming".to_string(), n.to_string());
    let programmed = |n: &str| ("True Programmed".to_string(), "True Ready".to_string(), n.to_string());

    assert_eq!(say(&world), programming("0/2"), "nobody has reported");
    world.reports("n1", &[("web", "u", 4)], &[]);
    assert_eq!(say(&world), programming("1/2"));
    world.reports("n2", &[("web", "u", 3)], &[]);
    assert_eq!(say(&world), programming("1/2"), "n2 has an older generation");
    let said = message(&world.group_status("web").conditions, PROGRAMMED);
    assert_eq!(said, "Generation 4 is in force on 1 of 2 nodes: n2 has generation 3");
    world.reports("n2", &[("web", "u", 4)], &[]);
    assert_eq!(say(&world), programmed("2/2"));

    world.group("web", "u", 5, json!({"ingress": []}));
    assert_eq!(say(&world), programming("0/2"), "an edit: what is in force is generation 4");
    world.reports("n1", &[("web", "u", 5)], &[]).reports("n2", &[("web", "u", 5)], &[]);
    assert_eq!(say(&world), programmed("2/2"));

    world.pod("web-2", "web", "n3", "10.244.3.5");
    assert_eq!(say(&world), programming("2/3"), "the first member on a third node");
    let said = message(&world.group_status("web").conditions, PROGRAMMED);
    assert_eq!(said, "Generation 5 is in force on 2 of 3 nodes: n3 has not reported it");
    world.reports("n3", &[("web", "u", 5)], &[]);
    assert_eq!(say(&world), programmed("3/3"));

    world.reports.remove(&NodeName("n3".into()));
    assert_eq!(say(&world), programming("2/3"), "a node's report is gone, its member is not");
}

#[test]
fn a_group_made_again_under_its_name_is_not_programmed_by_what_was_reported_of_the_old_one() {
    let mut world = two_nodes();
    world.group("web", "old", 1, json!({"ingress": []}));
    world.reports("n1", &[("web", "old", 1)], &[]).reports("n2", &[("web", "old", 1)], &[]);
    assert_eq!(world.group_says("web", PROGRAMMED), "True Programmed");
    world.delete_group("web").group("web", "new", 1, json!({"ingress": []}));
    assert_eq!(world.group_says("web", PROGRAMMED), "False Programming", "same name, same generation, another UID");
    assert_eq!(
        message(&world.group_status("web").conditions, PROGRAMMED),
        "Generation 1 is in force on 0 of 2 nodes: n1 has not reported it, n2 has not reported it"
    );
    world.reports("n1", &[("web", "new", 1)], &[]).reports("n2", &[("web", "new", 1)], &[]);
    assert_eq!(world.group_says("web", PROGRAMMED), "True Programmed");
}

#[test]
fn a_report_of_a_node_without_a_member_counts_for_nothing() {
    let mut world = two_nodes();
    world.reports("n1", &[("web", "u", 4)], &[]).reports("n9", &[("web", "u", 4)], &[]);
    assert_eq!(world.group_says("web", PROGRAMMED), "False Programming");
    world.reports("n2", &[("web", "u", 4)], &[]).reports("n9", &[("web", "u", 1)], &[]);
    assert_eq!(world.group_says("web", PROGRAMMED), "True Programmed", "and holds nothing up");
    assert_eq!(world.group_status("web").nodes, NodeCounts { desired: 2, programmed: 2, summary: "2/2".into() });
}

#[test]
fn a_group_without_members_is_programmed() {
    let mut world = World::default();
    world.group("web", "u", 4, json!({})).reports("n1", &[("web", "u", 1)], &[]);
    assert_eq!(world.group_says("web", PROGRAMMED), "True NoMembers");
    assert_eq!(world.group_says("web", READY), "True Ready");
    assert_eq!(world.group_status("web").nodes.summary, "0/0");
}

#[test]
fn at_most_three_nodes_are_named() {
    let mut world = World::default();
    world.group("web", "u", 1, json!({})).attachment("web", 1, &["web"]);
    for n in 1..=5 {
        world.pod(&format!("web-{n}"), "web", &format!("n{n}"), &format!("10.244.0.{n}"));
    }
    let said = message(&world.group_status("web").conditions, PROGRAMMED);
    assert!(said.ends_with("n3 has not reported it and 2 more"), "{said}");
}

#[test]
fn counts_and_ids_s10_s23() {
    let mut world = two_nodes();
    let spec = json!({
        "ingress": [{"type": "SSH", "from": [{"cidr": "10.0.0.0/8"}, {"securityGroup": {"name": "gone"}}, {"self": true}]}],
        "egress": [{"protocol": "All", "to": [{"cidr": "0.0.0.0/0"}]}]
    });
    world.group("web", "u", 7, spec);
    let status = world.group_status("web");
    assert_eq!(status.rules, RuleCounts { ingress: 3, egress: 1, stale: 1 });
    assert_eq!(status.members, 2);
    assert_eq!(status.group_id, Some(crate::id::group("u")));
    assert_eq!(status.observed_generation, Some(7));
    let types: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, [READY, ACCEPTED, PROGRAMMED, STALE_RULES, WITHIN_QUOTA]);
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(7)));
}

#[test]
fn packets_are_summed_over_the_nodes_that_have_this_group_in_force() {
    let mut world = two_nodes();
    world.reports("n1", &[("db", "uid-db", 1), ("web", "uid-web", 1)], &[]);
    world.reports("n2", &[("web", "uid-web", 2)], &[]);
    world.reports("n3", &[("web", "of-another", 1)], &[]);
    let counts = |n| PacketCounts { ingress_allowed: n, ingress_denied: 10 * n, egress_allowed: 100 * n, egress_denied: 1000 * n };
    for (n, report) in (1..).zip(world.reports.values_mut()) {
        for group in &mut report.groups {
            group.packets = if group.name == "db" { counts(9) } else { counts(n) };
        }
    }
    assert_eq!(packets(&group_ref("web"), "uid-web", &world.reports), counts(1 + 2), "whatever generation");
    assert_eq!(packets(&group_ref("web"), "of-another", &world.reports), counts(3));
    assert_eq!(packets(&group_ref("db"), "uid-db", &world.reports), counts(9));
    assert_eq!(packets(&group_ref("app"), "uid-app", &world.reports), counts(0));
}

#[test]
fn a_peer_that_does_not_exist_is_stale_until_it_does_s20() {
    let mut world = World::default();
    let rules = json!({"ingress": [{"type": "HTTP", "from": [{"cidr": "::/0"}]}, {"type": "SSH", "from": [{"securityGroup": {"name": "bastion"}}]}]});
    world.group("web", "u", 1, rules);
    assert_eq!(world.group_says("web", STALE_RULES), "True PeerNotFound");
    assert_eq!(
        message(&world.group_status("web").conditions, STALE_RULES),
        "ingress[1].from[0]: SecurityGroup shop/bastion does not exist. They match nothing until these are created; or take them out"
    );
    assert_eq!(world.group_says("web", READY), "True Ready", "a stale rule is no failure");
    world.group("bastion", "b", 1, json!({}));
    assert_eq!(world.group_says("web", STALE_RULES), "False AllPeersExist");
    assert_eq!(world.group_status("web").rules.stale, 0);
    world.delete_group("bastion");
    assert_eq!(world.group_says("web", STALE_RULES), "True PeerNotFound");
}

#[test]
fn a_rule_that_is_not_understood_is_named_s38() {
    let mut world = World::default();
    let bad = json!({"ingress": [{"type": "SSH", "from": [{"cidr": "10.0.0.0/8"}]}, {"protocol": "TCP", "port": 70000, "from": [{"cidr": "::/0"}]}]});
    world.group("web", "u", 1, bad);
    assert_eq!(world.group_says("web", ACCEPTED), "False NotUnderstood");
    assert_eq!(world.group_says("web", READY), "False NotUnderstood");
    let said = message(&world.group_status("web").conditions, ACCEPTED);
    assert!(said.starts_with("ingress[1]: port 70000 is not in 1 to 65535"), "{said}");
    world.group("web", "u", 2, json!({"ingress": []}));
    assert_eq!(world.group_says("web", ACCEPTED), "True Accepted");
    assert_eq!(world.group_says("web", READY), "True Ready");
}

#[test]
fn a_group_that_cannot_be_read_and_is_not_in_force_is_false_rather_than_unknown() {
    let mut world = two_nodes();
    world.group("web", "u", 5, json!({"ingress": 7}));
    assert_eq!(world.group_says("web", PROGRAMMED), "False Programming");
    assert_eq!(world.group_says("web", READY), "False NotUnderstood");
}

#[test]
fn duplicates_are_accepted_and_named_s22() {
    let mut world = World::default();
    let twice = json!({"ingress": [
        {"type": "SSH", "from": [{"self": true}]},
        {"protocol": "TCP", "port": 22, "from": [{"securityGroup": {"name": "web", "namespace": "shop"}}]}
    ]});
    world.group("web", "u", 1, twice);
    assert_eq!(world.group_says("web", ACCEPTED), "True DuplicateRules");
    let said = message(&world.group_status("web").conditions, ACCEPTED);
    assert_eq!(said, "ingress[1].from[0] says the same as ingress[0].from[0] and counts once");
    assert_eq!(world.group_says("web", READY), "True Ready");
    assert_eq!(world.group_status("web").rules.ingress, 1);
}

#[test]
fn messages_stay_short_whatever_is_stored() {
    let mut world = World::default();
    let rule = json!({"type": "ä".repeat(5000), "from": [{"cidr": "::/0"}]});
    world.group("web", "u", 1, json!({"ingress": [rule, rule, rule]}));
    let said = message(&world.group_status("web").conditions, ACCEPTED);
    assert_eq!(said.chars().count(), MESSAGE + 1);
}

fn cidrs(n: usize) -> Vec<Value> {
    (0..n).map(|i| json!({"cidr": format!("10.0.{i}.0/24")})).collect()
}

#[test]
fn more_pairs_than_aws_allows_are_in_force_and_said_s24() {
    let mut world = World::default();
    world.group("web", "u", 1, json!({"ingress": [{"type": "SSH", "from": cidrs(50)}], "egress": [{"type": "SSH", "to": cidrs(50)}]}));
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "True WithinQuota");
    world.group("web", "u", 2, json!({"ingress": [{"type": "SSH", "from": cidrs(51)}]}));
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "False RulesPerSecurityGroupLimitExceeded");
    world.group("web", "u", 3, json!({"egress": [{"type": "SSH", "to": cidrs(51)}]}));
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "False RulesPerSecurityGroupLimitExceeded");
    let said = message(&world.group_status("web").conditions, WITHIN_QUOTA);
    assert_eq!(said, "the egress (rule, peer) pairs weigh 51 (a prefix list weighs its maxEntries), the limit is 50; all are in force");
    assert_eq!(world.group_says("web", READY), "True Ready");
}

#[test]
fn an_endpoint_in_six_groups_is_said_at_each_and_at_the_attachment_s24() {
    let mut world = World::default();
    let names = ["web", "g1", "g2", "g3", "g4", "g5"];
    for name in names {
        world.group(name, &format!("uid-{name}"), 1, json!({}));
    }
    world.attachment("web", 1, &names[..5]).pod("web-0", "web", "n1", "10.244.1.5");
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "True WithinQuota");
    assert_eq!(world.attachment_says("web", ACCEPTED), "True Accepted");
    world.attachment("web", 2, &names);
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "False SecurityGroupsPerInterfaceLimitExceeded");
    assert_eq!(world.attachment_says("web", ACCEPTED), "False SecurityGroupsPerInterfaceLimitExceeded");
    let said = message(&world.attachment_status("web").conditions, ACCEPTED);
    assert_eq!(said, "Pod shop/web-0 is in 6 groups, the limit is 5; all are in force");
}

#[test]
fn a_transition_has_its_time_and_anything_else_keeps_it() {
    let at = |seconds| Timestamp::from_second(seconds).expect("a time");
    let times = |conditions: &[Condition]| conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect::<Vec<_>>();
    let mut world = two_nodes();
    let mut first = world.group_status("web").conditions;
    stamp(&mut first, &[], at(100));
    assert_eq!(times(&first), [100; 5], "Ready, Accepted, Programmed, StaleRules, WithinQuota");

    world.reports("n1", &[("web", "u", 4)], &[]);
    let mut second = world.group_status("web").conditions;
    stamp(&mut second, &first, at(200));
    assert_ne!(message(&first, PROGRAMMED), message(&second, PROGRAMMED));
    assert_eq!(times(&second), [100; 5], "another message is no transition");

    world.reports("n2", &[("web", "u", 4)], &[]);
    let mut third = world.group_status("web").conditions;
    stamp(&mut third, &second, at(300));
    assert_eq!(times(&third), [300, 100, 300, 100, 100], "Ready and Programmed");
    let mut fourth = world.group_status("web").conditions;
    stamp(&mut fourth, &third, at(400));
    assert_eq!(fourth, third, "nothing to write");
}

#[test]
fn s24_the_limits_are_the_administrators_and_groups_of_a_namespace_are_counted() {
    let mut world = World::default();
    let limits = Limits { rules_per_direction: 2, groups_per_endpoint: 1, groups_per_namespace: 2 };
    let said = |world: &World, name: &str| {
        let resolution = resolve(&world.cluster);
        let view = View::new(&world.cluster, &resolution, &world.reports).limited_by(limits);
        let conditions = view.group(&group_ref(name)).expect("the group exists").conditions;
        (word(&conditions, WITHIN_QUOTA), message(&conditions, WITHIN_QUOTA))
    };
    world.group("web", "u", 1, json!({"ingress": [{"type": "SSH", "from": cidrs(2)}]})).group("db", "d", 1, json!({}));
    assert_eq!(said(&world, "web").0, "True WithinQuota");
    world.group("third", "t", 1, json!({}));
    let over = "Namespace shop has more SecurityGroups than the limit of 2; all are in force";
    assert_eq!(said(&world, "web"), ("False SecurityGroupLimitExceeded".into(), over.into()));
    world.group("fourth", "f", 1, json!({}));
    assert_eq!(said(&world, "web").1, over, "one more changes no other status");
    world.group("web", "u", 2, json!({"ingress": [{"type": "SSH", "from": cidrs(3)}]}));
    assert_eq!(said(&world, "web").0, "False RulesPerSecurityGroupLimitExceeded");
    world.attachment("a", 1, &["web", "db"]);
    let resolution = resolve(&world.cluster);
    let attachment = AttachmentRef { namespace: "shop".into(), name: "a".into() };
    let view = View::new(&world.cluster, &resolution, &world.reports);
    assert_eq!(word(&view.attachment(&attachment).expect("it exists").conditions, ACCEPTED), "True Accepted");
    let conditions = view.limited_by(limits).attachment(&attachment).expect("it exists").conditions;
    assert_eq!(word(&conditions, ACCEPTED), "False SecurityGroupsPerInterfaceLimitExceeded");
    assert_eq!(message(&conditions, ACCEPTED), "securityGroups names 2 groups, the limit is 1; all are in force");
}

#[test]
fn what_is_in_use_and_being_deleted_says_by_whom_ten_by_name() {
    let mut world = two_nodes();
    for n in 0..12 {
        world.attachment(&format!("a{n:02}"), 1, &["web"]);
    }
    let said = |world: &World| {
        let (resolution, blockers) = (resolve(&world.cluster), crate::protection::blockers(&world.cluster));
        let view = View::new(&world.cluster, &resolution, &world.reports).protected_by(&blockers);
        let conditions = view.group(&group_ref("web")).expect("it exists").conditions;
        conditions.into_iter().find(|condition| condition.type_ == DELETABLE)
    };
    assert_eq!(said(&world), None, "nobody deletes it");
    let deleting = metadata("web", "u", 4);
    let deleting = ObjectMeta { deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)), ..deleting };
    let _ = world.cluster.apply(Fact::security_group(&deleting, &json!({"ingress": []})));
    let condition = said(&world).expect("it is named");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "DependencyViolation"));
    assert!(
        condition.message.starts_with("It is named by 13, and stays in force until it is by none: Attachment shop/a00, "),
        "{}",
        condition.message
    );
    assert!(condition.message.ends_with("Attachment shop/a09, and 3 more"), "{}", condition.message);
}

/// A condition of a node's report.
fn said(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

#[test]
fn p31_a_node_that_cannot_enforce_is_named_with_the_reason() {
    let mut world = World::default();
    world.group("web", "u", 2, json!({})).attachment("web", 1, &["web"]);
    world.pod("web-0", "web", "n1", "10.0.0.1").pod("web-1", "web", "n2", "10.0.0.2");
    world.reports("n1", &[("web", "u", 2)], &[("web", "uid-web", 1)]).reports("n2", &[], &[]);
    for (type_, status, reason) in [
        ("TrafficFiltered", "False", "NotForwardedHere"),
        ("TrafficFiltered", "Unknown", "CannotTell"),
        ("KernelSupported", "False", "KernelFeatureMissing"),
        ("BridgeTrafficFiltered", "False", "BridgeNetfilterOff"),
    ] {
        let report = world.reports.get_mut(&NodeName("n2".into())).expect("a report");
        report.conditions = vec![said("Ready", "False", reason, "why"), said(type_, status, reason, "why")];
        let resolution = resolve(&world.cluster);
        let view = View::new(&world.cluster, &resolution, &world.reports);
        let group = view.group(&group_ref("web")).expect("a status");
        let attachment = view.attachment(&AttachmentRef { namespace: "shop".into(), name: "web".into() }).expect("a status");
        for (conditions, generation) in [(&group.conditions, 2), (&attachment.conditions, 1)] {
            let programmed = conditions.iter().find(|condition| condition.type_ == PROGRAMMED).expect("it is said");
            assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("False", "CannotEnforce"));
            let message = format!("Generation {generation} is in force on 1 of 2 nodes: n2 cannot enforce it ({reason}: why)");
            assert_eq!(programmed.message, message);
        }
        assert_eq!(group.nodes.summary, "1/2");
    }

    // A kernel that did not take a change, or has not said what it takes, is late.
    let report = world.reports.get_mut(&NodeName("n2".into())).expect("a report");
    report.conditions = vec![said("Ready", "False", "CommitFailed", "why"), said("KernelSupported", "Unknown", "CannotTell", "why")];
    let resolution = resolve(&world.cluster);
    let group = View::new(&world.cluster, &resolution, &world.reports).group(&group_ref("web")).expect("a status");
    let programmed = group.conditions.iter().find(|condition| condition.type_ == PROGRAMMED).expect("it is said");
    assert_eq!((programmed.reason.as_str(), programmed.message.contains("n2 has not reported it")), ("Programming", true));
}
