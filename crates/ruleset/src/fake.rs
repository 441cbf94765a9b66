//! A kernel without a kernel: holds one table and refuses what the real one refuses (6.18, tried with `nft`).
//!
//! Stricter than the real one where our own order has to be right: making what is there is refused, so is deleting a chain that has rules,
//! and a name must be one that `nft` can read back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use policy::model::Family;

use crate::fake_counted;
use crate::fake_rule::{check_rule, check_walks};
use crate::intervals::next;
use crate::names::is_valid;
use crate::{Action, Chain, Counter, CounterMap, IntervalSet, Kernel, Match, Op, PortMap, Rule, Ruleset, Set, Transaction, VerdictMap};

/// How many chains deep a packet may be; the base chain is the first. `EMLINK` beyond.
pub(crate) const JUMP_STACK: usize = 16;

/// Keeps a ruleset in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    table: Option<Ruleset>,
    /// What counters have counted; those that are not here have counted nothing, for no packet ever comes by.
    counted: BTreeMap<String, Counter>,
    commits: usize,
}

impl FakeKernel {
    /// One without a table.
    pub fn new() -> FakeKernel {
        FakeKernel::default()
    }

    /// One that holds this table already, as after a restart of the program (S41).
    pub fn with(table: Ruleset) -> FakeKernel {
        FakeKernel { table: Some(table), ..FakeKernel::default() }
    }

    /// The table it holds.
    pub fn table(&self) -> Option<&Ruleset> {
        self.table.as_ref()
    }

    /// How many transactions it has taken.
    pub fn commits(&self) -> usize {
        self.commits
    }
}

impl Kernel for FakeKernel {
    type Error = Refused;

    fn load(&mut self) -> Result<Option<Ruleset>, Refused> {
        Ok(self.table.clone())
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        let (mut table, mut counted) = (self.table.clone(), self.counted.clone());
        for (step, op) in transaction.ops.iter().enumerate() {
            apply(&mut table, op).map_err(|reason| Refused { step: Some(step), reason })?;
            match op {
                Op::DeleteTable => counted.clear(),
                Op::ContinueCounter(name, counter) => drop(counted.insert(name.clone(), *counter)),
                Op::DeleteCounter(name) => drop(counted.remove(name)),
                _ => {}
            }
        }
        if let Some(table) = &table {
            check_walks(table).map_err(|reason| Refused { step: None, reason })?;
        }
        self.table = table;
        self.counted = counted;
        self.commits += 1;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Refused> {
        Ok(())
    }

    fn refused(error: &Refused) -> Option<Vec<usize>> {
        Some(error.step.into_iter().collect())
    }

    fn counters(&mut self) -> Result<BTreeMap<String, Counter>, Refused> {
        let names = self.table.iter().flat_map(|table| &table.counters);
        Ok(names.map(|name| (name.clone(), self.counted.get(name).copied().unwrap_or_default())).collect())
    }
}

/// Nothing of the transaction was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused at {}: {reason}", step.map_or("commit".into(), |step| format!("step {step}")))]
pub struct Refused {
    /// The place of the offending step; none where only the whole is wrong.
    pub step: Option<usize>,
    /// Why.
    pub reason: Reason,
}

/// Why the kernel refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `ENOENT`
    #[error("there is no table")]
    NoTable,
    /// `ENOENT`
    #[error("there is no {0} {1:?}")]
    Missing(Kind, String),
    /// `EEXIST`
    #[error("{0} {1:?} is there already")]
    Exists(Kind, String),
    /// `EBUSY`
    #[error("{0} {1:?} is in use")]
    InUse(Kind, String),
    /// `EBUSY`
    #[error("chain {0:?} still has rules")]
    NotEmpty(String),
    /// `EINVAL` or `ENAMETOOLONG`
    #[error("{0:?} is no name, or too long")]
    BadName(String),
    /// `EINVAL`
    #[error("{1} is not of the family of {0:?}")]
    WrongFamily(String, IpAddr),
    /// `EINVAL`
    #[error("{0:?} is of another family than the rule says")]
    WrongRuleFamily(String),
    /// `ENOENT`
    #[error("{0:?} has no element {1}")]
    MissingElement(String, IpAddr),
    /// `EEXIST`
    #[error("{0:?} leads {1} elsewhere already")]
    KeyTaken(String, IpAddr),
    /// `EEXIST`
    #[error("{1}-{2} overlaps or touches a range of {0:?}")]
    Overlap(String, IpAddr, IpAddr),
    /// `ENOENT`
    #[error("{0:?} has no element for port {1} that ends there")]
    MissingPort(String, u16),
    /// `EEXIST`
    #[error("{0:?} has something for the ports {1}-{2} already")]
    PortsTaken(String, u16, u16),
    /// `EOPNOTSUPP`
    #[error("{0:?} is a base chain")]
    BaseChain(String),
    /// `EINVAL`
    #[error("`{0}` needs its protocol before it")]
    NeedsProtocol(String),
    /// `EINVAL`
    #[error("`{0}` can never be said")]
    Malformed(String),
    /// `ELOOP` or `EMLINK`
    #[error("chain {0:?} leads to itself")]
    Loop(String),
    /// `EMLINK`
    #[error("chain {0:?} is more than 16 deep")]
    TooDeep(String),
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A named counter.
    Counter,
    /// A set.
    Set,
    /// A verdict map.
    Map,
    /// A chain.
    Chain,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Set => "set",
            Kind::Map => "map",
            Kind::Chain => "chain",
        })
    }
}

fn apply(slot: &mut Option<Ruleset>, op: &Op) -> Result<(), Reason> {
    match op {
        Op::AddTable => {
            slot.get_or_insert_default();
            return Ok(());
        }
        Op::DeleteTable => return slot.take().map(drop).ok_or(Reason::NoTable),
        _ => {}
    }
    let table = slot.as_mut().ok_or(Reason::NoTable)?;
    match op {
        Op::AddTable | Op::DeleteTable => {}
        Op::AddCounter(name) | Op::ContinueCounter(name, _) => {
            vacant(table.counters.contains(name), Kind::Counter, name)?;
            table.counters.insert(name.clone());
        }
        Op::AddSet(name, family) => {
            vacant_set(table, name)?;
            table.sets.insert(name.clone(), Set { family: *family, elements: Default::default() });
        }
        Op::AddMap(name, family) => {
            vacant_set(table, name)?;
            table.maps.insert(name.clone(), VerdictMap { family: *family, elements: Default::default() });
        }
        Op::AddChain(name, base) => {
            vacant(table.chains.contains_key(name), Kind::Chain, name)?;
            table.chains.insert(name.clone(), Chain { base: *base, rules: vec![] }.into());
        }
        Op::DeleteCounter(name) => {
            present(table.counters.contains(name), Kind::Counter, name)?;
            let counted = |map: &CounterMap| map.elements.values().any(|(_, counter)| **counter == **name);
            let used = table.counter_maps.values().any(counted) || rules(table).any(|rule| rule.counter.as_ref() == Some(name));
            unused(used, Kind::Counter, name)?;
            table.counters.remove(name);
        }
        Op::DeleteSet(name) => {
            present(table.sets.contains_key(name), Kind::Set, name)?;
            unused(rules(table).any(|rule| looks_in(rule, name)), Kind::Set, name)?;
            table.sets.remove(name);
        }
        Op::AddIntervalSet(name, family) => {
            vacant_set(table, name)?;
            table.intervals.insert(name.clone(), IntervalSet { family: *family, ranges: Default::default() });
        }
        Op::DeleteIntervalSet(name) => {
            present(table.intervals.contains_key(name), Kind::Set, name)?;
            unused(rules(table).any(|rule| looks_in(rule, name)), Kind::Set, name)?;
            table.intervals.remove(name);
        }
        Op::AddIntervals(name, ranges) => add_intervals(table, name, ranges)?,
        Op::DeleteIntervals(name, ranges) => {
            let set = table.intervals.get_mut(name).ok_or_else(|| missing(Kind::Set, name))?;
            for (first, last) in ranges {
                if set.ranges.get(first) != Some(last) {
                    return Err(Reason::MissingElement(name.clone(), *first));
                }
                set.ranges.remove(first);
            }
        }
        Op::AddPortMap(name, ranges) => {
            vacant_set(table, name)?;
            table.port_maps.insert(name.clone(), PortMap { ranges: *ranges, elements: Default::default() }.into());
        }
        Op::AddCounterMap(name, family, ranges) => {
            vacant_set(table, name)?;
            table.counter_maps.insert(name.clone(), CounterMap { family: *family, ranges: *ranges, elements: Default::default() });
        }
        Op::AddCounted(name, counted) => fake_counted::add(table, name, counted)?,
        Op::DeleteCounted(name, counted) => fake_counted::delete(table, name, counted)?,
        Op::AddPorts(name, ports) => add_ports(table, name, ports)?,
        Op::DeletePorts(name, ports) => {
            let map = same_sort(table, name, ports)?;
            for (first, element) in &ports.elements {
                if map.elements.get(first) != Some(element) {
                    return Err(Reason::MissingPort(name.clone(), *first));
                }
                map.elements.remove(first);
            }
        }
        Op::DeleteMap(name) => {
            present(is_map(table, name), Kind::Map, name)?;
            let looks = |rule: &Rule| matches!(&rule.action, Action::Lookup { map, .. } | Action::PortLookup(map) if map == name);
            unused(rules(table).any(|rule| looks(rule) || looks_in(rule, name)), Kind::Map, name)?;
            table.maps.remove(name);
            table.port_maps.remove(name);
            table.counter_maps.remove(name);
        }
        Op::DeleteChain(name) => {
            let chain = table.chains.get(name).ok_or_else(|| missing(Kind::Chain, name))?;
            if !chain.rules.is_empty() {
                return Err(Reason::NotEmpty(name.clone()));
            }
            let goes = |rule: &Rule| matches!(&rule.action, Action::Jump(to) | Action::Goto(to) if to == name);
            let leads = table.maps.values().any(|map| map.elements.values().any(|to| to == name))
                || table.port_maps.values().any(|map| map.elements.values().any(|(_, to)| to == name));
            unused(leads || rules(table).any(goes), Kind::Chain, name)?;
            table.chains.remove(name);
        }
        Op::FlushChain(name) => {
            let chain = table.chains.get_mut(name).ok_or_else(|| missing(Kind::Chain, name))?;
            Arc::make_mut(chain).rules.clear();
        }
        Op::AddRule(name, rule) => {
            present(table.chains.contains_key(name), Kind::Chain, name)?;
            check_rule(table, rule)?;
            Arc::make_mut(table.chains.entry(name.clone()).or_default()).rules.push(rule.clone());
        }
        Op::AddElements(name, elements) => {
            let set = table.sets.get_mut(name).ok_or_else(|| missing(Kind::Set, name))?;
            elements.iter().try_for_each(|element| same_family(name, set.family, element))?;
            set.elements.extend(elements.iter().copied());
        }
        Op::DeleteElements(name, elements) => {
            let set = table.sets.get_mut(name).ok_or_else(|| missing(Kind::Set, name))?;
            for element in elements {
                set.elements.remove(element).ok_or_else(|| Reason::MissingElement(name.clone(), *element))?;
            }
        }
        Op::AddMapElements(name, elements) => add_map_elements(table, name, elements)?,
        Op::DeleteMapElements(name, keys) => {
            let map = table.maps.get_mut(name).ok_or_else(|| missing(Kind::Map, name))?;
            for key in keys {
                map.elements.remove(key).ok_or_else(|| Reason::MissingElement(name.clone(), *key))?;
            }
        }
    }
    Ok(())
}

/// A range that is there exactly so is no error. Ranges that touch are none to the kernel, but it need not give them back as they came.
fn add_intervals(table: &mut Ruleset, name: &str, ranges: &OrdMap<IpAddr, IpAddr>) -> Result<(), Reason> {
    let set = table.intervals.get_mut(name).ok_or_else(|| missing(Kind::Set, name))?;
    for (first, last) in ranges {
        same_family(name, set.family, first)?;
        same_family(name, set.family, last)?;
        if first > last {
            return Err(Reason::Malformed(format!("{first}-{last}")));
        }
        if set.ranges.get(first) == Some(last) {
            continue;
        }
        let meets = |(old_first, old_last): (&IpAddr, &IpAddr)| {
            let before = next(*old_last).is_some_and(|behind| behind < *first);
            let behind = next(*last).is_some_and(|behind| behind < *old_first);
            !before && !behind
        };
        if set.ranges.iter().any(meets) {
            return Err(Reason::Overlap(name.into(), *first, *last));
        }
        set.ranges.insert(*first, *last);
    }
    Ok(())
}

fn looks_in(rule: &Rule, name: &str) -> bool {
    rule.matches.iter().any(|test| matches!(test, Match::InSet { set, .. } | Match::CountedIn { map: set, .. } if set == name))
}

fn add_map_elements(table: &mut Ruleset, name: &str, elements: &OrdMap<IpAddr, String>) -> Result<(), Reason> {
    let map = table.maps.get_mut(name).ok_or_else(|| missing(Kind::Map, name))?;
    for (key, chain) in elements {
        same_family(name, map.family, key)?;
        target(&table.chains, chain)?;
        match map.elements.get(key) {
            Some(old) if old != chain => return Err(Reason::KeyTaken(name.into(), *key)),
            _ => map.elements.insert(*key, chain.clone()),
        };
    }
    Ok(())
}

fn same_sort<'a>(table: &'a mut Ruleset, name: &str, ports: &PortMap) -> Result<&'a mut PortMap, Reason> {
    let map = table.port_maps.get_mut(name).ok_or_else(|| missing(Kind::Map, name))?;
    if map.ranges == ports.ranges { Ok(Arc::make_mut(map)) } else { Err(Reason::Malformed(name.into())) }
}

/// An element that is there exactly so is no error.
fn add_ports(table: &mut Ruleset, name: &str, ports: &PortMap) -> Result<(), Reason> {
    ports.elements.values().try_for_each(|(_, chain)| target(&table.chains, chain))?;
    let map = same_sort(table, name, ports)?;
    for (first, (last, chain)) in &ports.elements {
        if first > last || (!map.ranges && first != last) {
            return Err(Reason::Malformed(format!("{first}-{last}")));
        }
        if map.elements.get(first).is_some_and(|there| there == &(*last, chain.clone())) {
            continue;
        }
        if map.elements.range(..=last).next_back().is_some_and(|(_, (end, _))| end >= first) {
            return Err(Reason::PortsTaken(name.into(), *first, *last));
        }
        map.elements.insert(*first, (*last, chain.clone()));
    }
    Ok(())
}

/// A chain that a rule or a map may lead to.
pub(crate) fn target(chains: &OrdMap<String, Arc<Chain>>, name: &str) -> Result<(), Reason> {
    match chains.get(name) {
        None => Err(missing(Kind::Chain, name)),
        Some(chain) if chain.base.is_some() => Err(Reason::BaseChain(name.into())),
        Some(_) => Ok(()),
    }
}

pub(crate) fn missing(kind: Kind, name: &str) -> Reason {
    Reason::Missing(kind, name.into())
}

fn present(is: bool, kind: Kind, name: &str) -> Result<(), Reason> {
    if is { Ok(()) } else { Err(missing(kind, name)) }
}

fn unused(used: bool, kind: Kind, name: &str) -> Result<(), Reason> {
    if used { Err(Reason::InUse(kind, name.into())) } else { Ok(()) }
}

fn vacant(taken: bool, kind: Kind, name: &str) -> Result<(), Reason> {
    if !is_valid(name) {
        return Err(Reason::BadName(name.into()));
    }
    if taken { Err(Reason::Exists(kind, name.into())) } else { Ok(()) }
}

/// To the kernel a map is a set with data: they share one name space.
fn vacant_set(table: &Ruleset, name: &str) -> Result<(), Reason> {
    vacant(table.sets.contains_key(name) || table.intervals.contains_key(name), Kind::Set, name)?;
    vacant(is_map(table, name), Kind::Map, name)
}

fn is_map(table: &Ruleset, name: &str) -> bool {
    table.maps.contains_key(name) || table.port_maps.contains_key(name) || table.counter_maps.contains_key(name)
}

pub(crate) fn same_family(name: &str, family: Family, address: &IpAddr) -> Result<(), Reason> {
    if Family::of(*address) == family { Ok(()) } else { Err(Reason::WrongFamily(name.into(), *address)) }
}

fn rules(table: &Ruleset) -> impl Iterator<Item = &Rule> {
    table.chains.values().flat_map(|chain| &chain.rules)
}
