//! ICMP: echo, and messages of any type and code.

use std::io;
use std::time::Instant;

use socket2::Type;

use crate::nonce;
use crate::outcome::{Outcome, Target};
use crate::raw::{ICMP, ICMP6, exchange};

const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];
const TIMESTAMP: (u8, u8) = (13, 14);

/// One echo request.
pub fn ping(target: &Target) -> Outcome {
    let [v4, v6] = ECHO;
    message(target, if target.address.is_ipv4() { v4.0 } else { v6.0 }, 0)
}

/// One message of this type and code. Only requests (echo; timestamp in IPv4) are ever answered: whether another one arrived
/// is for [`crate::raw::Listener`] on the other side to say.
pub fn message(target: &Target, kind: u8, code: u8) -> Outcome {
    let start = Instant::now();
    let result = match attempt(target, Type::RAW, kind, code, start) {
        // Without CAP_NET_RAW the kernel may still allow echo requests.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && ECHO.iter().any(|(request, _)| *request == kind) => {
            attempt(target, Type::DGRAM, kind, code, start).map_err(|_| error)
        }
        other => other,
    };
    Outcome::of(start, result)
}

fn attempt(target: &Target, socket: Type, kind: u8, code: u8, start: Instant) -> io::Result<Option<String>> {
    let nonce = nonce::bytes();
    // Type, code, checksum, identifier and sequence number, then the payload.
    let mut packet = vec![kind, code, 0, 0];
    packet.extend_from_slice(&identifier_and_sequence(&nonce));
    packet.extend_from_slice(&nonce);
    let v4 = target.address.is_ipv4();
    if v4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    exchange(target, socket, if v4 { ICMP } else { ICMP6 }, &packet, start, |data| answer(kind, &packet, data))
}

/// The identifier by the time, not by a count that begins anew in every process: to conntrack a ping from here to there with the identifier
/// of an earlier one belongs to that one, and passes whatever the rules say by now (S31, S34).
fn identifier_and_sequence(nonce: &[u8; 16]) -> [u8; 4] {
    [nonce[14], nonce[15], nonce[10], nonce[11]]
}

/// Whether `data` answers our `packet`.
fn answer(kind: u8, packet: &[u8], data: &[u8]) -> Option<String> {
    let first = *data.first()?;
    if ECHO.contains(&(kind, first)) && data.get(8..) == packet.get(8..) {
        return Some("echo-reply".to_owned());
    }
    if (kind, first) == TIMESTAMP && data.get(4..8) == packet.get(4..8) {
        return Some("timestamp-reply".to_owned());
    }
    None
}

/// The Internet checksum (RFC 1071). For ICMPv6 the kernel computes it, because it covers the addresses.
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_rfc_example() {
        // RFC 1071 §3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff, 0xff, 0x01]), !0x0100);
    }

    #[test]
    fn only_the_reply_to_our_own_request_answers() {
        let request = [8, 0, 1, 1, 0, 1, 0, 2, b'x'];
        assert_eq!(
            answer(8, &request, &[0, 0, 9, 9, 7, 7, 0, 2, b'x']).as_deref(),
            Some("echo-reply"),
            "the identifier may be the kernel's"
        );
        assert_eq!(answer(8, &request, &[0, 0, 9, 9, 0, 1, 0, 2, b'y']), None);
        assert_eq!(answer(8, &request, &request), None, "the request itself, seen on loopback");
    }

    /// In containers every process has the same number, and all begin to count at 0.
    #[test]
    fn s34_pings_of_two_processes_are_two_connections() {
        let at = |nanoseconds: u32| {
            let mut nonce = [0; 16];
            nonce[12..].copy_from_slice(&nanoseconds.to_be_bytes());
            identifier_and_sequence(&nonce)
        };
        assert_ne!(at(1_000)[..2], at(2_000)[..2]);
        assert_ne!(at(100_000_123)[..2], at(100_004_567)[..2]);
    }
}
