//! From a step that the kernel refuses to the object that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use policy::model::{Direction, GroupRef, GroupRules, NodePolicy, Peer, PrefixListRef};

use crate::lower::{FAMILIES, members_name, prefixes_name, rule_counter};
use crate::lowering::Lowering;
use crate::piece::{Merge, Peers, Piece};
use crate::{Op, Rule};

/// A part of the policy that can stay as it was while everything else goes on: it only ever allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The rules of a group.
    Rules(GroupRef),
    /// The members of a group.
    Members(GroupRef),
    /// The entries of a prefix list.
    PrefixList(PrefixListRef),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Rules(group) | Part::Members(group) => write!(f, "SecurityGroup {group}"),
            Part::PrefixList(list) => write!(f, "PrefixList {list}"),
        }
    }
}

impl Part {
    /// What of its object it is.
    pub const fn what(&self) -> &'static str {
        match self {
            Part::Rules(_) => "its rules are",
            Part::Members(_) => "its members are",
            Part::PrefixList(_) => "its entries are",
        }
    }

    /// The parts that are new in `after`, or others than in `before`.
    pub fn that_differ(after: &NodePolicy, before: &NodePolicy) -> BTreeSet<Part> {
        let rules = come(&before.groups, &after.groups).map(Part::Rules);
        let members = come(&before.members, &after.members).map(Part::Members);
        let lists = come(&before.prefix_lists, &after.prefix_lists).map(Part::PrefixList);
        rules.chain(members).chain(lists).collect()
    }

    /// Whether it is the same in both.
    pub fn is_same(&self, one: &NodePolicy, other: &NodePolicy) -> bool {
        match self {
            Part::Rules(group) => one.groups.get(group) == other.groups.get(group),
            Part::Members(group) => one.members.get(group) == other.members.get(group),
            Part::PrefixList(list) => one.prefix_lists.get(list) == other.prefix_lists.get(list),
        }
    }

    /// Makes it what it is elsewhere; what is not there allows nothing and matches nothing. What has left the policy stays away.
    pub fn take_from(&self, from: &NodePolicy, policy: &mut NodePolicy) {
        match self {
            Part::Rules(group) => {
                if let Some(rules) = policy.groups.get_mut(group) {
                    *rules = from.groups.get(group).cloned().unwrap_or_default();
                }
            }
            Part::Members(group) => {
                if let Some(members) = policy.members.get_mut(group) {
                    *members = from.members.get(group).cloned().unwrap_or_default();
                }
            }
            Part::PrefixList(list) => {
                if let Some(entries) = policy.prefix_lists.get_mut(list) {
                    *entries = from.prefix_lists.get(list).cloned().unwrap_or_default();
                }
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
    /// What a step towards the last ruleset is about; nothing where that is no object that could be left as it was, as with an endpoint,
    /// which would be open.
    pub fn blame(&self, op: &Op) -> BTreeSet<Part> {
        match op {
            Op::AddRule(chain, rule) => self.of_rule(chain, rule),
            Op::AddChain(chain, _) | Op::FlushChain(chain) | Op::DeleteChain(chain) => self.of_class(chain),
            Op::AddPortMap(map, _) | Op::AddPorts(map, _) | Op::DeletePorts(map, _) => self.of_port_map(map),
            Op::DeleteMap(map) => self.of_port_map(map).into_iter().chain(self.of_set(map)).collect(),
            Op::AddCounter(counter) | Op::ContinueCounter(counter, _) | Op::DeleteCounter(counter) => self.of_counter(counter),
            Op::AddSet(set, _) | Op::DeleteSet(set) | Op::AddElements(set, _) | Op::DeleteElements(set, _) => self.of_set(set),
            Op::AddIntervalSet(set, _) | Op::DeleteIntervalSet(set) | Op::AddIntervals(set, _) | Op::DeleteIntervals(set, _) => {
                self.of_set(set)
            }
            Op::AddCounterMap(map, ..) | Op::AddCounted(map, _) | Op::DeleteCounted(map, _) => self.of_set(map),
            Op::AddTable | Op::DeleteTable | Op::AddMap(..) | Op::AddMapElements(..) | Op::DeleteMapElements(..) => BTreeSet::new(),
        }
    }

    /// The group whose counter it has, or all that the class has.
    fn of_rule(&self, chain: &str, rule: &Rule) -> BTreeSet<Part> {
        let class = self.of_class(chain);
        let counted = rule.counter.as_ref().map(|counter| self.of_counter(counter)).unwrap_or_default();
        let both: BTreeSet<Part> = class.intersection(&counted).cloned().collect();
        if both.is_empty() { class } else { both }
    }

    fn of_class(&self, chain: &str) -> BTreeSet<Part> {
        let has = |(_, piece): &(&_, &Piece)| piece.chains.iter().any(|(name, _)| name == chain);
        self.classes().filter(has).flat_map(|((_, groups), _)| groups).cloned().map(Part::Rules).collect()
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
        self.policy().groups.iter().filter(counts).map(|(group, _)| Part::Rules(group.clone())).collect()
    }

    fn of_set(&self, set: &str) -> BTreeSet<Part> {
        let is_members = |group: &&GroupRef| FAMILIES.iter().any(|family| members_name(group, *family) == set);
        let is_list = |list: &&PrefixListRef| FAMILIES.iter().any(|family| prefixes_name(list, *family) == set);
        let is_merged = |merge: &&Merge| FAMILIES.iter().any(|family| merge.name(*family) == set);
        let members = self.policy().members.keys().filter(is_members).map(|group| Part::Members(group.clone()));
        let lists = self.policy().prefix_lists.keys().filter(is_list).map(|list| Part::PrefixList(list.clone()));
        let merged = self.merges().filter(is_merged).flat_map(|merge| match merge.peers() {
            Peers::Groups(groups) => groups.keys().cloned().map(Part::Members).collect::<Vec<_>>(),
            Peers::Nets(peers) => self.naming(peers).map(Part::Rules).collect(),
        });
        members.chain(lists).chain(merged).collect()
    }

    /// The groups that name one of these peers.
    fn naming(&self, peers: &BTreeMap<Peer, Arc<str>>) -> impl Iterator<Item = GroupRef> {
        let names = |(_, rules): &(&GroupRef, &Arc<GroupRules>)| rules.all().any(|rule| peers.contains_key(&rule.peer));
        self.policy().groups.iter().filter(names).map(|(group, _)| group.clone())
    }
}
