//! Lookups as a resolver does them: two questions (A and AAAA) through one new socket, at the same moment.
//!
//! The two packets are one flow to conntrack and neither knows of the other, so a kernel or a program that delays one of them may translate
//! them to different backends and lose one: the resolver then waits for five seconds.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::Type;

use crate::nonce;
use crate::outcome::{Target, milliseconds};

/// What became of many lookups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookups {
    /// How many were made.
    pub lookups: u32,
    /// How many had not both answers when the target's patience was over.
    pub unanswered: u32,
    /// How long the slowest took.
    pub slowest_ms: f64,
}

/// Makes so many lookups at a `probe serve`, by several askers at the same time. No question is asked twice.
pub fn lookups(target: &Target, port: u16, count: u32, askers: u32) -> io::Result<Lookups> {
    let left = AtomicU32::new(count);
    let ask_on = || -> io::Result<Lookups> {
        let mut found = Lookups::default();
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let (answered, took) = lookup(target, port)?;
            found.lookups += 1;
            found.unanswered += u32::from(!answered);
            found.slowest_ms = found.slowest_ms.max(milliseconds(took));
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..askers.max(1)).map(|_| scope.spawn(ask_on)).collect();
        threads.into_iter().try_fold(Lookups::default(), |all, thread| {
            let one = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Lookups {
                lookups: all.lookups + one.lookups,
                unanswered: all.unanswered + one.unanswered,
                slowest_ms: all.slowest_ms.max(one.slowest_ms),
            })
        })
    })
}

/// Whether both answers came in time, and how long that took.
fn lookup(target: &Target, port: u16) -> io::Result<(bool, Duration)> {
    let socket = target.socket(Type::DGRAM, None)?;
    socket.connect(&target.socket_address(port).into())?;
    let socket = UdpSocket::from(socket);
    let (questions, here) = ([nonce::bytes(), nonce::bytes()], AtomicU32::new(0));
    let ask = |question: &[u8]| {
        here.fetch_add(1, Ordering::AcqRel);
        // By spinning: who is woken comes too late to send at the same moment.
        while here.load(Ordering::Acquire) < 2 {
            std::thread::yield_now();
        }
        socket.send(question)
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| ask(&questions[1]));
        ask(&questions[0]).and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok((await_both(&socket, questions, target.timeout(), start), start.elapsed()))
}

fn await_both(socket: &UdpSocket, questions: [[u8; 16]; 2], patience: Duration, start: Instant) -> bool {
    let (mut answered, mut buffer) = ([false; 2], [0; 512]);
    while answered != [true; 2] {
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        let Ok(length) = socket.recv(&mut buffer) else { return false };
        for (answered, question) in answered.iter_mut().zip(questions) {
            *answered |= buffer[..length].starts_with(&question);
        }
    }
    true
}
