//! Elements as the kernel lists them, in whatever order, as what a set or a map of ours holds; none where they are nothing that we write.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::model::Family;
use ruleset::{CounterMap, IntervalSet, PortMap, Set, VerdictMap, previous};

use crate::element::{Element, Leads};
use crate::field::address;

pub(crate) fn set_of(family: Family, elements: Vec<Element>) -> Option<Set> {
    let elements: Option<_> =
        elements.into_iter().map(|element| address(family, &element.key).filter(|_| element.leads.is_none() && !element.end)).collect();
    Some(Set { family, elements: elements? })
}

pub(crate) fn map_of(family: Family, elements: Vec<Element>) -> Option<VerdictMap> {
    let entry = |element: Element| match element {
        Element { key, leads: Some(Leads::Goto(chain)), end: false } => Some((address(family, &key)?, string(chain)?)),
        _ => None,
    };
    let elements: Option<_> = elements.into_iter().map(entry).collect();
    Some(VerdictMap { family, elements: elements? })
}

pub(crate) fn intervals_of(family: Family, elements: Vec<Element>) -> Option<IntervalSet> {
    let bound = |element: Element| Some((address(family, &element.key)?, (!element.end).then_some(()))).filter(|_| element.leads.is_none());
    let bounds = elements.into_iter().map(bound).collect::<Option<_>>()?;
    let ranges = ranges(bounds, last_of(family), previous)?;
    Some(IntervalSet { family, ranges: ranges.into_iter().map(|(first, last, ())| (first, last)).collect() })
}

pub(crate) fn counted_of(family: Family, are_ranges: bool, elements: Vec<Element>) -> Option<CounterMap> {
    let bound = |element: Element| {
        let counter = match (element.leads, element.end) {
            (Some(Leads::Counted(counter)), false) => Some(string(counter)?),
            (None, true) if are_ranges => None,
            _ => return None,
        };
        Some((address(family, &element.key)?, counter))
    };
    let bounds = elements.into_iter().map(bound).collect::<Option<Vec<_>>>()?;
    let pieces = if are_ranges { ranges(bounds, last_of(family), previous)? } else { singles(bounds) };
    let elements = pieces.into_iter().map(|(first, last, counter)| (first, (last, counter.into()))).collect();
    Some(CounterMap { family, ranges: are_ranges, elements })
}

pub(crate) fn ports_of(are_ranges: bool, elements: Vec<Element>) -> Option<PortMap> {
    let bound = |element: Element| {
        let chain = match (element.leads, element.end) {
            (Some(Leads::Jump(chain)), false) => Some(string(chain)?),
            (None, true) if are_ranges => None,
            _ => return None,
        };
        Some((u16::from_be_bytes(element.key.as_slice().try_into().ok()?), chain))
    };
    let bounds = elements.into_iter().map(bound).collect::<Option<Vec<_>>>()?;
    let pieces = if are_ranges { ranges(bounds, u16::MAX, |port| port.checked_sub(1))? } else { singles(bounds) };
    Some(PortMap { ranges: are_ranges, elements: pieces.into_iter().map(|(first, last, chain)| (first, (last, chain))).collect() })
}

/// Each key by itself.
fn singles<K: Copy, V>(bounds: Vec<(K, Option<V>)>) -> Vec<(K, K, V)> {
    bounds.into_iter().filter_map(|(key, value)| Some((key, key, value?))).collect()
}

/// Ranges from their bounds: the first key of each with its value, and the key behind the last without one, but behind the last key of all.
fn ranges<K: Copy + Ord, V: Ord>(
    mut bounds: Vec<(K, Option<V>)>,
    last_of_all: K,
    previous: impl Fn(K) -> Option<K>,
) -> Option<Vec<(K, K, V)>> {
    // Where one range ends and another begins, the end comes first.
    bounds.sort_unstable();
    let mut ranges = Vec::new();
    let mut bounds = bounds.into_iter().peekable();
    while let Some((first, value)) = bounds.next() {
        // `nft` puts an end before the first key, which ends nothing.
        let Some(value) = value else { if previous(first).is_none() { continue } else { return None } };
        let last = match bounds.next_if(|(_, begins)| begins.is_none()) {
            Some((behind, _)) => previous(behind).filter(|last| *last >= first)?,
            None if bounds.peek().is_none() => last_of_all,
            None => return None,
        };
        ranges.push((first, last, value));
    }
    Some(ranges)
}

/// The last address of all.
const fn last_of(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    }
}

fn string(name: CString) -> Option<String> {
    name.into_string().ok()
}
