//! A packet's way through a ruleset, as nftables walks it.

use std::net::IpAddr;

use policy::model::{ConnState, Family, Packet, Path, Payload, Verdict};

use crate::fake::JUMP_STACK;
use crate::{Action, Base, CtStates, Hook, Match, Ruleset, Side};

/// What the ruleset does with the packet. A ruleset that the kernel refuses has no meaning here.
pub fn trace(ruleset: &Ruleset, packet: &Packet) -> Verdict {
    let hooks: &[Hook] = match packet.path {
        Path::Forward => &[Hook::Forward],
        Path::Input => &[Hook::Input],
        Path::Output => &[Hook::Output],
        Path::Loopback => &[Hook::Output, Hook::Input],
    };
    let denied = hooks.iter().map(|hook| at(ruleset, *hook, packet)).find(|verdict| *verdict != Verdict::Allow);
    denied.unwrap_or(Verdict::Allow)
}

fn at(ruleset: &Ruleset, hook: Hook, packet: &Packet) -> Verdict {
    let mut bases: Vec<(Base, &str)> = ruleset
        .chains
        .iter()
        .filter_map(|(name, chain)| Some((chain.base?, name.as_str())))
        .filter(|(base, _)| base.hook == hook)
        .collect();
    bases.sort_unstable();
    // Accept, or the end of the chain (policy accept), ends the one base chain; anything else is final.
    let denied = bases.into_iter().find_map(|(_, chain)| walk(ruleset, chain, packet, 0).filter(|verdict| *verdict != Verdict::Allow));
    denied.unwrap_or(Verdict::Allow)
}

/// The verdict of a chain and those it leads to; none when the packet comes back.
fn walk(ruleset: &Ruleset, chain: &str, packet: &Packet, depth: usize) -> Option<Verdict> {
    if depth >= JUMP_STACK {
        // The kernel, too, drops what overruns its stack.
        return Some(Verdict::Drop);
    }
    for rule in &ruleset.chains.get(chain)?.rules {
        if !rule.matches.iter().all(|test| holds(ruleset, test, packet)) {
            continue;
        }
        match &rule.action {
            Action::Accept => return Some(Verdict::Allow),
            Action::Drop => return Some(Verdict::Drop),
            Action::RejectTcpReset | Action::RejectAdminProhibited => return Some(Verdict::Reject),
            Action::Return => return None,
            Action::Jump(to) => {
                if let Some(verdict) = walk(ruleset, to, packet, depth + 1) {
                    return Some(verdict);
                }
            }
            Action::Goto(to) => return walk(ruleset, to, packet, depth + 1),
            Action::Lookup { side, map, .. } => {
                // An address is a key of its own family only.
                if let Some(to) = ruleset.maps.get(map).and_then(|map| map.elements.get(&address(packet, *side))) {
                    return walk(ruleset, to, packet, depth + 1);
                }
            }
            Action::PortLookup(map) => {
                let to = match packet.payload {
                    Payload::Transport { destination, .. } => at_port(ruleset, map, destination),
                    _ => None,
                };
                if let Some(verdict) = to.and_then(|to| walk(ruleset, to, packet, depth + 1)) {
                    return Some(verdict);
                }
            }
            Action::Continue => {}
        }
    }
    None
}

/// The chain that a map has for a port.
fn at_port<'a>(ruleset: &'a Ruleset, map: &str, port: u16) -> Option<&'a str> {
    let (_, (last, chain)) = ruleset.port_maps.get(map)?.elements.range(..=port).next_back()?;
    (port <= *last).then_some(chain)
}

fn holds(ruleset: &Ruleset, test: &Match, packet: &Packet) -> bool {
    match test {
        Match::CtState(states) => in_state(states, packet.state),
        Match::Family(family) => *family == family_of(packet),
        Match::FromLoopback | Match::ToLoopback => packet.path == Path::Loopback,
        Match::L4Proto(number) => *number == protocol(packet),
        Match::InSet { side, set, .. } => in_set(ruleset, set, address(packet, *side)),
        // An address is a key of its own family only.
        Match::CountedIn { side, map, .. } => counted(ruleset, map, address(packet, *side)),
        Match::InNet { side, net } => net.contains(&address(packet, *side)),
        Match::DestinationPorts { from, to } => {
            matches!(packet.payload, Payload::Transport { destination, .. } if (*from..=*to).contains(&destination))
        }
        Match::SourcePort(port) => matches!(packet.payload, Payload::Transport { source, .. } if source == *port),
        Match::IcmpType(family, wanted) => {
            *family == family_of(packet) && matches!(packet.payload, Payload::Icmp { kind, .. } if kind == *wanted)
        }
        Match::IcmpCode(family, wanted) => {
            *family == family_of(packet) && matches!(packet.payload, Payload::Icmp { code, .. } if code == *wanted)
        }
    }
}

fn in_set(ruleset: &Ruleset, set: &str, address: IpAddr) -> bool {
    let in_range = |first: &IpAddr, last: &IpAddr| (*first..=*last).contains(&address);
    ruleset.sets.get(set).is_some_and(|set| set.elements.contains(&address))
        || ruleset.intervals.get(set).is_some_and(|set| set.ranges.iter().any(|(first, last)| in_range(first, last)))
}

/// Whether the map has a counter for the address.
fn counted(ruleset: &Ruleset, map: &str, address: IpAddr) -> bool {
    let before = ruleset.counter_maps.get(map).and_then(|map| map.elements.range(..=address).next_back());
    before.is_some_and(|(_, (last, _))| address <= *last)
}

fn in_state(states: &CtStates, state: ConnState) -> bool {
    match state {
        ConnState::New => states.new,
        ConnState::Established => states.established,
        ConnState::Related => states.related,
        ConnState::Invalid => states.invalid,
    }
}

fn address(packet: &Packet, side: Side) -> IpAddr {
    match side {
        Side::Source => packet.source,
        Side::Destination => packet.destination,
    }
}

fn family_of(packet: &Packet) -> Family {
    Family::of(packet.source)
}

fn protocol(packet: &Packet) -> u8 {
    match (packet.payload, family_of(packet)) {
        (Payload::Transport { protocol, .. }, _) => protocol.number(),
        (Payload::Icmp { .. }, Family::V4) => 1,
        (Payload::Icmp { .. }, Family::V6) => 58,
        (Payload::Protocol(number), _) => number,
    }
}
