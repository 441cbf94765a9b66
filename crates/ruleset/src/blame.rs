//! From a step that the kernel refuses to the object that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use policy::model::{Direction, Endpoint, GroupRef, GroupRules, NodePolicy, Peer, PodRef, PrefixListRef};

use crate::class;
use crate::lower::{FAMILIES, group_denied_counter, members_name, own_chain, prefixes_name, rule_counter};
use crate::lowering::{Class, Lowering};
use crate::piece::{Merge, Peers, Piece};
use crate::{Action, Match, Op, Rule};

/// A part of the policy that can stay as it was while everything else goes on, and nothing opens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The rules of a group.
    Rules(GroupRef),
    /// The members of a group.
    Members(GroupRef),
    /// The entries of a prefix list.
    PrefixList(PrefixListRef),
    /// What judges an endpoint.
    Endpoint(PodRef),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Rules(group) | Part::Members(group) => write!(f, "SecurityGroup {group}"),
            Part::PrefixList(list) => write!(f, "PrefixList {list}"),
            Part::Endpoint(pod) => write!(f, "Pod {pod}"),
        }
    }
}

impl Part {
    /// How it is where it was taken from elsewhere.
    pub fn what(&self, policy: &NodePolicy) -> &'static str {
        match self {
            Part::Rules(group) if policy.groups.get(group).is_none_or(|rules| **rules == GroupRules::default()) => "it allows nothing",
            Part::Rules(_) => "its rules are as before",
            Part::Members(group) if policy.members.get(group).is_none_or(OrdSet::is_empty) => "where rules name it, it has no members",
            Part::Members(_) => "its members are those from before that still are",
            Part::PrefixList(list) if policy.prefix_lists.get(list).is_none_or(|entries| entries.is_empty()) => "it has no entries",
            Part::PrefixList(_) => "its entries are as before",
            Part::Endpoint(pod) if policy.endpoints.get(pod).is_some_and(|endpoint| endpoint.closed) => {
                "it is closed, whatever its groups allow"
            }
            Part::Endpoint(_) => "it is in no other groups than before",
        }
    }

    /// The parts that are new in `after`, or others than in `before`.
    pub fn that_differ(after: &NodePolicy, before: &NodePolicy) -> BTreeSet<Part> {
        let rules = come(&before.groups, &after.groups).map(Part::Rules);
        let members = come(&before.members, &after.members).map(Part::Members);
        let lists = come(&before.prefix_lists, &after.prefix_lists).map(Part::PrefixList);
        let endpoints = come(&before.endpoints, &after.endpoints).map(Part::Endpoint);
        rules.chain(members).chain(lists).chain(endpoints).collect()
    }

    /// The parts that have a use for it. Where it is of no help to leave it as it was, for what is refused is there for them, they may be.
    pub fn users(&self, policy: &NodePolicy) -> Vec<Part> {
        let groups = |names: &dyn Fn(&GroupRules) -> bool| {
            policy.groups.iter().filter(|(_, rules)| names(rules)).map(|(group, _)| Part::Rules(group.clone())).collect()
        };
        match self {
            Part::Rules(group) => {
                let has = |(_, endpoint): &(&PodRef, &Endpoint)| endpoint.groups.contains(group);
                policy.endpoints.iter().filter(has).map(|(pod, _)| Part::Endpoint(pod.clone())).collect()
            }
            Part::Members(group) => groups(&|rules| rules.groups().any(|named| named == group)),
            Part::PrefixList(list) => groups(&|rules| rules.prefix_lists().any(|named| named == list)),
            Part::Endpoint(_) => Vec::new(),
        }
    }

    /// Whether it is the same in both.
    pub fn is_same(&self, one: &NodePolicy, other: &NodePolicy) -> bool {
        match self {
            Part::Rules(group) => one.groups.get(group) == other.groups.get(group),
            Part::Members(group) => one.members.get(group) == other.members.get(group),
            Part::PrefixList(list) => one.prefix_lists.get(list) == other.prefix_lists.get(list),
            Part::Endpoint(pod) => one.endpoints.get(pod) == other.endpoints.get(pod),
        }
    }

    /// Makes it what it is elsewhere; what is not there allows nothing and matches nothing. What has left the policy stays away. An endpoint
    /// is closed if it would be in a group that it should not be in any more, or if its chains would not be what they are there.
    pub fn take_from(&self, from: &NodePolicy, policy: &mut NodePolicy) {
        match self {
            Part::Rules(group) => {
                if let Some(rules) = policy.groups.get_mut(group) {
                    *rules = from.groups.get(group).cloned().unwrap_or_default();
                }
            }
            Part::Members(group) => {
                match (policy.members.get_mut(group), from.members.get(group)) {
                    // Who has left has left: somebody else may have that address by now.
                    (Some(members), Some(before)) => *members = before.clone().intersection(members.clone()),
                    // Not empty: an empty set would be there as well.
                    _ => drop(policy.members.remove(group)),
                }
            }
            Part::PrefixList(list) => match (policy.prefix_lists.get_mut(list), from.prefix_lists.get(list)) {
                (Some(entries), Some(before)) => entries.clone_from(before),
                _ => drop(policy.prefix_lists.remove(list)),
            },
            Part::Endpoint(pod) => {
                let Some(endpoint) = policy.endpoints.get(pod) else { return };
                let knows = |group: &GroupRef| policy.groups.contains_key(group) == from.groups.contains_key(group);
                let stands = |before: &&Endpoint| {
                    let may_be_there = before.addresses == endpoint.addresses && before.groups.is_subset(&endpoint.groups);
                    may_be_there && before.groups.iter().all(knows)
                };
                let before = from.endpoints.get(pod).filter(stands).cloned();
                let endpoint =
                    before.unwrap_or_else(|| Endpoint { addresses: endpoint.addresses.clone(), closed: true, ..Endpoint::default() });
                policy.endpoints.insert(pod.clone(), endpoint);
            }
        }
    }
}

/// What is new or another.
fn come<K: Ord + Clone, V: Clone + PartialEq>(before: &OrdMap<K, V>, after: &OrdMap<K, V>) -> impl Iterator<Item = K> {
    before.diff(after).filter_map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } => Some(key.clone()),
        DiffItem::Remove(..) => None,
    })
}

impl Lowering {
    /// What each of these steps towards the last ruleset, all of which are refused, is about: one part, one of several, or nothing that could be
    /// left as it was. First what it most likely is, and then what it may be where that has not changed. A kernel goes on after a step that it
    /// refuses, so it also refuses all that needs what that would have made; those say nothing.
    pub fn blame(&self, refused: &[Op]) -> Vec<Vec<BTreeSet<Part>>> {
        let missing: BTreeSet<Thing> = refused.iter().filter_map(made).collect();
        let by_itself = |op: &&Op| !needed(op).iter().any(|thing| missing.contains(thing));
        refused.iter().filter(by_itself).map(|op| self.about(op)).collect()
    }

    fn about(&self, op: &Op) -> Vec<BTreeSet<Part>> {
        let parts = match op {
            Op::AddRule(chain, rule) => return vec![self.of_rule(chain, rule), self.named_by(rule)],
            // It is there whatever rules it has.
            Op::AddChain(chain, _) => self.of_new_chain(chain),
            Op::FlushChain(chain) | Op::DeleteChain(chain) => self.of_chain(chain),
            Op::AddPortMap(map, _) | Op::AddPorts(map, _) | Op::DeletePorts(map, _) => self.of_port_map(map),
            Op::DeleteMap(map) => self.of_port_map(map).into_iter().chain(self.of_set(map)).collect(),
            Op::AddCounter(counter) | Op::ContinueCounter(counter, _) | Op::DeleteCounter(counter) => self.of_counter(counter),
            Op::AddSet(set, _) | Op::DeleteSet(set) | Op::AddElements(set, _) | Op::DeleteElements(set, _) => self.of_set(set),
            Op::AddIntervalSet(set, _) | Op::DeleteIntervalSet(set) | Op::AddIntervals(set, _) | Op::DeleteIntervals(set, _) => {
                self.of_set(set)
            }
            // It is there for the rules that look into it; what it holds may be to blame where they are as they were.
            Op::AddCounterMap(map, ..) => return vec![self.looking_into(map), self.of_set(map)],
            Op::AddCounted(map, _) | Op::DeleteCounted(map, _) => self.of_set(map),
            Op::AddMapElements(_, elements) => elements.values().flat_map(|chain| self.of_chain(chain)).collect(),
            Op::AddTable | Op::DeleteTable | Op::AddMap(..) | Op::DeleteMapElements(..) => BTreeSet::new(),
        };
        vec![parts]
    }

    /// Whose members and entries a rule looks at.
    fn named_by(&self, rule: &Rule) -> BTreeSet<Part> {
        let set = |test: &Match| match test {
            Match::InSet { set: name, .. } | Match::CountedIn { map: name, .. } => self.of_set(name),
            _ => BTreeSet::new(),
        };
        rule.matches.iter().flat_map(set).collect()
    }

    /// The group whose counter it has, or all that the class has.
    fn of_rule(&self, chain: &str, rule: &Rule) -> BTreeSet<Part> {
        let class = self.of_chain(chain);
        let counted = rule.counter.as_ref().map(|counter| self.of_counter(counter)).unwrap_or_default();
        let both: BTreeSet<Part> = class.intersection(&counted).cloned().collect();
        if both.is_empty() { class } else { both }
    }

    /// The endpoints of a class, where it is the first of its chains.
    fn of_new_chain(&self, chain: &str) -> BTreeSet<Part> {
        let is_first = |(direction, groups): &&Class| class::name(groups, *direction) == chain;
        let Some((_, groups)) = self.classes().map(|(class, _)| class).find(is_first) else { return self.of_chain(chain) };
        let is_of = |(_, endpoint): &(&PodRef, &Endpoint)| self.groups_with_a_say(endpoint).eq(groups);
        self.policy().endpoints.iter().filter(is_of).map(|(pod, _)| Part::Endpoint(pod.clone())).collect()
    }

    /// The groups of a class, or an endpoint.
    fn of_chain(&self, chain: &str) -> BTreeSet<Part> {
        let has = |(_, piece): &(&_, &Piece)| piece.chains.iter().any(|(name, _)| name == chain);
        let groups = self.classes().filter(has).flat_map(|((_, groups), _)| groups).cloned().map(Part::Rules);
        let is_own = |pod: &&PodRef| [Direction::Ingress, Direction::Egress].iter().any(|direction| own_chain(pod, *direction) == chain);
        let endpoint = self.policy().endpoints.keys().filter(is_own).cloned().map(Part::Endpoint);
        groups.chain(endpoint).collect()
    }

    fn of_port_map(&self, map: &str) -> BTreeSet<Part> {
        let has = |(_, piece): &(&_, &Piece)| piece.port_maps.iter().any(|(name, _)| name == map);
        self.classes().filter(has).flat_map(|((_, groups), _)| groups).cloned().map(Part::Rules).collect()
    }

    fn of_counter(&self, counter: &str) -> BTreeSet<Part> {
        let counts = |(group, rules): &(&GroupRef, &Arc<GroupRules>)| {
            let is = |direction, rule: &policy::model::Rule| rule_counter(direction, group, &rule.id) == counter;
            rules.ingress.iter().any(|rule| is(Direction::Ingress, rule)) || rules.egress.iter().any(|rule| is(Direction::Egress, rule))
        };
        let groups = self.policy().groups.iter().filter(counts).map(|(group, _)| Part::Rules(group.clone()));
        let denies =
            |group: &GroupRef| [Direction::Ingress, Direction::Egress].iter().any(|it| group_denied_counter(*it, group) == counter);
        let denied = self.policy().endpoints.iter().filter(|(_, endpoint)| endpoint.groups.iter().any(denies));
        groups.chain(denied.map(|(pod, _)| Part::Endpoint(pod.clone()))).collect()
    }

    fn of_set(&self, set: &str) -> BTreeSet<Part> {
        let is_members = |group: &&GroupRef| FAMILIES.iter().any(|family| members_name(group, *family) == set);
        let is_list = |list: &&PrefixListRef| FAMILIES.iter().any(|family| prefixes_name(list, *family) == set);
        let is_merged = |merge: &&Merge| FAMILIES.iter().any(|family| merge.name(*family) == set);
        let members = self.policy().members.keys().filter(is_members).map(|group| Part::Members(group.clone()));
        let lists = self.policy().prefix_lists.keys().filter(is_list).map(|list| Part::PrefixList(list.clone()));
        let merged = self.merges().filter(is_merged).flat_map(|merge| match merge.peers() {
            Peers::Groups(groups) => groups.keys().cloned().map(Part::Members).collect::<Vec<_>>(),
            Peers::Nets(peers) => self.naming(|peer| peers.contains_key(peer)).map(Part::Rules).chain(lists_of(peers)).collect(),
        });
        members.chain(lists).chain(merged).collect()
    }

    /// The groups of whose rules one names a peer that is looked for in this map.
    fn looking_into(&self, map: &str) -> BTreeSet<Part> {
        let looks = |rule: &Rule| rule.matches.iter().any(|test| matches!(test, Match::CountedIn { map: name, .. } if name == map));
        let has = |(_, piece): &(&_, &Piece)| piece.chains.iter().any(|(_, chain)| chain.rules.iter().any(looks));
        let of_classes: BTreeSet<&GroupRef> = self.classes().filter(has).flat_map(|((_, groups), _)| groups).collect();
        let merge = self.merges().find(|merge| FAMILIES.iter().any(|family| merge.name(*family) == map));
        let names = merge.into_iter().flat_map(|merge| self.naming(|peer| merge.holds(peer)));
        names.filter(|group| of_classes.contains(group)).map(Part::Rules).collect()
    }

    /// The groups that name one of these peers.
    fn naming(&self, is_one: impl Fn(&Peer) -> bool) -> impl Iterator<Item = GroupRef> {
        let names = move |(_, rules): &(&GroupRef, &Arc<GroupRules>)| rules.all().any(|rule| is_one(&rule.peer));
        self.policy().groups.iter().filter(names).map(|(group, _)| group.clone())
    }
}

fn lists_of(peers: &BTreeMap<Peer, Arc<str>>) -> impl Iterator<Item = Part> {
    peers.keys().filter_map(|peer| match peer {
        Peer::PrefixList(list) => Some(Part::PrefixList(list.clone())),
        Peer::Net(_) | Peer::Group(_) => None,
    })
}

/// What has a name in the table. Chains have names of their own, and so have counters; sets and maps share theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing<'a> {
    Chain(&'a str),
    Counter(&'a str),
    Set(&'a str),
    /// Of a map from addresses to chains.
    Element(&'a str, IpAddr),
}

/// What is not as it should be where these steps alone are missing.
pub(crate) fn touched(refused: &[Op]) -> BTreeSet<Thing<'_>> {
    refused.iter().flat_map(of_step).collect()
}

fn of_step(op: &Op) -> Vec<Thing<'_>> {
    match op {
        Op::AddTable | Op::DeleteTable => Vec::new(),
        Op::AddChain(name, _) | Op::FlushChain(name) | Op::DeleteChain(name) | Op::AddRule(name, _) => vec![Thing::Chain(name)],
        Op::AddCounter(name) | Op::ContinueCounter(name, _) | Op::DeleteCounter(name) => vec![Thing::Counter(name)],
        Op::AddSet(name, _) | Op::DeleteSet(name) | Op::AddElements(name, _) | Op::DeleteElements(name, _) => vec![Thing::Set(name)],
        Op::AddIntervalSet(name, _) | Op::DeleteIntervalSet(name) => vec![Thing::Set(name)],
        Op::AddIntervals(name, _) | Op::DeleteIntervals(name, _) => vec![Thing::Set(name)],
        Op::AddMap(name, _) | Op::DeleteMap(name) | Op::AddPortMap(name, _) => vec![Thing::Set(name)],
        Op::AddPorts(name, _) | Op::DeletePorts(name, _) | Op::AddCounterMap(name, ..) => vec![Thing::Set(name)],
        Op::AddCounted(name, _) | Op::DeleteCounted(name, _) => vec![Thing::Set(name)],
        Op::AddMapElements(map, elements) => elements.keys().map(|address| Thing::Element(map, *address)).collect(),
        Op::DeleteMapElements(map, addresses) => addresses.iter().map(|address| Thing::Element(map, *address)).collect(),
    }
}

/// What a step makes.
fn made(op: &Op) -> Option<Thing<'_>> {
    match op {
        Op::AddChain(name, _) => Some(Thing::Chain(name)),
        Op::AddCounter(name) | Op::ContinueCounter(name, _) => Some(Thing::Counter(name)),
        Op::AddSet(name, _) | Op::AddIntervalSet(name, _) => Some(Thing::Set(name)),
        Op::AddMap(name, _) | Op::AddPortMap(name, _) | Op::AddCounterMap(name, ..) => Some(Thing::Set(name)),
        _ => None,
    }
}

/// What has to be there for a step that makes something.
fn needed(op: &Op) -> Vec<Thing<'_>> {
    match op {
        Op::AddRule(chain, rule) => {
            let mut needed = vec![Thing::Chain(chain)];
            needed.extend(rule.counter.as_deref().map(Thing::Counter));
            needed.extend(rule.matches.iter().filter_map(|test| match test {
                Match::InSet { set, .. } => Some(Thing::Set(set)),
                Match::CountedIn { map, .. } => Some(Thing::Set(map)),
                _ => None,
            }));
            needed.extend(match &rule.action {
                Action::Jump(to) | Action::Goto(to) => Some(Thing::Chain(to)),
                Action::Lookup { map, .. } | Action::PortLookup(map) => Some(Thing::Set(map)),
                _ => None,
            });
            needed
        }
        Op::AddElements(set, _) | Op::AddIntervals(set, _) => vec![Thing::Set(set)],
        Op::AddMapElements(map, elements) => [Thing::Set(map)].into_iter().chain(elements.values().map(|to| Thing::Chain(to))).collect(),
        Op::AddPorts(map, ports) => [Thing::Set(map)].into_iter().chain(ports.elements.values().map(|(_, to)| Thing::Chain(to))).collect(),
        Op::AddCounted(map, counted) => {
            [Thing::Set(map)].into_iter().chain(counted.elements.values().map(|(_, counter)| Thing::Counter(counter))).collect()
        }
        _ => Vec::new(),
    }
}
