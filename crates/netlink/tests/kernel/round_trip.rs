//! What is committed is what is loaded.

use std::sync::Arc;

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use netlink::Nftables;
use policy::model::Family;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ruleset::{Action, Counter, Kernel, Match, Op, Ruleset, Side, Transaction, diff};

use crate::namespace::{in_namespace, nft};
use crate::rulesets::{everything, frame, net, random, rule};

fn open() -> Nftables {
    Nftables::open().expect("a netlink socket")
}

/// `diff(what is there, what is to be)` must be legal for the kernel, not only for the fake one.
fn lead_to(kernel: &mut Nftables, to: &Ruleset) {
    let from = kernel.load().expect("a listing").expect("a table of ours");
    kernel.commit(&diff(&from, to)).expect("a legal transaction");
    assert_eq!(kernel.load().expect("a listing").as_ref(), Some(to));
}

#[test]
fn there_is_no_table_at_first() {
    in_namespace(|| {
        let mut kernel = open();
        assert_eq!(kernel.load().expect("a listing"), None);
        assert!(kernel.counters().expect("a listing").is_empty());
    });
}

#[test]
fn a_transaction_without_steps_makes_nothing() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::default()).expect("nothing to refuse");
        // Nothing to add or delete is nothing to do, even where the kernel would take it for "all elements".
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        let none = OrdSet::new();
        let ops = vec![
            Op::DeleteElements("s4".into(), none.clone()),
            Op::DeleteMapElements("m4".into(), none.clone()),
            Op::AddElements("s4".into(), none),
        ];
        kernel.commit(&Transaction { ops }).expect("nothing to refuse");
        assert_eq!(kernel.load().expect("a listing"), Some(everything()));
    });
}

#[test]
fn an_empty_table_is_ours() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction { ops: vec![Op::AddTable] }).expect("a legal transaction");
        assert_eq!(kernel.load().expect("a listing"), Some(Ruleset::default()));
        kernel.commit(&Transaction { ops: vec![Op::AddTable, Op::DeleteTable] }).expect("a legal transaction");
        assert_eq!(kernel.load().expect("a listing"), None);
    });
}

#[test]
fn everything_comes_back_as_it_was() {
    in_namespace(|| {
        let mut kernel = open();
        let everything = everything();
        kernel.commit(&Transaction::replace(&everything)).expect("a legal transaction");
        let loaded = kernel.load().expect("a listing").expect("a table of ours");
        for (name, chain) in &everything.chains {
            for (ours, back) in chain.rules.iter().zip(&loaded.chains[name].rules) {
                assert_eq!(ours, back);
            }
        }
        assert_eq!(loaded, everything);
        // Another socket sees the same: nothing of it is kept in ours (S41).
        assert_eq!(open().load().expect("a listing"), Some(everything));
    });
}

#[test]
fn every_step_back_to_nothing_is_legal() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        lead_to(&mut kernel, &frame());
        lead_to(&mut kernel, &everything());
        lead_to(&mut kernel, &Ruleset::default());
    });
}

#[test]
fn a_key_of_a_map_can_lead_elsewhere_at_once() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let mut to = frame();
        let _ = to.maps.entry("m4".into()).and_modify(|map| {
            let other = |chain: &String| if chain == "a" { "b".to_string() } else { "a".into() };
            map.elements = map.elements.iter().map(|(address, chain)| (*address, other(chain))).collect();
        });
        lead_to(&mut kernel, &to);
    });
}

#[test]
fn random_rulesets_come_back_as_they_were() {
    in_namespace(|| {
        let mut runner = TestRunner::new(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() });
        let kernel = std::cell::RefCell::new(open());
        kernel.borrow_mut().commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let result = runner.run(&random(), |ruleset| {
            lead_to(&mut kernel.borrow_mut(), &ruleset);
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{failure}"));
    });
}

#[test]
fn counters_count_and_outlive_their_rules() {
    in_namespace(|| {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip; apt-get install iproute2");
        assert!(status.success());
        let mut ruleset = frame();
        let to_loopback = Match::InNet { side: Side::Destination, net: net("127.0.0.0/8") };
        let mut counting = rule(vec![to_loopback, Match::L4Proto(17)], Action::Accept);
        counting.counter = Some("c".into());
        Arc::make_mut(ruleset.chains.entry("input".into()).or_default()).rules = vec![counting];
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
        assert_eq!(kernel.counters().expect("a listing").get("c"), Some(&Counter::default()));

        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("an address");
        for _ in 0..3 {
            socket.send_to(b"0123456789", address).expect("sent");
        }
        // A busy machine hands packets over a little later.
        let deadline = Instant::now() + Duration::from_secs(60);
        let counted = loop {
            let counted = kernel.counters().expect("a listing");
            if counted.get("c").is_some_and(|counter| counter.packets >= 3) || Instant::now() > deadline {
                break counted;
            }
        };
        // 20 bytes of IPv4, 8 of UDP, 10 of ours.
        assert_eq!(counted.get("c"), Some(&Counter { packets: 3, bytes: 3 * 38 }));
        assert_eq!(counted.keys().cloned().collect::<OrdSet<_>>(), ruleset.counters);
        assert!(nft(&["list", "counters"]).contains("packets 3 bytes 114"));

        lead_to(&mut kernel, &frame());
        assert_eq!(kernel.counters().expect("a listing"), counted);
        // What was counted is no part of the ruleset.
        assert_eq!(kernel.load().expect("a listing"), Some(frame()));

        // Counters of a table that is made anew go on, and those that nobody speaks of begin.
        let some =
            counted.iter().filter(|(name, _)| *name != "in/shop/web.v2/sgr-00f").map(|(name, counter)| (name.clone(), *counter)).collect();
        kernel.commit(&Transaction::replace(&frame()).keeping(&some)).expect("a legal transaction");
        assert_eq!(kernel.counters().expect("a listing"), counted);
    });
}

#[test]
fn what_contradicts_itself_comes_back_too() {
    in_namespace(|| {
        let mut ruleset = frame();
        let v6 = Match::InSet { side: Side::Source, family: Family::V6, set: "s6".into() };
        let v4 = Match::InSet { side: Side::Source, family: Family::V4, set: "s4".into() };
        let both = vec![v4.clone(), v6.clone(), Match::Family(Family::V4), v6, v4];
        Arc::make_mut(ruleset.chains.entry("a".into()).or_default()).rules = vec![rule(both, Action::Drop)];
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
        assert_eq!(kernel.load().expect("a listing"), Some(ruleset));
    });
}
