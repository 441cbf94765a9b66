//! What an attachment's status says.

use super::*;

#[test]
fn an_attachment_is_programmed_where_it_has_endpoints() {
    let mut world = two_nodes();
    let say = |world: &World| (world.attachment_says("web", PROGRAMMED), world.attachment_says("web", READY));
    assert_eq!(say(&world), ("False Programming".into(), "Unknown Programming".into()));
    world.reports("n1", &[], &[("web", "uid-web", 1)]).reports("n2", &[], &[("web", "someone-else", 1)]);
    assert_eq!(say(&world), ("False Programming".into(), "Unknown Programming".into()), "another UID");
    world.reports("n2", &[], &[("web", "uid-web", 1)]);
    assert_eq!(say(&world), ("True Programmed".into(), "True Ready".into()));
    world.attachment("web", 2, &["web"]);
    assert_eq!(say(&world), ("False Programming".into(), "Unknown Programming".into()), "an edit");
    let status = world.attachment_status("web");
    assert_eq!((status.endpoints, status.observed_generation), (2, Some(2)));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    assert_eq!(status.nodes, NodeCounts { desired: 2, programmed: 0, summary: "0/2".into() });
}

#[test]
fn an_attachment_that_selects_nobody_is_programmed() {
    let mut world = World::default();
    world.group("web", "u", 1, json!({})).attachment("web", 1, &["web"]);
    assert_eq!(world.attachment_says("web", PROGRAMMED), "True NoEndpoints");
    assert_eq!(world.attachment_says("web", READY), "True Ready");
}

#[test]
fn an_attachment_names_the_groups_that_do_not_exist() {
    let mut world = two_nodes();
    world.attachment("web", 2, &["web", "common"]);
    world.reports("n1", &[], &[("web", "uid-web", 2)]).reports("n2", &[], &[("web", "uid-web", 2)]);
    assert_eq!(world.attachment_says("web", ACCEPTED), "False GroupNotFound");
    assert_eq!(world.attachment_says("web", PROGRAMMED), "True Programmed", "the closed state is in force too");
    assert_eq!(world.attachment_says("web", READY), "False GroupNotFound");
    let said = message(&world.attachment_status("web").conditions, ACCEPTED);
    assert!(said.starts_with("SecurityGroup common does not exist in this namespace; create it"), "{said}");
    world.attachment("web", 3, &["common", "more"]);
    let said = message(&world.attachment_status("web").conditions, ACCEPTED);
    assert!(said.starts_with("SecurityGroups common, more do not exist"), "{said}");
    world.group("common", "c", 1, json!({})).group("more", "m", 1, json!({}));
    assert_eq!(world.attachment_says("web", ACCEPTED), "True Accepted");
}

#[test]
fn an_attachment_that_cannot_be_understood_says_so_s38() {
    let mut world = World::default();
    let nodes = json!({"securityGroups": ["web"], "nodeSelector": {}});
    let _ = world.cluster.apply(Fact::attachment(&metadata("web", "uid-web", 1), &nodes));
    assert_eq!(world.attachment_says("web", ACCEPTED), "False NotSupportedYet");
    let _ = world.cluster.apply(Fact::attachment(&metadata("web", "uid-web", 2), &json!({"securityGroups": 7})));
    assert_eq!(world.attachment_says("web", ACCEPTED), "False NotUnderstood");
}

#[test]
fn host_network_pods_are_skipped_twenty_by_name_s9() {
    let mut world = World::default();
    world.group("web", "u", 1, json!({})).attachment("web", 1, &["web"]);
    for n in 1..=25 {
        world.apply_pod(&format!("p{n:02}"), "web", "n1", "192.0.2.1", true);
    }
    let status = world.attachment_status("web");
    assert_eq!((status.skipped.len(), status.skipped_count, status.endpoints), (20, 25, 0));
    assert_eq!(status.skipped.first(), Some(&Skipped { name: "p01".into(), reason: "HostNetwork".into() }));
}
