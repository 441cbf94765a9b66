//! Member slices: which are watched, and when what they say may be reported.

use super::*;

fn db_of(peers: &[&str], generation: i64) -> Object {
    group("db", generation, peers)
}

/// `db` is here and names `web`; `app` and `ops` exist elsewhere.
fn node() -> Node {
    let objects = [
        pod("db-0", "db", "10.0.0.1"),
        attachment("db"),
        db_of(&["web"], 1),
        group("web", 1, &[]),
        group("app", 1, &[]),
        group("ops", 1, &[]),
    ];
    Node::with(&objects, &[slice("web", &["10.1.0.1"])])
}

fn has_member(node: &mut Node, address: &str) -> bool {
    let address: std::net::IpAddr = address.parse().unwrap();
    node.table().unwrap().sets.values().any(|set| set.elements.contains(&address))
}

#[test]
fn a_generation_is_reported_when_every_group_that_it_names_has_been_seen() {
    let mut node = node();
    assert_eq!(generations(&node.synced()), [("db".to_string(), 1)]);
    node.take(apply(db_of(&["web", "app"], 2)));
    let status = node.synced();
    assert_eq!(generations(&status), [("db".to_string(), 1)], "in the kernel, but without app's members");
    assert_eq!(node.open(), [ids(["web"]), ids(["web", "app"])], "the old watch goes on until the new one has listed");

    // Listed, but the operator has not published app yet.
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"])]));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 1)]);
    assert_eq!(node.open(), [ids(["web", "app"])]);

    node.slices(1, Change::Apply(slice("app", &["10.1.0.9"])));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 2)]);
    assert!(has_member(&mut node, "10.1.0.9"));
}

#[test]
fn a_group_that_was_never_in_force_as_a_whole_is_not_reported() {
    let mut node = Node::new();
    node.list(&[pod("db-0", "db", "10.0.0.1"), attachment("db"), db_of(&["web"], 1), group("web", 1, &[])]);
    assert!(node.sync().is_none());
    node.slices(0, Change::Reset(Kind::MemberSlice, vec![]));
    let status = node.synced();
    assert_eq!(generations(&status), []);
    assert_eq!(status.attachments.len(), 1, "the attachment says no more than that the pod is guarded by the group");
    node.slices(0, Change::Apply(slice("web", &[])));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 1)]);
}

#[test]
fn a_group_made_again_under_its_name_does_not_inherit_a_generation() {
    let mut node = node();
    node.synced();
    let mut again = metadata("db", 1);
    again.uid = Some("another".into());
    let spec = json!({"ingress": [{"type": "SSH", "from": [{"securityGroup": {"name": "app"}}]}]});
    node.take(apply(Object::security_group(&again, &spec)));
    assert_eq!(generations(&node.synced()), []);
}

#[test]
fn a_peer_that_does_not_exist_is_not_waited_for() {
    // S20: it matches nothing, and is in force as that.
    let mut node = node();
    node.take(apply(db_of(&["web", "nobody"], 2)));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 2)]);
    assert_eq!(node.open(), [ids(["web"])]);
}

#[test]
fn members_stay_while_another_watch_lists() {
    let mut node = node();
    node.take(apply(db_of(&["web", "app"], 2)));
    node.synced();
    assert!(has_member(&mut node, "10.1.0.1"));
    assert!(node.slices(0, Change::Apply(slice("web", &["10.1.0.1", "10.1.0.2"]))), "the old watch is still heard");
    node.synced();
    assert!(has_member(&mut node, "10.1.0.2"));

    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.2"]), slice("app", &[])]));
    node.synced();
    assert!(!has_member(&mut node, "10.1.0.1"));
    assert!(!node.slices(0, Change::Reset(Kind::MemberSlice, vec![])), "what a closed watch had still sent is nothing");
}

#[test]
fn a_set_that_changes_faster_than_it_is_listed_is_listed_all_the_same() {
    let mut node = node();
    node.take(apply(db_of(&["web", "app"], 2)));
    node.synced();
    node.take(apply(db_of(&["web", "ops"], 3)));
    node.synced();
    assert_eq!(node.open(), [ids(["web"]), ids(["web", "app"])], "the pending watch is not given up");
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"]), slice("app", &[])]));
    node.synced();
    assert_eq!(node.open(), [ids(["web", "app"]), ids(["web", "ops"])]);
    node.slices(2, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"]), slice("ops", &[])]));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 3)]);
}

#[test]
fn a_group_that_is_named_again_in_time_loses_no_member() {
    let mut node = node();
    node.take(apply(db_of(&["app"], 2)));
    node.synced();
    node.take(apply(db_of(&["web", "app"], 3)));
    node.synced();
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("app", &[])]));
    node.synced();
    assert!(has_member(&mut node, "10.1.0.1"), "known from the watch before");
    assert_eq!(node.open(), [ids(["app"]), ids(["web", "app"])]);
    node.slices(2, Change::Reset(Kind::MemberSlice, vec![slice("app", &[]), slice("web", &["10.1.0.2"])]));
    node.synced();
    assert!(!has_member(&mut node, "10.1.0.1") && has_member(&mut node, "10.1.0.2"));
}

#[test]
fn when_nothing_is_named_any_more_nothing_is_watched_nor_kept() {
    let mut node = node();
    node.take(apply(db_of(&[], 2)));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 2)]);
    assert!(node.open().is_empty());
    node.take(apply(db_of(&["web"], 3)));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 2)], "what was known of web was not kept, since nobody kept it true");
    assert!(!has_member(&mut node, "10.1.0.1"));
}

/// A watch of very many groups is sent the slices of all.
#[test]
fn what_a_watch_says_of_groups_that_nobody_asked_for_is_nothing() {
    let mut node = node();
    let others = |addresses: &[&str]| slice("ops", addresses);
    node.slices(0, Change::Apply(others(&["10.1.0.7"])));
    assert_eq!(node.facts.slices(), 1);
    node.slices(0, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"]), others(&["10.1.0.7"])]));
    assert_eq!(node.facts.slices(), 1);
    node.take(apply(db_of(&["web", "app"], 2)));
    node.synced();
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"]), slice("app", &[]), others(&["10.1.0.7"])]));
    assert_eq!(node.facts.slices(), 2);

    // One that is another group's now is no longer ours.
    let Object::MemberSlice(name, _) = slice("web", &[]) else { panic!("a slice") };
    let Object::MemberSlice(_, of_ops) = others(&["10.1.0.7"]) else { panic!("a slice") };
    node.slices(1, Change::Apply(Object::MemberSlice(name, of_ops)));
    node.synced();
    assert!(!has_member(&mut node, "10.1.0.1") && !has_member(&mut node, "10.1.0.7"));
}

#[test]
fn what_a_watch_says_of_a_group_that_is_named_again_is_heard_and_its_list_is_newer_than_what_was_kept() {
    let mut node = node();
    node.take(apply(db_of(&["app"], 2)));
    node.synced();
    node.take(apply(db_of(&["web", "app"], 3)));
    node.synced();
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("app", &[]), slice("web", &["10.1.0.2"])]));
    node.synced();
    assert!(!has_member(&mut node, "10.1.0.1") && has_member(&mut node, "10.1.0.2"));
    node.slices(1, Change::Apply(slice("web", &["10.1.0.2", "10.1.0.3"])));
    node.synced();
    assert!(has_member(&mut node, "10.1.0.2") && has_member(&mut node, "10.1.0.3"));
}

/// A watch of very many groups sees the head of one that has just been named before anything else of it is known.
#[test]
fn the_head_alone_does_not_tell_that_a_group_has_been_seen_as_a_whole() {
    let mut node = node();
    node.take(apply(db_of(&["web", "app"], 2)));
    node.synced();
    node.slices(0, Change::Apply(slice("app", &["10.1.0.9"])));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 1)], "the rest of app has not been listed");
    node.slices(1, Change::Reset(Kind::MemberSlice, vec![slice("web", &["10.1.0.1"]), slice("app", &["10.1.0.9"])]));
    assert_eq!(generations(&node.synced()), [("db".to_string(), 2)]);
}
