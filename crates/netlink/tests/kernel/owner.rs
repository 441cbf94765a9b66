//! A table that belongs to a socket: what strangers may do, and what becomes of it when the socket closes.

use std::process::Command;
use std::time::{Duration, Instant};

use netlink::Nftables;
use ruleset::{Action, Kernel, Match, Op, Ruleset, Transaction};

use crate::namespace::{in_namespace, list, nft};
use crate::rulesets::{addresses, everything, frame, rule};

/// Whether `nft` may do it.
fn may(arguments: &[&str]) -> bool {
    Command::new("nft").args(arguments).output().expect("nft; apt-get install nftables").status.success()
}

const DEEDS: [&[&str]; 5] = [
    &["add", "element", "inet", "k8s-sg", "s4", "{ 10.7.7.7 }"],
    &["insert", "rule", "inet", "k8s-sg", "forward", "accept"],
    &["flush", "chain", "inet", "k8s-sg", "forward"],
    &["flush", "table", "inet", "k8s-sg"],
    &["delete", "table", "inet", "k8s-sg"],
];

/// Linux 6.9 brought tables that persist.
fn persists() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 9)
}

fn owner() -> Nftables {
    let kernel = Nftables::open_as_owner().expect("a netlink socket");
    assert_eq!(kernel.is_owner(), persists(), "found out by trying");
    kernel
}

/// Closes an owner's socket and waits until the table is nobody's. A process that another test is just starting has a copy of the socket, until
/// it runs its program.
fn close(owner: Nftables) {
    drop(owner);
    let deadline = Instant::now() + Duration::from_secs(10);
    while list().lines().any(|line| line.starts_with("\tflags owner")) {
        assert!(Instant::now() < deadline, "the table still has an owner: {}", list());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn load(kernel: &mut Nftables) -> Option<Ruleset> {
    kernel.load().expect("a listing")
}

/// A table of the frame, and an element more.
fn changed() -> (Transaction, Ruleset) {
    let more: imbl::OrdSet<_> = addresses(&["10.0.0.77"]);
    let mut ruleset = frame();
    let _ = ruleset.sets.entry("s4".into()).and_modify(|set| set.elements.extend(more.clone()));
    (Transaction { ops: vec![Op::AddElements("s4".into(), more)] }, ruleset)
}

/// On every kernel: who never closes the pods must not open them either (S41).
#[test]
fn s41_the_table_stays_in_force_when_its_socket_closes_and_the_next_one_takes_it_over() {
    in_namespace(|| {
        let mut first = owner();
        assert_eq!(load(&mut first), None);
        first.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        assert_eq!(load(&mut first), Some(frame()));
        let before = list();
        close(first);
        // `nft` says whose it is behind the name, and in a line of its own.
        let rules = |text: &str| text.lines().skip(1).filter(|line| !line.starts_with("\tflags")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(rules(&list()), rules(&before));

        let mut second = owner();
        assert_eq!(load(&mut second), Some(frame()), "adopted as it is");
        let (change, after) = changed();
        second.commit(&change).expect("it may change it");
        assert_eq!(load(&mut second), Some(after));
        second.commit(&Transaction::replace(&everything())).expect("and replace it");
        assert_eq!(load(&mut second), Some(everything()));
        close(second);
        // By hand, once nobody is there.
        assert!(may(DEEDS[4]));
        assert_eq!(nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn nobody_else_changes_a_table_with_an_owner_and_everybody_reads_it() {
    in_namespace(|| {
        let mut kernel = owner();
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        if !persists() {
            assert!(may(DEEDS[0]), "anybody's");
            return;
        }
        let (change, after) = changed();
        for round in 0..2 {
            let before = list();
            for deed in DEEDS {
                assert!(!may(deed), "{deed:?}");
            }
            assert!(may(&["flush", "ruleset"]), "it passes the table by");
            assert_eq!(list(), before, "round {round}");
            let mut another = Nftables::open_as_owner().expect("a netlink socket");
            let error = another.commit(&Transaction::replace(&Ruleset::default())).expect_err("there can be one owner");
            assert!(error.to_string().contains("EPERM"), "{error}");
            drop(another);
            assert_eq!(list(), before, "whoever failed took nothing along");
            // What is refused leaves the owner what it was.
            let bad = Op::AddRule("a".into(), rule(vec![Match::FromLoopback], Action::Jump("absent".into())));
            kernel.commit(&Transaction { ops: vec![bad] }).expect_err("there is no such chain");
            kernel.commit(&Transaction::replace(&frame())).expect("replaced as a whole");
        }
        kernel.commit(&change).expect("its own");
        assert_eq!(load(&mut kernel), Some(after));
    });
}

#[test]
fn a_table_without_an_owner_is_replaced_by_one_with_and_the_other_way_round() {
    in_namespace(|| {
        let mut plain = Nftables::open().expect("a netlink socket");
        plain.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let mut kernel = owner();
        if !kernel.is_owner() {
            assert_eq!(load(&mut kernel), Some(frame()), "there is no other kind");
            return;
        }
        assert_eq!(load(&mut kernel), None, "nothing that such a one has written");
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        assert_eq!(load(&mut kernel), Some(frame()));
        assert!(!may(DEEDS[0]));
        close(kernel);
        assert_eq!(load(&mut plain), None);
        plain.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        assert_eq!(load(&mut plain), Some(frame()));
        assert!(may(DEEDS[0]), "anybody's again");
    });
}

/// A failed adoption, or a change that is refused right after it, leaves the table to the next.
#[test]
fn an_owner_that_came_second_takes_over_when_the_first_has_gone() {
    in_namespace(|| {
        let mut first = owner();
        first.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let mut second = owner();
        assert_eq!(load(&mut second), Some(frame()), "everybody reads it");
        let (change, after) = changed();
        if persists() {
            assert!(second.commit(&change).is_err());
        }
        close(first);
        assert_eq!(load(&mut second), Some(frame()));
        assert_eq!(may(DEEDS[2]), !persists(), "it has an owner, where there are any");
        second.commit(&change).expect("its own");
        assert_eq!(load(&mut second).map(|table| table.sets), Some(after.sets));
    });
}
