//! From a step that the kernel refuses to the object that it is about.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use policy::model::{Endpoint, GroupRef, GroupRules, NodePolicy, PodRef, PrefixListRef};

use crate::class;
use crate::lower::FAMILIES;
use crate::lowering::{Class, Lowering};
use crate::owners::Owners;
use crate::piece::{Merge, Piece};
use crate::{Action, Match, Op, Rule};

/// So many refused steps are looked at: each may be about what hundreds of rules name.
const STEPS: usize = 1_000;

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
                    // Whom those alone name is there without anybody, so that their chains are what they were.
                    let old = rules.clone();
                    for named in old.groups().filter(|named| from.members.contains_key(*named)) {
                        policy.members.entry(named.clone()).or_default();
                    }
                    for list in old.prefix_lists().filter(|list| from.prefix_lists.contains_key(*list)) {
                        policy.prefix_lists.entry(list.clone()).or_default();
                    }
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
    ///
    /// Only so many of them are looked at: what is refused once more is looked at then.
    pub fn blame(&self, refused: &[Op]) -> Vec<Vec<BTreeSet<Part>>> {
        let missing: BTreeSet<Thing> = refused.iter().filter_map(made).collect();
        let by_itself = |op: &&Op| !needed(op).iter().any(|thing| missing.contains(thing));
        let owners = if refused.is_empty() { Owners::default() } else { Owners::of(self) };
        refused.iter().filter(by_itself).take(STEPS).map(|op| self.about(op, &owners)).collect()
    }

    fn about(&self, op: &Op, owners: &Owners<'_>) -> Vec<BTreeSet<Part>> {
        let parts = match op {
            // At last, whoever's other rules of that chain are the reason that it is filled again.
            Op::AddRule(chain, rule) => return vec![of_rule(chain, rule, owners), named_by(rule, owners), owners.chain(chain)],
            // It is there whatever rules it has.
            Op::AddChain(chain, _) => self.of_new_chain(chain).unwrap_or_else(|| owners.chain(chain)),
            // It is there for the rules that look into it; what it holds may be to blame where they are as they were.
            Op::AddCounterMap(map, ..) => return vec![self.looking_into(map, owners), owners.set(map)],
            Op::AddMapElements(_, elements) => elements.values().flat_map(|chain| owners.chain(chain)).collect(),
            _ => of_step(op).into_iter().flat_map(|thing| owners.of_thing(thing)).collect(),
        };
        vec![parts]
    }

    /// The endpoints of a class, where it is the first of its chains.
    fn of_new_chain(&self, chain: &str) -> Option<BTreeSet<Part>> {
        let is_first = |(direction, groups): &&Class| class::name(groups, *direction) == chain;
        let (_, groups) = self.classes().map(|(class, _)| class).find(is_first)?;
        let is_of = |(_, endpoint): &(&PodRef, &Endpoint)| self.groups_with_a_say(endpoint).eq(groups);
        Some(self.policy().endpoints.iter().filter(is_of).map(|(pod, _)| Part::Endpoint(pod.clone())).collect())
    }

    /// The groups of whose rules one names a peer that is looked for in this map.
    fn looking_into(&self, map: &str, owners: &Owners<'_>) -> BTreeSet<Part> {
        let looks = |rule: &Rule| rule.matches.iter().any(|test| matches!(test, Match::CountedIn { map: name, .. } if name == map));
        let has = |(_, piece): &(&_, &Piece)| piece.chains.iter().any(|(_, chain)| chain.rules.iter().any(looks));
        let of_classes: BTreeSet<&GroupRef> = self.classes().filter(has).flat_map(|((_, groups), _)| groups).collect();
        let merge = self.merges().find(|merge| FAMILIES.iter().any(|family| merge.name(*family) == map));
        let names = merge.into_iter().flat_map(Merge::all).flat_map(|peer| owners.naming(&peer).collect::<Vec<_>>());
        names.filter(|group| of_classes.contains(group)).cloned().map(Part::Rules).collect()
    }
}

/// The group whose counter it has, or all that the class has.
fn of_rule(chain: &str, rule: &Rule, owners: &Owners<'_>) -> BTreeSet<Part> {
    let class = owners.chain(chain);
    let counted = rule.counter.as_ref().map(|counter| owners.counter(counter)).unwrap_or_default();
    let both: BTreeSet<Part> = class.intersection(&counted).cloned().collect();
    if both.is_empty() { class } else { both }
}

/// Whose members and entries a rule looks at.
fn named_by(rule: &Rule, owners: &Owners<'_>) -> BTreeSet<Part> {
    let set = |test: &Match| match test {
        Match::InSet { set: name, .. } | Match::CountedIn { map: name, .. } => owners.set(name),
        _ => BTreeSet::new(),
    };
    rule.matches.iter().flat_map(set).collect()
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
