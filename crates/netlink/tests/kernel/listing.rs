//! `nft list` shows what we send as people write it, and what `nft` makes of our text is what we send.

use std::sync::Arc;

use netlink::Nftables;
use policy::model::Family;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ruleset::{Action, Chain, CounterMap, IntervalSet, Kernel, Match, PortMap, Rule, Ruleset, Side, Transaction, lower, next};

use crate::namespace::{in_namespace, list, nft_file};
use crate::rulesets::{everything, frame, net, rule};

/// The rules of chain `forward`, as `nft` prints them with numbers as numbers.
fn listed(rules: Vec<Rule>) -> Vec<String> {
    in_namespace(move || {
        let mut ruleset = frame();
        Arc::make_mut(ruleset.chains.entry("forward".into()).or_default()).rules = rules;
        Nftables::open().expect("a netlink socket").commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
        let text = list();
        let (_, chain) = text.split_once("chain forward {").expect("the chain");
        chain.lines().skip(2).map_while(|line| line.strip_prefix("\t\t")).map(str::to_owned).collect()
    })
}

#[test]
fn rules_read_as_people_write_them() {
    let in_set = |side, family, set: &str| Match::InSet { side, family, set: set.into() };
    let ports = |from, to| Match::DestinationPorts { from, to };
    let lookup = |side, family, map: &str| Action::Lookup { side, family, map: map.into() };
    let counted = |rule: Rule| Rule { counter: Some("c".into()), ..rule };
    let states = ruleset::CtStates { established: true, related: true, ..Default::default() };
    let source = |text| Match::InNet { side: Side::Source, net: net(text) };
    let cases = [
        (rule(vec![Match::CtState(states)], Action::Accept), "ct state 0x2,0x4 accept"),
        (
            counted(rule(vec![in_set(Side::Source, Family::V4, "s4"), Match::L4Proto(6), ports(80, 80)], Action::Accept)),
            "ip saddr @s4 tcp dport 80 counter name \"c\" accept",
        ),
        (
            rule(vec![in_set(Side::Destination, Family::V6, "s6"), Match::L4Proto(17), ports(80, 90)], Action::Return),
            "ip6 daddr @s6 udp dport 80-90 return",
        ),
        (rule(vec![Match::L4Proto(132), ports(36412, 36412)], Action::Accept), "sctp dport 36412 accept"),
        (rule(vec![Match::L4Proto(17), Match::SourcePort(67), ports(68, 68)], Action::Accept), "udp sport 67 udp dport 68 accept"),
        (rule(vec![Match::L4Proto(50)], Action::Accept), "meta l4proto 50 accept"),
        (rule(vec![source("10.0.0.0/8")], Action::Drop), "ip saddr 10.0.0.0/8 drop"),
        (rule(vec![source("10.0.0.0/9")], Action::Drop), "ip saddr 10.0.0.0/9 drop"),
        (rule(vec![source("10.0.0.1/32")], Action::Drop), "ip saddr 10.0.0.1 drop"),
        (rule(vec![source("2001:db8::/32")], Action::Drop), "ip6 saddr 2001:db8::/32 drop"),
        (rule(vec![source("2001:db8:8000::/33")], Action::Drop), "ip6 saddr 2001:db8:8000::/33 drop"),
        (rule(vec![source("0.0.0.0/0")], Action::Accept), "ip saddr 0.0.0.0/0 accept"),
        (rule(vec![Match::Family(Family::V6), Match::L4Proto(50)], Action::Accept), "meta nfproto 10 meta l4proto 50 accept"),
        // To nft the protocol implies the family; what the kernel has still tests it.
        (rule(vec![Match::Family(Family::V6), Match::L4Proto(58)], Action::Accept), "meta l4proto 58 accept"),
        (rule(vec![Match::L4Proto(1), Match::IcmpType(Family::V4, 8)], Action::Accept), "icmp type 8 accept"),
        (
            rule(vec![Match::L4Proto(58), Match::IcmpType(Family::V6, 1), Match::IcmpCode(Family::V6, 4)], Action::Accept),
            "icmpv6 type 1 icmpv6 code 4 accept",
        ),
        (counted(rule(vec![Match::L4Proto(6)], Action::RejectTcpReset)), "meta l4proto 6 counter name \"c\" reject with tcp reset"),
        (rule(vec![], Action::RejectAdminProhibited), "reject with icmpx 3"),
        (rule(vec![], Action::Jump("a".into())), "jump a"),
        (rule(vec![], Action::Goto("b".into())), "goto b"),
        (rule(vec![], lookup(Side::Source, Family::V4, "m4")), "ip saddr vmap @m4"),
        (rule(vec![], lookup(Side::Destination, Family::V6, "m6")), "ip6 daddr vmap @m6"),
        (rule(vec![Match::L4Proto(6)], Action::PortLookup("ports".into())), "tcp dport vmap @ports"),
        (rule(vec![Match::L4Proto(132)], Action::PortLookup("port-ranges".into())), "sctp dport vmap @port-ranges"),
        (counted(rule(vec![], Action::Continue)), "counter name \"c\""),
    ];
    let (rules, expected): (Vec<Rule>, Vec<&str>) = cases.into_iter().unzip();
    assert_eq!(listed(rules), expected);
}

#[test]
fn sets_and_maps_show_addresses() {
    in_namespace(|| {
        Nftables::open().expect("a netlink socket").commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let text = list();
        for part in [
            "type ipv4_addr\n",
            "type ipv6_addr\n",
            "type ipv4_addr : verdict",
            "10.0.0.1 : goto a",
            "443 : jump b",
            "81-90 : jump a",
            "2001:db8::1",
            "255.255.255.255",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("type filter hook forward priority -6; policy accept;"), "{text}");
    });
}

/// What `nft` itself makes of the ruleset's text: its own listing of it, and how we read it.
fn by_nft(ruleset: &Ruleset) -> (String, Option<Ruleset>) {
    let text = ruleset.to_string();
    in_namespace(move || {
        nft_file(&text);
        (list(), Nftables::open().expect("a netlink socket").load().expect("a listing"))
    })
}

fn by_us(ruleset: &Ruleset) -> (String, Option<Ruleset>) {
    // One batch, in the order of `nft`: listings show things in the order in which they were made.
    let transaction = Transaction { ops: Transaction::replace(ruleset).ops.split_off(2) };
    in_namespace(move || {
        let mut kernel = Nftables::open().expect("a netlink socket");
        kernel.commit(&transaction).expect("a legal transaction");
        (list(), kernel.load().expect("a listing"))
    })
}

/// The text says of a network of length 0 only its family, so that is what `nft` sends. A range up to the last of all addresses it marks with
/// a note to itself, which is nothing that we write.
fn as_written(mut ruleset: Ruleset) -> Ruleset {
    let shorter =
        |set: IntervalSet| IntervalSet { ranges: set.ranges.into_iter().filter(|(_, last)| next(*last).is_some()).collect(), ..set };
    ruleset.intervals = ruleset.intervals.into_iter().map(|(name, set)| (name, shorter(set))).collect();
    let within = |mut map: Arc<PortMap>| {
        if map.ranges {
            Arc::make_mut(&mut map).elements.retain(|_, (last, _)| *last < u16::MAX);
        }
        map
    };
    ruleset.port_maps = ruleset.port_maps.into_iter().map(|(name, map)| (name, within(map))).collect();
    let counted = |map: CounterMap| {
        let fits = |last| !map.ranges || next(last).is_some();
        CounterMap {
            elements: map.elements.iter().filter(|(_, (last, _))| fits(*last)).map(|(first, to)| (*first, to.clone())).collect(),
            ..map
        }
    };
    ruleset.counter_maps = ruleset.counter_maps.into_iter().map(|(name, map)| (name, counted(map))).collect();
    let said = |mut chain: Arc<Chain>| {
        for test in Arc::make_mut(&mut chain).rules.iter_mut().flat_map(|rule| &mut rule.matches) {
            if let Match::InNet { net, .. } = test
                && net.prefix_len() == 0
            {
                *test = Match::Family(Family::of(net.addr()));
            }
        }
        chain
    };
    ruleset.chains = ruleset.chains.into_iter().map(|(name, chain)| (name, said(chain))).collect();
    ruleset
}

/// Whether `nft` keeps the rule as it is written. A test of the family in front of an address is one too many for it, and it refuses rules
/// that say two families.
fn kept_by_nft(rule: &Rule) -> bool {
    let explicit = rule.matches.iter().any(|test| matches!(test, Match::Family(_)));
    let addressed = rule.matches.iter().any(|test| matches!(test, Match::InSet { .. } | Match::CountedIn { .. } | Match::InNet { .. }));
    let lookup = matches!(rule.action, Action::Lookup { .. });
    let families = rule.matches.iter().filter(|test| matches!(test, Match::Family(_))).count();
    !(explicit && (addressed || lookup) || families > 1)
}

#[test]
fn nft_and_we_say_the_same() {
    let mut ruleset = as_written(everything());
    let rules = &mut Arc::make_mut(ruleset.chains.entry("forward".into()).or_default()).rules;
    let all = rules.len();
    rules.retain(kept_by_nft);
    assert!(rules.len() > all - 25, "only a few are left out");
    let ((their_text, theirs), (our_text, ours)) = (by_nft(&ruleset), by_us(&ruleset));
    assert_eq!(our_text, their_text);
    assert_eq!(theirs.as_ref(), Some(&ruleset));
    assert_eq!(ours, Some(ruleset));
}

#[test]
fn nft_and_we_say_the_same_of_what_policies_become() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&testkit::node_policy(), |policy| {
        let lowered = lower(&policy);
        let (_, loaded) = by_us(&lowered);
        prop_assert_eq!(loaded.as_ref(), Some(&lowered));
        let ruleset = as_written(lowered);
        let ((their_text, theirs), (our_text, ours)) = (by_nft(&ruleset), by_us(&ruleset));
        prop_assert_eq!(our_text, their_text);
        prop_assert_eq!(theirs.as_ref(), Some(&ruleset));
        prop_assert_eq!(ours, Some(ruleset));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A set without a name is filled once and is the rule's own: every change of it would be another rule.
#[test]
fn every_set_has_a_name() {
    in_namespace(|| {
        Nftables::open().expect("a netlink socket").commit(&Transaction::replace(&everything())).expect("a legal transaction");
        let text = list();
        let chains = text.split("\tchain ").skip(1).flat_map(|chain| chain.lines().skip(1).take_while(|line| line.starts_with("\t\t")));
        let rules: Vec<&str> = chains.collect();
        assert!(rules.iter().filter(|rule| rule.contains('@')).count() > 5, "{text}");
        assert!(rules.iter().all(|rule| !rule.contains('{')), "{text}");
    });
}
