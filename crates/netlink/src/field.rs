//! Where packets have what rules look at, and what a rule knows of the packet at each point.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::model::Family;
use ruleset::{CtStates, Side};

const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
/// The number of the loopback interface, in every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;
const ICMPV6: u8 = 58;
/// TCP, UDP, SCTP: source port at 0, destination port at 2.
const WITH_PORTS: [u8; 3] = [TCP, 17, 132];

/// The states as the kernel has them, a bit each.
pub(crate) fn state_bits(states: CtStates) -> u32 {
    let CtStates { established, related, new, invalid, untracked } = states;
    u32::from(invalid) | u32::from(established) << 1 | u32::from(related) << 2 | u32::from(new) << 3 | u32::from(untracked) << 6
}

/// The states of these bits; none where one is no state.
pub(crate) fn states_of(bits: u32) -> Option<CtStates> {
    let has = |place: u32| bits & (1 << place) != 0;
    let states = CtStates { invalid: has(0), established: has(1), related: has(2), new: has(3), untracked: has(6) };
    (state_bits(states) == bits).then_some(states)
}

/// What the rule has tested so far; both directions keep the same account of it.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) family: Option<Family>,
    pub(crate) protocol: Option<u8>,
}

impl Known {
    /// Whether the protocol has ports.
    pub(crate) fn ports(&self) -> bool {
        self.protocol.is_some_and(|protocol| WITH_PORTS.contains(&protocol))
    }

    /// The family whose ICMP the protocol is.
    pub(crate) fn icmp(&self) -> Option<Family> {
        match self.protocol {
            Some(ICMP) => Some(Family::V4),
            Some(ICMPV6) => Some(Family::V6),
            _ => None,
        }
    }
}

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

pub(crate) fn family_of(value: &[u8]) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|family| value == [family_number(*family)])
}

pub(crate) fn full_length(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// Where the header of the family has the address.
pub(crate) fn address_offset(side: Side, family: Family) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    }
}

pub(crate) fn side_at(offset: u32, family: Family) -> Option<Side> {
    [Side::Source, Side::Destination].into_iter().find(|side| address_offset(*side, family) == offset)
}

/// The address in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address of that family with these octets.
pub(crate) fn address(family: Family, octets: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
    })
}
