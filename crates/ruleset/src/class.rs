//! The rules of a class of endpoints: all that are in the same groups.
//!
//! Few rules stand one after another, as written. Many are found by what a packet carries, then by its peer, so that a new connection costs
//! the same whichever rule allows it:
//!
//! ```text
//! CLASS ─ tcp ─ map: one port ────▶ CLASS/tcp/443 ──────── who may
//!             ─ map: port ranges ─▶ CLASS/tcp/8000-8100 ── who may
//!       ─ udp, sctp …
//!       ─ what has no ports ─ who may
//! ```
//! *Who may* is a rule for each (rule, peer) and each family that endpoints here have, with its counter, as long as they are few; more are
//! merged into one map of addresses (from three groups on) and one of networks, from which a look-up takes the counter of the rule. An address
//! that several of them hold counts for the first. The same rules are merged once in the whole table, and where there is room ([`crate::room`]):
//! an address stands in as many maps as there are different lists of rules that name it.
//!
//! Other layouts beside it, by `tests/bench packets`: the first packet of a connection, allowed by the last of 250 rules in 5 groups, against
//! conntrack alone (Linux 6.18, one run):
//!
//! ```text
//!                        ports differ   one port   and 250 networks
//! this one                       1.20       1.21               1.22
//! peer first                     1.33       1.35               7.68
//! port first                     1.24      10.95              15.46
//! port first, intervals          1.40      10.97              15.45
//! one rule a peer                4.70      14.09              22.02
//! ```
//! The last of few rules in turn and by maps, in the same run:
//!
//! ```text
//! rules                             1      2      3      4      5      8
//! one port, in turn              1.17   1.24   1.28   1.38   1.42   1.60
//! one port, by maps              1.21   1.22   1.19   1.21   1.21   1.22
//! ports differ, in turn          1.17   1.19   1.21   1.19   1.23   1.31
//! ports differ, by maps          1.21   1.23   1.20   1.21   1.22   1.22
//! ```
//! So few rules stand in turn, but for groups that may the same.
//!
//! And on commits, by `tests/bench commits`: milliseconds where 20 pods are in 5 groups each of 50 rules (5,000 rules, 10,000 members); ours in
//! the agent, the others by the programs that load them, their start (2.0 ms) included (the same system, one run):
//!
//! ```text
//!                        full load   a member joins   a rule goes   a pod comes
//! this one                     231             1.3           3.2           1.6
//! peer first                   456              14            21            14
//! port first                   128             9.3            25            10
//! one rule a peer              112             3.2            24           4.0
//! one list                     126             2.9           121           9.7
//! iptables + ipset           2,054             2.6           583           577
//! ```
//! A map for each list of rules is what counting each rule costs: the same peers on another port stand in another map.
//!
//! With maps that begin with the peer's address, a change of one member is one of a verdict map: the kernel checks every verdict of the table again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::model::{Direction, Family, GroupRef, NodePolicy, Peer, PortRange, Rule as PolicyRule, Traffic, Transport};

use crate::lower::{FAMILIES, ICMP, ICMPV6, accept, far_side, jump, members_name, prefixes_name, rule_counter, way};
use crate::lowering::Bounds;
use crate::names;
use crate::piece::{Merge, Piece};
use crate::room::Room;
use crate::{Action, Chain, Match, PortMap, Rule, Side};

/// A (rule, peer) pair and its counter.
struct Pair<'a> {
    counter: String,
    rule: &'a PolicyRule,
}

/// The name of the chain of the class of these groups.
pub(crate) fn name(groups: &[GroupRef], direction: Direction) -> String {
    names::class(way(direction), groups)
}

/// What the class of these groups needs in a direction, where endpoints have addresses of these families.
pub(crate) fn piece(
    policy: &NodePolicy,
    groups: &[GroupRef],
    direction: Direction,
    spoken: &[Family],
    bounds: Bounds,
    room: &Room,
) -> Piece {
    let name = name(groups, direction);
    let mut piece = Piece::default();
    let mut pairs = Vec::new();
    for group in groups {
        let rules = policy.groups.get(group).map(|rules| if direction == Direction::Ingress { &rules.ingress } else { &rules.egress });
        pairs.extend(rules.into_iter().flatten().map(|rule| Pair { counter: rule_counter(direction, group, &rule.id), rule }));
    }
    piece.counters.extend(pairs.iter().map(|pair| pair.counter.clone()));
    piece.peers.extend(pairs.iter().map(|pair| &pair.rule.peer).filter(|peer| !matches!(peer, Peer::Net(_))).cloned());
    let mut class = Class { piece: &mut piece, policy, side: far_side(direction), name: &name, spoken, bounds, room };
    let rules = if pairs.len() <= bounds.few { class.one_by_one(&pairs) } else { class.by_traffic(&pairs) };
    piece.chains.push((name, Chain { base: None, rules }));
    piece
}

/// A class whose chains are being made.
struct Class<'a> {
    piece: &'a mut Piece,
    policy: &'a NodePolicy,
    side: Side,
    name: &'a str,
    spoken: &'a [Family],
    bounds: Bounds,
    room: &'a Room,
}

impl Class<'_> {
    fn one_by_one(&mut self, pairs: &[Pair<'_>]) -> Vec<Rule> {
        let mut kinds: Vec<(Traffic, Vec<&Pair<'_>>)> = Vec::new();
        for pair in pairs {
            match kinds.iter_mut().find(|(traffic, _)| *traffic == pair.rule.traffic) {
                Some((_, pairs)) => pairs.push(pair),
                None => kinds.push((pair.rule.traffic, vec![pair])),
            }
        }
        kinds.into_iter().flat_map(|(traffic, pairs)| self.who_may(&tests(traffic), &self.families(traffic), &pairs)).collect()
    }

    fn by_traffic(&mut self, pairs: &[Pair<'_>]) -> Vec<Rule> {
        let mut rules = Vec::new();
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            let with_ports: Vec<(PortRange, &Pair<'_>)> = pairs
                .iter()
                .filter_map(|pair| match pair.rule.traffic {
                    Traffic::Transport(of, Some(ports)) if of == transport => Some((ports, pair)),
                    _ => None,
                })
                .collect();
            let name = format!("{}/{}", self.name, word(transport));
            let mut look_up = |map: String, ranges: bool, segments: BTreeMap<PortRange, Vec<&Pair<'_>>>| {
                if segments.is_empty() {
                    return;
                }
                let mut elements = BTreeMap::new();
                for (ports, pairs) in segments {
                    let leaf = if ports.from == ports.to {
                        format!("{name}/{}", ports.from)
                    } else {
                        format!("{name}/{}-{}", ports.from, ports.to)
                    };
                    // One port of the ranges is not the port that rules name alone.
                    let leaf = if ranges && ports.from == ports.to { format!("{leaf}-{}", ports.to) } else { leaf };
                    let rules = self.who_may(&[], self.spoken, &pairs);
                    self.piece.chains.push((leaf.clone(), Chain { base: None, rules }));
                    elements.insert(ports.from, (ports.to, leaf));
                }
                self.piece.port_maps.push((map.clone(), PortMap { ranges, elements }));
                rules.push(Rule { matches: vec![Match::L4Proto(transport.number())], counter: None, action: Action::PortLookup(map) });
            };
            look_up(name.clone(), false, single_ports(&with_ports));
            look_up(format!("{name}-ranges"), true, cut(&with_ports));
        }
        rules.extend(self.without_ports(pairs));
        rules
    }

    /// What every protocol may, and what is told apart by type and code, or not at all. Protocols with many rules are behind one test.
    fn without_ports(&mut self, pairs: &[Pair<'_>]) -> Vec<Rule> {
        let mut kinds: BTreeMap<Option<u8>, BTreeMap<Traffic, Vec<&Pair<'_>>>> = BTreeMap::new();
        for pair in pairs.iter().filter(|pair| !matches!(pair.rule.traffic, Traffic::Transport(_, Some(_)))) {
            kinds.entry(protocol(pair.rule.traffic)).or_default().entry(pair.rule.traffic).or_default().push(pair);
        }
        let mut rules = Vec::new();
        for (protocol, kinds) in kinds {
            let own = protocol.map_or_else(|| "all".into(), |number| number.to_string());
            let mut inner = Vec::new();
            for (traffic, pairs) in kinds {
                inner.extend(self.who_may(&tests(traffic), &self.families(traffic), &pairs));
            }
            match protocol {
                Some(number) if inner.len() > self.bounds.few => {
                    let chain = format!("{}/{own}", self.name);
                    rules.push(Rule { matches: vec![Match::L4Proto(number)], ..jump(chain.clone()) });
                    self.piece.chains.push((chain, Chain { base: None, rules: inner }));
                }
                _ => rules.extend(inner),
            }
        }
        rules
    }

    /// Accepts the peers of these pairs, whose traffic is what these tests tell, in these families.
    fn who_may(&mut self, tests: &[Match], families: &[Family], pairs: &[&Pair<'_>]) -> Vec<Rule> {
        if families.is_empty() {
            return Vec::new();
        }
        let is_anybody = |pair: &&&Pair<'_>| matches!(&pair.rule.peer, Peer::Net(net) if net.prefix_len() == 0);
        let is_group = |pair: &&&Pair<'_>| matches!(pair.rule.peer, Peer::Group(_));
        // Everybody of a family is the cheapest test, and makes the others needless.
        let exists = |pair: &&&Pair<'_>| !self.peers(&pair.rule.peer).is_empty();
        let (anybody, others): (Vec<&&Pair<'_>>, Vec<_>) = pairs.iter().filter(exists).partition(is_anybody);
        let (groups, nets): (Vec<&&Pair<'_>>, Vec<_>) = others.into_iter().partition(is_group);
        let mut rules: Vec<Rule> = anybody.iter().flat_map(|pair| self.rules_of(tests, families, pair)).collect();
        let merged = if groups.len() > self.bounds.peers { self.merged_groups(tests, families, &groups) } else { None };
        rules.extend(merged.unwrap_or_else(|| groups.iter().flat_map(|pair| self.rules_of(tests, families, pair)).collect()));
        if nets.len() > self.bounds.few {
            rules.extend(self.merged_nets(tests, families, &nets));
        } else {
            rules.extend(nets.iter().flat_map(|pair| self.rules_of(tests, families, pair)));
        }
        rules
    }

    /// None where there is no room for their members.
    fn merged_groups(&mut self, tests: &[Match], families: &[Family], pairs: &[&&Pair<'_>]) -> Option<Vec<Rule>> {
        let merge = Merge::groups(first_counters(pairs, |peer| match peer {
            Peer::Group(group) => Some(group.clone()),
            Peer::Net(_) | Peer::PrefixList(_) => None,
        }));
        self.piece.merges.insert(merge.clone());
        self.room.has(&merge).then(|| self.merged(tests, families, &merge))
    }

    fn merged_nets(&mut self, tests: &[Match], families: &[Family], pairs: &[&&Pair<'_>]) -> Vec<Rule> {
        let merge = Merge::nets(first_counters(pairs, |peer| Some(peer.clone())));
        self.piece.merges.insert(merge.clone());
        self.merged(tests, families, &merge)
    }

    fn merged(&self, tests: &[Match], families: &[Family], merge: &Merge) -> Vec<Rule> {
        let far = |family: &Family| Match::CountedIn { side: self.side, family: *family, map: merge.name(*family) };
        let matches = |family| tests.iter().cloned().chain([far(family)]).collect();
        families.iter().map(|family| Rule { matches: matches(family), counter: None, action: Action::Accept }).collect()
    }

    /// The families in which endpoints have addresses and this traffic exists.
    fn families(&self, traffic: Traffic) -> Vec<Family> {
        families(traffic).iter().copied().filter(|family| self.spoken.contains(family)).collect()
    }

    /// The rules of one pair, one for each family in which its peer can be met.
    fn rules_of(&self, tests: &[Match], families: &[Family], pair: &Pair<'_>) -> Vec<Rule> {
        let peers = self.peers(&pair.rule.peer).into_iter().filter(|(family, _)| families.contains(family));
        peers.map(|(_, peer)| accept(&pair.counter, tests.iter().cloned().chain([peer]).collect())).collect()
    }

    /// The test of the far end in each family in which it can be met.
    fn peers(&self, peer: &Peer) -> Vec<(Family, Match)> {
        match peer {
            Peer::Net(net) => {
                let net = net.trunc();
                let family = Family::of(net.addr());
                // Everybody of a family: no need to look at the address.
                let anybody = net.prefix_len() == 0;
                vec![(family, if anybody { Match::Family(family) } else { Match::InNet { side: self.side, net } })]
            }
            // A peer that does not exist has no sets, and so no rule: it matches nothing (S20), and a thousand of them cost nothing.
            Peer::Group(group) if self.policy.members.contains_key(group) => self.in_sets(|family| members_name(group, family)),
            Peer::PrefixList(list) if self.policy.prefix_lists.contains_key(list) => self.in_sets(|family| prefixes_name(list, family)),
            Peer::Group(_) | Peer::PrefixList(_) => Vec::new(),
        }
    }

    fn in_sets(&self, name: impl Fn(Family) -> String) -> Vec<(Family, Match)> {
        FAMILIES.map(|family| (family, Match::InSet { side: self.side, family, set: name(family) })).into()
    }
}

/// The peers of these pairs, each with the counter of the first rule that names it.
fn first_counters<T: Ord>(pairs: &[&&Pair<'_>], peer: impl Fn(&Peer) -> Option<T>) -> BTreeMap<T, Arc<str>> {
    let mut counters = BTreeMap::new();
    for pair in pairs {
        if let Some(peer) = peer(&pair.rule.peer) {
            counters.entry(peer).or_insert_with(|| Arc::from(pair.counter.as_str()));
        }
    }
    counters
}

/// The pairs of each port that is named alone.
fn single_ports<'a, 'b>(pairs: &[(PortRange, &'a Pair<'b>)]) -> BTreeMap<PortRange, Vec<&'a Pair<'b>>> {
    let mut ports: BTreeMap<PortRange, Vec<_>> = BTreeMap::new();
    for (range, pair) in pairs.iter().filter(|(range, _)| range.from == range.to) {
        ports.entry(*range).or_default().push(*pair);
    }
    ports
}

/// Ranges cut where one of them begins or ends, each piece with the pairs that have it.
fn cut<'a, 'b>(pairs: &[(PortRange, &'a Pair<'b>)]) -> BTreeMap<PortRange, Vec<&'a Pair<'b>>> {
    // A range of no port allows nothing (S38).
    let ranges: Vec<_> = pairs.iter().filter(|(range, _)| range.from < range.to).collect();
    let mut edges: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (number, (range, _)) in ranges.iter().enumerate() {
        edges.entry(u32::from(range.from)).or_default().0.push(number);
        edges.entry(u32::from(range.to) + 1).or_default().1.push(number);
    }
    let mut pieces: Vec<(u32, u32, BTreeSet<usize>)> = Vec::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut begun = 0;
    for (edge, (begin, end)) in edges {
        if !open.is_empty() {
            pieces.push((begun, edge - 1, open.clone()));
        }
        open.extend(begin);
        open.retain(|number| !end.contains(number));
        begun = edge;
    }
    let port = |edge: u32| u16::try_from(edge).unwrap_or(u16::MAX);
    let pairs = |numbers: BTreeSet<usize>| numbers.into_iter().filter_map(|number| ranges.get(number)).map(|(_, pair)| *pair).collect();
    pieces.into_iter().map(|(from, to, numbers)| (PortRange { from: port(from), to: port(to) }, pairs(numbers))).collect()
}

/// The families in which this traffic exists (S16).
fn families(traffic: Traffic) -> &'static [Family] {
    match traffic {
        Traffic::Transport(_, Some(ports)) if ports.from > ports.to => &[],
        Traffic::Icmp { family: Family::V4, .. } => &[Family::V4],
        Traffic::Icmp { family: Family::V6, .. } => &[Family::V6],
        Traffic::All | Traffic::Transport(..) | Traffic::Protocol(_) => &FAMILIES,
    }
}

/// The protocol's number; none for all of them.
fn protocol(traffic: Traffic) -> Option<u8> {
    match traffic {
        Traffic::All => None,
        Traffic::Transport(transport, _) => Some(transport.number()),
        Traffic::Icmp { family: Family::V4, .. } => Some(ICMP),
        Traffic::Icmp { family: Family::V6, .. } => Some(ICMPV6),
        Traffic::Protocol(number) => Some(number),
    }
}

/// The tests of this traffic beside the family, which a peer's own test implies.
fn tests(traffic: Traffic) -> Vec<Match> {
    let mut tests: Vec<Match> = protocol(traffic).map(Match::L4Proto).into_iter().collect();
    match traffic {
        Traffic::Transport(_, Some(ports)) => tests.push(Match::DestinationPorts { from: ports.from, to: ports.to }),
        Traffic::Icmp { family, kind, code } => {
            tests.extend(kind.map(|kind| Match::IcmpType(family, kind)));
            tests.extend(code.map(|code| Match::IcmpCode(family, code)));
        }
        Traffic::All | Traffic::Transport(_, None) | Traffic::Protocol(_) => {}
    }
    tests
}

const fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    }
}
