//! From one ruleset to another in the order in which the kernel takes it: what is new, what is changed, what goes.
//!
//! Within one batch a packet sees the rules from before or from after, never the steps (S42): so a chain is changed by flush and refill.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy::model::Family;

use crate::lower::SCHEMA;
use crate::{Chain, Counter, Op, PortMap, Rule, Ruleset, Transaction};

/// What leads from one ruleset to the other; empty when they are equal. `from` must be what the table holds.
pub fn diff(from: &Ruleset, to: &Ruleset) -> Transaction {
    if redefines(from, to) {
        return Transaction::replace(to);
    }
    let mut ops = Vec::new();
    change(from, to, &mut ops);
    Transaction { ops }
}

impl Transaction {
    /// Replaces the table as a whole, whatever it holds and whether or not there is one.
    pub fn replace(to: &Ruleset) -> Transaction {
        // The first step makes the second legal.
        let mut ops = vec![Op::AddTable, Op::DeleteTable, Op::AddTable];
        change(&Ruleset::default(), to, &mut ops);
        Transaction { ops }
    }

    /// The same, but counters that it makes anew go on from what their namesakes have counted, where that is known. Packets that are counted
    /// between that reading and the commit are lost to the count, not to anybody else.
    pub fn keeping(mut self, counted: &BTreeMap<String, Counter>) -> Transaction {
        for op in &mut self.ops {
            if let Op::AddCounter(name) = op
                && let Some(counter) = counted.get(name).filter(|counter| **counter != Counter::default())
            {
                *op = Op::ContinueCounter(std::mem::take(name), *counter);
            }
        }
        self
    }

    /// Whether it makes the whole table anew.
    pub fn replaces(&self) -> bool {
        self.ops.contains(&Op::DeleteTable)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Whether a name stands for something else than before: hook and priority of a chain, the family of a set and its kind cannot be changed
/// in place. It happens between versions of this program, not between policies.
fn redefines(from: &Ruleset, to: &Ruleset) -> bool {
    // Another version's layout: nothing of it is worth keeping step by step.
    if !from.chains.is_empty() && !from.chains.contains_key(SCHEMA) && to.chains.contains_key(SCHEMA) {
        return true;
    }
    let chain = |(name, chain): (&String, &Chain)| to.chains.get(name).is_some_and(|new| new.base != chain.base);
    from.chains.iter().any(chain) || set_kinds(from).any(|(name, old)| SetKind::of(to, name).is_some_and(|new| new != old))
}

/// What the kernel has under a name; sets and maps of every sort are in one name space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetKind {
    Hash(Family),
    Interval(Family),
    Map(Family),
    Ports { ranges: bool },
}

impl SetKind {
    fn of(ruleset: &Ruleset, name: &str) -> Option<SetKind> {
        let hash = ruleset.sets.get(name).map(|set| SetKind::Hash(set.family));
        let interval = || ruleset.intervals.get(name).map(|set| SetKind::Interval(set.family));
        let map = || ruleset.maps.get(name).map(|map| SetKind::Map(map.family));
        let ports = || ruleset.port_maps.get(name).map(|map| SetKind::Ports { ranges: map.ranges });
        hash.or_else(interval).or_else(map).or_else(ports)
    }
}

fn set_kinds(ruleset: &Ruleset) -> impl Iterator<Item = (&String, SetKind)> {
    let names = ruleset.sets.keys().chain(ruleset.intervals.keys()).chain(ruleset.maps.keys()).chain(ruleset.port_maps.keys());
    names.filter_map(|name| Some((name, SetKind::of(ruleset, name)?)))
}

/// The steps between two rulesets in which no object of one name differs in kind.
fn change(from: &Ruleset, to: &Ruleset, ops: &mut Vec<Op>) {
    ops.extend(to.counters.difference(&from.counters).cloned().map(Op::AddCounter));
    ops.extend(only_second(&from.sets, &to.sets).map(|(name, set)| Op::AddSet(name.clone(), set.family)));
    ops.extend(only_second(&from.intervals, &to.intervals).map(|(name, set)| Op::AddIntervalSet(name.clone(), set.family)));
    ops.extend(only_second(&from.maps, &to.maps).map(|(name, map)| Op::AddMap(name.clone(), map.family)));
    ops.extend(only_second(&from.port_maps, &to.port_maps).map(|(name, map)| Op::AddPortMap(name.clone(), map.ranges)));
    ops.extend(only_second(&from.chains, &to.chains).map(|(name, chain)| Op::AddChain(name.clone(), chain.base)));

    set_elements(from, to, ops);
    interval_elements(from, to, ops);
    for (name, chain) in &to.chains {
        refill(name, from.chains.get(name).map_or(&[], |old| &old.rules), chain, ops);
    }
    map_elements(from, to, ops);
    ports(from, to, ops);

    let chains = || only_second(&to.chains, &from.chains);
    ops.extend(chains().filter(|(_, chain)| !chain.rules.is_empty()).map(|(name, _)| Op::FlushChain(name.clone())));
    ops.extend(chains().map(|(name, _)| Op::DeleteChain(name.clone())));
    ops.extend(only_second(&to.maps, &from.maps).map(|(name, _)| Op::DeleteMap(name.clone())));
    ops.extend(only_second(&to.port_maps, &from.port_maps).map(|(name, _)| Op::DeleteMap(name.clone())));
    ops.extend(only_second(&to.intervals, &from.intervals).map(|(name, _)| Op::DeleteIntervalSet(name.clone())));
    ops.extend(only_second(&to.sets, &from.sets).map(|(name, _)| Op::DeleteSet(name.clone())));
    ops.extend(from.counters.difference(&to.counters).cloned().map(Op::DeleteCounter));
}

/// What the second has and the first has not.
fn only_second<'a, T>(first: &'a BTreeMap<String, T>, second: &'a BTreeMap<String, T>) -> impl Iterator<Item = (&'a String, &'a T)> {
    second.iter().filter(|(name, _)| !first.contains_key(*name))
}

/// Elements of a set that goes need no step: they go with it.
fn set_elements(from: &Ruleset, to: &Ruleset, ops: &mut Vec<Op>) {
    let none = BTreeSet::new();
    for (name, set) in &to.sets {
        let old = from.sets.get(name).map_or(&none, |old| &old.elements);
        let (new, gone) = (&set.elements - old, old - &set.elements);
        push_if(!new.is_empty(), ops, || Op::AddElements(name.clone(), new));
        push_if(!gone.is_empty(), ops, || Op::DeleteElements(name.clone(), gone));
    }
}

/// What goes goes first: a range that grows or shrinks would overlap itself.
fn interval_elements(from: &Ruleset, to: &Ruleset, ops: &mut Vec<Op>) {
    let none = BTreeMap::new();
    let only = |these: &BTreeMap<IpAddr, IpAddr>, others: &BTreeMap<IpAddr, IpAddr>| -> BTreeMap<IpAddr, IpAddr> {
        these.iter().filter(|(first, last)| others.get(*first) != Some(*last)).map(|(first, last)| (*first, *last)).collect()
    };
    for (name, set) in &to.intervals {
        let old = from.intervals.get(name).map_or(&none, |old| &old.ranges);
        let (gone, new) = (only(old, &set.ranges), only(&set.ranges, old));
        push_if(!gone.is_empty(), ops, || Op::DeleteIntervals(name.clone(), gone));
        push_if(!new.is_empty(), ops, || Op::AddIntervals(name.clone(), new));
    }
}

/// A key that changes its chain is deleted and added, for the kernel refuses to overwrite it.
fn map_elements(from: &Ruleset, to: &Ruleset, ops: &mut Vec<Op>) {
    let none = BTreeMap::new();
    for (name, map) in &from.maps {
        let kept = to.maps.get(name).map_or(&none, |new| &new.elements);
        let gone: BTreeSet<IpAddr> = map.elements.iter().filter(|(key, chain)| kept.get(key) != Some(chain)).map(|(key, _)| *key).collect();
        push_if(!gone.is_empty(), ops, || Op::DeleteMapElements(name.clone(), gone));
    }
    for (name, map) in &to.maps {
        let old = from.maps.get(name).map_or(&none, |old| &old.elements);
        let new: BTreeMap<IpAddr, String> =
            map.elements.iter().filter(|(key, chain)| old.get(key) != Some(chain)).map(|(key, chain)| (*key, chain.clone())).collect();
        push_if(!new.is_empty(), ops, || Op::AddMapElements(name.clone(), new));
    }
}

/// As with addresses: what goes, and what changes its chain, goes first. Maps that go lose their elements too, for these hold chains.
fn ports(from: &Ruleset, to: &Ruleset, ops: &mut Vec<Op>) {
    let only = |map: &PortMap, other: Option<&PortMap>| PortMap {
        ranges: map.ranges,
        elements: map
            .elements
            .iter()
            .filter(|(first, element)| other.and_then(|other| other.elements.get(first)) != Some(element))
            .map(|(first, element)| (*first, element.clone()))
            .collect(),
    };
    for (name, map) in &from.port_maps {
        let gone = only(map, to.port_maps.get(name));
        push_if(!gone.elements.is_empty(), ops, || Op::DeletePorts(name.clone(), gone));
    }
    for (name, map) in &to.port_maps {
        let new = only(map, from.port_maps.get(name));
        push_if(!new.elements.is_empty(), ops, || Op::AddPorts(name.clone(), new));
    }
}

/// A chain is the unit of change; a counter outlives its rules.
fn refill(name: &str, old: &[Rule], chain: &Chain, ops: &mut Vec<Op>) {
    if old == chain.rules {
        return;
    }
    push_if(!old.is_empty(), ops, || Op::FlushChain(name.into()));
    ops.extend(chain.rules.iter().map(|rule| Op::AddRule(name.into(), rule.clone())));
}

fn push_if(wanted: bool, ops: &mut Vec<Op>, op: impl FnOnce() -> Op) {
    if wanted {
        ops.push(op());
    }
}
