//! What the fake kernel does with the elements of counter maps.

use crate::fake::{Kind, Reason, missing, same_family};
use crate::{CounterMap, Ruleset};

fn same_sort<'a>(table: &'a mut Ruleset, name: &str, counted: &CounterMap) -> Result<&'a mut CounterMap, Reason> {
    let map = table.counter_maps.get_mut(name).ok_or_else(|| missing(Kind::Map, name))?;
    if map.ranges == counted.ranges { Ok(map) } else { Err(Reason::Malformed(name.into())) }
}

/// An element that is there exactly so is no error.
pub(crate) fn add(table: &mut Ruleset, name: &str, counted: &CounterMap) -> Result<(), Reason> {
    let unknown = counted.elements.values().find(|(_, counter)| !table.counters.contains(&**counter));
    if let Some((_, counter)) = unknown {
        return Err(missing(Kind::Counter, counter));
    }
    let map = same_sort(table, name, counted)?;
    for (first, (last, counter)) in &counted.elements {
        same_family(name, map.family, first)?;
        same_family(name, map.family, last)?;
        if first > last || (!map.ranges && first != last) {
            return Err(Reason::Malformed(format!("{first}-{last}")));
        }
        if map.elements.get(first).is_some_and(|there| there == &(*last, counter.clone())) {
            continue;
        }
        if map.elements.range(..=*last).next_back().is_some_and(|(_, (end, _))| end >= first) {
            return Err(Reason::Overlap(name.into(), *first, *last));
        }
        map.elements.insert(*first, (*last, counter.clone()));
    }
    Ok(())
}

pub(crate) fn delete(table: &mut Ruleset, name: &str, counted: &CounterMap) -> Result<(), Reason> {
    let map = same_sort(table, name, counted)?;
    for (first, element) in &counted.elements {
        if map.elements.get(first) != Some(element) {
            return Err(Reason::MissingElement(name.into(), *first));
        }
        map.elements.remove(first);
    }
    Ok(())
}
