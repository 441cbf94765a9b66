//! What always passes (S36), each exemption with its counter.

use std::collections::BTreeSet;

use policy::model::{Direction, Endpoint, Exemption, Family, NodePolicy, Transport};

use crate::lower::{FAMILIES, ICMPV6, accept, far_side, jump};
use crate::{Chain, Match, Rule, Ruleset, Set, Side};

/// The chain of the exemptions that are about the packet.
pub(crate) const EXEMPT: &str = "exempt";
const EXEMPT_ICMPV6: &str = "exempt-icmpv6";
const EXEMPT_DHCP: &str = "exempt-dhcp";

/// Not redirects.
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];
/// Both versions.
const LISTENER_DISCOVERY: [u8; 4] = [130, 131, 132, 143];
/// Client to server and back, both families.
const DHCP: [(u16, u16); 4] = [(68, 67), (67, 68), (546, 547), (547, 546)];

/// The name of the counter that counts what an exemption lets pass.
pub const fn exemption_counter(exemption: Exemption) -> &'static str {
    match exemption {
        Exemption::Node => "exempt-node",
        Exemption::NeighbourDiscovery => "exempt-nd",
        Exemption::ListenerDiscovery => "exempt-mld",
        Exemption::Dhcp => EXEMPT_DHCP,
        Exemption::Loopback => "exempt-loopback",
        Exemption::Hairpin => "exempt-self",
        Exemption::ClusterDns => "exempt-dns",
    }
}

/// Passes and is counted.
fn exempt(exemption: Exemption, matches: Vec<Match>) -> Rule {
    accept(exemption_counter(exemption), matches)
}

/// Counters, sets and chains of the exemptions that are on. A packet that is none of these pays a comparison for each branch.
pub(crate) fn shared(ruleset: &mut Ruleset, policy: &NodePolicy) {
    ruleset.counters.extend(policy.exempt.iter().map(|exemption| exemption_counter(*exemption).to_string()));
    let mut branches = Vec::new();
    let icmpv6 = of_icmpv6(&policy.exempt);
    if !icmpv6.is_empty() {
        branches.push(Rule { matches: vec![Match::Family(Family::V6), Match::L4Proto(ICMPV6)], ..jump(EXEMPT_ICMPV6.into()) });
        ruleset.chains.insert(EXEMPT_ICMPV6.into(), Chain { base: None, rules: icmpv6 }.into());
    }
    if policy.exempt.contains(&Exemption::Dhcp) {
        branches.push(Rule { matches: vec![udp()], ..jump(EXEMPT_DHCP.into()) });
        let rule = |(from, to)| exempt(Exemption::Dhcp, vec![udp(), Match::SourcePort(from), Match::DestinationPorts { from: to, to }]);
        ruleset.chains.insert(EXEMPT_DHCP.into(), Chain { base: None, rules: DHCP.map(rule).into() }.into());
    }
    if policy.exempt.contains(&Exemption::ClusterDns) {
        let addresses = policy.cluster_dns.iter().copied().collect();
        branches.extend(cluster_dns(address_sets(ruleset, "dns", &addresses)));
    }
    ruleset.chains.insert(EXEMPT.into(), Chain { base: None, rules: branches }.into());
}

fn udp() -> Match {
    Match::L4Proto(Transport::Udp.number())
}

fn of_icmpv6(on: &BTreeSet<Exemption>) -> Vec<Rule> {
    [(Exemption::NeighbourDiscovery, NEIGHBOUR_DISCOVERY), (Exemption::ListenerDiscovery, LISTENER_DISCOVERY)]
        .into_iter()
        .filter(|(exemption, _)| on.contains(exemption))
        .flat_map(|(exemption, kinds)| kinds.map(|kind| (exemption, kind)))
        .map(|(exemption, kind)| exempt(exemption, vec![Match::L4Proto(ICMPV6), Match::IcmpType(Family::V6, kind)]))
        .collect()
}

/// Questions only: answers belong to a connection.
fn cluster_dns(sets: [(Family, String); 2]) -> Vec<Rule> {
    let rule = |transport: Transport, (family, set): (Family, String)| {
        let server = Match::InSet { side: Side::Destination, family, set };
        exempt(Exemption::ClusterDns, vec![Match::L4Proto(transport.number()), Match::DestinationPorts { from: 53, to: 53 }, server])
    };
    [Transport::Udp, Transport::Tcp].into_iter().flat_map(|transport| sets.clone().map(|set| rule(transport, set))).collect()
}

/// A set for each family, `name4` and `name6`.
fn address_sets(ruleset: &mut Ruleset, name: &str, addresses: &BTreeSet<std::net::IpAddr>) -> [(Family, String); 2] {
    FAMILIES.map(|family| {
        let name = match family {
            Family::V4 => format!("{name}4"),
            Family::V6 => format!("{name}6"),
        };
        let elements = addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
        ruleset.sets.insert(name.clone(), Set { family, elements });
        (family, name)
    })
}

/// To itself through a Service: the near address is its own already, so only the far one is tested; its families never mix.
pub(crate) fn hairpin(policy: &NodePolicy, endpoint: &Endpoint, direction: Direction) -> Vec<Rule> {
    if !policy.exempt.contains(&Exemption::Hairpin) {
        return Vec::new();
    }
    let own = |address: &std::net::IpAddr| Match::InNet { side: far_side(direction), net: (*address).into() };
    endpoint.addresses.iter().map(|address| exempt(Exemption::Hairpin, vec![own(address)])).collect()
}

/// What a node sends to itself; `near` tells it by its interface.
pub(crate) fn loopback(policy: &NodePolicy, near: Match) -> Option<Rule> {
    policy.exempt.contains(&Exemption::Loopback).then(|| exempt(Exemption::Loopback, vec![near]))
}

/// What a node sends to its own pods; `None` where it is judged like anything else.
pub(crate) fn node(ruleset: &mut Ruleset, policy: &NodePolicy, spoken: &[Family]) -> Option<Vec<Rule>> {
    policy.exempt.contains(&Exemption::Node).then(|| {
        let addresses = policy.endpoints.values().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        let sets = address_sets(ruleset, "endpoints", &addresses);
        let sets = sets.into_iter().filter(|(family, _)| spoken.contains(family));
        sets.map(|(family, set)| exempt(Exemption::Node, vec![Match::InSet { side: Side::Destination, family, set }])).collect()
    })
}
