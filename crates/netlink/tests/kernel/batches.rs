//! Batches of any size, all or nothing, and what the kernel says of the steps that it refuses.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use netlink::{Error, Nftables};
use policy::model::Family;
use ruleset::{Action, Chain, Kernel, Match, Op, Ruleset, Set, Side, Transaction, VerdictMap};

use crate::namespace::{in_namespace, list};
use crate::rulesets::{addresses, everything, frame, net, rule};

fn open_with(ruleset: &Ruleset) -> Nftables {
    let mut kernel = Nftables::open().expect("a netlink socket");
    kernel.commit(&Transaction::replace(ruleset)).expect("a legal transaction");
    kernel
}

fn transaction(ops: impl IntoIterator<Item = Op>) -> Transaction {
    Transaction { ops: ops.into_iter().collect() }
}

fn nth(number: usize) -> IpAddr {
    IpAddr::from(u32::try_from(number).expect("few").to_be_bytes())
}

/// Index and errno of each refusal, after a look at what every error must have.
fn refusals(error: &Error) -> Vec<(usize, i32)> {
    for refusal in error.refusals() {
        assert!(refusal.source().is_some(), "the system's error is kept");
        assert!(!refusal.text.is_empty());
    }
    error.refusals().map(|refusal| (refusal.index, refusal.errno)).collect()
}

/// Refused at these places with these errors, and nothing changed (S42).
fn assert_refused(ops: Vec<Op>, expected: &[(usize, i32)]) -> Error {
    let expected = expected.to_vec();
    in_namespace(move || {
        let mut kernel = open_with(&frame());
        let before = list();
        let error = kernel.commit(&transaction(ops)).expect_err("the kernel must refuse it");
        assert_eq!(refusals(&error), expected, "{error}");
        assert_eq!(list(), before);
        assert_eq!(kernel.load().expect("a listing"), Some(frame()));
        error
    })
}

#[test]
fn twenty_thousand_elements_and_two_thousand_chains_in_one_batch() {
    in_namespace(|| {
        let mut ruleset = Ruleset::default();
        let names: Vec<String> = (0..2_000).map(|number| format!("chain-{number}")).collect();
        let rules = vec![rule(vec![Match::InSet { side: Side::Source, family: Family::V4, set: "all".into() }], Action::Accept)];
        let chain = Arc::new(Chain { base: None, rules });
        ruleset.chains = names.iter().map(|name| (name.clone(), chain.clone())).collect();
        ruleset.sets.insert("all".into(), Set { family: Family::V4, elements: (0..20_000).map(nth).collect() });
        let goto = |number: usize| (nth(number), names[number % names.len()].clone());
        ruleset.maps.insert("in".into(), VerdictMap { family: Family::V4, elements: (0..2_000).map(goto).collect() });

        let mut kernel = open_with(&ruleset);
        let loaded = kernel.load().expect("a listing");
        assert!(loaded.as_ref() == Some(&ruleset), "the kernel has another table than the one that was committed");
        // And once more over it, with the old one going in the same batch.
        kernel.commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
        assert!(kernel.load().expect("a listing") == Some(ruleset), "the kernel has another table than the one that was committed");
    });
}

#[test]
fn long_names_of_chains_in_a_large_map() {
    in_namespace(|| {
        let long = "c".repeat(255);
        let mut ruleset = Ruleset { chains: OrdMap::from_iter([(long.clone(), Arc::new(Chain::default()))]), ..Ruleset::default() };
        let elements = (0..5_000).map(|number| (nth(number), long.clone())).collect();
        ruleset.maps.insert("m".repeat(255), VerdictMap { family: Family::V4, elements });
        assert!(open_with(&ruleset).load().expect("a listing") == Some(ruleset), "the kernel has another table");
    });
}

#[test]
fn every_one_of_five_thousand_refusals_is_reported() {
    let ops = (0..5_000).map(|number| Op::DeleteCounter(format!("absent-{number}"))).collect();
    let expected: Vec<_> = (0..5_000).map(|index| (index, libc::ENOENT)).collect();
    let error = assert_refused(ops, &expected);
    assert!(matches!(&error, Error::Refused { complete: true, .. }));
}

#[test]
fn one_bad_step_among_thousands_undoes_them_all() {
    let mut ops: Vec<Op> = (0..3_000).map(|number| Op::AddChain(format!("new-{number}"), None)).collect();
    ops[1_234] = Op::FlushChain("absent".into());
    let error = assert_refused(ops, &[(1_234, libc::ENOENT)]);
    let text = error.to_string();
    assert!(text.contains("step 1234 (flush chain inet k8s-sg absent): ENOENT"), "{text}");
    assert!(error.source().is_some_and(|source| source.source().is_some()), "the chain of sources goes down to the system's error");
}

#[test]
fn each_bad_step_is_named_once() {
    // 3,000 elements are three messages, each of them refused.
    let absent = (1..=3_000).map(nth).collect();
    let ops = vec![
        Op::AddElements("s4".into(), addresses(&["10.9.9.9"])),
        Op::DeleteElements("s4".into(), absent),
        Op::AddRule("a".into(), rule(vec![], Action::Jump("absent".into()))),
        Op::DeleteChain("absent".into()),
    ];
    assert_refused(ops, &[(1, libc::ENOENT), (2, libc::ENOENT), (3, libc::ENOENT)]);
}

#[test]
fn what_the_kernel_says_of_each_kind_of_mistake() {
    let key = |chain: &str| OrdMap::from_iter([(nth(0x0a00_0001), chain.to_owned())]);
    let uses = |set: &str| rule(vec![Match::InSet { side: Side::Source, family: Family::V4, set: set.into() }], Action::Drop);
    let counting = ruleset::Rule { counter: Some("absent".into()), ..rule(vec![], Action::Drop) };
    let cases = [
        (vec![Op::AddChain("a".into(), None)], libc::EEXIST),
        (vec![Op::AddSet("s4".into(), Family::V4)], libc::EEXIST),
        (vec![Op::AddMap("m4".into(), Family::V4)], libc::EEXIST),
        (vec![Op::AddCounter("c".into())], libc::EEXIST),
        // That key leads to chain a.
        (vec![Op::AddMapElements("m4".into(), key("b"))], libc::EEXIST),
        (vec![Op::AddMapElements("m4".into(), key("absent"))], libc::ENOENT),
        (vec![Op::AddElements("absent".into(), addresses(&["10.0.0.1"]))], libc::ENOENT),
        (vec![Op::AddElements("s4".into(), addresses(&["2001:db8::1"]))], libc::EINVAL),
        (vec![Op::AddElements("s6".into(), addresses(&["10.0.0.1"]))], libc::EINVAL),
        (vec![Op::DeleteMapElements("m4".into(), addresses(&["10.9.9.9"]))], libc::ENOENT),
        // The map leads there.
        (vec![Op::DeleteChain("a".into())], libc::EBUSY),
        (vec![Op::AddRule("forward".into(), uses("absent"))], libc::ENOENT),
        (vec![Op::AddRule("forward".into(), counting)], libc::ENOENT),
    ];
    for (ops, errno) in cases {
        assert_refused(ops, &[(0, errno)]);
    }
    assert_refused(vec![Op::AddRule("a".into(), uses("s4")), Op::DeleteSet("s4".into())], &[(1, libc::EBUSY)]);
}

#[test]
fn without_a_table_nothing_can_be_added() {
    in_namespace(|| {
        let mut kernel = Nftables::open().expect("a netlink socket");
        let error = kernel.commit(&transaction([Op::AddCounter("c".into()), Op::DeleteTable])).expect_err("there is no table");
        assert_eq!(refusals(&error), [(0, libc::ENOENT), (1, libc::ENOENT)]);
        assert_eq!(kernel.load().expect("a listing"), None);
    });
}

#[test]
fn an_element_added_twice_is_fine() {
    in_namespace(|| {
        let mut kernel = open_with(&frame());
        let set: OrdSet<IpAddr> = addresses(&["10.0.0.1", "10.0.0.77"]);
        let map = OrdMap::from_iter([(nth(0x0a00_0001), "a".to_owned())]);
        for _ in 0..2 {
            let ops = [Op::AddElements("s4".into(), set.clone()), Op::AddMapElements("m4".into(), map.clone())];
            kernel.commit(&transaction(ops)).expect("what is there may be added");
        }
        let mut expected = frame();
        let _ = expected.sets.entry("s4".into()).and_modify(|known| known.elements.extend(set.clone()));
        assert_eq!(kernel.load().expect("a listing"), Some(expected));
    });
}

#[test]
fn chains_in_a_circle_are_refused() {
    in_namespace(|| {
        let mut kernel = open_with(&frame());
        let ops = [
            Op::AddRule("a".into(), rule(vec![], Action::Jump("b".into()))),
            Op::AddRule("b".into(), rule(vec![], Action::Jump("a".into()))),
            Op::AddRule("forward".into(), rule(vec![], Action::Jump("a".into()))),
        ];
        let error = kernel.commit(&transaction(ops)).expect_err("a circle");
        let errno = match &error {
            Error::RefusedWhole(source) => source.raw_os_error(),
            _ => error.refusals().next().map(|refusal| refusal.errno),
        };
        assert!(matches!(errno, Some(libc::ELOOP | libc::EMLINK)), "{error}");
        assert_eq!(kernel.load().expect("a listing"), Some(frame()));
    });
}

#[test]
fn what_cannot_be_said_is_not_sent() {
    let sctp_ports = Match::DestinationPorts { from: 1, to: 2 };
    let malformed = [
        Op::AddChain(String::new(), None),
        Op::AddChain("n".repeat(256), None),
        Op::AddChain("n".repeat(100_000), None),
        Op::AddSet("nul\0".into(), Family::V4),
        Op::AddCounter("c".repeat(256)),
        Op::AddMapElements("m4".into(), OrdMap::from_iter([(nth(1), "x".repeat(70_000))])),
        Op::AddRule("a".into(), rule(vec![sctp_ports.clone()], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::L4Proto(50), sctp_ports], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::SourcePort(1)], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::L4Proto(6), Match::DestinationPorts { from: 2, to: 1 }], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::L4Proto(1), Match::IcmpType(Family::V6, 1)], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::IcmpCode(Family::V4, 1)], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::CtState(Default::default())], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::L4Proto(17)], Action::RejectTcpReset)),
        Op::AddRule("a".into(), rule(vec![Match::InNet { side: Side::Source, net: net("10.0.0.1/8") }], Action::Accept)),
        Op::AddRule("a".into(), rule(vec![Match::L4Proto(6); 64], Action::Accept)),
    ];
    in_namespace(move || {
        let mut kernel = open_with(&frame());
        for op in malformed {
            let text = format!("{op:?}");
            let result = kernel.commit(&transaction([Op::AddCounter("new".into()), op]));
            assert!(matches!(&result, Err(Error::Malformed { index: 1, .. })), "{result:?} for {text:.200}");
            assert!(result.expect_err("malformed").to_string().len() < 500, "an error is not as long as what it is about");
        }
        assert_eq!(kernel.load().expect("a listing"), Some(frame()));
    });
}

#[test]
fn the_longest_rule_is_taken() {
    in_namespace(|| {
        let mut ruleset = frame();
        // Each condition two expressions, and the verdict with the longest of names: 127 in all.
        let long = "c".repeat(255);
        ruleset.chains.insert(long.clone(), Arc::default());
        let chain = Arc::make_mut(ruleset.chains.entry("a".into()).or_default());
        chain.rules = vec![rule(vec![Match::L4Proto(6); 63], Action::Jump(long))];
        assert_eq!(open_with(&ruleset).load().expect("a listing"), Some(ruleset));
    });
}

#[test]
fn without_the_right_to_it_nothing_is_written() {
    in_namespace(|| {
        open_with(&everything());
        // SAFETY: the raw system call changes this thread only, which ends with the test; glibc's wrapper would change them all.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0, "the tests run as root");
        let mut kernel = Nftables::open().expect("a netlink socket");
        let error = kernel.commit(&Transaction { ops: vec![Op::AddTable] }).expect_err("nobody may write");
        assert!(matches!(&error, Error::RefusedWhole(source) if source.raw_os_error() == Some(libc::EPERM)), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        assert!(kernel.load().is_err());
        kernel.commit(&Transaction::replace(&frame())).expect_err("nobody may even look");
    });
}

#[test]
fn an_error_of_many_elements_stays_short() {
    let elements: OrdSet<IpAddr> = (0..10_000).map(nth).collect();
    let error = assert_refused(vec![Op::AddElements("absent".into(), elements)], &[(0, libc::ENOENT)]);
    assert!(error.to_string().len() < 500, "{error}");
}

/// A set that has just grown is rehashed in the background: a listing meanwhile may name some elements twice, and as many not at all.
#[test]
fn what_is_read_while_the_kernel_rehashes_is_whole() {
    in_namespace(|| {
        let mut kernel = Nftables::open().expect("a netlink socket");
        for round in 0..60 {
            let elements = (0..3_000 + 400 * round).map(nth).collect();
            let set = Set { family: Family::V4, elements };
            let ruleset = Ruleset { sets: OrdMap::from_iter([("members".to_owned(), set)]), ..Ruleset::default() };
            kernel.commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
            assert!(kernel.load().expect("a listing").as_ref() == Some(&ruleset), "round {round}: not what was committed");
        }
    });
}
