//! When to sync and when to report, with the times passed in.

use std::time::Duration;

use api::{AppliedGroup, NodeReportStatus, ReportedProblem};
use tokio::time::Instant;

use super::*;
use crate::pace::{BETWEEN, Pace, RECHECK, SETTLE, SUSPICION};
use crate::throttle::{COUNTS, NEWS, REFRESH, Throttle};

fn status(generation: i64, endpoints: i64) -> NodeReportStatus {
    let group =
        AppliedGroup { namespace: "shop".into(), name: "web".into(), uid: "u".into(), generation, endpoints, packets: Default::default() };
    NodeReportStatus { groups: vec![group], ruleset_hash: format!("{generation}-{endpoints}"), ..NodeReportStatus::default() }
}

#[test]
fn news_at_once_counts_seldom() {
    let start = Instant::now();
    let mut throttle = Throttle::default();
    assert_eq!(throttle.due(&status(1, 1), start), start, "the first report waits for nothing");
    throttle.written(status(1, 1), start);
    assert_eq!(throttle.due(&status(2, 1), start), start + NEWS);
    assert_eq!(throttle.due(&status(1, 2), start), start + COUNTS);
    assert_eq!(throttle.due(&status(1, 1), start), start + REFRESH);

    let quiet = start + Duration::from_secs(60);
    assert!(throttle.due(&status(1, 2), quiet) <= quiet, "the first change after a quiet time is written at once");
    throttle.written(status(1, 2), quiet);
    assert_eq!(throttle.due(&status(1, 3), quiet), quiet + COUNTS, "the next is not");
    assert_eq!(throttle.due(&status(2, 3), quiet), quiet + NEWS, "but a generation is");
}

#[test]
fn a_problem_and_readiness_are_news_and_times_are_none() {
    let start = Instant::now();
    let mut throttle = Throttle::default();
    throttle.written(status(1, 1), start);
    let with_problem = NodeReportStatus { problems: vec![ReportedProblem::default()], ..status(1, 1) };
    assert_eq!(throttle.due(&with_problem, start), start + NEWS);
    let time = Time(Timestamp::from_second(1).unwrap());
    assert_eq!(throttle.due(&NodeReportStatus { last_commit: Some(time.clone()), ..status(1, 1) }, start), start + REFRESH);
    let failure = Failure { message: "x".into(), stands: Some("1-1".into()), found: None, refused: None };
    let not_ready = Report::continuing(status(1, 1)).failed(&failure, &time);
    assert_eq!(throttle.due(&not_ready, start), start + NEWS);
}

#[test]
fn a_report_that_could_not_be_written_is_tried_again_ever_more_slowly() {
    let start = Instant::now();
    let mut throttle = Throttle::default();
    let mut waits = Vec::new();
    for _ in 0..9 {
        throttle.failed(start);
        waits.push((throttle.due(&status(1, 1), start) - start).as_millis());
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    throttle.written(status(1, 1), start);
    assert_eq!(throttle.due(&status(2, 1), start), start + NEWS);
    assert_eq!(throttle.due(&status(1, 1), start), start + COUNTS, "a lost write may yet arrive: once more, to have the last word");
    throttle.written(status(1, 1), start);
    assert_eq!(throttle.due(&status(1, 1), start), start + REFRESH);
}

#[test]
fn changes_that_come_together_are_synced_together() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut pace = Pace::default();
    assert_eq!(pace.due(), None);
    pace.changed(start, Duration::ZERO);
    pace.changed(start + ms(2), Duration::ZERO);
    assert_eq!(pace.due(), Some(start + SETTLE), "counted from the first: a flood does not put it off");
    assert!(!pace.begin(start + SETTLE), "the first sync reads the table anyway");
    assert_eq!(pace.ended(true, start + ms(5)), Some(ms(5)));
    assert_eq!(pace.due(), Some(start + SETTLE + RECHECK));
    pace.changed(start + ms(6), Duration::ZERO);
    assert_eq!(pace.due(), Some(start + ms(5) + BETWEEN));
    let quiet = start + Duration::from_secs(9);
    assert!(!pace.begin(quiet));
    pace.ended(true, quiet);
    pace.changed(quiet + BETWEEN, Duration::ZERO);
    assert_eq!(pace.due(), Some(quiet + BETWEEN + SETTLE));
}

#[test]
fn p12_the_table_is_read_again_every_minute_however_much_changes() {
    let start = Instant::now();
    let mut pace = Pace::default();
    let mut rechecks = Vec::new();
    for second in (0..=180).step_by(10) {
        let now = start + Duration::from_secs(second);
        pace.changed(now, Duration::ZERO);
        if pace.begin(now) {
            rechecks.push(second);
        }
        pace.ended(true, now);
    }
    assert_eq!(rechecks, [60, 120, 180]);
}

#[test]
fn a_failed_sync_is_tried_again_and_a_change_waits_a_second_at_most() {
    let start = Instant::now();
    let mut pace = Pace::default();
    let mut waits = Vec::new();
    for _ in 0..11 {
        pace.begin(start);
        pace.ended(false, start);
        waits.push((pace.due().unwrap() - start).as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    pace.changed(start, Duration::ZERO);
    assert_eq!(pace.due(), Some(start + Duration::from_secs(1)), "it may be the cure");
    pace.begin(start);
    pace.ended(true, start);
    assert_eq!(pace.due(), Some(start + RECHECK));
}

#[test]
fn p35_a_change_is_timed_from_where_it_was_first_seen_and_until_the_kernel_has_it() {
    let start = Instant::now() + Duration::from_secs(60);
    let ms = Duration::from_millis;
    let mut pace = Pace::default();
    pace.changed(start, ms(20));
    pace.changed(start + ms(1), ms(5));
    assert_eq!(pace.due(), Some(start + SETTLE), "what is old by now waits no less for what belongs to it");
    pace.begin(start + ms(3));
    assert_eq!(pace.ended(false, start + ms(4)), None, "it is not in force");
    pace.begin(start + ms(200));
    assert_eq!(pace.ended(true, start + ms(205)), Some(ms(225)));
    pace.begin(start + RECHECK);
    assert_eq!(pace.ended(true, start + RECHECK), None, "nothing had changed");

    let now: Timestamp = "2026-01-02T03:04:05.250000Z".parse().unwrap();
    let slice = |at: &str| Message::Slices(Epoch::default(), Change::Reset(Kind::MemberSlice, vec![]), Some(at.parse().unwrap()));
    assert_eq!(slice("2026-01-02T03:04:05.200000Z").age(now), ms(50));
    assert_eq!(slice("2026-01-02T03:04:06Z").age(now), Duration::ZERO, "another node's clock is ahead");
}

#[test]
fn p12_who_touches_the_table_makes_it_read_again_within_a_second_and_not_without_end() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut pace = Pace::default();
    pace.changed(start, Duration::ZERO);
    pace.begin(start);
    pace.ended(true, start);
    // Somebody who edits the table every 10 ms for two seconds.
    let (mut now, mut reads) = (start, Vec::new());
    while now < start + Duration::from_secs(2) {
        now += ms(10);
        pace.suspect(now);
        if pace.due().is_some_and(|due| due <= now) {
            assert!(pace.begin(now), "it is read");
            pace.ended(true, now);
            reads.push((now - start).as_millis());
        }
    }
    assert_eq!(reads, [250, 500, 750, 1000, 1250, 1500, 1750, 2000]);
    // After a quiet time: at once.
    let quiet = now + Duration::from_secs(5);
    pace.suspect(quiet);
    assert_eq!(pace.due(), Some(quiet));
    // A sync for another reason that comes too early does not use the suspicion up.
    assert!(pace.begin(quiet));
    pace.ended(true, quiet);
    pace.suspect(quiet + ms(1));
    assert!(!pace.begin(quiet + ms(2)));
    assert_eq!(pace.due(), Some(quiet + SUSPICION));
}
