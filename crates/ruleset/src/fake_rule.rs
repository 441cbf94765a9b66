//! What the fake kernel refuses of a rule, and of the chains as a whole.

use std::collections::BTreeMap;

use policy::model::Family;

use crate::fake::{JUMP_STACK, Kind, Reason, missing, target};
use crate::{Action, CtStates, Match, Rule, Ruleset};

/// The protocols that have ports.
const WITH_PORTS: [u8; 3] = [6, 17, 132];
const TCP: u8 = 6;

/// A rule is refused for what it names and for what it says.
pub(crate) fn check_rule(table: &Ruleset, rule: &Rule) -> Result<(), Reason> {
    let mut protocol = None;
    for test in &rule.matches {
        if let Match::L4Proto(number) = test {
            protocol = Some(*number);
        }
        check_match(table, test, protocol)?;
    }
    if let Some(counter) = &rule.counter
        && !table.counters.contains(counter)
    {
        return Err(missing(Kind::Counter, counter));
    }
    match &rule.action {
        Action::Jump(chain) | Action::Goto(chain) => target(&table.chains, chain),
        Action::Lookup { family, map, .. } => {
            let found = table.maps.get(map).ok_or_else(|| missing(Kind::Map, map))?;
            same(found.family, *family, map)
        }
        Action::PortLookup(map) if !table.port_maps.contains_key(map) => Err(missing(Kind::Map, map)),
        Action::PortLookup(_) if !protocol.is_some_and(|number| WITH_PORTS.contains(&number)) => {
            Err(Reason::NeedsProtocol(rule.action.to_string()))
        }
        Action::RejectTcpReset if protocol != Some(TCP) => Err(Reason::NeedsProtocol(rule.action.to_string())),
        _ => Ok(()),
    }
}

fn check_match(table: &Ruleset, test: &Match, protocol: Option<u8>) -> Result<(), Reason> {
    let malformed = || Err(Reason::Malformed(test.to_string()));
    let needs = |fine: bool| if fine { Ok(()) } else { Err(Reason::NeedsProtocol(test.to_string())) };
    match test {
        Match::CtState(states) if *states == CtStates::default() => malformed(),
        Match::InNet { net, .. } if net.trunc() != *net => malformed(),
        Match::DestinationPorts { from, to } if from > to => malformed(),
        Match::DestinationPorts { .. } | Match::SourcePort(_) => needs(protocol.is_some_and(|number| WITH_PORTS.contains(&number))),
        Match::IcmpType(family, _) | Match::IcmpCode(family, _) => {
            let number = match family {
                Family::V4 => 1,
                Family::V6 => 58,
            };
            needs(protocol == Some(number))
        }
        Match::InSet { family, set, .. } => {
            let hashed = table.sets.get(set).map(|found| found.family);
            let found = hashed.or_else(|| table.intervals.get(set).map(|found| found.family)).ok_or_else(|| missing(Kind::Set, set))?;
            same(found, *family, set)
        }
        Match::CountedIn { family, map, .. } => {
            let found = table.counter_maps.get(map).ok_or_else(|| missing(Kind::Map, map))?;
            same(found.family, *family, map)
        }
        Match::CtState(_) | Match::Family(_) | Match::FromLoopback | Match::ToLoopback | Match::L4Proto(_) | Match::InNet { .. } => Ok(()),
    }
}

fn same(is: Family, said: Family, name: &str) -> Result<(), Reason> {
    if is == said { Ok(()) } else { Err(Reason::WrongRuleFamily(name.into())) }
}

/// No chain leads to itself, and none is deeper than the kernel's stack. As in the kernel it is the end of the batch that counts.
/// Loops are refused also where no base chain leads to them, as older kernels do.
pub(crate) fn check_walks(table: &Ruleset) -> Result<(), Reason> {
    let mut heights = BTreeMap::new();
    let bases_last = |name: &&String| table.chains.get(*name).is_some_and(|chain| chain.base.is_some());
    let (bases, regular): (Vec<&String>, Vec<&String>) = table.chains.keys().partition(bases_last);
    for name in regular.into_iter().chain(bases.iter().copied()) {
        height(table, name, &mut Vec::new(), &mut heights)?;
    }
    let too_deep = bases.into_iter().find(|name| heights.get(name.as_str()).is_some_and(|height| *height > JUMP_STACK));
    too_deep.map_or(Ok(()), |name| Err(Reason::TooDeep(name.clone())))
}

/// How many chains a packet that enters here may be in, this one included; a goto counts like a jump.
fn height<'a>(table: &'a Ruleset, name: &'a str, path: &mut Vec<&'a str>, heights: &mut BTreeMap<&'a str, usize>) -> Result<usize, Reason> {
    if let Some(height) = heights.get(name) {
        return Ok(*height);
    }
    if path.contains(&name) {
        return Err(Reason::Loop(name.into()));
    }
    path.push(name);
    let mut below = 0;
    for rule in table.chains.get(name).map_or(&[][..], |chain| &chain.rules) {
        let next: Vec<&str> = match &rule.action {
            Action::Jump(chain) | Action::Goto(chain) => vec![chain],
            Action::Lookup { map, .. } => {
                table.maps.get(map).into_iter().flat_map(|map| map.elements.values()).map(String::as_str).collect()
            }
            Action::PortLookup(map) => {
                table.port_maps.get(map).into_iter().flat_map(|map| map.elements.values()).map(|(_, chain)| chain.as_str()).collect()
            }
            _ => vec![],
        };
        for chain in next {
            below = below.max(height(table, chain, path, heights)?);
        }
    }
    path.pop();
    heights.insert(name, below + 1);
    Ok(below + 1)
}
