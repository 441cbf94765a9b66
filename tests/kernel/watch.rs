//! Sockets that stay open: to send whole IP packets from every namespace, and to see everything that comes to it.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lab::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{Sighting, sightings};

/// ETH_P_IP and ETH_P_IPV6: what comes in over the wire, without the link's header.
const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];
/// What the node's own sockets listen to: what has got past the input hook.
const PROTOCOLS: [i32; 7] = [6, 17, 132, 1, 58, 47, 99];
/// IPPROTO_RAW: the header is ours in both families.
const RAW: i32 = 255;

/// One socket that sees.
struct Eye {
    namespace: usize,
    socket: Socket,
    read: fn(i32, &[u8]) -> Vec<Sighting>,
    protocol: i32,
}

/// The sockets of all namespaces, each known by its place in the list that they were opened with.
pub struct Watch {
    eyes: Vec<Eye>,
    raw: Vec<[Socket; 2]>,
}

impl Watch {
    /// Opens them: for the hosts, and last for the node.
    pub fn open<'a>(hosts: impl Iterator<Item = &'a Namespace>, node: &Namespace) -> Result<Watch> {
        let mut watch = Watch { eyes: Vec::new(), raw: Vec::new() };
        let hosts: Vec<&Namespace> = hosts.collect();
        for (i, host) in hosts.iter().enumerate() {
            for ethertype in ETHERTYPES {
                watch.eye(i, host, (Domain::PACKET, Type::DGRAM, i32::from(ethertype.to_be())), |_, packet| sightings(packet))?;
            }
        }
        for protocol in PROTOCOLS {
            watch.eye(hosts.len(), node, (Domain::IPV4, Type::RAW, protocol), |_, packet| sightings(packet))?;
            // A raw IPv6 socket hands over what follows the header.
            watch.eye(hosts.len(), node, (Domain::IPV6, Type::RAW, protocol), headless)?;
        }
        for namespace in hosts.into_iter().chain([node]) {
            let open = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)));
            watch.raw.push(namespace.run(|| -> Result<[Socket; 2]> { Ok([open(Domain::IPV4)?, open(Domain::IPV6)?]) })??);
        }
        Ok(watch)
    }

    fn eye(
        &mut self,
        namespace: usize,
        at: &Namespace,
        (domain, kind, protocol): (Domain, Type, i32),
        read: fn(i32, &[u8]) -> Vec<Sighting>,
    ) -> Result<()> {
        let socket = at.run(|| Socket::new(domain, kind, Some(Protocol::from(protocol))))??;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_nonblocking(true)?;
        self.eyes.push(Eye { namespace, socket, read, protocol });
        Ok(())
    }

    /// Sends an IP packet as it is. What the node's own output hook denies is as good as sent.
    pub fn send(&self, from: usize, packet: &[u8], destination: IpAddr) -> Result<()> {
        let socket = &self.raw[from][usize::from(destination.is_ipv6())];
        match socket.send_to(packet, &SocketAddr::new(destination, 0).into()) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            sent => sent.map(drop).with_context(|| format!("sending to {destination}")),
        }
    }

    /// Takes everything that has come so far.
    pub fn look(&mut self, seen: &mut HashSet<(usize, Sighting)>) {
        let mut buffer = [0; 2048];
        for eye in &mut self.eyes {
            while let Ok(length) = eye.socket.read(&mut buffer) {
                seen.extend((eye.read)(eye.protocol, &buffer[..length]).into_iter().map(|sighting| (eye.namespace, sighting)));
            }
        }
    }
}

/// What a raw IPv6 socket hands over, as far as it answers something of ours, or is ours.
fn headless(protocol: i32, payload: &[u8]) -> Vec<Sighting> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
    let (Ok(length), Ok(protocol)) = (u16::try_from(payload.len()), u8::try_from(protocol)) else { return Vec::new() };
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6] = protocol;
    packet.extend([0; 32]);
    packet.extend(payload);
    sightings(&packet)
}
