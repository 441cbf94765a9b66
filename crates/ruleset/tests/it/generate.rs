//! Random policies, packets and rulesets over a small world, so that they meet often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::OnDeny;
use imbl::OrdSet;
use ipnet::IpNet;
use policy::model::*;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use ruleset::{
    Action, Base, Bounds, Chain, CounterMap, CtStates, Hook, IntervalSet, Match, PortMap, Ruleset, Set, Side, VerdictMap, merge,
};

use crate::build::{address, addresses, icmp, ports};

const POOL: [&str; 12] = [
    "10.2.0.1",
    "10.2.0.2",
    "10.2.0.3",
    "10.2.0.4",
    "10.3.0.5",
    "192.0.2.6", // six of each family
    "fd00:2::1",
    "fd00:2::2",
    "fd00:2::3",
    "fd00:2::4",
    "fd00:3::5",
    "2001:db8::6",
];

/// Few rules in turn, and room for some maps, for all or for none.
pub fn bounds() -> impl Strategy<Value = Bounds> {
    (0..9usize, 0..4usize, prop_oneof![0..40usize, Just(usize::MAX)]).prop_map(|(few, peers, most)| Bounds { few, peers, most })
}

fn some_addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    subsequence(POOL.to_vec(), 0..=POOL.len()).prop_map(|some| addresses(&some))
}

/// Some are no DNS names, some too long for nft.
fn group() -> impl Strategy<Value = GroupRef> {
    let namespaces = vec!["shop".to_string(), "n".repeat(63)];
    let names = vec!["web".to_string(), "app".into(), "DB {".into(), "g".repeat(253)];
    (select(namespaces), select(names)).prop_map(|(namespace, name)| GroupRef { namespace, name })
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

fn transport() -> impl Strategy<Value = Transport> {
    select(vec![Transport::Tcp, Transport::Udp, Transport::Sctp])
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => select(vec![53, 67, 68, 80, 81, 546, 547]), 1 => 1..=u16::MAX]
}

fn icmp_type() -> impl Strategy<Value = u8> {
    select(vec![0, 3, 8, 128, 129, 130, 132, 133, 136, 137, 143])
}

fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        Just(Traffic::All),
        (transport(), port(), port()).prop_map(|(transport, one, other)| ports(transport, one.min(other), one.max(other))),
        (transport(), port()).prop_map(|(transport, port)| ports(transport, port, port)),
        transport().prop_map(|transport| Traffic::Transport(transport, None)),
        (family(), option::of(icmp_type()), option::of(0..2u8)).prop_map(|(family, kind, code)| icmp(family, kind, kind.and(code))),
        select(vec![47, 50, 255]).prop_map(Traffic::Protocol),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let nets = ["0.0.0.0/0", "::/0", "10.2.0.0/16", "10.2.0.2/32", "10.2.0.2/31", "fd00::/8", "fd00:2::3/128", "2001:db8::/32"];
    let net = select(nets.to_vec()).prop_map(|net| Peer::Net(net.parse().unwrap()));
    prop_oneof![net, group().prop_map(Peer::Group), list().prop_map(Peer::PrefixList)]
}

fn list() -> impl Strategy<Value = PrefixListRef> {
    select(vec!["offices", "Odd {"]).prop_map(|name| PrefixListRef { namespace: "shop".into(), name: name.into() })
}

/// Overlapping, touching and equal networks around the addresses of the pool.
fn nets(family: Family) -> impl Strategy<Value = BTreeSet<IpNet>> {
    let own: Vec<IpAddr> = POOL.iter().copied().map(address).filter(|address| Family::of(*address) == family).collect();
    let most = if family == Family::V4 { 32 } else { 128 };
    let net = (select(own), 0..=3u8, 0..=8u8).prop_map(move |(address, shorter, much)| {
        let length = if much == 0 { 0 } else { most - shorter * much };
        IpNet::new_assert(address, length).trunc()
    });
    btree_set(net, 0..6)
}

fn prefix_lists() -> impl Strategy<Value = BTreeMap<PrefixListRef, BTreeSet<IpNet>>> {
    proptest::collection::btree_map(list(), family().prop_flat_map(nets), 0..3)
}

fn exempt() -> impl Strategy<Value = BTreeSet<Exemption>> {
    prop_oneof![Just(Exemption::DEFAULT.into()), subsequence(Exemption::ALL.to_vec(), 0..=7).prop_map(|some| some.into_iter().collect())]
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = (traffic(), peer(), 0..20u8).prop_map(|(traffic, peer, id)| Rule { traffic, peer, id: format!("sgr-{id:017x}") });
    btree_set(rule, 0..5)
}

fn groups() -> impl Strategy<Value = BTreeMap<GroupRef, GroupRules>> {
    let rules = (rules(), rules()).prop_map(|(ingress, egress)| GroupRules { ingress, egress });
    proptest::collection::btree_map(group(), rules, 0..5)
}

/// Endpoints may be in groups whose rules are unknown; rules may name groups that do not exist.
pub fn policy() -> impl Strategy<Value = NodePolicy> {
    let owners = vec(option::of(0..4usize), POOL.len());
    let endpoints = vec((btree_set(group(), 0..3), prop::bool::ANY, prop::bool::weighted(0.15)), 4);
    let members = proptest::collection::btree_map(group(), some_addresses(), 0..6);
    let around = (prefix_lists(), exempt(), some_addresses());
    (owners, endpoints, groups(), members, around).prop_map(|(owners, endpoints, groups, members, (prefix_lists, exempt, cluster_dns))| {
        let mut policy = NodePolicy {
            groups: groups.into_iter().map(|(group, rules)| (group, Arc::new(rules))).collect(),
            members: members.into_iter().map(|(group, members)| (group, OrdSet::from(members))).collect(),
            prefix_lists: prefix_lists.into_iter().map(|(list, entries)| (list, Arc::new(entries))).collect(),
            exempt,
            cluster_dns,
            ..NodePolicy::default()
        };
        for (text, owner) in POOL.iter().zip(owners) {
            let Some(owner) = owner else { continue };
            let (groups, rejects, closed) = &endpoints[owner];
            let pod = PodRef { namespace: "shop".into(), name: format!("pod-{owner}") };
            let endpoint = policy.endpoints.entry(pod).or_insert_with(|| Endpoint {
                groups: groups.clone(),
                on_deny: if *rejects { OnDeny::Reject } else { OnDeny::Drop },
                closed: *closed,
                ..Endpoint::default()
            });
            endpoint.addresses.insert(address(text));
        }
        policy
    })
}

pub fn packet() -> impl Strategy<Value = Packet> {
    let ends = family().prop_flat_map(|family| {
        let own: Vec<IpAddr> = POOL.iter().copied().map(address).filter(|address| Family::of(*address) == family).collect();
        (select(own.clone()), select(own))
    });
    let payload = prop_oneof![
        4 => (transport(), port(), port()).prop_map(|(protocol, source, destination)| Payload::Transport { protocol, source, destination }),
        2 => (icmp_type(), 0..2u8).prop_map(|(kind, code)| Payload::Icmp { kind, code }),
        1 => select(vec![47, 50, 255]).prop_map(Payload::Protocol),
    ];
    let state = prop_oneof![
        6 => Just(ConnState::New),
        1 => select(vec![ConnState::Established, ConnState::Related, ConnState::Invalid]),
    ];
    let path = prop_oneof![6 => Just(Path::Forward), 2 => Just(Path::Input), 1 => Just(Path::Output), 1 => Just(Path::Loopback)];
    (ends, payload, state, path).prop_map(|((source, destination), payload, state, path)| Packet {
        source,
        destination,
        payload,
        state,
        path,
    })
}

/// One random chain: perhaps a base, and rules as numbers that are made to fit what there is.
type RawChain = (Option<(bool, i32)>, Vec<(u8, usize, bool)>);

/// One random set, interval set or map: its kind, its family, its addresses, and where a map's targets begin.
type RawObject = (u8, Family, BTreeSet<IpAddr>, usize);

/// Rulesets that `lower` does not make: objects that change family, hook or kind under one name.
pub fn ruleset() -> impl Strategy<Value = Ruleset> {
    let chain = (option::weighted(0.3, (prop::bool::ANY, 0..2)), vec((0..6u8, 0..6usize, prop::bool::ANY), 0..4));
    let chains = vec(option::weighted(0.8, chain), 6);
    let objects = vec(option::weighted(0.8, (0..7u8, family(), some_addresses(), 0..6usize)), 5);
    (chains, objects, btree_set(0..3u8, 0..3)).prop_map(|(chains, objects, counters)| assemble(&chains, objects, counters))
}

/// Jumps lead upwards, look-ups stand in the lower half of the chains and lead to the upper half: so there are no loops.
fn assemble(chains: &[Option<RawChain>], objects: Vec<Option<RawObject>>, counters: BTreeSet<u8>) -> Ruleset {
    let half = chains.len() / 2;
    let regular = |index: usize| matches!(chains.get(index), Some(Some((None, _))));
    let mut made = Ruleset { counters: counters.into_iter().map(|counter| format!("counter-{counter}")).collect(), ..Ruleset::default() };
    for (index, object) in objects.into_iter().enumerate() {
        let Some((kind, family, addresses, first)) = object else { continue };
        let own = addresses.into_iter().filter(|address| Family::of(*address) == family);
        let name = format!("object-{index}");
        if kind == 0 {
            made.sets.insert(name, Set { family, elements: own.collect() });
            continue;
        } else if kind == 1 {
            let nets = own.map(|address| IpNet::new_assert(address, if family == Family::V4 { 31 } else { 127 }).trunc()).collect();
            made.intervals.insert(name, IntervalSet { family, ranges: merge(&nets, family) });
            continue;
        }
        if kind >= 5 {
            let counter = |place: usize| made.counters.iter().nth((place + first) % made.counters.len().max(1));
            let element = |(place, address): (usize, IpAddr)| Some((address, (address, counter(place)?.as_str().into())));
            let elements = own.enumerate().filter_map(element).collect();
            made.counter_maps.insert(name, CounterMap { family, ranges: kind == 6, elements });
            continue;
        }
        let targets: Vec<usize> = (half..chains.len()).filter(|index| regular(*index)).collect();
        let target = |place: usize| Some(format!("chain-{}", targets.get((first + place) % targets.len().max(1))?));
        if kind >= 3 {
            let ranges = kind == 4;
            // Ranges that touch and that do not, to the last port of all.
            let element = |(place, _): (usize, _)| {
                let from = u16::MAX - 7 * u16::try_from(place + first).ok()?;
                let to = if ranges { from.saturating_add(6).max(from) } else { from };
                Some((from, (if place % 2 == 0 { to } else { from }, target(place)?)))
            };
            made.port_maps.insert(name, PortMap { ranges, elements: own.enumerate().filter_map(element).collect() }.into());
        } else {
            let element = |(place, key)| Some((key, target(place)?));
            made.maps.insert(name, VerdictMap { family, elements: own.enumerate().filter_map(element).collect() });
        }
    }
    for (index, chain) in chains.iter().enumerate() {
        let Some((base, raw)) = chain else { continue };
        let base = base.map(|(input, priority)| Base { hook: if input { Hook::Input } else { Hook::Output }, priority });
        let mut rules = Vec::new();
        for (kind, number, flag) in raw {
            let (object, side) = (format!("object-{number}"), if *flag { Side::Source } else { Side::Destination });
            let counter = made.counters.iter().nth(*number).cloned();
            let family = made.sets.get(&object).map(|set| set.family).or(made.intervals.get(&object).map(|set| set.family));
            let set = family.map(|family| Match::InSet { side, family, set: object.clone() });
            let counted = made.counter_maps.get(&object).map(|map| Match::CountedIn { side, family: map.family, map: object.clone() });
            let ports = index < half && made.port_maps.contains_key(&object);
            let action = match kind {
                0 => Action::Accept,
                1 | 2 if number + index + 1 < chains.len() && regular(number + index + 1) => {
                    let to = format!("chain-{}", number + index + 1);
                    if *flag { Action::Jump(to) } else { Action::Goto(to) }
                }
                3 if index < half && made.maps.contains_key(&object) => {
                    Action::Lookup { side, family: made.maps[&object].family, map: object }
                }
                3 if ports => Action::PortLookup(object),
                4 if counter.is_some() => Action::Continue,
                4 => Action::Return,
                _ => Action::Drop,
            };
            let state = Match::CtState(CtStates { new: true, invalid: *flag, ..CtStates::default() });
            let udp = matches!(action, Action::PortLookup(_)).then_some(Match::L4Proto(17));
            rules.push(ruleset::Rule { matches: set.into_iter().chain([state]).chain(udp).chain(counted).collect(), counter, action });
        }
        made.chains.insert(format!("chain-{index}"), Chain { base, rules }.into());
    }
    made
}
