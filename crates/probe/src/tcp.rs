//! TCP: one connection, or one that is held.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::Type;

use crate::outcome::{Failure, Outcome, Target, milliseconds};

/// How long a server that is connected may take to say its name; others say nothing.
const GREETING: Duration = Duration::from_millis(150);

/// Connects; the reply is the line with which `probe serve` greets, if it comes.
pub fn connect(target: &Target, port: u16) -> Outcome {
    let start = Instant::now();
    match open(target, port) {
        Ok(stream) => {
            let mut outcome = Outcome::answered(start, None);
            outcome.reply = greeting(&stream, GREETING.min(target.timeout()));
            outcome
        }
        Err(error) => Outcome::failed(start, Failure::from(&error)),
    }
}

fn open(target: &Target, port: u16) -> io::Result<TcpStream> {
    let socket = target.socket(Type::STREAM, None)?;
    socket.connect_timeout(&target.socket_address(port).into(), target.timeout())?;
    Ok(socket.into())
}

fn greeting(stream: &TcpStream, patience: Duration) -> Option<String> {
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| line.trim_end().to_owned())
}

/// Sends so many bytes to a `probe serve` and reads them back; within the target's timeout, the connection included. Bytes that fill
/// packets find out what size the way takes.
pub fn transfer(target: &Target, port: u16, bytes: usize) -> Outcome {
    let start = Instant::now();
    Outcome::of(start, send_and_read_back(target, port, bytes, start).map(|()| None))
}

fn send_and_read_back(target: &Target, port: u16, bytes: usize, start: Instant) -> io::Result<()> {
    let mut stream = open(target, port)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut sent = vec![b'x'; bytes];
    sent.push(b'\n');
    let mut received = Vec::new();
    stream.set_read_timeout(Some(target.timeout()))?;
    stream.set_write_timeout(Some(target.timeout()))?;
    reader.read_until(b'\n', &mut received)?;
    // The server returns whole lines: it takes all of this one before it says a word.
    stream.write_all(&sent)?;
    received.clear();
    while received.len() < sent.len() {
        let left = target.timeout().saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let piece = reader.fill_buf()?;
        let length = piece.len();
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(piece);
        reader.consume(length);
    }
    if received == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// What became of a connection that was held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Whether it was there at the start and at the end, and every line came back.
    pub ok: bool,
    /// Why it ended early; absent when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Lines that came back.
    pub exchanged: u64,
    /// Times without an answer of more than three intervals.
    pub gaps: Vec<Gap>,
}

/// A time without an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// When it began, in milliseconds from the start.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
}

/// Keeps one connection to a `probe serve` and exchanges a line every `interval`, for `duration`.
/// Silence of more than the target's timeout ends it.
pub fn hold(target: &Target, port: u16, duration: Duration, interval: Duration) -> Held {
    let mut held = Held { ok: false, error: None, exchanged: 0, gaps: Vec::new() };
    match exchange(target, port, duration, interval, &mut held) {
        Ok(()) => held.ok = held.gaps.is_empty(),
        Err(error) => held.error = Some(Failure::from(&error)),
    }
    held
}

fn exchange(target: &Target, port: u16, duration: Duration, interval: Duration, held: &mut Held) -> io::Result<()> {
    let start = Instant::now();
    let mut stream = open(target, port)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(target.timeout()))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut sequence = 0u64;
    while start.elapsed() < duration {
        let sent = Instant::now();
        let text = format!("line {sequence}\n");
        stream.write_all(text.as_bytes())?;
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line != text {
            return Err(io::Error::other(format!("{:?} came back for {:?}", line, text)));
        }
        held.exchanged += 1;
        if sent.elapsed() > interval * 3 {
            held.gaps.push(Gap { at_ms: milliseconds(sent - start), ms: milliseconds(sent.elapsed()) });
        }
        sequence += 1;
        std::thread::sleep(interval.saturating_sub(sent.elapsed()));
    }
    Ok(())
}
