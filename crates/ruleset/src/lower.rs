//! From what a node has to enforce to the table that enforces it.
//!
//! ```text
//! forward-egress, input-egress ─ established? ─ vmap on the source ──────▶ out-pod/NS/POD ─▶ out/NS/GROUP …
//! forward-ingress ────────────── established? ─ vmap on the destination ─▶ in-pod/NS/POD ──▶ in/NS/GROUP …
//! ```
//! Two base chains on the forward hook, because accept ends one base chain only: both ends are judged also on one node (S30).

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::OnDeny;
use ipnet::IpNet;
use policy::model::{Direction, Endpoint, Family, GroupRef, NodePolicy, Peer, PodRef, Traffic, Transport};

use crate::names::name;
use crate::{Action, Base, Chain, CtStates, Hook, Match, Rule, Ruleset, Set, Side, VerdictMap};

/// Always allowed, before anything else (S36).
const EXEMPT: &str = "exempt";
const EXEMPT_ICMPV6: &str = "exempt-icmpv6";
const EXEMPT_DHCP: &str = "exempt-dhcp";
const EXEMPT_SELF: &str = "exempt-self";

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Neighbour and router solicitation and advertisement, not redirects.
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];
/// Multicast listener discovery, both versions.
const LISTENER_DISCOVERY: [u8; 4] = [130, 131, 132, 143];
/// Client to server and back, both families.
const DHCP: [(u16, u16); 4] = [(68, 67), (67, 68), (546, 547), (547, 546)];

const ESTABLISHED: CtStates = CtStates { established: true, related: true, new: false, invalid: false };
const INVALID: CtStates = CtStates { established: false, related: false, new: false, invalid: true };

/// The ruleset that gives every packet the verdict of the policy. It cannot fail: what the policy should not hold allows nothing.
pub fn lower(policy: &NodePolicy) -> Ruleset {
    let mut ruleset = Ruleset::default();
    base_chains(&mut ruleset);
    exemptions(&mut ruleset);
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
        endpoint_chain(&mut ruleset, pod, endpoint, &groups, Direction::Ingress);
        endpoint_chain(&mut ruleset, pod, endpoint, &groups, Direction::Egress);
    }
    ruleset
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Before other programs' filters at priority 0, after destination NAT (S33). Output is not hooked: what a node sends to its own pods is
/// always allowed (S36), and what passes through is judged in forward. No `iif lo` is needed: what comes over loopback has no pod's address.
fn base_chains(ruleset: &mut Ruleset) {
    for (chain, hook, priority, direction) in [
        ("forward-egress", Hook::Forward, -6, Direction::Egress),
        ("forward-ingress", Hook::Forward, -5, Direction::Ingress),
        ("input-egress", Hook::Input, -5, Direction::Egress),
    ] {
        let mut rules = vec![Rule { matches: vec![Match::CtState(ESTABLISHED)], counter: None, action: Action::Accept }];
        for family in FAMILIES {
            let map = dispatch(direction, family);
            ruleset.maps.entry(map.into()).or_insert(VerdictMap { family, elements: Default::default() });
            rules.push(Rule {
                matches: vec![],
                counter: None,
                action: Action::Lookup { side: own_side(direction), family, map: map.into() },
            });
        }
        ruleset.chains.insert(chain.into(), Chain { base: Some(Base { hook, priority }), rules });
    }
}

/// The shared part of S36. A packet that is none of these pays two comparisons.
fn exemptions(ruleset: &mut Ruleset) {
    let icmpv6 = [("exempt-nd", NEIGHBOUR_DISCOVERY), ("exempt-mld", LISTENER_DISCOVERY)]
        .into_iter()
        .flat_map(|(counter, kinds)| kinds.map(|kind| (counter, kind)))
        .map(|(counter, kind)| accept(counter, vec![Match::L4Proto(ICMPV6), Match::IcmpType(Family::V6, kind)]));
    let udp = Match::L4Proto(Transport::Udp.number());
    let dhcp =
        DHCP.map(|(from, to)| accept(EXEMPT_DHCP, vec![udp.clone(), Match::SourcePort(from), Match::DestinationPorts { from: to, to }]));
    let branches = vec![
        Rule {
            matches: vec![Match::Family(Family::V6), Match::L4Proto(ICMPV6)],
            counter: None,
            action: Action::Jump(EXEMPT_ICMPV6.into()),
        },
        Rule { matches: vec![udp], counter: None, action: Action::Jump(EXEMPT_DHCP.into()) },
    ];
    ruleset.chains.insert(EXEMPT_ICMPV6.into(), Chain { base: None, rules: icmpv6.collect() });
    ruleset.chains.insert(EXEMPT_DHCP.into(), Chain { base: None, rules: dhcp.into() });
    ruleset.chains.insert(EXEMPT.into(), Chain { base: None, rules: branches });
    ruleset.counters.extend(["exempt-nd", "exempt-mld", EXEMPT_DHCP, EXEMPT_SELF].map(String::from));
    ruleset.counters.extend(["invalid-in", "invalid-out", "denied-in", "denied-out"].map(String::from));
}

/// The chain that judges one endpoint: exempt, else invalid, else what its groups allow, else denied.
fn endpoint_chain(ruleset: &mut Ruleset, pod: &PodRef, endpoint: &Endpoint, groups: &[&GroupRef], direction: Direction) {
    let way = way(direction);
    let chain = name(&format!("{way}-pod"), &[&pod.namespace, &pod.name]);
    let mut rules = vec![jump(EXEMPT.into())];
    // To itself through a Service: the near address is its own already, so only the far one is tested; its families never mix.
    rules.extend(
        endpoint
            .addresses
            .iter()
            .map(|address| accept(EXEMPT_SELF, vec![Match::InNet { side: far_side(direction), net: IpNet::from(*address) }])),
    );
    // Here and not in the base chains: never for those that are not members (S37).
    rules.push(Rule { matches: vec![Match::CtState(INVALID)], counter: Some(format!("invalid-{way}")), action: Action::Drop });
    rules.extend(groups.iter().map(|group| jump(name(way, &[&group.namespace, &group.name]))));
    rules.extend(denial(endpoint.on_deny, &format!("denied-{way}")));
    for address in &endpoint.addresses {
        if let Some(map) = ruleset.maps.get_mut(dispatch(direction, Family::of(*address))) {
            map.elements.insert(*address, chain.clone());
        }
    }
    ruleset.chains.insert(chain, Chain { base: None, rules });
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
        // A peer that does not exist has no sets, and so no rule: it matches nothing (S20), and a thousand of them cost nothing.
        Peer::Group(group) => FAMILIES
            .map(|family| (family, members_name(group, family)))
            .into_iter()
            .filter(|(_, set)| ruleset.sets.contains_key(set))
            .map(|(family, set)| (family, Match::InSet { side, family, set }))
            .collect(),
    }
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
const fn far_side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Source,
        Direction::Egress => Side::Destination,
    }
}

fn accept(counter: &str, matches: Vec<Match>) -> Rule {
    Rule { matches, counter: Some(counter.into()), action: Action::Accept }
}

fn jump(chain: String) -> Rule {
    Rule { matches: vec![], counter: None, action: Action::Jump(chain) }
}
