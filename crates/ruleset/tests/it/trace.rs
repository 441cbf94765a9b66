//! The trace walks as nftables walks.

use std::sync::Arc;

use policy::model::*;
use ruleset::{Action, Base, Chain, Hook, Match, Rule, Ruleset, Side, VerdictMap, lower, trace};

use crate::build::*;

fn packet(source: &str, destination: &str) -> Packet {
    let payload = Payload::Transport { protocol: Transport::Tcp, source: 40000, destination: 80 };
    Packet { source: address(source), destination: address(destination), payload, state: ConnState::New, path: Path::Forward }
}

fn plain(action: Action) -> Rule {
    Rule { matches: vec![], counter: None, action }
}

fn chains(chains: Vec<(&str, Option<i32>, Vec<Action>)>) -> Ruleset {
    let chain = |(name, priority, actions): (&str, Option<i32>, Vec<Action>)| {
        let base = priority.map(|priority| Base { hook: Hook::Forward, priority });
        (name.to_string(), Chain { base, rules: actions.into_iter().map(plain).collect() })
    };
    Ruleset { chains: chains.into_iter().map(chain).collect(), ..Ruleset::default() }
}

fn judged(ruleset: &Ruleset) -> Verdict {
    trace(ruleset, &packet("10.0.0.1", "10.0.0.2"))
}

fn jump(to: &str) -> Action {
    Action::Jump(to.into())
}

fn goto(to: &str) -> Action {
    Action::Goto(to.into())
}

/// Two ends on one node: with one chain the sender's accept would spare the receiver (S30).
#[test]
fn accept_ends_one_base_chain_and_drop_ends_all() {
    let twice = |first, second| judged(&chains(vec![("a", Some(-6), vec![first]), ("b", Some(-5), vec![second])]));
    assert_eq!(twice(Action::Accept, Action::Drop), Verdict::Drop);
    assert_eq!(twice(Action::Drop, Action::Accept), Verdict::Drop);
    assert_eq!(twice(Action::Accept, Action::Accept), Verdict::Allow);
    assert_eq!(twice(Action::RejectAdminProhibited, Action::Drop), Verdict::Reject);
}

#[test]
fn base_chains_are_walked_by_priority() {
    assert_eq!(
        judged(&chains(vec![("a", Some(3), vec![Action::Drop]), ("b", Some(-5), vec![Action::RejectAdminProhibited])])),
        Verdict::Reject
    );
}

#[test]
fn a_jump_comes_back_and_a_goto_does_not() {
    let after = |action| judged(&chains(vec![("base", Some(0), vec![action, Action::Drop]), ("sub", None, vec![])]));
    assert_eq!(after(jump("sub")), Verdict::Drop);
    assert_eq!(after(goto("sub")), Verdict::Allow, "past the end of the base chain: its policy");
}

/// base jumps a, a goes to b: the end of b is back behind the jump.
#[test]
fn a_goto_within_a_jump_returns_to_the_jump() {
    let ruleset = chains(vec![
        ("base", Some(0), vec![jump("a"), Action::Drop]),
        ("a", None, vec![goto("b"), Action::Accept]),
        ("b", None, vec![Action::Return, Action::Accept]),
    ]);
    assert_eq!(judged(&ruleset), Verdict::Drop);
}

#[test]
fn a_look_up_without_an_element_goes_on() {
    let map = VerdictMap { family: Family::V4, elements: imbl::ordmap! {address("10.0.0.2") => "found".to_string()} };
    let look_up = |side| Action::Lookup { side, family: Family::V4, map: "map".into() };
    let with = |side| {
        let mut ruleset = chains(vec![("base", Some(0), vec![look_up(side), Action::Drop]), ("found", None, vec![Action::Accept])]);
        ruleset.maps.insert("map".into(), map.clone());
        judged(&ruleset)
    };
    assert_eq!(with(Side::Destination), Verdict::Allow);
    assert_eq!(with(Side::Source), Verdict::Drop);
}

#[test]
fn a_walk_deeper_than_the_kernels_stack_is_dropped() {
    assert_eq!(judged(&chains(vec![("base", Some(0), vec![jump("a")]), ("a", None, vec![jump("a")])])), Verdict::Drop);
}

/// IPv4 may carry protocol 58, but that is not ICMPv6 (S16).
#[test]
fn icmp_is_tested_in_its_own_family_only() {
    let rule = |family| Rule { matches: vec![Match::IcmpType(family, 8)], counter: None, action: Action::Drop };
    let with = |family| {
        let mut ruleset = chains(vec![("base", Some(0), vec![])]);
        Arc::make_mut(ruleset.chains.get_mut("base").unwrap()).rules.push(rule(family));
        trace(&ruleset, &Packet { payload: Payload::Icmp { kind: 8, code: 0 }, ..packet("10.0.0.1", "10.0.0.2") })
    };
    assert_eq!(with(Family::V4), Verdict::Drop);
    assert_eq!(with(Family::V6), Verdict::Allow);
}

#[test]
fn the_tiers_are_reached_as_in_the_picture() {
    let ruleset = lower(&three_tier());
    let to = |source: &str, destination: &str, port| {
        let payload = Payload::Transport { protocol: Transport::Tcp, source: 40000, destination: port };
        trace(&ruleset, &Packet { payload, ..packet(source, destination) })
    };
    assert_eq!(to("198.51.100.1", "10.2.0.2", 80), Verdict::Allow);
    assert_eq!(to("198.51.100.1", "10.2.0.2", 22), Verdict::Drop);
    assert_eq!(to("198.51.100.1", "10.2.0.3", 8080), Verdict::Drop);
    assert_eq!(to("10.3.0.2", "10.2.0.3", 8080), Verdict::Allow, "web on another node");
    assert_eq!(to("fd00:2::2", "fd00:2::3", 8080), Verdict::Allow, "web on this node, IPv6");
    assert_eq!(to("10.2.0.3", "10.2.0.4", 5432), Verdict::Allow);
    assert_eq!(to("10.2.0.4", "10.2.0.3", 5432), Verdict::Drop, "db may send, app may not receive (S30)");
    assert_eq!(to("10.3.0.9", "10.2.0.4", 22), Verdict::Allow);
}

/// P46: kubelet's probes leave through output.
#[test]
fn the_node_reaches_its_own_pods() {
    let closed = lower(&NodePolicy::default().pod("shop/closed", &["10.2.0.2"], &[]));
    let from_node = packet("10.2.0.1", "10.2.0.2");
    assert_eq!(trace(&closed, &Packet { path: Path::Output, ..from_node }), Verdict::Allow);
    assert_eq!(trace(&closed, &from_node), Verdict::Drop);
    let to_node = packet("10.2.0.2", "10.2.0.1");
    assert_eq!(trace(&closed, &Packet { path: Path::Input, ..to_node }), Verdict::Drop, "a pod to its node is judged by egress (S30)");
    assert_eq!(trace(&closed, &Packet { path: Path::Input, state: ConnState::Established, ..to_node }), Verdict::Allow, "but may answer");
}
