//! Packets of any IP protocol, on raw sockets: they need CAP_NET_RAW.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::libc::{ENOPROTOOPT, EPROTO};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::nonce;
use crate::outcome::{Outcome, Target};

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// ICMP for IPv6.
pub const ICMP6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// Sends one packet of an IP protocol that nobody speaks; the answer is the ICMP error that says so, which proves that it arrived.
pub fn packet(target: &Target, protocol: u8) -> Outcome {
    let start = Instant::now();
    Outcome::of(start, exchange(target, Type::RAW, protocol, &nonce::bytes(), start, |_| None))
}

/// Sends a packet and reads until one matches, or an ICMP error comes, or the time is over.
pub(crate) fn exchange(
    target: &Target,
    kind: Type,
    protocol: u8,
    packet: &[u8],
    start: Instant,
    matches: impl Fn(&[u8]) -> Option<String>,
) -> io::Result<Option<String>> {
    let mut socket = target.socket(kind, Some(Protocol::from(i32::from(protocol))))?;
    // Connected: then the kernel hands ICMP errors and only the other side's packets to us.
    socket.connect(&target.socket_address(0).into())?;
    socket.send(packet)?;
    let mut buffer = [0; 2048];
    loop {
        let left = target.timeout().saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut buffer) {
            Ok(length) => {
                let data =
                    if kind == Type::RAW && target.address.is_ipv4() { without_header(&buffer[..length]) } else { &buffer[..length] };
                if let Some(reply) = matches(data) {
                    return Ok(Some(reply));
                }
            }
            // Linux's words for "protocol unreachable" (IPv4) and "unrecognized next header" (IPv6).
            Err(error) if matches!(error.raw_os_error(), Some(ENOPROTOOPT | EPROTO)) => return Ok(Some("protocol-unreachable".to_owned())),
            Err(error) => return Err(error),
        }
    }
}

/// A raw IPv4 socket hands out the IP header too.
pub(crate) fn without_header(packet: &[u8]) -> &[u8] {
    let length = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(length..).unwrap_or_default()
}

/// A packet that came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// Who sent it.
    pub from: IpAddr,
    /// Its IP protocol.
    pub protocol: u8,
    /// What is after the IP header; for ICMP the first two bytes are type and code.
    pub data: Vec<u8>,
}

/// Receives every packet of one protocol and family that this namespace takes in.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    v4: bool,
    protocol: u8,
}

impl Listener {
    /// Starts to listen; what arrives from now on is not missed.
    pub fn new(protocol: u8, v4: bool) -> io::Result<Listener> {
        let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        Ok(Listener { socket, v4, protocol })
    }

    /// The next packet, if one comes in time.
    pub fn next(&self, patience: Duration) -> io::Result<Option<Arrival>> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 2048];
        match receive(&self.socket, &mut buffer) {
            Ok((length, from)) => {
                let data = if self.v4 { without_header(&buffer[..length]) } else { &buffer[..length] };
                Ok(Some(Arrival { from, protocol: self.protocol, data: data.to_vec() }))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One packet, and who sent it.
pub(crate) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    let mut vector = [io::IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut vector, None, MsgFlags::empty())?;
    let address = received.address.ok_or(io::ErrorKind::InvalidData)?;
    let from = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => v4.ip().into(),
        (_, Some(v6)) => v6.ip().into(),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok((received.bytes, from))
}
