//! Single packets: written by hand, sent from one namespace, looked for in the others.
//!
//! Every packet carries a token of its own (the source port, or the identifier of a ping), by which it is known again wherever it
//! arrives, and in what is answered to it.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use crc::{CRC_32_ISCSI, Crc};
use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use lab::Namespace;
use policy::model::{Family, Packet, Payload, Transport};
use socket2::{Domain, Protocol, Socket, Type};

/// The whole IP packet.
pub fn bytes(packet: &Packet, token: u16) -> Result<Vec<u8>> {
    let ip = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        _ => anyhow::bail!("{} and {} are of two families", packet.source, packet.destination),
    };
    let mut out = Vec::new();
    match packet.payload {
        Payload::Transport { protocol: Transport::Tcp, destination, .. } => {
            ip.tcp(token, destination, 1, 64240).syn().write(&mut out, &[])?
        }
        Payload::Transport { protocol: Transport::Udp, destination, .. } => ip.udp(token, destination).write(&mut out, b"probe")?,
        Payload::Transport { protocol: Transport::Sctp, destination, .. } => {
            ip.write(&mut out, IpNumber::SCTP, &sctp_init(token, destination))?
        }
        Payload::Icmp { kind, code } => {
            let rest = [(token >> 8) as u8, token as u8, 0, 1];
            match Family::of(packet.source) {
                Family::V4 => ip.icmpv4_raw(kind, code, rest).write(&mut out, &[0; 12])?,
                Family::V6 => ip.icmpv6_raw(kind, code, rest).write(&mut out, &[0; 12])?,
            }
        }
        Payload::Protocol(number) => anyhow::bail!("protocol {number} carries no token"),
    }
    Ok(out)
}

/// An INIT chunk in its SCTP packet, with the checksum that conntrack verifies (RFC 9260).
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend([0; 8]); // verification tag of an INIT, then the checksum's place
    out.extend([1, 0, 0, 20]);
    out.extend(1u32.to_be_bytes()); // initiate tag
    out.extend(65536u32.to_be_bytes());
    out.extend([0, 1, 0, 1]);
    out.extend(1u32.to_be_bytes());
    let checksum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&out);
    out[8..12].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Sends an IP packet as it is.
pub fn send(from: &Namespace, packet: &[u8], destination: IpAddr) -> Result<()> {
    from.run(|| {
        let domain = if destination.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // IPPROTO_RAW: the header is ours in both families.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
        socket.send_to(packet, &SocketAddr::new(destination, 0).into()).with_context(|| format!("sending to {destination}"))?;
        Ok(())
    })?
}

/// What was seen of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// It arrived.
    Arrived(u16),
    /// It was answered with a TCP reset or with "administratively prohibited".
    Rejected(u16),
}

/// Looks at everything that comes to a set of namespaces.
pub struct Watch {
    seen: Arc<Mutex<Vec<(String, Sighting)>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Starts looking: at the wire of the hosts, and at what gets past the input hook of the node.
    pub fn start<'a>(hosts: impl Iterator<Item = &'a Namespace>, node: &Namespace) -> Result<Watch> {
        let mut watch = Watch { seen: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for host in hosts {
            // ETH_P_ALL, without the link's header.
            watch.listen(host, Domain::PACKET, Type::DGRAM, i32::from(0x0003u16.to_be()), ip)?;
        }
        for protocol in [6, 17, 132, 1] {
            watch.listen(node, Domain::IPV4, Type::RAW, protocol, ip)?;
        }
        for protocol in [6, 17, 132, 58] {
            // A raw IPv6 socket hands over what follows the header.
            watch
                .listen(node, Domain::IPV6, Type::RAW, protocol, move |payload| vec![Sighting::Arrived(token(protocol as u8, payload))])?;
        }
        Ok(watch)
    }

    fn listen(
        &mut self,
        namespace: &Namespace,
        domain: Domain,
        kind: Type,
        protocol: i32,
        read: impl Fn(&[u8]) -> Vec<Sighting> + Send + 'static,
    ) -> Result<()> {
        let mut socket = namespace.run(|| Socket::new(domain, kind, Some(Protocol::from(protocol))))??;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (seen, stop, name) = (self.seen.clone(), self.stop.clone(), namespace.name().to_owned());
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut buffer) else { continue };
                let sightings = read(&buffer[..length]);
                seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.extend(sightings.into_iter().map(|s| (name.clone(), s)));
            }
            Ok(())
        }));
        Ok(())
    }

    /// Whether this was seen there.
    pub fn saw(&self, at: &Namespace, sighting: Sighting) -> bool {
        self.seen.lock().is_ok_and(|seen| seen.iter().any(|(name, seen)| name == at.name() && *seen == sighting))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// The token of a packet by what follows its IP header.
fn token(protocol: u8, payload: &[u8]) -> u16 {
    u16_at(payload, if matches!(protocol, 1 | 58) { 4 } else { 0 })
}

/// What an IP packet says.
fn ip(packet: &[u8]) -> Vec<Sighting> {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else { return Vec::new() };
    let Some(payload) = sliced.net.as_ref().and_then(|net| net.ip_payload_ref()) else { return Vec::new() };
    let mut sightings = vec![Sighting::Arrived(token(payload.ip_number.0, payload.payload))];
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) if tcp.rst() => sightings.push(Sighting::Rejected(tcp.destination_port())),
        Some(TransportSlice::Icmpv4(icmp)) if (icmp.type_u8(), icmp.code_u8()) == (3, 13) => {
            sightings.extend(quoted(payload.payload, 20, 9))
        }
        Some(TransportSlice::Icmpv6(icmp)) if (icmp.type_u8(), icmp.code_u8()) == (1, 1) => {
            sightings.extend(quoted(payload.payload, 40, 6))
        }
        _ => {}
    }
    sightings
}

/// The packet that an ICMP error quotes behind its own 8 bytes.
fn quoted(icmp: &[u8], header: usize, protocol_at: usize) -> Option<Sighting> {
    let original = icmp.get(8..)?;
    Some(Sighting::Rejected(token(*original.get(protocol_at)?, original.get(header..)?)))
}
