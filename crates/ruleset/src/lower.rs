//! From what a node has to enforce to the table that enforces it.
//!
//! ```text
//! forward-egress, input-egress ─ established? ─ vmap on the source ──────▶ out-pod/NS/POD ─▶ out/CLASS …
//! forward-ingress ────────────── established? ─ vmap on the destination ─▶ in-pod/NS/POD ──▶ in/CLASS …
//! output-ingress ─────────────── established? ─ exempt, or as forward-ingress
//! ```
//! A class is a set of groups ([`crate::class`]): endpoints that are in the same groups share its chains. Those that the kernel takes no chains
//! for share `closed-in` and `closed-out`.
//!
//! Two base chains on the forward hook, because accept ends one base chain only: both ends are judged also on one node (S30).

use std::sync::Arc;

use api::OnDeny;
use policy::model::{Direction, Endpoint, Family, GroupRef, NodePolicy, PodRef, PrefixListRef, Transport};

use crate::class;
use crate::exempt::{self, EXEMPT};
use crate::lowering::{Bounds, Lowering};
use crate::names::name;
use crate::piece::Piece;
use crate::{Action, Base, Chain, CtStates, Hook, Match, Rule, Ruleset, Side, VerdictMap};

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

const ESTABLISHED: CtStates = CtStates { established: true, related: true, new: false, invalid: false, untracked: false };
const INVALID: CtStates = CtStates { established: false, related: false, new: false, invalid: true, untracked: false };
/// What is judged by rules: what is neither of these.
const JUDGED: CtStates = CtStates { established: false, related: false, new: true, invalid: false, untracked: true };

/// The ruleset that gives every packet the verdict of the policy. It cannot fail: what the policy should not hold allows nothing.
pub fn lower(policy: &NodePolicy) -> Ruleset {
    Lowering::default().lower(policy)
}

/// The same within other bounds: small policies show what large ones are made into.
pub fn lower_within(policy: &NodePolicy, bounds: Bounds) -> Ruleset {
    Lowering::within(bounds).lower(policy)
}

/// What does not depend on who is in which group: it is put there again, or for the first time.
pub(crate) fn fixed(ruleset: &mut Ruleset, policy: &NodePolicy) {
    ruleset.chains.insert(SCHEMA.into(), Arc::default());
    base_chains(ruleset, policy);
    exempt::shared(ruleset, policy);
    let any_closed = policy.endpoints.values().any(|endpoint| endpoint.closed);
    for direction in [Direction::Ingress, Direction::Egress] {
        match any_closed {
            true => drop(ruleset.chains.insert(closed(direction).into(), closed_chain(direction).into())),
            false => drop(ruleset.chains.remove(closed(direction))),
        }
        ruleset.counters.extend([invalid_counter(direction), denied_counter(direction)].map(String::from));
    }
}

/// An empty chain that says how the rest of the table is laid out. A table without it, which another version has made, is replaced as a whole;
/// one with it is changed step by step. To be counted up whenever that would be wrong.
pub(crate) const SCHEMA: &str = "schema-2";

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Before other programs' filters at priority 0, after destination NAT (S33). What passes through is judged in forward by both ends, what a
/// pod sends to its own node in input, and what a node sends to its own pods in output: there it is exempt (S36) unless switched off.
fn base_chains(ruleset: &mut Ruleset, policy: &NodePolicy) {
    let established = || Rule { matches: vec![Match::CtState(ESTABLISHED)], counter: None, action: Action::Accept };
    let spoken = spoken(policy);
    let egress = dispatches(ruleset, Direction::Egress, &spoken);
    let ingress = dispatches(ruleset, Direction::Ingress, &spoken);
    let input = exempt::loopback(policy, Match::FromLoopback).into_iter().chain(egress.clone());
    let to_pods = exempt::node(ruleset, policy, &spoken).unwrap_or_else(|| ingress.clone());
    let output = exempt::loopback(policy, Match::ToLoopback).into_iter().chain(to_pods);
    for (chain, hook, priority, rules) in [
        ("forward-egress", Hook::Forward, -6, egress),
        ("forward-ingress", Hook::Forward, -5, ingress),
        ("input-egress", Hook::Input, -5, input.collect()),
        ("output-ingress", Hook::Output, -5, output.collect()),
    ] {
        let rules = std::iter::once(established()).chain(rules).collect();
        ruleset.chains.insert(chain.into(), Chain { base: Some(Base { hook, priority }), rules }.into());
    }
}

/// The families of the endpoints' addresses. Packets of another are nobody's here: there are no rules for them, nor sets.
pub(crate) fn spoken(policy: &NodePolicy) -> Vec<Family> {
    let has =
        |family: &Family| policy.endpoints.values().flat_map(|endpoint| &endpoint.addresses).any(|address| Family::of(*address) == *family);
    FAMILIES.into_iter().filter(has).collect()
}

/// Those of endpoints that rules have a say about.
pub(crate) fn judged(policy: &NodePolicy) -> Vec<Family> {
    let open = || policy.endpoints.values().filter(|endpoint| !endpoint.closed);
    let has = |family: &Family| open().flat_map(|endpoint| &endpoint.addresses).any(|address| Family::of(*address) == *family);
    FAMILIES.into_iter().filter(has).collect()
}

/// To the chain of the endpoint that the packet is from or for.
fn dispatches(ruleset: &mut Ruleset, direction: Direction, spoken: &[Family]) -> Vec<Rule> {
    for family in FAMILIES {
        ruleset.maps.entry(dispatch(direction, family).into()).or_insert(VerdictMap { family, elements: Default::default() });
    }
    let rule = |family: Family| {
        let map = dispatch(direction, family).into();
        Rule { matches: vec![], counter: None, action: Action::Lookup { side: own_side(direction), family, map } }
    };
    spoken.iter().copied().map(rule).collect()
}

/// The chain that judges one endpoint in a direction: what these groups allow, else exempt, else invalid, else denied.
pub(crate) fn endpoint_chain(
    piece: &mut Piece,
    policy: &NodePolicy,
    pod: &PodRef,
    endpoint: &Endpoint,
    groups: &[GroupRef],
    direction: Direction,
) {
    let chain = if endpoint.closed { closed(direction).into() } else { own_chain(pod, direction) };
    let elements = endpoint.addresses.iter().map(|address| (dispatch(direction, Family::of(*address)), *address, chain.clone()));
    piece.elements.extend(elements);
    if endpoint.closed {
        return;
    }
    let mut rules = Vec::new();
    // Whatever allows a packet allows it; so what groups allow, which is most of it, does not pay for the tests of what is exempt.
    if !groups.is_empty() {
        rules.push(Rule { matches: vec![Match::CtState(JUDGED)], ..jump(class::name(groups, direction)) });
    }
    rules.push(jump(EXEMPT.into()));
    rules.extend(exempt::hairpin(policy, endpoint, direction));
    // Here and not in the base chains: never for those that are not members (S37).
    rules.push(invalid(direction));
    for group in &endpoint.groups {
        let counter = group_denied_counter(direction, group);
        rules.push(Rule { matches: vec![], counter: Some(counter.clone()), action: Action::Continue });
        piece.counters.insert(counter);
    }
    rules.extend(denial(endpoint.on_deny, denied_counter(direction)));
    piece.chains.push((chain, Chain { base: None, rules }));
}

pub(crate) fn own_chain(pod: &PodRef, direction: Direction) -> String {
    name(&format!("{}-pod", way(direction)), &[&pod.namespace, &pod.name])
}

/// The chains of all endpoints that are closed.
pub(crate) const CLOSED: [&str; 2] = ["closed-in", "closed-out"];

const fn closed(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => CLOSED[0],
        Direction::Egress => CLOSED[1],
    }
}

fn closed_chain(direction: Direction) -> Chain {
    let rules = [jump(EXEMPT.into()), invalid(direction)].into_iter().chain(denial(OnDeny::Drop, denied_counter(direction)));
    Chain { base: None, rules: rules.collect() }
}

fn invalid(direction: Direction) -> Rule {
    Rule { matches: vec![Match::CtState(INVALID)], counter: Some(invalid_counter(direction).into()), action: Action::Drop }
}

/// The name of the counter of what was denied in a direction.
pub const fn denied_counter(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "denied-in",
        Direction::Egress => "denied-out",
    }
}

/// The name of the counter of what was denied to the members of a group in a direction. A packet counts for each group of the endpoint:
/// none of them allowed it.
pub fn group_denied_counter(direction: Direction, group: &GroupRef) -> String {
    name(denied_counter(direction), &[&group.namespace, &group.name])
}

/// The name of the counter of what the rule of this id allowed. What several rules allow counts for one of them.
pub fn rule_counter(direction: Direction, group: &GroupRef, id: &str) -> String {
    name(way(direction), &[&group.namespace, &group.name, id])
}

/// What the names of all counters of a group's rules begin with.
pub(crate) fn rule_counters(direction: Direction, group: &GroupRef) -> String {
    name(way(direction), &[&group.namespace, &group.name]) + "/"
}

/// The name of the counter of what belonged to no connection and opened none (S37).
pub const fn invalid_counter(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "invalid-in",
        Direction::Egress => "invalid-out",
    }
}

/// How a denied packet ends (S32).
fn denial(on_deny: OnDeny, counter: &str) -> Vec<Rule> {
    let rule = |matches, action| Rule { matches, counter: Some(counter.into()), action };
    match on_deny {
        OnDeny::Drop => vec![rule(vec![], Action::Drop)],
        OnDeny::Reject => {
            vec![rule(vec![Match::L4Proto(Transport::Tcp.number())], Action::RejectTcpReset), rule(vec![], Action::RejectAdminProhibited)]
        }
    }
}

pub(crate) fn members_name(group: &GroupRef, family: Family) -> String {
    let kind = match family {
        Family::V4 => "members4",
        Family::V6 => "members6",
    };
    name(kind, &[&group.namespace, &group.name])
}

pub(crate) fn prefixes_name(list: &PrefixListRef, family: Family) -> String {
    let kind = match family {
        Family::V4 => "prefixes4",
        Family::V6 => "prefixes6",
    };
    name(kind, &[&list.namespace, &list.name])
}

/// The map from an endpoint's address to its chain.
const fn dispatch(direction: Direction, family: Family) -> &'static str {
    match (direction, family) {
        (Direction::Ingress, Family::V4) => "in4",
        (Direction::Ingress, Family::V6) => "in6",
        (Direction::Egress, Family::V4) => "out4",
        (Direction::Egress, Family::V6) => "out6",
    }
}

pub(crate) const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

/// Where the endpoint's own address stands.
const fn own_side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Destination,
        Direction::Egress => Side::Source,
    }
}

/// Where the peer's address stands.
pub(crate) const fn far_side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Source,
        Direction::Egress => Side::Destination,
    }
}

pub(crate) fn accept(counter: &str, matches: Vec<Match>) -> Rule {
    Rule { matches, counter: Some(counter.into()), action: Action::Accept }
}

pub(crate) fn jump(chain: String) -> Rule {
    Rule { matches: vec![], counter: None, action: Action::Jump(chain) }
}
