//! Single packets, written by hand and known again wherever they arrive, and in what is answered to them.
//!
//! Every packet carries a token of its own where no rule and no conntrack looks: the sequence number of TCP, the initiate tag of SCTP, the
//! data of the others. So ports, types and codes are free to be what a rule is about.

use std::net::IpAddr;

use anyhow::Result;
use crc::{CRC_32_ISCSI, Crc};
use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use policy::model::{ConnState, Family, Packet, Path, Payload, Transport};

/// The GRE header without options stands before its token.
const GRE: u8 = 47;

/// The packet in the state that conntrack will see it in; none where it cannot be sent, or where the network would take it for its own.
///
/// Only what opens a connection or belongs to none: replies are made by [`reply`].
pub fn sendable(packet: Packet) -> Option<Packet> {
    let known = match (packet.payload, Family::of(packet.source)) {
        (Payload::Transport { .. }, _) => {
            let invalid = packet.state == ConnState::Invalid;
            // Of these two, conntrack doubts the checksum, and that of what the node itself sends it does not look at.
            let unlikely = matches!(packet.path, Path::Output | Path::Loopback)
                && !matches!(packet.payload, Payload::Transport { protocol: Transport::Tcp, .. });
            if invalid && !unlikely { ConnState::Invalid } else { ConnState::New }
        }
        (Payload::Icmp { kind: 8 | 13 | 15 | 17, .. }, Family::V4) => ConnState::New,
        // The latter are not tracked, which is neither invalid nor established.
        (Payload::Icmp { kind: 128 | 130..=136 | 143, .. }, Family::V6) => ConnState::New,
        // An answer without a question, an error about nothing, and what nobody knows.
        (Payload::Icmp { .. }, _) => ConnState::Invalid,
        // In IPv6 this is not a protocol but a header with options.
        (Payload::Protocol(0), _) => return None,
        (Payload::Protocol(_), _) => ConnState::New,
    };
    // What a pod sends to itself never leaves it.
    (packet.source != packet.destination || packet.path == Path::Loopback).then_some(Packet { state: known, ..packet })
}

/// The answer to a packet, which belongs to its connection (S31); none where there is none.
pub fn reply(packet: &Packet) -> Option<Packet> {
    let payload = match packet.payload {
        Payload::Transport { protocol, source, destination } => Payload::Transport { protocol, source: destination, destination: source },
        // To conntrack the code, too, tells one ping from another.
        Payload::Icmp { kind: 8, code } => Payload::Icmp { kind: 0, code },
        Payload::Icmp { kind: 128, code } => Payload::Icmp { kind: 129, code },
        Payload::Icmp { .. } => return None,
        Payload::Protocol(number) => Payload::Protocol(number),
    };
    let path = match packet.path {
        Path::Input => Path::Output,
        Path::Output => Path::Input,
        path => path,
    };
    Some(Packet { source: packet.destination, destination: packet.source, payload, state: ConnState::Established, path })
}

/// The whole IP packet. `answers` is the token of the packet that an established one answers.
pub fn bytes(packet: &Packet, token: u32, answers: u32) -> Result<Vec<u8>> {
    let ip = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        _ => anyhow::bail!("{} and {} are of two families", packet.source, packet.destination),
    };
    let mut out = Vec::new();
    match packet.payload {
        Payload::Transport { protocol: Transport::Tcp, source, destination } => {
            let tcp = ip.tcp(source, destination, token, 64240).syn();
            match packet.state {
                ConnState::Established => tcp.ack(answers.wrapping_add(1)).write(&mut out, &[])?,
                // Nobody begins and ends at once.
                ConnState::Invalid => tcp.fin().write(&mut out, &[])?,
                _ => tcp.write(&mut out, &[])?,
            }
        }
        Payload::Transport { protocol: Transport::Udp, source, destination } => {
            ip.udp(source, destination).write(&mut out, &token.to_be_bytes())?;
            spoil(packet, &mut out, 6);
        }
        Payload::Transport { protocol: Transport::Sctp, source, destination } => {
            let answers = (packet.state == ConnState::Established).then_some(answers);
            ip.write(&mut out, IpNumber::SCTP, &sctp(source, destination, token, answers))?;
            spoil(packet, &mut out, 8);
        }
        Payload::Icmp { kind, code } => {
            // The identifier is that of the question; two pings at once from one place to another have two.
            let id = if packet.state == ConnState::Established { answers } else { token };
            let rest = [(id >> 8) as u8, id as u8, 0, 1];
            let mut data = [0; 12];
            data[..4].copy_from_slice(&token.to_be_bytes());
            match Family::of(packet.source) {
                Family::V4 => ip.icmpv4_raw(kind, code, rest).write(&mut out, &data)?,
                Family::V6 => ip.icmpv6_raw(kind, code, rest).write(&mut out, &data)?,
            }
        }
        Payload::Protocol(number) => {
            let header: &[u8] = if number == GRE { &[0; 4] } else { &[] };
            let mut data = [header, &token.to_be_bytes()].concat();
            data.extend(internet_checksum(packet, number, &data).to_be_bytes());
            ip.write(&mut out, IpNumber(number), &data)?;
        }
    }
    Ok(out)
}

/// What makes the sum right as ICMP and ICMPv6 count it: of a protocol that it does not know, the kernel, too, takes this for the checksum,
/// and answers no packet in which it is wrong.
fn internet_checksum(packet: &Packet, protocol: u8, data: &[u8]) -> u16 {
    let mut bytes = data.to_vec();
    if let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) {
        bytes.extend(source.octets().into_iter().chain(destination.octets()));
        bytes.extend([0, 0, 0, data.len() as u8 + 2, 0, 0, 0, protocol]);
    }
    let sum = bytes.chunks(2).fold(0u32, |sum, two| sum + (u32::from(two[0]) << 8) + u32::from(*two.get(1).unwrap_or(&0)));
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// A wrong checksum, behind the IP header.
fn spoil(packet: &Packet, bytes: &mut [u8], at: usize) {
    let header = if packet.source.is_ipv4() { 20 } else { 40 };
    if packet.state == ConnState::Invalid
        && let Some(byte) = bytes.get_mut(header + at)
    {
        *byte ^= 0x55;
    }
}

/// An INIT chunk in its SCTP packet, or the INIT-ACK that answers one, with the checksum that conntrack verifies (RFC 9260).
fn sctp(source: u16, destination: u16, token: u32, answers: Option<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend(answers.unwrap_or(0).to_be_bytes()); // verification tag: of an INIT 0, else the other side's initiate tag
    out.extend([0; 4]); // the checksum's place
    out.extend([if answers.is_some() { 2 } else { 1 }, 0, 0, 20]);
    out.extend(token.to_be_bytes()); // initiate tag
    out.extend(65536u32.to_be_bytes());
    out.extend([0, 1, 0, 1]);
    out.extend(1u32.to_be_bytes());
    let checksum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&out);
    out[8..12].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// What was seen of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// It arrived.
    Arrived(u32),
    /// It was answered with a TCP reset or with "administratively prohibited".
    Rejected(u32),
}

/// What an IP packet says.
pub fn sightings(packet: &[u8]) -> Vec<Sighting> {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else { return Vec::new() };
    let Some(payload) = sliced.net.as_ref().and_then(|net| net.ip_payload_ref()) else { return Vec::new() };
    match &sliced.transport {
        // A reset acknowledges the SYN that it answers.
        Some(TransportSlice::Tcp(tcp)) if tcp.rst() => vec![Sighting::Rejected(tcp.acknowledgment_number().wrapping_sub(1))],
        Some(TransportSlice::Icmpv4(icmp)) if (icmp.type_u8(), icmp.code_u8()) == (3, 13) => quoted(payload.payload, 20, 9),
        Some(TransportSlice::Icmpv6(icmp)) if (icmp.type_u8(), icmp.code_u8()) == (1, 1) => quoted(payload.payload, 40, 6),
        _ => arrived(payload.ip_number.0, payload.payload),
    }
}

/// What follows an IP header says.
fn arrived(protocol: u8, payload: &[u8]) -> Vec<Sighting> {
    token(protocol, payload).map(Sighting::Arrived).into_iter().collect()
}

/// The packet that an ICMP error quotes behind its own 8 bytes; one that quotes none is itself what was sent.
fn quoted(icmp: &[u8], header: usize, protocol_at: usize) -> Vec<Sighting> {
    let original = icmp.get(8..).unwrap_or_default();
    let is_packet = original.first().is_some_and(|byte| matches!((byte >> 4, header), (4, 20) | (6, 40)));
    if !is_packet {
        return arrived(1, icmp);
    }
    let rejected = original.get(protocol_at).zip(original.get(header..)).and_then(|(protocol, rest)| token(*protocol, rest));
    rejected.map(Sighting::Rejected).into_iter().collect()
}

/// The token of a packet by what follows its IP header.
fn token(protocol: u8, payload: &[u8]) -> Option<u32> {
    let at = match protocol {
        6 | GRE => 4,
        17 | 1 | 58 => 8,
        132 => 16,
        _ => 0,
    };
    payload.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}
