//! UDP: one datagram, and the same one back.

use std::io;
use std::time::Instant;

use socket2::Type;

use crate::nonce;
use crate::outcome::{Outcome, Target};

/// Sends one datagram to a `probe serve` and waits for it to come back. It is never sent twice.
pub fn echo(target: &Target, port: u16) -> Outcome {
    let start = Instant::now();
    Outcome::of(start, attempt(target, port, start))
}

fn attempt(target: &Target, port: u16, start: Instant) -> io::Result<Option<String>> {
    let socket = target.socket(Type::DGRAM, None)?;
    // Connected, so that an ICMP error about it is told to us.
    socket.connect(&target.socket_address(port).into())?;
    let socket = std::net::UdpSocket::from(socket);
    let message = nonce::bytes();
    socket.send(&message)?;
    let mut buffer = [0; 512];
    loop {
        let left = target.timeout().saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        if buffer[..length].starts_with(&message) {
            return Ok(None);
        }
    }
}
