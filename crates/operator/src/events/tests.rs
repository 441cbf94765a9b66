use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

fn condition(type_: &str, status: &str, message: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: format!("{type_}Is{status}"),
        message: message.into(),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

fn web() -> ObjectReference {
    about::<api::SecurityGroup>("shop", "web", "uid")
}

/// From no condition or one to one or none: `Warning AcceptedIsFalse`, or nothing.
fn turn(type_: &str, before: Option<&str>, after: Option<&str>) -> Option<String> {
    let conditions = |status: Option<&str>| status.map(|status| condition(type_, status, "")).into_iter().collect::<Vec<_>>();
    let notices = between(&web(), &conditions(before), &conditions(after));
    assert!(notices.len() < 2);
    notices.into_iter().next().map(|notice| format!("{} {}", if notice.warning { "Warning" } else { "Normal" }, notice.reason))
}

#[test]
fn a_status_that_turns_is_told_and_a_warning_where_somebody_should_look() {
    for (type_, good, bad) in [(ACCEPTED, "True", "False"), (WITHIN_QUOTA, "True", "False"), (STALE_RULES, "False", "True")] {
        assert_eq!(turn(type_, Some(good), Some(bad)), Some(format!("Warning {type_}Is{bad}")));
        assert_eq!(turn(type_, Some(bad), Some(good)), Some(format!("Normal {type_}Is{good}")));
        assert_eq!(turn(type_, None, Some(bad)), Some(format!("Warning {type_}Is{bad}")), "wrong from the start");
        assert_eq!(turn(type_, None, Some(good)), None, "as it should be from the start");
        for same in [good, bad] {
            assert_eq!(turn(type_, Some(same), Some(same)), None);
        }
    }
    assert_eq!(turn(PROGRAMMED, Some("True"), Some("False")), Some("Normal ProgrammedIsFalse".into()), "an edit is no failure");
    assert_eq!(turn(PROGRAMMED, Some("False"), Some("True")), Some("Normal ProgrammedIsTrue".into()));
    assert_eq!(turn(PROGRAMMED, None, Some("False")), None);
    assert_eq!(turn(PROGRAMMED, None, Some("True")), Some("Normal ProgrammedIsTrue".into()));
    assert_eq!(turn(DELETABLE, None, Some("False")), Some("Warning DeletableIsFalse".into()));
    assert_eq!(turn(DELETABLE, Some("False"), None), None, "the object is gone with it");
    assert_eq!(turn("Ready", Some("True"), Some("False")), None, "what it says another condition says");
}

#[test]
fn an_object_has_ten_events_at_once_and_then_one_a_minute() {
    let notice = |name: &str| Notice {
        about: about::<api::SecurityGroup>("shop", name, "uid"),
        warning: false,
        reason: "R".into(),
        action: ACCEPTED.into(),
        note: String::new(),
        turned: None,
    };
    let (mut throttle, start) = (Throttle::default(), Instant::now());
    let taken = |throttle: &mut Throttle, name: &str, seconds: u64| {
        (0..100).filter(|_| throttle.takes(&notice(name), start + Duration::from_secs(seconds))).count()
    };
    assert_eq!(taken(&mut throttle, "web", 0), 10);
    assert_eq!(taken(&mut throttle, "db", 0), 10, "each its own");
    assert_eq!(taken(&mut throttle, "web", 59), 0);
    assert_eq!(taken(&mut throttle, "web", 60), 1);
    assert_eq!(taken(&mut throttle, "web", 119), 0);
    assert_eq!(taken(&mut throttle, "web", 190), 2);
    assert_eq!(taken(&mut throttle, "other", 7200), 10);
    assert_eq!(throttle.0.len(), 1, "nothing is remembered of who has been quiet");
    assert_eq!(taken(&mut throttle, "web", 7201), 10, "and never more than ten at once");
}

#[test]
fn an_event_is_as_the_server_takes_it() {
    let mut notice = between(&web(), &[], &[condition(ACCEPTED, "False", &"ä".repeat(2000))]).remove(0);
    let now = Timestamp::from_second(1).expect("a time");
    let written = event(notice.clone(), now);
    let note = written.note.expect("a note");
    assert!((NOTE - 3..=NOTE).contains(&note.len()) && note.ends_with("ä…"), "{} bytes", note.len());
    assert_eq!((written.type_.as_deref(), written.reason.as_deref()), (Some("Warning"), Some("AcceptedIsFalse")));
    assert_eq!((written.action.as_deref(), written.regarding), (Some("Accepted"), Some(web())));
    assert_eq!((written.metadata.namespace.as_deref(), written.metadata.name.as_deref()), (Some("shop"), Some("web.3b9aca00")));
    notice.note = "short".into();
    let short = event(notice.clone(), now);
    assert_eq!(short.note.as_deref(), Some("short"));

    // Of an object without a namespace, and of a turn that another leader may tell as well.
    notice.about.namespace = None;
    notice.turned = Some(now);
    let told = [1, 2].map(|second| event(notice.clone(), Timestamp::from_second(second).expect("a time")));
    assert_eq!(told[0].metadata, told[1].metadata, "the server takes one of them");
    assert_eq!(told[0].metadata.namespace.as_deref(), Some("default"));
    assert_eq!(told[0].regarding.as_ref().and_then(|about| about.namespace.as_deref()), None);
}
