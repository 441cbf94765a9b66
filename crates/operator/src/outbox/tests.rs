use api::{AttachmentStatus, SecurityGroupStatus};
use policy::AttachmentRef;
use policy::index::MemberSlice;
use policy::model::GroupRef;

use super::*;

fn group_ref(name: &str) -> GroupRef {
    GroupRef { namespace: "shop".into(), name: name.into() }
}

fn group(name: &str) -> (Lane, Work) {
    (Lane::Group(group_ref(name), "uid".into()), Work::Group(SecurityGroupStatus::default()))
}

fn attachment(name: &str) -> (Lane, Work) {
    let attachment = AttachmentRef { namespace: "shop".into(), name: name.into() };
    (Lane::Attachment(attachment, "uid".into()), Work::Attachment(AttachmentStatus::default()))
}

fn slices(id: &str) -> (Lane, Work) {
    (Lane::Slices(id.into()), Work::Slices(Vec::new()))
}

fn after(start: Instant, milliseconds: u64) -> Instant {
    start + Duration::from_millis(milliseconds)
}

/// Both parts at once.
fn offer(outbox: &mut Outbox, due: BTreeMap<Lane, Work>, changed_at: Timestamp) {
    let (slices, rest) = due.into_iter().partition(|(lane, _)| lane.part() == Part::Slices);
    outbox.offer(Part::Slices, slices, changed_at);
    outbox.offer(Part::Rest, rest, changed_at);
}

/// All lanes that may start now.
fn started(outbox: &mut Outbox, now: Instant) -> Vec<Lane> {
    std::iter::from_fn(|| outbox.next(now, |_| true).map(|(lane, ..)| lane)).collect()
}

fn a_written_status(members: i64) -> Written {
    Written::Group(group_ref("web"), "uid".into(), SecurityGroupStatus { members, ..SecurityGroupStatus::default() })
}

/// Facts in which group `web` exists and its status counts so many members.
fn facts(members: i64) -> Facts {
    let mut facts = Facts::default();
    let object = policy::index::Object::security_group(
        &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            uid: Some("uid".into()),
            ..Default::default()
        },
        &serde_json::json!({}),
    );
    let _ = facts.cluster.apply(object);
    facts.group_statuses.insert(group_ref("web"), SecurityGroupStatus { members, ..SecurityGroupStatus::default() });
    facts
}

#[test]
fn slices_go_first_and_statuses_wait_for_them_a_little() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [group("web"), attachment("web"), slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now), [slices("sg-1").0]);
    assert_eq!(outbox.wake_at(Part::Rest, now), Some(after(now, 50)));
    assert_eq!(started(&mut outbox, after(now, 49)), []);
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Done, after(now, 49)));
    assert_eq!(started(&mut outbox, after(now, 49)), [group("web").0, attachment("web").0]);
}

#[test]
fn statuses_do_not_wait_for_slices_for_ever() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [slices("sg-1"), slices("sg-2"), group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 2);
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Done, after(now, 40)));
    offer(&mut outbox, [slices("sg-1"), group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, after(now, 40)), [slices("sg-1").0], "there is still one under way");
    assert_eq!(started(&mut outbox, after(now, 50)), [group("web").0]);
    assert_eq!(outbox.wake_at(Part::Rest, after(now, 51)), None, "no busy waiting while slices are under way");
}

#[test]
fn a_lane_has_one_write_at_a_time_and_what_was_due_meanwhile_is_worked_out_anew() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
    offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now), []);
    assert!(outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Done, now), "another round is needed");
    assert_eq!(started(&mut outbox, now), [], "not what was worked out before the write");
    offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
}

#[test]
fn no_more_than_so_many_at_a_time() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, (0..100).map(|n| group(&format!("g{n}"))).collect(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), CONCURRENCY);
    assert_eq!((outbox.under_way(), outbox.waiting()), (CONCURRENCY, 100 - CONCURRENCY));
    assert_eq!(outbox.wake_at(Part::Rest, now), None);
    assert!(!outbox.ended(&group("g0").0, Vec::new(), Ending::Done, now));
    assert_eq!(started(&mut outbox, now).len(), 1);
}

#[test]
fn a_lane_waits_until_the_watch_has_shown_its_write() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
    assert!(!outbox.ended(&group("web").0, vec![a_written_status(2)], Ending::Done, now));
    outbox.look(Part::Rest, &facts(1), after(now, 300));
    offer(&mut outbox, [group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, after(now, 300)), [], "the watch shows what was before");
    outbox.look(Part::Rest, &facts(2), after(now, 400));
    assert_eq!(started(&mut outbox, after(now, 400)).len(), 1);
}

#[test]
fn a_watch_that_never_shows_it_is_believed_after_two_seconds() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
    assert!(!outbox.ended(&group("web").0, vec![a_written_status(2)], Ending::Done, now));
    assert_eq!(outbox.wake_at(Part::Rest, now), Some(now + UNSEEN));
    outbox.look(Part::Rest, &facts(1), now + UNSEEN);
    offer(&mut outbox, [group("web")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now + UNSEEN).len(), 1);
}

#[test]
fn what_is_written_of_an_object_that_is_gone_or_another_is_not_waited_for() {
    let facts = facts(1);
    assert!(!a_written_status(2).is_seen(&facts));
    assert!(a_written_status(1).is_seen(&facts));
    assert!(Written::Group(group_ref("web"), "another".into(), SecurityGroupStatus::default()).is_seen(&facts));
    assert!(Written::Group(group_ref("gone"), "uid".into(), SecurityGroupStatus::default()).is_seen(&facts));
    let key = ("shop".to_string(), "web-1".to_string());
    assert!(Written::Slice(key.clone(), None).is_seen(&facts));
    assert!(!Written::Slice(key, Some(MemberSlice::default())).is_seen(&facts));
}

#[test]
fn failures_are_tried_again_less_and_less_often_up_to_ten_seconds() {
    let (mut outbox, mut now) = (Outbox::default(), Instant::now());
    let mut pauses = Vec::new();
    for _ in 0..10 {
        outbox.look(Part::Slices, &Facts::default(), now);
        offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
        assert_eq!(started(&mut outbox, now).len(), 1);
        assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Failed, now));
        let again = outbox.wake_at(Part::Slices, now).expect("it tries again");
        pauses.push((again - now).as_millis());
        now = again;
    }
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000, 10000]);
}

#[test]
fn nothing_is_remembered_of_a_failure_that_is_no_longer_due() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Failed, now));
    offer(&mut outbox, BTreeMap::new(), Timestamp::UNIX_EPOCH);
    outbox.look(Part::Slices, &Facts::default(), after(now, 1000));
    assert_eq!(outbox.wake_at(Part::Slices, after(now, 1000)), None);
    assert!(outbox.progress.is_empty());
}

#[test]
fn a_conflict_is_tried_again_soon() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    offer(&mut outbox, [slices("sg-1")].into(), Timestamp::UNIX_EPOCH);
    assert_eq!(started(&mut outbox, now).len(), 1);
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Conflict, now));
    assert_eq!(outbox.wake_at(Part::Slices, now), Some(after(now, 20)));
}

#[test]
fn p35_what_is_due_is_due_since_the_first_change_that_it_answers_until_it_is_written() {
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    let at = |second| Timestamp::from_second(second).unwrap();
    let since = |outbox: &mut Outbox, now| outbox.next(now, |_| true).map(|(_, _, since)| since);
    offer(&mut outbox, [slices("sg-1")].into(), at(1));
    offer(&mut outbox, [slices("sg-1")].into(), at(2));
    assert_eq!(since(&mut outbox, now), Some(at(1)), "it has waited since then");
    offer(&mut outbox, [slices("sg-1")].into(), at(3));
    assert!(outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Done, now));
    offer(&mut outbox, [slices("sg-1")].into(), at(4));
    assert_eq!(since(&mut outbox, now), Some(at(3)), "what came during a write has waited since it came");
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Failed, now));
    offer(&mut outbox, [slices("sg-1")].into(), at(5));
    assert_eq!(since(&mut outbox, after(now, 1000)), Some(at(3)), "a failed write has answered nothing");
    assert!(!outbox.ended(&slices("sg-1").0, Vec::new(), Ending::Done, now));
    offer(&mut outbox, BTreeMap::new(), at(6));
    offer(&mut outbox, [slices("sg-1")].into(), at(7));
    assert_eq!(since(&mut outbox, after(now, 2000)), Some(at(7)));
}
