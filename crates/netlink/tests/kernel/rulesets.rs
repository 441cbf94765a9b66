//! Rulesets to commit: one with everything in the model, and random ones.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use policy::model::Family;
use proptest::prelude::*;
use ruleset::{
    Action, Base, Chain, CounterMap, CtStates, Hook, IntervalSet, Match, PortMap, Rule, Ruleset, Set, Side, VerdictMap, merge, previous,
};

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub const SIDES: [Side; 2] = [Side::Source, Side::Destination];

pub fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { matches, counter: None, action }
}

pub fn addresses<T: FromIterator<IpAddr>>(texts: &[&str]) -> T {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

/// The frame that every ruleset here has: two sets, two maps, counter maps, counters, chains `a` and `b` to go to, and a base chain of each hook.
pub fn frame() -> Ruleset {
    let set = |family, texts: &[&str]| Set { family, elements: addresses(texts) };
    let map = |family, texts: &[(&str, &str)]| VerdictMap {
        family,
        elements: texts.iter().map(|(key, chain)| (key.parse::<IpAddr>().expect("an address"), (*chain).to_owned())).collect(),
    };
    let intervals = |family, texts: &[&str]| IntervalSet { family, ranges: merge(&texts.iter().map(|text| net(text)).collect(), family) };
    let ports = |ranges, texts: &[(u16, u16, &str)]| {
        let elements = texts.iter().map(|(from, to, chain)| (*from, (*to, (*chain).to_owned()))).collect();
        Arc::new(PortMap { ranges, elements })
    };
    let counted = |family, ranges, texts: &[(&str, &str, &str)]| {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let element = |(first, last, counter): &(&str, &str, &str)| (address(first), (address(last), (*counter).into()));
        CounterMap { family, ranges, elements: texts.iter().map(element).collect() }
    };
    let base = |hook, priority| Arc::new(Chain { base: Some(Base { hook, priority }), rules: Vec::new() });
    Ruleset {
        counters: OrdSet::from_iter(["c".to_string(), "d".into(), "in/shop/web.v2/sgr-00f".into(), "n".repeat(255)]),
        sets: OrdMap::from_iter([
            ("s4".to_string(), set(Family::V4, &["10.0.0.1", "10.0.0.2", "255.255.255.255", "0.0.0.0"])),
            ("s6".to_string(), set(Family::V6, &["2001:db8::1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])),
            ("empty".to_string(), set(Family::V4, &[])),
        ]),
        intervals: OrdMap::from_iter([
            ("i4".to_string(), intervals(Family::V4, &["0.0.0.0/32", "10.0.0.0/8", "192.0.2.1/32", "255.255.255.254/31"])),
            ("i6".to_string(), intervals(Family::V6, &["::/127", "2001:db8::/32", "ffff::/16"])),
            ("none".to_string(), intervals(Family::V6, &[])),
            ("every".to_string(), intervals(Family::V4, &["0.0.0.0/0"])),
        ]),
        maps: OrdMap::from_iter([
            ("m4".to_string(), map(Family::V4, &[("10.0.0.1", "a"), ("10.0.0.2", "b")])),
            ("m6".to_string(), map(Family::V6, &[("2001:db8::1", "a")])),
        ]),
        port_maps: OrdMap::from_iter([
            ("ports".to_string(), ports(false, &[(0, 0, "a"), (443, 443, "b"), (65535, 65535, "a")])),
            ("port-ranges".to_string(), ports(true, &[(0, 79, "a"), (80, 80, "b"), (81, 90, "a"), (8000, 65535, "b")])),
            ("some-ranges".to_string(), ports(true, &[(1, 1, "a"), (81, 90, "b")])),
            ("no-ports".to_string(), ports(true, &[])),
        ]),
        counter_maps: OrdMap::from_iter([
            ("k4".to_string(), counted(Family::V4, false, &[("0.0.0.0", "0.0.0.0", "c"), ("255.255.255.255", "255.255.255.255", "d")])),
            ("k6".to_string(), counted(Family::V6, true, &[("::", "::ff", "c"), ("::100", "::1ff", "d"), ("2001:db8::", "ffff::", "c")])),
            ("kr4".to_string(), counted(Family::V4, true, &[("0.0.0.0", "10.0.0.0", "d"), ("10.0.0.1", "255.255.255.255", "c")])),
            ("not-counted".to_string(), counted(Family::V6, false, &[])),
        ]),
        chains: OrdMap::from_iter([
            ("a".to_string(), Arc::default()),
            ("b".to_string(), Arc::default()),
            ("forward".to_string(), base(Hook::Forward, -6)),
            ("forward-2".to_string(), base(Hook::Forward, i32::MAX)),
            ("input".to_string(), base(Hook::Input, i32::MIN)),
            ("output".to_string(), base(Hook::Output, 0)),
        ]),
    }
}

/// States as bits.
fn states(bits: u8) -> CtStates {
    let has = |place: u8| bits & (1 << place) != 0;
    CtStates { established: has(0), related: has(1), new: has(2), invalid: has(3), untracked: has(4) }
}

/// Every match and every action there is, at each of their edges.
pub fn everything() -> Ruleset {
    let mut rules = Vec::new();
    for bits in 1..32 {
        rules.push(rule(vec![Match::CtState(states(bits))], Action::Accept));
    }
    for family in FAMILIES {
        let number = if family == Family::V4 { 1 } else { 58 };
        rules.push(rule(vec![Match::Family(family)], Action::Drop));
        // `nft` makes one test of these two.
        rules.push(rule(vec![Match::L4Proto(number), Match::IcmpType(family, 3), Match::IcmpCode(family, 4)], Action::Accept));
        rules.push(rule(vec![Match::L4Proto(number), Match::IcmpType(family, 255)], Action::Accept));
        rules.push(rule(vec![Match::L4Proto(number), Match::IcmpCode(family, 0)], Action::Accept));
        for side in SIDES {
            let (set, map) = if family == Family::V4 { ("s4", "m4") } else { ("s6", "m6") };
            let in_set = Match::InSet { side, family, set: set.into() };
            let lookup = Action::Lookup { side, family, map: map.into() };
            rules.push(rule(vec![in_set.clone()], Action::Return));
            let ranges = if family == Family::V4 { "i4" } else { "i6" };
            rules.push(rule(vec![Match::InSet { side, family, set: ranges.into() }], Action::Return));
            let counted = |map: &str| Match::CountedIn { side, family, map: map.into() };
            let maps = if family == Family::V4 { ["k4", "kr4"] } else { ["not-counted", "k6"] };
            rules.push(rule(vec![counted(maps[0])], Action::Accept));
            rules.push(rule(vec![Match::L4Proto(6), Match::Family(family), counted(maps[1])], Action::Continue));
            rules.push(rule(vec![in_set.clone(), counted(maps[1])], lookup.clone()));
            rules.push(rule(vec![], lookup.clone()));
            rules.push(rule(vec![in_set.clone()], lookup.clone()));
            // A test of the family that the rule itself asks for is not the one that belongs to the address.
            rules.push(rule(vec![Match::Family(family), in_set.clone()], lookup.clone()));
            rules.push(rule(vec![Match::Family(family)], lookup.clone()));
            rules.push(rule(vec![Match::Family(family), Match::L4Proto(6), in_set.clone(), in_set], lookup.clone()));
            rules.push(Rule { matches: vec![Match::Family(family)], counter: Some("c".into()), action: lookup });
            let top = if family == Family::V4 { 32 } else { 128 };
            let address: IpAddr = if family == Family::V4 { [172, 31, 255, 254].into() } else { [0x2001, 0xdb8, 1, 2, 3, 4, 5, 6].into() };
            for prefix in 0..=top {
                let net = IpNet::new(address, prefix).expect("a length within the family").trunc();
                rules.push(rule(vec![Match::InNet { side, net }], Action::Accept));
            }
        }
    }
    rules.push(rule(vec![Match::Family(Family::V4), Match::Family(Family::V6)], Action::Drop));
    rules.push(rule(vec![Match::FromLoopback], Action::Accept));
    rules.push(rule(vec![Match::ToLoopback, Match::Family(Family::V6)], Action::Accept));
    for protocol in 0..=255 {
        rules.push(rule(vec![Match::L4Proto(protocol)], Action::Accept));
    }
    for protocol in [6, 17, 132] {
        for (from, to) in [(80, 80), (80, 90), (0, 0), (0, 65535), (65535, 65535)] {
            rules.push(rule(vec![Match::L4Proto(protocol), Match::DestinationPorts { from, to }], Action::Accept));
        }
        let both = vec![Match::L4Proto(protocol), Match::SourcePort(67), Match::DestinationPorts { from: 68, to: 68 }];
        rules.push(rule(both, Action::Accept));
        for map in ["ports", "port-ranges", "some-ranges", "no-ports"] {
            rules.push(rule(vec![Match::L4Proto(protocol)], Action::PortLookup(map.into())));
        }
    }
    rules.push(rule(vec![Match::L4Proto(6)], Action::RejectTcpReset));
    let actions =
        [Action::RejectAdminProhibited, Action::Jump("a".into()), Action::Goto("b".into()), Action::Return, Action::Drop, Action::Continue];
    for action in actions {
        rules.push(Rule { matches: vec![], counter: Some("in/shop/web.v2/sgr-00f".into()), action });
    }
    let mut ruleset = frame();
    Arc::make_mut(ruleset.chains.get_mut("forward").expect("in the frame")).rules = rules;
    ruleset
}

pub fn family() -> impl Strategy<Value = Family> {
    prop::sample::select(&FAMILIES[..])
}

fn side() -> impl Strategy<Value = Side> {
    prop::sample::select(&SIDES[..])
}

/// An address of a small world, so that elements meet.
pub fn address(family: Family) -> impl Strategy<Value = IpAddr> {
    any::<u8>().prop_map(move |last| match family {
        Family::V4 => IpAddr::from([10, 0, 0, last]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
    })
}

fn network() -> impl Strategy<Value = IpNet> {
    let any_address = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (any_address, any::<u8>()).prop_map(|(address, prefix)| {
        let top = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, prefix % (top + 1)).expect("a length within the family").trunc()
    })
}

/// What may stand in a rule in any place; ports and ICMP stand behind their protocol.
fn conditions() -> impl Strategy<Value = Vec<Match>> {
    let set = |family, ranges| match (family, ranges) {
        (Family::V4, false) => "s4",
        (Family::V6, false) => "s6",
        (Family::V4, true) => "i4",
        (Family::V6, true) => "i6",
    };
    prop_oneof![
        (1..32_u8).prop_map(|bits| vec![Match::CtState(states(bits))]),
        family().prop_map(|family| vec![Match::Family(family)]),
        any::<u8>().prop_map(|protocol| vec![Match::L4Proto(protocol)]),
        (side(), family(), any::<bool>()).prop_map(move |(side, family, ranges)| vec![Match::InSet {
            side,
            family,
            set: set(family, ranges).into()
        }]),
        any::<bool>().prop_map(|from| vec![if from { Match::FromLoopback } else { Match::ToLoopback }]),
        (side(), network()).prop_map(|(side, net)| vec![Match::InNet { side, net }]),
        (prop::sample::select(&[6_u8, 17, 132][..]), any::<u16>(), any::<u16>(), any::<bool>()).prop_map(
            |(protocol, one, other, source)| {
                let mut conditions = vec![Match::L4Proto(protocol)];
                if source {
                    conditions.push(Match::SourcePort(other));
                }
                conditions.push(Match::DestinationPorts { from: one.min(other), to: one.max(other) });
                conditions
            }
        ),
        (family(), any::<u8>(), prop::option::of(any::<u8>())).prop_map(|(family, kind, code)| {
            let number = if family == Family::V4 { 1 } else { 58 };
            let mut conditions = vec![Match::L4Proto(number), Match::IcmpType(family, kind)];
            conditions.extend(code.map(|code| Match::IcmpCode(family, code)));
            conditions
        }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let plain =
        [Action::Accept, Action::Drop, Action::RejectAdminProhibited, Action::Jump("a".into()), Action::Goto("b".into()), Action::Return];
    prop_oneof![
        prop::sample::select(plain.to_vec()),
        (side(), family()).prop_map(|(side, family)| {
            Action::Lookup { side, family, map: if family == Family::V4 { "m4".into() } else { "m6".into() } }
        }),
    ]
}

fn random_rule() -> impl Strategy<Value = Rule> {
    let counter = prop::option::of(Just("c".to_owned()));
    (prop::collection::vec(conditions(), 0..5), counter, action()).prop_map(|(matches, counter, action)| Rule {
        matches: matches.concat(),
        counter,
        action,
    })
}

/// The frame with random elements, and random rules in its base chains.
pub fn random() -> impl Strategy<Value = Ruleset> {
    let elements = |family| prop::collection::btree_set(address(family), 0..40);
    let chain = || prop::sample::select(&["a", "b"][..]).prop_map(str::to_owned);
    let entries = move |family| prop::collection::btree_map(address(family), chain(), 0..40);
    let rules = || prop::collection::vec(random_rule(), 0..8);
    // Networks that overlap, touch and contain one another (P53).
    let nets = |family: Family| {
        let top = if family == Family::V4 { 32 } else { 128 };
        let net = (address(family), 0..=8_u8).prop_map(move |(address, wider)| IpNet::new(address, top - wider).expect("a length").trunc());
        prop::collection::btree_set(net, 0..30).prop_map(move |nets| merge(&nets, family))
    };
    // Ranges between some ports, every other of them or all: they touch.
    let port_ranges = || {
        (prop::collection::btree_set(any::<u16>(), 0..12), any::<bool>()).prop_map(|edges| {
            let (edges, all): (Vec<u16>, bool) = (edges.0.into_iter().collect(), edges.1);
            let pieces = edges.windows(2).enumerate().filter(|(place, _)| all || place % 2 == 0);
            let piece =
                |(place, edges): (usize, &[u16])| (edges[0], (edges[1] - 1, if place % 3 == 0 { "a".to_owned() } else { "b".to_owned() }));
            PortMap { ranges: true, elements: pieces.map(piece).collect() }
        })
    };
    // Ranges between some addresses, every other of them or all: they touch. Or each address by itself.
    let counted = |family: Family, ranges: bool| {
        (prop::collection::btree_set(address(family), 0..30), any::<bool>(), any::<bool>()).prop_map(move |(edges, all, other)| {
            let edges: Vec<IpAddr> = edges.into_iter().collect();
            let pieces = edges.windows(2).enumerate().filter(|(place, _)| all || place % 2 == 0);
            let piece = |(place, edges): (usize, &[IpAddr])| {
                let last = if ranges { previous(edges[1]).expect("not the first of all") } else { edges[0] };
                (edges[0], (last, if (place % 3 == 0) == other { "c" } else { "d" }.into()))
            };
            CounterMap { family, ranges, elements: pieces.map(piece).collect() }
        })
    };
    let parts = (elements(Family::V4), elements(Family::V6), entries(Family::V4), entries(Family::V6), rules(), rules());
    let counted = (counted(Family::V4, false), counted(Family::V6, true), counted(Family::V4, true));
    let all = (parts, nets(Family::V4), nets(Family::V6), port_ranges(), counted);
    all.prop_map(|((s4, s6, m4, m6, forward, input), i4, i6, ports, (k4, k6, kr4))| {
        let mut ruleset = frame();
        ruleset.counter_maps.extend([("k4".to_owned(), k4), ("k6".to_owned(), k6), ("kr4".to_owned(), kr4)]);
        ruleset.port_maps.insert("port-ranges".into(), ports.into());
        ruleset.sets.insert("s4".into(), Set { family: Family::V4, elements: s4.into() });
        ruleset.sets.insert("s6".into(), Set { family: Family::V6, elements: s6.into() });
        ruleset.intervals.insert("i4".into(), IntervalSet { family: Family::V4, ranges: i4 });
        ruleset.intervals.insert("i6".into(), IntervalSet { family: Family::V6, ranges: i6 });
        ruleset.maps.insert("m4".into(), VerdictMap { family: Family::V4, elements: m4.into() });
        ruleset.maps.insert("m6".into(), VerdictMap { family: Family::V6, elements: m6.into() });
        Arc::make_mut(ruleset.chains.entry("forward".into()).or_default()).rules = forward;
        Arc::make_mut(ruleset.chains.entry("input".into()).or_default()).rules = input;
        ruleset
    })
}
