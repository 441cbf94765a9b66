//! Facts to tables: order, failures, restarts.

use ruleset::{Op, lower};

use super::*;

fn shop() -> Vec<Object> {
    vec![
        pod("web-0", "web", "10.0.0.1"),
        pod("web-1", "web", "10.0.0.2"),
        pod("free-0", "free", "10.0.0.3"),
        group("web", 1, &[]),
        attachment("web"),
    ]
}

#[test]
fn nothing_is_committed_before_every_first_list_is_in() {
    let kinds = crate::facts::FIRST;
    for last in kinds {
        let mut node = Node::new();
        for kind in kinds.into_iter().filter(|kind| *kind != last) {
            node.take(reset(kind, &shop()));
            // Events without a list are no list.
            node.take(apply(pod("web-2", "web", "10.0.0.4")));
        }
        assert!(node.sync().is_none(), "{last:?} is missing");
        node.take(reset(last, &shop()));
        assert!(node.sync().is_some());
        assert!(node.table().is_some());
    }
}

#[test]
fn nor_before_the_slices_of_the_groups_that_are_named_then() {
    let mut node = Node::new();
    node.list(&[pod("db-0", "db", "10.0.0.1"), group("db", 1, &["web"]), group("web", 1, &[]), attachment("db")]);
    assert!(node.sync().is_none());
    assert_eq!(node.open(), [ids(["web"])]);
    assert!(node.sync().is_none(), "asked once, not again");
    assert_eq!(node.open().len(), 1);
    assert!(node.slices(0, Change::Reset(Kind::MemberSlice, vec![])), "an empty list is news");
    assert!(node.sync().is_some());
}

#[test]
fn a_cluster_without_anything_gets_an_empty_table() {
    let mut node = Node::with(&[], &[]);
    assert_eq!(node.table(), Some(lower(&Default::default())));
    assert_eq!(node.synced().groups, []);
    assert_eq!(node.enforcement.kernel().taken.len(), 1);
    assert!(node.open().is_empty(), "no group is named, nothing is watched");
}

/// All orders of a list.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    (0..items.len())
        .flat_map(|first| {
            let mut rest = items.to_vec();
            let item = rest.remove(first);
            orders(&rest).into_iter().map(move |mut order| {
                order.insert(0, item.clone());
                order
            })
        })
        .collect()
}

#[test]
fn the_table_depends_on_the_facts_not_on_their_order_nor_on_when_it_was_synced() {
    let objects = [
        pod("web-0", "web", "10.0.0.1"),
        pod("db-0", "db", "10.0.0.2"),
        group("web", 1, &["web"]),
        group("db", 1, &["web"]),
        attachment("web"),
        attachment("db"),
    ];
    let slices = [slice("web", &["10.1.0.1", "10.1.0.2"])];
    let from_scratch = Node::with(&objects, &slices).table().unwrap();
    for order in orders(&objects) {
        for sync_each in [false, true] {
            let mut node = Node::new();
            node.list(&[]);
            node.synced();
            for object in &order {
                node.take(apply(object.clone()));
                if sync_each {
                    node.synced();
                }
            }
            node.synced();
            node.slices(0, Change::Reset(Kind::MemberSlice, slices.to_vec()));
            node.synced();
            assert_eq!(node.table().as_ref(), Some(&from_scratch), "{order:?}, synced at each: {sync_each}");
        }
    }
}

#[test]
fn what_is_deleted_leaves_nothing_behind() {
    let mut node = Node::with(&shop(), &[]);
    let empty = lower(&Default::default());
    assert_ne!(node.table(), Some(empty.clone()));
    for (kind, name) in [(Kind::Pod, "web-0"), (Kind::SecurityGroup, "web"), (Kind::Attachment, "web"), (Kind::Pod, "web-1")] {
        node.take(delete(kind, name));
        node.synced();
    }
    assert_eq!(node.table(), Some(empty));
}

#[test]
fn a_failed_commit_leaves_the_former_rules_says_so_and_is_made_good_as_a_whole() {
    let mut node = Node::with(&shop(), &[]);
    let before = node.table();
    let good = node.synced();
    node.take(apply(group("web", 2, &["web"])));
    node.enforcement.kernel().refuse = 1;
    // The group names itself now: its slices are asked for, and its generation waits for them.
    let failure = node.sync().unwrap().unwrap_err();
    assert!(failure.message.contains("AddSet") && failure.message.contains("ENOMEM"), "{failure}");
    assert_eq!(node.table(), before, "nothing of it is in force");

    let reported = node.report.failed(&failure, &Time(Timestamp::from_second(500).unwrap()));
    let ready = &reported.conditions[0];
    assert_eq!((ready.type_.as_str(), ready.status.as_str(), ready.reason.as_str()), ("Ready", "False", "CommitFailed"));
    assert!(ready.message.contains("ENOMEM"), "{}", ready.message);
    assert_eq!((generations(&reported), &reported.ruleset_hash), (vec![("web".to_string(), 1)], &good.ruleset_hash));

    node.slices(0, Change::Reset(Kind::MemberSlice, vec![slice("web", &[])]));
    let after = node.synced();
    assert_eq!(generations(&after), [("web".to_string(), 2)]);
    assert_eq!(after.conditions[0].status, "True");
    let last = node.enforcement.kernel().taken.last().cloned().unwrap();
    assert!(!last.ops.contains(&Op::DeleteTable), "what the failure has left is read, and only the difference made: {last}");
    assert_ne!(node.table(), before);
}

#[test]
fn nobody_knows_what_is_in_force_after_a_change_without_an_answer() {
    let mut node = Node::with(&shop(), &[]);
    let before = node.table();
    node.take(delete(Kind::Pod, "web-0"));
    node.enforcement.kernel().silent = 1;
    let failure = node.sync().unwrap().unwrap_err();
    assert_ne!(node.table(), before, "it was taken");
    assert_eq!((failure.outcome(), &failure.stands), ("and nobody knows which rules are in force", &None));

    let reported = node.report.failed(&failure, &Time(Timestamp::from_second(500).unwrap()));
    let ready = &reported.conditions[0];
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "CommitFailed"));
    assert!(ready.message.starts_with("nobody knows which rules are in force") && reported.groups.is_empty(), "{}", ready.message);
    assert_eq!(node.synced().conditions[0].status, "True", "it has been read");
}

fn restarted(node: &mut Node) -> Node {
    Node::on(Flaky { inner: node.enforcement.kernel().inner.clone(), ..Flaky::default() })
}

#[test]
fn a_restart_takes_over_what_is_there() {
    // S41: no commit where nothing has changed, and only the difference where something has.
    let mut first = Node::with(&shop(), &[]);
    let mut second = restarted(&mut first);
    second.list(&shop());
    let status = second.synced();
    assert_eq!(second.enforcement.kernel().taken, []);
    assert_eq!(status.ruleset_hash, first.synced().ruleset_hash);
    assert_eq!(status.last_commit, None, "not changed by this run");

    let mut third = restarted(&mut first);
    let mut fewer = shop();
    fewer.remove(1);
    third.list(&fewer);
    third.synced();
    let taken: Vec<Op> = third.enforcement.kernel().taken.iter().flat_map(|transaction| transaction.ops.clone()).collect();
    assert!(!taken.contains(&Op::DeleteTable), "{taken:?}");
    assert!(taken.iter().any(|op| matches!(op, Op::DeleteMapElements(..))), "{taken:?}");
    assert_eq!(third.table(), Node::with(&fewer, &[]).table());
}

#[test]
fn a_restart_touches_nothing_before_it_knows() {
    let mut first = Node::with(&shop(), &[]);
    let before = first.table();
    let mut second = restarted(&mut first);
    second.take(reset(Kind::Pod, &[]));
    second.take(reset(Kind::Attachment, &[]));
    assert!(second.sync().is_none());
    assert_eq!(second.table(), before);
}

#[test]
fn a_report_goes_on_where_an_earlier_run_ended() {
    let mut first = Node::with(&shop(), &[]);
    let earlier = first.synced();
    assert!(earlier.last_commit.is_some());
    let mut second = restarted(&mut first);
    second.report = Report::continuing(earlier.clone());
    second.seconds.set(1000);
    second.list(&shop());
    assert_eq!(second.synced(), earlier, "the same table: times included, nothing is new");
}

#[test]
fn a_table_that_someone_else_has_changed_is_found_and_replaced() {
    let mut node = Node::with(&shop(), &[]);
    let wanted = node.table();
    assert!(!node.enforcement.recheck().unwrap());
    let intruder = Transaction { ops: vec![Op::AddChain("intruder".into(), None)] };
    let flushed = Transaction { ops: vec![Op::DeleteTable] };
    for foreign in [intruder, flushed] {
        node.enforcement.kernel().inner.commit(&foreign).unwrap();
        assert!(node.enforcement.recheck().unwrap());
        node.synced();
        assert_eq!(node.table(), wanted);
        assert!(!node.enforcement.recheck().unwrap());
    }
    // P12: and said, as long as somebody may wonder.
    let intact = |status: &NodeReportStatus| {
        let found = status.conditions.iter().find(|condition| condition.type_ == "RulesetIntact").unwrap().clone();
        (found.status, found.message)
    };
    let (status, message) = intact(&node.synced());
    assert!(status == "False" && message.contains("2 times since"), "{message}");
    node.seconds.set(node.seconds.get() + 600);
    assert_eq!(intact(&node.synced()).0, "True");
}

#[test]
fn counters_go_on_whatever_becomes_of_the_table() {
    let mut node = Node::with(&shop(), &[]);
    let (name, counted) = ("denied-in".to_string(), ruleset::Counter { packets: 7, bytes: 700 });
    let count = |node: &mut Node, to: ruleset::Counter| {
        let ops = vec![Op::DeleteTable, Op::AddTable, Op::ContinueCounter("denied-in".into(), to)];
        node.enforcement.kernel().inner.commit(&Transaction { ops }).unwrap();
    };
    count(&mut node, counted);
    assert_eq!(node.enforcement.counters().unwrap()[&name], counted);

    // Somebody has made the table anew, or taken it away.
    for foreign in [vec![], vec![Op::DeleteTable, Op::AddTable], vec![Op::DeleteTable]] {
        node.enforcement.kernel().inner.commit(&Transaction { ops: foreign }).unwrap();
        assert!(node.enforcement.recheck().unwrap());
        node.synced();
        assert_eq!(node.enforcement.counters().unwrap()[&name], counted);
        count(&mut node, ruleset::Counter::default());
    }
}

/// What is reported after a sync that failed.
fn reported_after_failure(node: &mut Node) -> NodeReportStatus {
    assert!(node.sync().expect("all lists are in").is_err());
    node.report.continued()
}

#[test]
fn p30_nothing_is_said_to_be_in_force_that_nobody_knows_to_be() {
    // A refused change leaves what was there, and what was said of it.
    let mut node = Node::with(&shop(), &[]);
    assert_eq!(node.synced().groups.len(), 1);
    node.enforcement.kernel().refuse = 1;
    node.take(apply(group("web", 2, &[])));
    node.take(apply(pod("web-2", "web", "10.0.0.4")));
    let report = reported_after_failure(&mut node);
    assert_eq!(report.groups.iter().map(|group| group.generation).collect::<Vec<_>>(), [1]);

    // A table that somebody else took away, and a kernel that refuses it back.
    let mut node = Node::with(&shop(), &[]);
    node.synced();
    node.enforcement.kernel().inner.commit(&Transaction { ops: vec![Op::DeleteTable] }).unwrap();
    assert!(node.enforcement.recheck().unwrap());
    node.enforcement.kernel().refuse = 1;
    let report = reported_after_failure(&mut node);
    assert_eq!((report.groups, report.attachments, report.ruleset_hash), (vec![], vec![], String::new()));
    assert_eq!(node.synced().groups.len(), 1, "and said again once it is in force again");

    // After a reboot the table of the last report is gone.
    let mut node = Node::with(&shop(), &[]);
    let earlier = node.synced();
    let mut rebooted = Node::new();
    rebooted.report = Report::continuing(earlier);
    rebooted.list(&shop());
    rebooted.enforcement.kernel().refuse = 1;
    assert_eq!(reported_after_failure(&mut rebooted).groups, []);
}

#[test]
fn a_table_that_cannot_be_read_is_not_said_to_be_in_force_and_is_replaced_in_the_end() {
    let mut node = Node::new();
    node.list(&shop());
    node.enforcement.kernel().unreadable = 9;
    for _ in 0..2 {
        assert_eq!(reported_after_failure(&mut node).groups, []);
    }
    assert_eq!(node.synced().groups.len(), 1, "the third time it is replaced as a whole");

    node.enforcement.kernel().unreadable = 1;
    let Err(failure) = node.enforcement.recheck() else { panic!("it cannot be read back") };
    assert_eq!(failure.stands, None);
    assert_eq!(node.synced().groups.len(), 1, "read again, and as it should be");
}

/// What an earlier run has left to guard goes when its table is as it should be, also where that table needs no step; not before.
#[test]
fn s41_what_guarded_meanwhile_goes_once_the_table_is_as_it_should_be() {
    let mut node = Node::with(&shop(), &[]);
    node.synced();
    assert_eq!(node.enforcement.kernel().settled, 1, "after the start, not at every sync");
    let table = node.table().unwrap();
    let kernel = Flaky { inner: ruleset::FakeKernel::with(table), unsettled: true, ..Flaky::default() };
    node.enforcement = crate::enforce::Enforcement::new(kernel);
    assert!(node.sync().unwrap().is_err(), "it is said that it stays");
    assert_eq!(node.enforcement.kernel().taken.len(), 0);
    node.enforcement.kernel().unsettled = false;
    node.synced();
    assert_eq!(node.enforcement.kernel().settled, 2);
}
