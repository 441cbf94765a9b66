//! Each refusal of the fake kernel, and that a refused transaction leaves nothing.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, ordmap, ordset};
use policy::model::Family::{self, V4, V6};
use ruleset::{
    Action, Base, Chain, CounterMap, CtStates, FakeKernel, Hook, IntervalSet, Kernel, Kind, Match, Op, Reason, Refused, Rule, Ruleset, Set,
    Side, VerdictMap,
};

use crate::build::{address, addresses};

/// A small table that uses all it has: base jumps to leaf, tests set, looks map up; map leads to leaf.
fn table() -> Ruleset {
    let rules = vec![
        Rule { matches: vec![counted_in("counted", V4)], counter: None, action: Action::Accept },
        Rule { matches: vec![in_set("ranges", V4)], counter: None, action: Action::Return },
        Rule { matches: vec![in_set("set", V4)], counter: Some("counter".into()), action: Action::Jump("leaf".into()) },
        Rule { matches: vec![], counter: None, action: look_up("map", V4) },
    ];
    let base = Base { hook: Hook::Forward, priority: 0 };
    Ruleset {
        counters: ordset!["counter".to_string()],
        sets: ordmap! {"set".to_string() => Set { family: V4, elements: addresses(&["10.0.0.1"]) }},
        intervals: ordmap! {"ranges".to_string() => ranges(&[("10.0.0.4", "10.0.0.7")])},
        maps: ordmap! {"map".to_string() => VerdictMap { family: V4, elements: ordmap! {address("10.0.0.1") => "leaf".to_string()} }},
        port_maps: OrdMap::new(),
        counter_maps: ordmap! {"counted".to_string() => counted(true, &[("10.0.0.4", "10.0.0.7")])},
        chains: ordmap! {"base".to_string() => Chain { base: Some(base), rules }.into(), "leaf".to_string() => Arc::default()},
    }
}

fn ranges(ranges: &[(&str, &str)]) -> IntervalSet {
    IntervalSet { family: V4, ranges: intervals(ranges) }
}

fn intervals(ranges: &[(&str, &str)]) -> OrdMap<IpAddr, IpAddr> {
    ranges.iter().map(|(first, last)| (address(first), address(last))).collect()
}

fn in_set(set: &str, family: Family) -> Match {
    Match::InSet { side: Side::Source, family, set: set.into() }
}

fn counted_in(map: &str, family: Family) -> Match {
    Match::CountedIn { side: Side::Source, family, map: map.into() }
}

fn counted(ranges: bool, elements: &[(&str, &str)]) -> CounterMap {
    let element = |(first, last): &(&str, &str)| (address(first), (address(last), "counter".into()));
    CounterMap { family: V4, ranges, elements: elements.iter().map(element).collect() }
}

fn look_up(map: &str, family: Family) -> Action {
    Action::Lookup { side: Side::Source, family, map: map.into() }
}

fn rule(matches: Vec<Match>, action: Action) -> Op {
    Op::AddRule("leaf".into(), Rule { matches, counter: None, action })
}

fn commit(ops: Vec<Op>) -> Result<Ruleset, Refused> {
    let mut kernel = FakeKernel::with(table());
    kernel.commit(&ruleset::Transaction { ops })?;
    Ok(kernel.load()?.unwrap_or_default())
}

/// The last step is refused for this reason.
fn refused(ops: Vec<Op>, reason: Reason) {
    let step = Some(ops.len() - 1);
    assert_eq!(commit(ops), Err(Refused { step, reason }));
}

fn missing(kind: Kind, name: &str) -> Reason {
    Reason::Missing(kind, name.into())
}

/// The kernel refuses overlaps; what touches would be read back as it likes (P53).
#[test]
fn ranges_neither_overlap_nor_touch() {
    let add = |first: &str, last: &str| Op::AddIntervals("ranges".into(), intervals(&[(first, last)]));
    let overlap = |first: &str, last: &str| Reason::Overlap("ranges".into(), address(first), address(last));
    for (first, last) in
        [("10.0.0.5", "10.0.0.5"), ("10.0.0.0", "10.0.0.4"), ("10.0.0.0", "10.0.0.255"), ("10.0.0.0", "10.0.0.3"), ("10.0.0.8", "10.0.0.9")]
    {
        refused(vec![add(first, last)], overlap(first, last));
    }
    refused(vec![add("10.0.0.9", "10.0.0.8")], Reason::Malformed("10.0.0.9-10.0.0.8".into()));
    let same = commit(vec![add("10.0.0.4", "10.0.0.7")]).unwrap();
    assert_eq!(same, table(), "the same once more");
    let delete = |first: &str, last: &str| Op::DeleteIntervals("ranges".into(), intervals(&[(first, last)]));
    refused(vec![delete("10.0.0.4", "10.0.0.6")], Reason::MissingElement("ranges".into(), address("10.0.0.4")));
    let wider = commit(vec![delete("10.0.0.4", "10.0.0.7"), add("10.0.0.0", "10.0.0.9")]).unwrap();
    assert_eq!(wider.intervals["ranges"], ranges(&[("10.0.0.0", "10.0.0.9")]));
    refused(vec![Op::DeleteIntervalSet("ranges".into())], Reason::InUse(Kind::Set, "ranges".into()));
    refused(vec![Op::DeleteIntervalSet("set".into())], missing(Kind::Set, "set"));
    refused(vec![Op::AddSet("ranges".into(), V4)], Reason::Exists(Kind::Set, "ranges".into()));
    refused(vec![Op::AddIntervalSet("set".into(), V4)], Reason::Exists(Kind::Set, "set".into()));
}

/// Ranges of a counter map may touch, for each has its own counter.
#[test]
fn what_is_counted_is_counted_once() {
    let add = |first: &str, last: &str| Op::AddCounted("counted".into(), counted(true, &[(first, last)]));
    let delete = |first: &str, last: &str| Op::DeleteCounted("counted".into(), counted(true, &[(first, last)]));
    for (first, last) in [("10.0.0.5", "10.0.0.5"), ("10.0.0.0", "10.0.0.4"), ("10.0.0.0", "10.0.0.255")] {
        refused(vec![add(first, last)], Reason::Overlap("counted".into(), address(first), address(last)));
    }
    refused(vec![add("10.0.0.9", "10.0.0.8")], Reason::Malformed("10.0.0.9-10.0.0.8".into()));
    refused(vec![add("fd00::1", "fd00::1")], Reason::WrongFamily("counted".into(), address("fd00::1")));
    assert_eq!(commit(vec![add("10.0.0.4", "10.0.0.7")]), Ok(table()), "the same once more");
    let more = commit(vec![add("10.0.0.8", "10.0.0.9"), add("10.0.0.0", "10.0.0.3")]).unwrap();
    let three = [("10.0.0.0", "10.0.0.3"), ("10.0.0.4", "10.0.0.7"), ("10.0.0.8", "10.0.0.9")];
    assert_eq!(more.counter_maps["counted"], counted(true, &three));
    refused(vec![delete("10.0.0.4", "10.0.0.6")], Reason::MissingElement("counted".into(), address("10.0.0.4")));
    refused(vec![Op::AddCounted("counted".into(), counted(false, &[]))], Reason::Malformed("counted".into()));
    refused(vec![Op::AddCounted("map".into(), counted(true, &[]))], missing(Kind::Map, "map"));
    let single = Op::AddCounterMap("single".into(), V4, false);
    let range = Op::AddCounted("single".into(), counted(false, &[("10.0.0.1", "10.0.0.2")]));
    refused(vec![single.clone(), range], Reason::Malformed("10.0.0.1-10.0.0.2".into()));
    refused(vec![Op::AddCounterMap("counted".into(), V4, true)], Reason::Exists(Kind::Map, "counted".into()));
    refused(vec![Op::AddCounterMap("set".into(), V4, true)], Reason::Exists(Kind::Set, "set".into()));
    refused(vec![rule(vec![counted_in("x", V4)], Action::Accept)], missing(Kind::Map, "x"));
    refused(vec![rule(vec![counted_in("counted", V6)], Action::Accept)], Reason::WrongRuleFamily("counted".into()));

    // A counter that a map has is in use, and so is a map that a rule looks into.
    let without_rules = [Op::FlushChain("base".into())];
    refused([&without_rules[..], &[Op::DeleteCounter("counter".into())]].concat(), Reason::InUse(Kind::Counter, "counter".into()));
    refused(vec![Op::DeleteMap("counted".into())], Reason::InUse(Kind::Map, "counted".into()));
    commit([&without_rules[..], &[delete("10.0.0.4", "10.0.0.7"), Op::DeleteCounter("counter".into())]].concat()).unwrap();
    let unknown = CounterMap { elements: ordmap! {address("10.0.1.1") => (address("10.0.1.1"), "x".into())}, ..counted(true, &[]) };
    refused(vec![Op::AddCounted("counted".into(), unknown)], missing(Kind::Counter, "x"));
}

#[test]
fn nothing_without_a_table() {
    for op in [Op::DeleteTable, Op::AddCounter("counter".into()), Op::FlushChain("leaf".into())] {
        let mut kernel = FakeKernel::new();
        let refusal = kernel.commit(&ruleset::Transaction { ops: vec![op] });
        assert_eq!(refusal, Err(Refused { step: Some(0), reason: Reason::NoTable }));
        assert_eq!((kernel.load(), kernel.commits()), (Ok(None), 0));
    }
    refused(vec![Op::DeleteTable, Op::AddSet("set".into(), V4)], Reason::NoTable);
}

#[test]
fn a_table_may_be_added_twice_and_goes_with_all_in_it() {
    assert_eq!(commit(vec![Op::AddTable]), Ok(table()));
    assert_eq!(commit(vec![Op::AddTable, Op::DeleteTable, Op::AddTable]), Ok(Ruleset::default()));
}

#[test]
fn a_refused_transaction_leaves_nothing() {
    let mut kernel = FakeKernel::with(table());
    let ops = vec![Op::AddCounter("new".into()), Op::DeleteElements("set".into(), addresses(&["10.0.0.1"])), Op::DeleteSet("gone".into())];
    kernel.commit(&ruleset::Transaction { ops }).unwrap_err();
    assert_eq!((kernel.table(), kernel.commits()), (Some(&table()), 0));
    kernel.commit(&ruleset::Transaction { ops: vec![Op::AddCounter("new".into())] }).unwrap();
    assert_eq!(kernel.commits(), 1);
}

#[test]
fn what_is_there_is_not_made_again() {
    refused(vec![Op::AddCounter("counter".into())], Reason::Exists(Kind::Counter, "counter".into()));
    refused(vec![Op::AddSet("set".into(), V4)], Reason::Exists(Kind::Set, "set".into()));
    refused(vec![Op::AddMap("map".into(), V4)], Reason::Exists(Kind::Map, "map".into()));
    refused(vec![Op::AddChain("leaf".into(), None)], Reason::Exists(Kind::Chain, "leaf".into()));
    refused(vec![Op::AddSet("map".into(), V4)], Reason::Exists(Kind::Map, "map".into()));
    refused(vec![Op::AddMap("set".into(), V4)], Reason::Exists(Kind::Set, "set".into()));
}

#[test]
fn what_is_not_there_is_not_deleted_or_changed() {
    refused(vec![Op::DeleteCounter("x".into())], missing(Kind::Counter, "x"));
    refused(vec![Op::DeleteSet("x".into())], missing(Kind::Set, "x"));
    refused(vec![Op::DeleteSet("map".into())], missing(Kind::Set, "map"));
    refused(vec![Op::DeleteMap("x".into())], missing(Kind::Map, "x"));
    refused(vec![Op::DeleteChain("x".into())], missing(Kind::Chain, "x"));
    refused(vec![Op::FlushChain("x".into())], missing(Kind::Chain, "x"));
    refused(vec![Op::AddElements("x".into(), addresses(&["10.0.0.1"]))], missing(Kind::Set, "x"));
    refused(vec![Op::DeleteElements("x".into(), addresses(&["10.0.0.1"]))], missing(Kind::Set, "x"));
    refused(vec![Op::AddMapElements("x".into(), ordmap! {address("10.0.0.1") => "leaf".into()})], missing(Kind::Map, "x"));
    refused(vec![Op::DeleteMapElements("x".into(), addresses(&["10.0.0.1"]))], missing(Kind::Map, "x"));
    refused(vec![Op::AddRule("x".into(), Rule { matches: vec![], counter: None, action: Action::Drop })], missing(Kind::Chain, "x"));
}

#[test]
fn what_is_in_use_is_not_deleted() {
    refused(vec![Op::DeleteCounter("counter".into())], Reason::InUse(Kind::Counter, "counter".into()));
    refused(vec![Op::DeleteSet("set".into())], Reason::InUse(Kind::Set, "set".into()));
    refused(vec![Op::DeleteMap("map".into())], Reason::InUse(Kind::Map, "map".into()));
    refused(vec![Op::DeleteChain("leaf".into())], Reason::InUse(Kind::Chain, "leaf".into()));
    refused(vec![Op::DeleteChain("base".into())], Reason::NotEmpty("base".into()));
    let by_map_only = vec![Op::FlushChain("base".into()), Op::DeleteChain("leaf".into())];
    refused(by_map_only, Reason::InUse(Kind::Chain, "leaf".into()));
}

#[test]
fn what_nobody_uses_any_more_is_deleted() {
    let ops = vec![
        Op::FlushChain("base".into()),
        Op::DeleteMap("map".into()),
        Op::DeleteChain("leaf".into()),
        Op::DeleteChain("base".into()),
        Op::DeleteSet("set".into()),
        Op::DeleteIntervalSet("ranges".into()),
        Op::DeleteMap("counted".into()),
        Op::DeleteCounter("counter".into()),
    ];
    assert_eq!(commit(ops), Ok(Ruleset::default()));
}

#[test]
fn names_that_nft_cannot_read_are_refused() {
    for name in ["", "1a", "_a", "a b", "a{", "a\"", "ä", &"a".repeat(251)] {
        let bad = || Reason::BadName(name.into());
        refused(vec![Op::AddCounter(name.into())], bad());
        refused(vec![Op::AddSet(name.into(), V4)], bad());
        refused(vec![Op::AddMap(name.into(), V4)], bad());
        refused(vec![Op::AddChain(name.into(), None)], bad());
    }
    assert!(commit(vec![Op::AddCounter("a".repeat(250))]).is_ok());
}

#[test]
fn elements_are_of_their_sets_family() {
    refused(vec![Op::AddElements("set".into(), addresses(&["fd00::1"]))], Reason::WrongFamily("set".into(), address("fd00::1")));
    let element = ordmap! {address("fd00::1") => "leaf".into()};
    refused(vec![Op::AddMapElements("map".into(), element)], Reason::WrongFamily("map".into(), address("fd00::1")));
}

#[test]
fn an_element_may_be_added_twice_but_not_deleted_twice() {
    assert_eq!(commit(vec![Op::AddElements("set".into(), addresses(&["10.0.0.1"]))]), Ok(table()));
    assert_eq!(commit(vec![Op::AddMapElements("map".into(), ordmap! {address("10.0.0.1") => "leaf".into()})]), Ok(table()));
    let gone: OrdSet<IpAddr> = addresses(&["10.0.0.9"]);
    refused(vec![Op::DeleteElements("set".into(), gone.clone())], Reason::MissingElement("set".into(), address("10.0.0.9")));
    refused(vec![Op::DeleteMapElements("map".into(), gone)], Reason::MissingElement("map".into(), address("10.0.0.9")));
}

#[test]
fn a_key_is_not_led_elsewhere_without_deleting_it_first() {
    let elsewhere = || Op::AddMapElements("map".into(), ordmap! {address("10.0.0.1") => "other".into()});
    let other = || Op::AddChain("other".into(), None);
    refused(vec![other(), elsewhere()], Reason::KeyTaken("map".into(), address("10.0.0.1")));
    let done = commit(vec![other(), Op::DeleteMapElements("map".into(), addresses(&["10.0.0.1"])), elsewhere()]).unwrap();
    assert_eq!(done.maps["map"].elements[&address("10.0.0.1")], "other");
}

#[test]
fn nothing_leads_to_a_chain_that_is_missing_or_a_base() {
    refused(vec![rule(vec![], Action::Jump("x".into()))], missing(Kind::Chain, "x"));
    refused(vec![rule(vec![], Action::Goto("x".into()))], missing(Kind::Chain, "x"));
    refused(vec![rule(vec![], Action::Jump("base".into()))], Reason::BaseChain("base".into()));
    let element = |to: &str| Op::AddMapElements("map".into(), ordmap! {address("10.0.0.2") => to.into()});
    refused(vec![element("x")], missing(Kind::Chain, "x"));
    refused(vec![element("base")], Reason::BaseChain("base".into()));
}

#[test]
fn a_rule_names_only_what_there_is() {
    refused(vec![rule(vec![in_set("x", V4)], Action::Drop)], missing(Kind::Set, "x"));
    refused(vec![rule(vec![in_set("set", V6)], Action::Drop)], Reason::WrongRuleFamily("set".into()));
    refused(vec![rule(vec![], look_up("x", V4))], missing(Kind::Map, "x"));
    refused(vec![rule(vec![], look_up("map", V6))], Reason::WrongRuleFamily("map".into()));
    let counted = Rule { matches: vec![], counter: Some("x".into()), action: Action::Drop };
    refused(vec![Op::AddRule("leaf".into(), counted)], missing(Kind::Counter, "x"));
}

#[test]
fn a_test_of_the_payload_comes_after_its_protocol() {
    let ports = Match::DestinationPorts { from: 80, to: 80 };
    for test in [ports.clone(), Match::SourcePort(68), Match::IcmpType(V4, 8), Match::IcmpCode(V6, 0)] {
        let needs = || Reason::NeedsProtocol(test.to_string());
        refused(vec![rule(vec![test.clone()], Action::Drop)], needs());
        refused(vec![rule(vec![Match::L4Proto(47), test.clone()], Action::Drop)], needs());
        refused(vec![rule(vec![test.clone(), Match::L4Proto(6)], Action::Drop)], needs());
    }
    refused(vec![rule(vec![Match::L4Proto(58), Match::IcmpType(V4, 8)], Action::Drop)], Reason::NeedsProtocol("icmp type 8".into()));
    let reset = || Action::RejectTcpReset;
    refused(vec![rule(vec![], reset())], Reason::NeedsProtocol("reject with tcp reset".into()));
    refused(vec![rule(vec![Match::L4Proto(17)], reset())], Reason::NeedsProtocol("reject with tcp reset".into()));
    for number in [6, 17, 132] {
        assert!(commit(vec![rule(vec![Match::L4Proto(number), ports.clone()], Action::Drop)]).is_ok());
    }
    assert!(commit(vec![rule(vec![Match::L4Proto(6)], reset())]).is_ok());
    assert!(commit(vec![rule(vec![Match::L4Proto(1), Match::IcmpType(V4, 8), Match::IcmpCode(V4, 0)], Action::Drop)]).is_ok());
}

#[test]
fn what_can_never_be_said_is_refused() {
    let reversed = vec![Match::L4Proto(6), Match::DestinationPorts { from: 2, to: 1 }];
    refused(vec![rule(reversed, Action::Drop)], Reason::Malformed("th dport 2-1".into()));
    refused(vec![rule(vec![Match::CtState(CtStates::default())], Action::Drop)], Reason::Malformed("ct state ".into()));
    let host_bits = Match::InNet { side: Side::Source, net: "10.0.0.1/8".parse().unwrap() };
    refused(vec![rule(vec![host_bits], Action::Drop)], Reason::Malformed("ip saddr 10.0.0.1/8".into()));
}

#[test]
fn loops_are_refused_also_through_a_map() {
    let whole = |ops, name: &str| assert_eq!(commit(ops), Err(Refused { step: None, reason: Reason::Loop(name.into()) }));
    whole(vec![rule(vec![], Action::Jump("leaf".into()))], "leaf");
    whole(vec![rule(vec![], look_up("map", V4))], "leaf");
    whole(
        vec![
            Op::AddChain("one".into(), None),
            rule(vec![], Action::Goto("one".into())),
            Op::AddRule("one".into(), Rule { matches: vec![], counter: None, action: Action::Jump("leaf".into()) }),
        ],
        "leaf",
    );
}

/// Only the end of a batch counts, as in the kernel.
#[test]
fn a_loop_that_is_gone_at_the_end_is_none() {
    assert_eq!(commit(vec![rule(vec![], Action::Jump("leaf".into())), Op::FlushChain("leaf".into())]), Ok(table()));
}

/// Tried on 6.18: fifteen chains below the base are taken, sixteen are `EMLINK`.
#[test]
fn chains_are_sixteen_deep_at_most() {
    let deep = |below: usize| {
        let name = |depth: usize| if depth == 1 { "leaf".to_string() } else { format!("deep-{depth}") };
        let mut ops: Vec<Op> = (2..=below).map(|depth| Op::AddChain(name(depth), None)).collect();
        let jump = |depth: usize| Rule { matches: vec![], counter: None, action: Action::Jump(name(depth + 1)) };
        ops.extend((1..below).map(|depth| Op::AddRule(name(depth), jump(depth))));
        commit(ops)
    };
    assert!(deep(15).is_ok());
    assert_eq!(deep(16), Err(Refused { step: None, reason: Reason::TooDeep("base".into()) }));
}

#[test]
fn a_refusal_reads_as_a_sentence() {
    let refusal = commit(vec![Op::DeleteChain("leaf".into())]).unwrap_err();
    assert_eq!(refusal.to_string(), "refused at step 0: chain \"leaf\" is in use");
    let refusal = commit(vec![rule(vec![], Action::Jump("leaf".into()))]).unwrap_err();
    assert_eq!(refusal.to_string(), "refused at commit: chain \"leaf\" leads to itself");
}
