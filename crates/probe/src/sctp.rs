//! SCTP without the kernel's: an INIT packet on a raw socket, and the side that answers it.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crc::{CRC_32_ISCSI, Crc};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::nonce;
use crate::outcome::{Outcome, Target};
use crate::raw::{SCTP, exchange, receive, without_header};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

/// Sends one INIT. Any answer counts: `init-ack`, `abort`, or `protocol-unreachable` from a kernel without SCTP.
pub fn init(target: &Target, port: u16) -> Outcome {
    let start = Instant::now();
    let nonce = nonce::bytes();
    // From the dynamic range (RFC 6335), different each time.
    let own_port = 0xc000 | u16::from_be_bytes([nonce[10], nonce[11]]).wrapping_add(u16::from_be_bytes([nonce[14], nonce[15]]));
    let tag = u32::from_be_bytes([nonce[12], nonce[13], nonce[14], nonce[15]]) | 1;
    let packet = encode(own_port, port, 0, INIT, &init_body(tag));
    let result = exchange(target, Type::RAW, SCTP, &packet, start, |data| {
        let answer = Packet::parse(data)?;
        if (answer.from, answer.to, answer.tag) != (port, own_port, tag) {
            return None;
        }
        match answer.chunk {
            INIT_ACK => Some("init-ack".to_owned()),
            ABORT => Some("abort".to_owned()),
            _ => None,
        }
    });
    Outcome::of(start, result)
}

/// Answers INITs from now on, in a thread a family: INIT-ACK on these ports, ABORT on others.
pub(crate) fn listen(ports: &[u16]) -> io::Result<()> {
    let open = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(SCTP))));
    let v4 = open(Domain::IPV4)?;
    let v6 = open(Domain::IPV6);
    for (socket, is_v4) in [(Some(v4), true), (v6.ok(), false)] {
        let Some(socket) = socket else { continue };
        let ports = ports.to_vec();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let Ok((length, from)) = receive(&socket, &mut buffer) else { continue };
                let data = if is_v4 { without_header(&buffer[..length]) } else { &buffer[..length] };
                if let Some(answer) = answer(data, &ports) {
                    // What a rule forbids to be sent is the client's to miss.
                    let _ = socket.send_to(&answer, &SockAddr::from(SocketAddr::new(from, 0)));
                }
            }
        });
    }
    Ok(())
}

/// The answer to an INIT.
fn answer(data: &[u8], ports: &[u16]) -> Option<Vec<u8>> {
    let packet = Packet::parse(data)?;
    if packet.chunk != INIT {
        return None;
    }
    let tag = u32::from_be_bytes(packet.body.get(..4)?.try_into().ok()?);
    if !ports.contains(&packet.to) {
        return Some(encode(packet.to, packet.from, tag, ABORT, &[]));
    }
    let mut body = init_body(tag ^ 0x5a5a_5a5a);
    // A state cookie (parameter 7) is what makes it an INIT-ACK; 4 bytes of its own do.
    body.extend_from_slice(&[0, 7, 0, 8]);
    body.extend_from_slice(nonce::MAGIC);
    Some(encode(packet.to, packet.from, tag, INIT_ACK, &body))
}

/// Initiate tag, window, one stream each way, first sequence number.
fn init_body(tag: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(16);
    body.extend_from_slice(&tag.to_be_bytes());
    body.extend_from_slice(&65_536u32.to_be_bytes());
    body.extend_from_slice(&[0, 1, 0, 1]);
    body.extend_from_slice(&1u32.to_be_bytes());
    body
}

/// A packet with one chunk (RFC 9260 §3).
fn encode(from: u16, to: u16, tag: u32, chunk: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(16 + body.len());
    packet.extend_from_slice(&from.to_be_bytes());
    packet.extend_from_slice(&to.to_be_bytes());
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    let length = u16::try_from(4 + body.len()).unwrap_or(u16::MAX);
    packet.extend_from_slice(&[chunk, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(body);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// CRC32c, with its bytes in the order of RFC 9260 appendix A. Conntrack drops packets where it is wrong.
fn checksum(packet: &[u8]) -> [u8; 4] {
    Crc::<u32>::new(&CRC_32_ISCSI).checksum(packet).to_le_bytes()
}

/// A packet, as far as its first chunk.
struct Packet<'a> {
    from: u16,
    to: u16,
    tag: u32,
    chunk: u8,
    body: &'a [u8],
}

impl Packet<'_> {
    fn parse(data: &[u8]) -> Option<Packet<'_>> {
        let (header, body) = data.split_at_checked(16)?;
        let two = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some(Packet { from: two(0), to: two(2), tag, chunk: header[12], body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32c() {
        // The check value of CRC-32/ISCSI, least significant byte first.
        assert_eq!(checksum(b"123456789"), 0xe306_9283u32.to_le_bytes());
    }

    #[test]
    fn an_init_is_acknowledged_on_a_listening_port_and_aborted_elsewhere() {
        let init = encode(50_000, 36_412, 0, INIT, &init_body(77));
        let acknowledged = answer(&init, &[36_412]).unwrap();
        let packet = Packet::parse(&acknowledged).unwrap();
        assert_eq!((packet.from, packet.to, packet.tag, packet.chunk), (36_412, 50_000, 77, INIT_ACK));
        let aborted = answer(&init, &[1]).unwrap();
        assert_eq!(Packet::parse(&aborted).unwrap().chunk, ABORT);
        assert_eq!(answer(&acknowledged, &[50_000]), None, "nobody answers an answer");
        assert_eq!(answer(&init[..15], &[36_412]), None);
    }
}
