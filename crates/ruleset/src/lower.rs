//! From what a node has to enforce to the table that enforces it.
//!
//! ```text
//! forward-egress, input-egress ─ established? ─ vmap on the source ──────▶ out-pod/NS/POD ─▶ out/NS/GROUP …
//! forward-ingress ────────────── established? ─ vmap on the destination ─▶ in-pod/NS/POD ──▶ in/NS/GROUP …
//! output-ingress ─────────────── established? ─ exempt, or as forward-ingress
//! ```
//! Two base chains on the forward hook, because accept ends one base chain only: both ends are judged also on one node (S30).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::OnDeny;
use policy::model::{Direction, Endpoint, Family, GroupRef, NodePolicy, Peer, PodRef, PrefixListRef, Traffic, Transport};

use crate::exempt::{self, EXEMPT};
use crate::intervals::merge;
use crate::names::name;
use crate::{Action, Base, Chain, CtStates, Hook, IntervalSet, Match, Rule, Ruleset, Set, Side, VerdictMap};

const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

const ESTABLISHED: CtStates = CtStates { established: true, related: true, new: false, invalid: false };
const INVALID: CtStates = CtStates { established: false, related: false, new: false, invalid: true };

/// The ruleset that gives every packet the verdict of the policy. It cannot fail: what the policy should not hold allows nothing.
pub fn lower(policy: &NodePolicy) -> Ruleset {
    let mut ruleset = Ruleset::default();
    base_chains(&mut ruleset, policy);
    exempt::shared(&mut ruleset, policy);
    for direction in [Direction::Ingress, Direction::Egress] {
        ruleset.counters.extend([invalid_counter(direction), denied_counter(direction)].map(String::from));
    }
    for (list, entries) in &policy.prefix_lists {
        for family in FAMILIES {
            prefixes(&mut ruleset, list, family, merge(entries, family));
        }
    }
    for (group, addresses) in &policy.members {
        for family in FAMILIES {
            members(&mut ruleset, group, family).extend(addresses.iter().filter(|address| Family::of(**address) == family));
        }
    }
    for (group, rules) in &policy.groups {
        group_chain(&mut ruleset, group, Direction::Ingress, &rules.ingress);
        group_chain(&mut ruleset, group, Direction::Egress, &rules.egress);
    }
    for (pod, endpoint) in &policy.endpoints {
        // A group whose rules are not known allows nothing (S38).
        let groups: Vec<&GroupRef> = endpoint.groups.iter().filter(|group| policy.groups.contains_key(group)).collect();
        for direction in [Direction::Ingress, Direction::Egress] {
            let exempt = exempt::hairpin(policy, endpoint, direction);
            endpoint_chain(&mut ruleset, pod, endpoint, &groups, exempt, direction);
        }
    }
    ruleset
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Before other programs' filters at priority 0, after destination NAT (S33). What passes through is judged in forward by both ends, what a
/// pod sends to its own node in input, and what a node sends to its own pods in output: there it is exempt (S36) unless switched off.
fn base_chains(ruleset: &mut Ruleset, policy: &NodePolicy) {
    let established = || Rule { matches: vec![Match::CtState(ESTABLISHED)], counter: None, action: Action::Accept };
    let egress = dispatches(ruleset, Direction::Egress);
    let ingress = dispatches(ruleset, Direction::Ingress);
    let input = exempt::loopback(policy, Match::FromLoopback).into_iter().chain(egress.clone());
    let to_pods = exempt::node(ruleset, policy).map_or_else(|| ingress.to_vec(), Vec::from);
    let output = exempt::loopback(policy, Match::ToLoopback).into_iter().chain(to_pods);
    for (chain, hook, priority, rules) in [
        ("forward-egress", Hook::Forward, -6, egress.to_vec()),
        ("forward-ingress", Hook::Forward, -5, ingress.to_vec()),
        ("input-egress", Hook::Input, -5, input.collect()),
        ("output-ingress", Hook::Output, -5, output.collect()),
    ] {
        let rules = std::iter::once(established()).chain(rules).collect();
        ruleset.chains.insert(chain.into(), Chain { base: Some(Base { hook, priority }), rules });
    }
}

/// To the chain of the endpoint that the packet is from or for.
fn dispatches(ruleset: &mut Ruleset, direction: Direction) -> [Rule; 2] {
    FAMILIES.map(|family| {
        let map = dispatch(direction, family);
        ruleset.maps.entry(map.into()).or_insert(VerdictMap { family, elements: Default::default() });
        Rule { matches: vec![], counter: None, action: Action::Lookup { side: own_side(direction), family, map: map.into() } }
    })
}

/// The chain that judges one endpoint: exempt, else invalid, else what its groups allow, else denied.
fn endpoint_chain(ruleset: &mut Ruleset, pod: &PodRef, endpoint: &Endpoint, groups: &[&GroupRef], exempt: Vec<Rule>, direction: Direction) {
    let way = way(direction);
    let chain = name(&format!("{way}-pod"), &[&pod.namespace, &pod.name]);
    let mut rules = vec![jump(EXEMPT.into())];
    rules.extend(exempt);
    // Here and not in the base chains: never for those that are not members (S37).
    rules.push(Rule { matches: vec![Match::CtState(INVALID)], counter: Some(invalid_counter(direction).into()), action: Action::Drop });
    rules.extend(groups.iter().map(|group| jump(name(way, &[&group.namespace, &group.name]))));
    rules.extend(denial(endpoint.on_deny, denied_counter(direction)));
    for address in &endpoint.addresses {
        if let Some(map) = ruleset.maps.get_mut(dispatch(direction, Family::of(*address))) {
            map.elements.insert(*address, chain.clone());
        }
    }
    ruleset.chains.insert(chain, Chain { base: None, rules });
}

/// The name of the counter of what was denied in a direction.
pub const fn denied_counter(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "denied-in",
        Direction::Egress => "denied-out",
    }
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

/// The chain of one group and direction, shared by all its endpoints here.
fn group_chain(ruleset: &mut Ruleset, group: &GroupRef, direction: Direction, rules: &BTreeSet<policy::model::Rule>) {
    let way = way(direction);
    let mut chain = Chain::default();
    for rule in rules {
        let counter = name(way, &[&group.namespace, &group.name, &rule.id]);
        let (families, traffic) = traffic(rule.traffic);
        for (family, peer) in peers(ruleset, &rule.peer, far_side(direction)) {
            if families.contains(&family) {
                let matches = traffic.iter().cloned().chain([peer]).collect();
                chain.rules.push(accept(&counter, matches));
            }
        }
        ruleset.counters.insert(counter);
    }
    ruleset.chains.insert(name(way, &[&group.namespace, &group.name]), chain);
}

/// The test of the far end in each family in which it can be met.
fn peers(ruleset: &Ruleset, peer: &Peer, side: Side) -> Vec<(Family, Match)> {
    match peer {
        Peer::Net(net) => {
            let net = net.trunc();
            let family = Family::of(net.addr());
            // Everybody of a family: no need to look at the address.
            let anybody = net.prefix_len() == 0;
            vec![(family, if anybody { Match::Family(family) } else { Match::InNet { side, net } })]
        }
        Peer::Group(group) => in_sets(ruleset, side, |family| members_name(group, family)),
        Peer::PrefixList(list) => in_sets(ruleset, side, |family| prefixes_name(list, family)),
    }
}

/// A peer that does not exist has no sets, and so no rule: it matches nothing (S20), and a thousand of them cost nothing.
fn in_sets(ruleset: &Ruleset, side: Side, name: impl Fn(Family) -> String) -> Vec<(Family, Match)> {
    FAMILIES
        .map(|family| (family, name(family)))
        .into_iter()
        .filter(|(_, set)| ruleset.sets.contains_key(set) || ruleset.intervals.contains_key(set))
        .map(|(family, set)| (family, Match::InSet { side, family, set }))
        .collect()
}

/// The families in which this traffic exists (S16), and its tests beside the family. A peer's own test implies the family.
fn traffic(traffic: Traffic) -> (&'static [Family], Vec<Match>) {
    let both = FAMILIES.as_slice();
    match traffic {
        Traffic::All => (both, vec![]),
        Traffic::Protocol(number) => (both, vec![Match::L4Proto(number)]),
        Traffic::Transport(transport, None) => (both, vec![Match::L4Proto(transport.number())]),
        Traffic::Transport(_, Some(ports)) if ports.from > ports.to => (&[], vec![]),
        Traffic::Transport(transport, Some(ports)) => {
            (both, vec![Match::L4Proto(transport.number()), Match::DestinationPorts { from: ports.from, to: ports.to }])
        }
        Traffic::Icmp { family, kind, code } => {
            let (only, number): (&[Family], u8) = match family {
                Family::V4 => (&[Family::V4], ICMP),
                Family::V6 => (&[Family::V6], ICMPV6),
            };
            let kind = kind.map(|kind| Match::IcmpType(family, kind));
            let code = code.map(|code| Match::IcmpCode(family, code));
            (only, std::iter::once(Match::L4Proto(number)).chain(kind).chain(code).collect())
        }
    }
}

/// The elements of a group's set, which is made if it is not there.
fn members<'a>(ruleset: &'a mut Ruleset, group: &GroupRef, family: Family) -> &'a mut BTreeSet<IpAddr> {
    &mut ruleset.sets.entry(members_name(group, family)).or_insert(Set { family, elements: BTreeSet::new() }).elements
}

fn members_name(group: &GroupRef, family: Family) -> String {
    let kind = match family {
        Family::V4 => "members4",
        Family::V6 => "members6",
    };
    name(kind, &[&group.namespace, &group.name])
}

/// The interval set of a prefix list. A list has entries of one family; of a list without any both sets are there and empty.
fn prefixes(ruleset: &mut Ruleset, list: &PrefixListRef, family: Family, ranges: BTreeMap<IpAddr, IpAddr>) {
    ruleset.intervals.insert(prefixes_name(list, family), IntervalSet { family, ranges });
}

fn prefixes_name(list: &PrefixListRef, family: Family) -> String {
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

const fn way(direction: Direction) -> &'static str {
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
