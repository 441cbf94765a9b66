//! The steps of a transaction as netlink messages.

use std::ffi::{CStr, CString};
use std::net::IpAddr;

use imbl::OrdMap;
use policy::model::Family;
use ruleset::{Base, CounterMap, Hook, Op, PortMap, TABLE, Transaction, next};

use crate::assemble::assemble;
use crate::element::{Element, Leads};
use crate::error::{Error, Malformed, describe};
use crate::expression::OBJECT_COUNTER;
use crate::message::{Body, Message};
use crate::object::{Chain, Object, Rule, Set, Table, name};
use crate::owner::Owner;

/// An element of a set has at most 28 bytes in a message, whose list of elements has at most 64 KiB.
const SET_ELEMENTS: usize = 1_000;
/// An element of a map has at most 308: names of chains and counters are longer.
const MAP_ELEMENTS: usize = 150;

/// Making something is refused where it is there, as the ruleset's contract has it; otherwise a drifted table would pass for a new one.
const MAKE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// Adding is not refused where it is there: for elements EXCL would fail the batch over one that the kernel has already.
const ADD: i32 = libc::NLM_F_CREATE;
const DELETE: i32 = 0;

/// `NFT_SET_OBJECT`, which libc does not have.
pub(crate) const OBJECT_MAP: u32 = 0x40;

/// The numbers of `ipv4_addr` and `ipv6_addr` among nft's types: nothing to the kernel, but nft shows addresses by it.
/// The number of `inet_service` likewise, and the length of a port.
pub(crate) const PORT_TYPE: (u32, u32) = (13, 2);

pub(crate) const fn key_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (7, 4),
        Family::V6 => (8, 16),
    }
}

/// The messages of a transaction on a table, each with the place of the op that it belongs to. An op may need none, or several.
pub(crate) fn encode(table: &CStr, owner: Owner, transaction: &Transaction) -> Result<Vec<(usize, Message)>, Error> {
    let mut messages = Vec::with_capacity(transaction.ops.len());
    // What stands before it only makes it legal: a table that is there already may be of any kind.
    let deleted = transaction.ops.iter().rposition(|op| *op == Op::DeleteTable);
    for (index, op) in transaction.ops.iter().enumerate() {
        let mut push = |kind: i32, flags: i32, body: Body| messages.push((index, Message::new(kind, flags, body)));
        if *op == Op::AddTable && deleted.is_none_or(|deleted| index > deleted) {
            push(libc::NFT_MSG_NEWTABLE, ADD, new_table(table, owner));
            continue;
        }
        step(table, op, &mut push).map_err(|reason| Error::Malformed { index, op: describe(op), reason })?;
    }
    Ok(messages)
}

/// The name of our table.
pub(crate) fn table_name() -> CString {
    CString::new(TABLE).unwrap_or_default()
}

fn step(table: &CStr, op: &Op, push: &mut impl FnMut(i32, i32, Body)) -> Result<(), Malformed> {
    match op {
        Op::AddTable => push(libc::NFT_MSG_NEWTABLE, ADD, table_body(table)),
        Op::DeleteTable => push(libc::NFT_MSG_DELTABLE, DELETE, table_body(table)),
        Op::AddCounter(counter) => push(libc::NFT_MSG_NEWOBJ, MAKE, Body::Object(counter_of(table, counter)?)),
        Op::ContinueCounter(counter, counted) => {
            let mut raw = counter_of(table, counter)?;
            raw.set_long(Object::PACKETS, counted.packets);
            raw.set_long(Object::BYTES, counted.bytes);
            push(libc::NFT_MSG_NEWOBJ, MAKE, Body::Object(raw));
        }
        Op::DeleteCounter(counter) => push(libc::NFT_MSG_DELOBJ, DELETE, Body::Object(counter_of(table, counter)?)),
        Op::AddSet(set, family) => push(libc::NFT_MSG_NEWSET, MAKE, Body::Set(new_set(table, set, key_type(*family))?)),
        Op::AddMap(map, family) => push(libc::NFT_MSG_NEWSET, MAKE, Body::Set(new_map(table, map, key_type(*family), 0)?)),
        Op::AddPortMap(map, ranges) => {
            let flags = if *ranges { libc::NFT_SET_INTERVAL } else { 0 };
            push(libc::NFT_MSG_NEWSET, MAKE, Body::Set(new_map(table, map, PORT_TYPE, flags)?));
        }
        Op::AddIntervalSet(set, family) => {
            let mut raw = new_set(table, set, key_type(*family))?;
            raw.set_number(Set::FLAGS, libc::NFT_SET_INTERVAL as u32);
            push(libc::NFT_MSG_NEWSET, MAKE, Body::Set(raw));
        }
        Op::AddIntervals(set, ranges) => {
            push_elements(table, set, &bounds(ranges), SET_ELEMENTS, |body| push(libc::NFT_MSG_NEWSETELEM, ADD, body))?;
        }
        Op::DeleteIntervals(set, ranges) => {
            push_elements(table, set, &bounds(ranges), SET_ELEMENTS, |body| push(libc::NFT_MSG_DELSETELEM, DELETE, body))?;
        }
        Op::DeleteSet(set) | Op::DeleteIntervalSet(set) | Op::DeleteMap(set) => {
            push(libc::NFT_MSG_DELSET, DELETE, Body::Set(named_set(table, set)?))
        }
        Op::AddElements(set, elements) => {
            let elements: Vec<_> = elements.iter().map(|key| Element::key(*key)).collect();
            push_elements(table, set, &elements, SET_ELEMENTS, |body| push(libc::NFT_MSG_NEWSETELEM, ADD, body))?;
        }
        Op::AddMapElements(map, elements) => {
            let element = |(key, chain): (&IpAddr, &String)| Ok(Element { leads: Some(Leads::Goto(name(chain)?)), ..Element::key(*key) });
            let elements: Result<Vec<_>, Malformed> = elements.iter().map(element).collect();
            push_elements(table, map, &elements?, MAP_ELEMENTS, |body| push(libc::NFT_MSG_NEWSETELEM, ADD, body))?;
        }
        Op::AddPorts(map, ports) => {
            let bounds = port_bounds(ports, |chain| Ok(Some(Leads::Jump(name(chain)?))))?;
            push_elements(table, map, &bounds, MAP_ELEMENTS, |body| push(libc::NFT_MSG_NEWSETELEM, ADD, body))?;
        }
        Op::DeletePorts(map, ports) => {
            let bounds = port_bounds(ports, |_| Ok(None))?;
            push_elements(table, map, &bounds, SET_ELEMENTS, |body| push(libc::NFT_MSG_DELSETELEM, DELETE, body))?;
        }
        Op::AddCounterMap(map, family, ranges) => {
            let mut raw = new_set(table, map, key_type(*family))?;
            let interval = if *ranges { libc::NFT_SET_INTERVAL as u32 } else { 0 };
            raw.set_number(Set::FLAGS, OBJECT_MAP | interval);
            raw.set_number(Set::OBJECT_TYPE, OBJECT_COUNTER);
            push(libc::NFT_MSG_NEWSET, MAKE, Body::Set(raw));
        }
        Op::AddCounted(map, counted) => {
            let bounds = counted_bounds(counted, |counter| Ok(Some(Leads::Counted(name(counter)?))))?;
            push_elements(table, map, &bounds, MAP_ELEMENTS, |body| push(libc::NFT_MSG_NEWSETELEM, ADD, body))?;
        }
        Op::DeleteCounted(map, counted) => {
            let bounds = counted_bounds(counted, |_| Ok(None))?;
            push_elements(table, map, &bounds, SET_ELEMENTS, |body| push(libc::NFT_MSG_DELSETELEM, DELETE, body))?;
        }
        // No elements, no message: one without elements would empty the set.
        Op::DeleteElements(set, keys) | Op::DeleteMapElements(set, keys) => {
            let keys: Vec<_> = keys.iter().map(|key| Element::key(*key)).collect();
            push_elements(table, set, &keys, SET_ELEMENTS, |body| push(libc::NFT_MSG_DELSETELEM, DELETE, body))?;
        }
        Op::AddChain(chain, base) => push(libc::NFT_MSG_NEWCHAIN, MAKE, Body::Chain(new_chain(table, chain, *base)?)),
        Op::DeleteChain(chain) => push(libc::NFT_MSG_DELCHAIN, DELETE, Body::Chain(new_chain(table, chain, None)?)),
        // To delete no rule in particular is to delete them all.
        Op::FlushChain(chain) => push(libc::NFT_MSG_DELRULE, DELETE, Body::Rule(new_rule(table, chain)?)),
        Op::AddRule(chain, rule) => {
            let mut raw = new_rule(table, chain)?;
            for expression in assemble(rule)? {
                if !raw.push(&expression) {
                    return Err(Malformed::UnknownExpression);
                }
            }
            push(libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, Body::Rule(raw));
        }
    }
    Ok(())
}

fn table_body(table: &CStr) -> Body {
    let mut raw = Table::new();
    raw.set_text(Table::NAME, table);
    Body::Table(raw)
}

fn new_table(table: &CStr, owner: Owner) -> Body {
    let mut raw = Table::new();
    raw.set_text(Table::NAME, table);
    if owner != Owner::Anybody {
        raw.set_number(Table::FLAGS, owner.flags());
    }
    Body::Table(raw)
}

fn counter_of(table: &CStr, counter: &str) -> Result<Object, Malformed> {
    let mut raw = Object::new();
    raw.set_text(Object::TABLE, table);
    raw.set_text(Object::NAME, &name(counter)?);
    raw.set_number(Object::TYPE, OBJECT_COUNTER);
    Ok(raw)
}

fn named_set(table: &CStr, set: &str) -> Result<Set, Malformed> {
    let mut raw = Set::new();
    raw.set_text(Set::TABLE, table);
    raw.set_text(Set::NAME, &name(set)?);
    Ok(raw)
}

fn new_map(table: &CStr, map: &str, key: (u32, u32), flags: i32) -> Result<Set, Malformed> {
    let mut raw = new_set(table, map, key)?;
    raw.set_number(Set::FLAGS, (libc::NFT_SET_MAP | flags) as u32);
    raw.set_number(Set::DATA_TYPE, libc::NFT_DATA_VERDICT);
    // sizeof(struct nft_verdict), as nft has it; the kernel knows better.
    raw.set_number(Set::DATA_LENGTH, 16);
    Ok(raw)
}

fn new_set(table: &CStr, set: &str, (kind, length): (u32, u32)) -> Result<Set, Malformed> {
    let mut raw = named_set(table, set)?;
    raw.set_number(Set::FLAGS, 0);
    raw.set_number(Set::KEY_TYPE, kind);
    raw.set_number(Set::KEY_LENGTH, length);
    // The kernel wants one, though nothing of ours is looked up by it.
    raw.set_number(Set::ID, 1);
    Ok(raw)
}

/// Ranges as the kernel takes them: the first address, and the one behind the last as an end; none behind the last of all addresses.
fn bounds(ranges: &OrdMap<IpAddr, IpAddr>) -> Vec<Element> {
    ranges.iter().flat_map(|(first, last)| std::iter::once(Element::key(*first)).chain(end(*last))).collect()
}

fn end(last: IpAddr) -> Option<Element> {
    next(last).map(|behind| Element { end: true, ..Element::key(behind) })
}

/// The same of ranges that are counted; single addresses have no end.
fn counted_bounds(map: &CounterMap, leads: impl Fn(&str) -> Result<Option<Leads>, Malformed>) -> Result<Vec<Element>, Malformed> {
    let mut bounds = Vec::new();
    for (first, (last, counter)) in &map.elements {
        if first > last || (!map.ranges && first != last) {
            return Err(Malformed::AddressesReversed);
        }
        bounds.push(Element { leads: leads(counter)?, ..Element::key(*first) });
        bounds.extend(end(*last).filter(|_| map.ranges));
    }
    Ok(bounds)
}

/// The same of ports; single ports have no end.
fn port_bounds(ports: &PortMap, leads: impl Fn(&str) -> Result<Option<Leads>, Malformed>) -> Result<Vec<Element>, Malformed> {
    let mut bounds = Vec::new();
    for (first, (last, chain)) in &ports.elements {
        if first > last || (!ports.ranges && first != last) {
            return Err(Malformed::PortsReversed);
        }
        bounds.push(Element { leads: leads(chain)?, ..Element::port(*first) });
        if ports.ranges {
            bounds.extend(last.checked_add(1).map(|behind| Element { end: true, ..Element::port(behind) }));
        }
    }
    Ok(bounds)
}

fn push_elements(table: &CStr, set: &str, elements: &[Element], most: usize, mut push: impl FnMut(Body)) -> Result<(), Malformed> {
    for chunk in elements.chunks(most) {
        let mut raw = named_set(table, set)?;
        chunk.iter().for_each(|element| raw.push(element));
        push(Body::Elements(raw));
    }
    Ok(())
}

fn new_chain(table: &CStr, chain: &str, base: Option<Base>) -> Result<Chain, Malformed> {
    let mut raw = Chain::new();
    raw.set_text(Chain::TABLE, table);
    raw.set_text(Chain::NAME, &name(chain)?);
    if let Some(base) = base {
        raw.set_text(Chain::TYPE, c"filter");
        raw.set_number(Chain::HOOK, hook_number(base.hook));
        raw.set_number(Chain::PRIORITY, base.priority as u32);
        raw.set_number(Chain::POLICY, libc::NF_ACCEPT as u32);
    }
    Ok(raw)
}

pub(crate) const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Input => libc::NF_INET_LOCAL_IN as u32,
        Hook::Forward => libc::NF_INET_FORWARD as u32,
        Hook::Output => libc::NF_INET_LOCAL_OUT as u32,
    }
}

fn new_rule(table: &CStr, chain: &str) -> Result<Rule, Malformed> {
    let mut raw = Rule::new();
    raw.set_text(Rule::TABLE, table);
    raw.set_text(Rule::CHAIN, &name(chain)?);
    Ok(raw)
}
