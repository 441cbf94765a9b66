//! From one ruleset to another in the order in which the kernel takes it: what is new, what is changed, what goes.
//!
//! Within one batch a packet sees the rules from before or from after, never the steps (S42): so a chain is changed by flush and refill.
//! It costs what differs: what two rulesets share is passed over.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, ordset};

use crate::lower::SCHEMA;
use crate::{Chain, Counter, CounterMap, Op, PortMap, Ruleset, Transaction};

/// What leads from one ruleset to the other; empty when they are equal. `from` must be what the table holds.
pub fn diff(from: &Ruleset, to: &Ruleset) -> Transaction {
    let changes = Changes::between(from, to);
    if redefines(from, to, &changes) {
        return Transaction::replace(to);
    }
    Transaction { ops: changes.ops() }
}

impl Transaction {
    /// Replaces the table as a whole, whatever it holds and whether or not there is one.
    pub fn replace(to: &Ruleset) -> Transaction {
        // The first step makes the second legal.
        let mut ops = vec![Op::AddTable, Op::DeleteTable, Op::AddTable];
        ops.extend(Changes::between(&Ruleset::default(), to).ops());
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

/// Objects of one kind: by name, before and after.
struct Objects<'a, T> {
    new: Vec<(&'a String, &'a T)>,
    changed: Vec<(&'a String, &'a T, &'a T)>,
    gone: Vec<(&'a String, &'a T)>,
}

impl<'a, T: PartialEq> Objects<'a, T> {
    fn between(from: &'a OrdMap<String, T>, to: &'a OrdMap<String, T>) -> Objects<'a, T> {
        let mut objects = Objects { new: Vec::new(), changed: Vec::new(), gone: Vec::new() };
        for item in from.diff(to) {
            match item {
                DiffItem::Add(name, object) => objects.new.push((name, object)),
                DiffItem::Update { old: (_, old), new: (name, new) } => objects.changed.push((name, old, new)),
                DiffItem::Remove(name, object) => objects.gone.push((name, object)),
            }
        }
        objects
    }

    /// What is there afterwards, and what was there before, if anything.
    fn there(&self) -> impl Iterator<Item = (&'a String, Option<&'a T>, &'a T)> {
        let new = self.new.iter().map(|(name, new)| (*name, None, *new));
        new.chain(self.changed.iter().map(|(name, old, new)| (*name, Some(*old), *new)))
    }

    /// What was there before, and what is there afterwards, if anything.
    fn was(&self) -> impl Iterator<Item = (&'a String, &'a T, Option<&'a T>)> {
        let gone = self.gone.iter().map(|(name, old)| (*name, *old, None));
        gone.chain(self.changed.iter().map(|(name, old, new)| (*name, *old, Some(*new))))
    }
}

/// What differs between two rulesets.
struct Changes<'a> {
    counters: [Vec<&'a String>; 2],
    sets: Objects<'a, crate::Set>,
    intervals: Objects<'a, crate::IntervalSet>,
    maps: Objects<'a, crate::VerdictMap>,
    port_maps: Objects<'a, Arc<PortMap>>,
    counter_maps: Objects<'a, CounterMap>,
    chains: Objects<'a, Arc<Chain>>,
}

/// Whether a name stands for something else than before: hook and priority of a chain, the family of a set and its kind cannot be changed
/// in place. It happens between versions of this program, not between policies.
fn redefines(from: &Ruleset, to: &Ruleset, changes: &Changes<'_>) -> bool {
    // Another version's layout: nothing of it is worth keeping step by step.
    if !from.chains.is_empty() && !from.chains.contains_key(SCHEMA) && to.chains.contains_key(SCHEMA) {
        return true;
    }
    // Sets and maps of every sort are in one name space.
    let taken = |name: &String| {
        let sets = from.sets.contains_key(name) || from.intervals.contains_key(name);
        sets || from.maps.contains_key(name) || from.port_maps.contains_key(name) || from.counter_maps.contains_key(name)
    };
    let names = changes.sets.new.iter().map(|(name, _)| name);
    let names = names.chain(changes.intervals.new.iter().map(|(name, _)| name));
    let names = names.chain(changes.maps.new.iter().map(|(name, _)| name)).chain(changes.port_maps.new.iter().map(|(name, _)| name));
    let mut names = names.chain(changes.counter_maps.new.iter().map(|(name, _)| name));
    names.any(|name| taken(name))
        || changes.chains.changed.iter().any(|(_, old, new)| old.base != new.base)
        || changes.sets.changed.iter().any(|(_, old, new)| old.family != new.family)
        || changes.intervals.changed.iter().any(|(_, old, new)| old.family != new.family)
        || changes.maps.changed.iter().any(|(_, old, new)| old.family != new.family)
        || changes.port_maps.changed.iter().any(|(_, old, new)| old.ranges != new.ranges)
        || changes.counter_maps.changed.iter().any(|(_, old, new)| (old.family, old.ranges) != (new.family, new.ranges))
}

impl<'a> Changes<'a> {
    fn between(from: &'a Ruleset, to: &'a Ruleset) -> Changes<'a> {
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for item in from.counters.diff(&to.counters) {
            match item {
                ordset::DiffItem::Add(name) => new.push(name),
                ordset::DiffItem::Remove(name) => gone.push(name),
            }
        }
        Changes {
            counters: [new, gone],
            sets: Objects::between(&from.sets, &to.sets),
            intervals: Objects::between(&from.intervals, &to.intervals),
            maps: Objects::between(&from.maps, &to.maps),
            port_maps: Objects::between(&from.port_maps, &to.port_maps),
            counter_maps: Objects::between(&from.counter_maps, &to.counter_maps),
            chains: Objects::between(&from.chains, &to.chains),
        }
    }

    /// The steps where no object of one name differs in kind.
    fn ops(&self) -> Vec<Op> {
        let [new_counters, gone_counters] = &self.counters;
        let mut ops: Vec<Op> = new_counters.iter().map(|name| Op::AddCounter((*name).clone())).collect();
        ops.extend(self.sets.new.iter().map(|(name, set)| Op::AddSet((*name).clone(), set.family)));
        ops.extend(self.intervals.new.iter().map(|(name, set)| Op::AddIntervalSet((*name).clone(), set.family)));
        ops.extend(self.maps.new.iter().map(|(name, map)| Op::AddMap((*name).clone(), map.family)));
        ops.extend(self.port_maps.new.iter().map(|(name, map)| Op::AddPortMap((*name).clone(), map.ranges)));
        ops.extend(self.counter_maps.new.iter().map(|(name, map)| Op::AddCounterMap((*name).clone(), map.family, map.ranges)));
        ops.extend(self.chains.new.iter().map(|(name, chain)| Op::AddChain((*name).clone(), chain.base)));

        self.set_elements(&mut ops);
        self.interval_elements(&mut ops);
        self.counted(&mut ops);
        self.rules(&mut ops);
        self.map_elements(&mut ops);
        self.ports(&mut ops);

        let gone = &self.chains.gone;
        ops.extend(gone.iter().filter(|(_, chain)| !chain.rules.is_empty()).map(|(name, _)| Op::FlushChain((*name).clone())));
        ops.extend(gone.iter().map(|(name, _)| Op::DeleteChain((*name).clone())));
        ops.extend(self.maps.gone.iter().map(|(name, _)| Op::DeleteMap((*name).clone())));
        ops.extend(self.port_maps.gone.iter().map(|(name, _)| Op::DeleteMap((*name).clone())));
        ops.extend(self.counter_maps.gone.iter().map(|(name, _)| Op::DeleteMap((*name).clone())));
        ops.extend(self.intervals.gone.iter().map(|(name, _)| Op::DeleteIntervalSet((*name).clone())));
        ops.extend(self.sets.gone.iter().map(|(name, _)| Op::DeleteSet((*name).clone())));
        ops.extend(gone_counters.iter().map(|name| Op::DeleteCounter((*name).clone())));
        ops
    }

    /// Elements of a set that goes need no step: they go with it.
    fn set_elements(&self, ops: &mut Vec<Op>) {
        for (name, old, new) in self.sets.there() {
            let Some(old) = old else {
                push_if(!new.elements.is_empty(), ops, || Op::AddElements(name.clone(), new.elements.clone()));
                continue;
            };
            let (mut come, mut gone) = (OrdSet::new(), OrdSet::new());
            for item in old.elements.diff(&new.elements) {
                match item {
                    ordset::DiffItem::Add(address) => come.insert(*address),
                    ordset::DiffItem::Remove(address) => gone.insert(*address),
                };
            }
            push_if(!come.is_empty(), ops, || Op::AddElements(name.clone(), come));
            push_if(!gone.is_empty(), ops, || Op::DeleteElements(name.clone(), gone));
        }
    }

    /// What goes goes first: a range that grows or shrinks would overlap itself.
    fn interval_elements(&self, ops: &mut Vec<Op>) {
        let none = OrdMap::new();
        for (name, old, new) in self.intervals.there() {
            let (gone, come) = entries(old.map_or(&none, |old| &old.ranges), &new.ranges);
            push_if(!gone.is_empty(), ops, || Op::DeleteIntervals(name.clone(), gone));
            push_if(!come.is_empty(), ops, || Op::AddIntervals(name.clone(), come));
        }
    }

    /// A chain is the unit of change; a counter outlives its rules.
    fn rules(&self, ops: &mut Vec<Op>) {
        for (name, old, new) in self.chains.there() {
            push_if(old.is_some_and(|old| !old.rules.is_empty()), ops, || Op::FlushChain(name.clone()));
            ops.extend(new.rules.iter().map(|rule| Op::AddRule(name.clone(), rule.clone())));
        }
    }

    /// A key that changes its chain is deleted and added, for the kernel refuses to overwrite it. Maps that go lose their elements too, for
    /// these hold chains.
    fn map_elements(&self, ops: &mut Vec<Op>) {
        let none = OrdMap::new();
        for (name, old, new) in self.maps.was() {
            let (gone, _) = entries(&old.elements, new.map_or(&none, |new| &new.elements));
            push_if(!gone.is_empty(), ops, || Op::DeleteMapElements(name.clone(), gone.keys().copied().collect()));
        }
        for (name, old, new) in self.maps.there() {
            let (_, come) = entries(old.map_or(&none, |old| &old.elements), &new.elements);
            push_if(!come.is_empty(), ops, || Op::AddMapElements(name.clone(), come));
        }
    }

    /// As with maps to chains: the elements of a map that goes hold counters.
    fn counted(&self, ops: &mut Vec<Op>) {
        let none = OrdMap::new();
        for (name, old, new) in self.counter_maps.was() {
            let (gone, _) = entries(&old.elements, new.map_or(&none, |new| &new.elements));
            push_if(!gone.is_empty(), ops, || Op::DeleteCounted(name.clone(), CounterMap { elements: gone, ..*old }));
        }
        for (name, old, new) in self.counter_maps.there() {
            let (_, come) = entries(old.map_or(&none, |old| &old.elements), &new.elements);
            push_if(!come.is_empty(), ops, || Op::AddCounted(name.clone(), CounterMap { elements: come, ..*new }));
        }
    }

    /// As with addresses.
    fn ports(&self, ops: &mut Vec<Op>) {
        let only = |map: &Arc<PortMap>, other: Option<&Arc<PortMap>>| PortMap {
            ranges: map.ranges,
            elements: map
                .elements
                .iter()
                .filter(|(first, element)| other.and_then(|other| other.elements.get(first)) != Some(element))
                .map(|(first, element)| (*first, element.clone()))
                .collect(),
        };
        for (name, old, new) in self.port_maps.was() {
            let gone = only(old, new);
            push_if(!gone.elements.is_empty(), ops, || Op::DeletePorts(name.clone(), gone));
        }
        for (name, old, new) in self.port_maps.there() {
            let come = only(new, old);
            push_if(!come.elements.is_empty(), ops, || Op::AddPorts(name.clone(), come));
        }
    }
}

/// What goes and what comes; what changes its value does both.
fn entries<K: Ord + Clone, V: PartialEq + Clone>(from: &OrdMap<K, V>, to: &OrdMap<K, V>) -> (OrdMap<K, V>, OrdMap<K, V>) {
    let (mut gone, mut come) = (OrdMap::new(), OrdMap::new());
    for item in from.diff(to) {
        if let DiffItem::Remove(key, value) | DiffItem::Update { old: (key, value), .. } = item {
            gone.insert(key.clone(), value.clone());
        }
        if let DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } = item {
            come.insert(key.clone(), value.clone());
        }
    }
    (gone, come)
}

fn push_if(wanted: bool, ops: &mut Vec<Op>, op: impl FnOnce() -> Op) {
    if wanted {
        ops.push(op());
    }
}
