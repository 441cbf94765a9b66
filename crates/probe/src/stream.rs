//! New flows at a steady rate: when exactly does a verdict change, and is any packet lost?

use std::collections::HashMap;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use socket2::{Socket, Type};

use crate::outcome::{Failure, Target, milliseconds};

const MAGIC: &[u8; 4] = b"ksgs";
/// How late a flow may be seen to have timed out, and the order to stop.
const LOOK: Duration = Duration::from_millis(1);

/// What a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// One datagram to a `probe serve`, and back.
    Udp,
    /// A TCP handshake.
    TcpConnect,
}

/// A stream to be: flows from a new source port each, `rate` a second, for `duration`. A flow that is not answered within the
/// target's timeout is lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// To whom.
    pub target: Target,
    /// To which port.
    pub port: u16,
    /// How.
    pub kind: Kind,
    /// Flows a second, at most: what a busy machine misses is not made up for.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Flows begun.
    pub sent: u64,
    /// Flows answered.
    pub answered: u64,
    /// Flows that met silence.
    pub lost: u64,
    /// Flows that were refused, reset, or answered by an ICMP error.
    pub refused: u64,
    /// Runs of flows with the same fate, in order.
    pub ranges: Vec<Range>,
    /// The latest that a flow was begun after its time, in milliseconds: how busy this machine was.
    pub max_late_ms: f64,
}

/// Flows one after another with the same fate. Times are when they were sent, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// What became of them; absent: answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The first one, counted from 0.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// When the first had been sent, on CLOCK_MONOTONIC: the same clock in every namespace of a machine.
    pub first_monotonic_us: u64,
    /// When the last was about to be sent: all of them were sent in between.
    pub last_monotonic_us: u64,
    /// When the first was sent, on CLOCK_REALTIME.
    pub first_realtime_us: u64,
    /// When the last was sent.
    pub last_realtime_us: u64,
    /// When the other side got the first one, on CLOCK_MONOTONIC; absent for TCP and for what was not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_received_us: Option<u64>,
    /// When the other side got the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received_us: Option<u64>,
}

/// One flow that was begun.
struct Flow {
    /// Just before it was sent.
    sent_monotonic: u64,
    /// And just after: a busy machine may keep a program waiting between the two.
    gone_monotonic: u64,
    sent_realtime: u64,
    fate: Option<Result<Option<u64>, Failure>>,
}

/// A flow that is not answered yet.
enum Open {
    Udp(UdpSocket),
    Tcp(Socket),
}

impl Stream {
    /// Runs it to its end, or until `stop`, and waits for the last answers.
    pub fn run(&self, stop: &AtomicBool) -> io::Result<Report> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let start = Instant::now();
        let interval = Duration::from_nanos(1_000_000_000 / u64::from(self.rate.max(1)));
        let mut due = start;
        let mut flows: Vec<Flow> = Vec::new();
        let mut open: HashMap<u64, Open> = HashMap::new();
        let mut oldest = 0;
        let mut late = Duration::ZERO;
        loop {
            let number = flows.len() as u64;
            let sending = start.elapsed() < self.duration && !stop.load(Ordering::Relaxed);
            if !sending && open.is_empty() {
                return Ok(report(&flows, late));
            }
            let now = Instant::now();
            if sending && now >= due {
                late = late.max(now - due);
                // What a busy machine did not send in time is not made up for: a burst would overrun the other side's buffers, and what
                // is lost there would look like a verdict.
                due = due.max(now.checked_sub(interval * 4).unwrap_or(now)) + interval;
                let (sent_monotonic, sent_realtime) = (clock(ClockId::CLOCK_MONOTONIC), clock(ClockId::CLOCK_REALTIME));
                let begun = self.begin(number, &epoll);
                let mut flow = Flow { sent_monotonic, gone_monotonic: clock(ClockId::CLOCK_MONOTONIC), sent_realtime, fate: None };
                match begun {
                    Ok(socket) => {
                        open.insert(number, socket);
                    }
                    Err(error) => flow.fate = Some(Err(Failure::from(&error))),
                }
                flows.push(flow);
            }
            // Slept to the nanosecond, which epoll cannot: to spin would take a processor from what is measured.
            let next = if sending { due.saturating_duration_since(Instant::now()) } else { LOOK };
            let wait = next.min(LOOK);
            ppoll(&mut [PollFd::new(epoll.0.as_fd(), PollFlags::POLLIN)], Some(wait.into()), None)?;
            let mut events = [EpollEvent::empty(); 64];
            let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..count] {
                if let (Some(socket), Some(flow)) =
                    (open.remove(&event.data()), usize::try_from(event.data()).ok().and_then(|at| flows.get_mut(at)))
                {
                    flow.fate = Some(finish(socket));
                }
            }
            if count == events.len() {
                continue; // more answers may be waiting: nothing has timed out before they are read
            }
            // Flows time out in the order in which they began.
            let limit =
                clock(ClockId::CLOCK_MONOTONIC).saturating_sub(u64::try_from(self.target.timeout().as_micros()).unwrap_or(u64::MAX));
            while let Some(flow) = flows.get_mut(oldest).filter(|flow| flow.fate.is_some() || flow.sent_monotonic < limit) {
                if flow.fate.is_none() {
                    flow.fate = Some(Err(Failure::Timeout));
                    open.remove(&(oldest as u64));
                }
                oldest += 1;
            }
        }
    }

    fn begin(&self, number: u64, epoll: &Epoll) -> io::Result<Open> {
        let address = self.target.socket_address(self.port).into();
        let source = source_port(number);
        match self.kind {
            Kind::Udp => {
                let socket = self.target.socket_from(Type::DGRAM, source)?;
                socket.set_nonblocking(true)?;
                socket.connect(&address)?;
                let socket = UdpSocket::from(socket);
                let mut message = MAGIC.to_vec();
                message.extend_from_slice(&number.to_be_bytes());
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
                socket.send(&message)?;
                Ok(Open::Udp(socket))
            }
            Kind::TcpConnect => {
                let socket = self.target.socket_from(Type::STREAM, source)?;
                socket.set_nonblocking(true)?;
                // Closed with a reset: thousands of connections in TIME_WAIT would use up the ports.
                socket.set_linger(Some(Duration::ZERO))?;
                match socket.connect(&address) {
                    Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
                    _ => {}
                }
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLOUT, number))?;
                Ok(Open::Tcp(socket))
            }
        }
    }
}

/// One port after another, so that no flow is taken for an earlier one that conntrack still knows (S34): a port comes again after
/// 50,000 flows.
fn source_port(number: u64) -> u16 {
    const FIRST: u16 = 10_000;
    FIRST + u16::try_from(number % 50_000).unwrap_or(0)
}

/// What a socket that has news says: when the other side got the flow, if it told.
fn finish(socket: Open) -> Result<Option<u64>, Failure> {
    let told = match socket {
        Open::Udp(socket) => {
            let mut buffer = [0; 64];
            socket.recv(&mut buffer).map(|length| received_at(&buffer[..length]))
        }
        Open::Tcp(socket) => match socket.take_error() {
            Ok(None) => TcpStream::from(socket).peer_addr().map(|_| None),
            Ok(Some(error)) | Err(error) => Err(error),
        },
    };
    told.map_err(|error| Failure::from(&error))
}

/// What `probe serve` returns for a datagram: itself, and with those of a stream the time of its arrival.
pub(crate) fn stamp(datagram: &[u8]) -> Vec<u8> {
    let mut answer = datagram.to_vec();
    if datagram.starts_with(MAGIC) {
        answer.extend_from_slice(&clock(ClockId::CLOCK_MONOTONIC).to_be_bytes());
    }
    answer
}

fn received_at(answer: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(answer.get(12..20)?.try_into().ok()?))
}

/// Microseconds.
fn clock(id: ClockId) -> u64 {
    clock_gettime(id).map(Duration::from).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn report(flows: &[Flow], late: Duration) -> Report {
    let mut report =
        Report { sent: flows.len() as u64, answered: 0, lost: 0, refused: 0, ranges: Vec::new(), max_late_ms: milliseconds(late) };
    for (flow, number) in flows.iter().zip(0..) {
        let (error, received) = match &flow.fate {
            Some(Ok(received)) => (None, *received),
            Some(Err(failure)) => (Some(failure.clone()), None),
            None => (Some(Failure::Timeout), None),
        };
        match error {
            None => report.answered += 1,
            Some(Failure::Timeout) => report.lost += 1,
            Some(_) => report.refused += 1,
        }
        match report.ranges.last_mut().filter(|range| range.error == error) {
            Some(range) => {
                range.last = number;
                range.last_monotonic_us = flow.sent_monotonic;
                range.last_realtime_us = flow.sent_realtime;
                range.last_received_us = received;
            }
            None => report.ranges.push(Range {
                error,
                first: number,
                last: number,
                first_monotonic_us: flow.gone_monotonic,
                last_monotonic_us: flow.sent_monotonic,
                first_realtime_us: flow.sent_realtime,
                last_realtime_us: flow.sent_realtime,
                first_received_us: received,
                last_received_us: received,
            }),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_with_the_same_fate_are_one_range() {
        let fates = [Some(Ok(Some(5))), Some(Ok(Some(6))), Some(Err(Failure::Timeout)), None, Some(Err(Failure::Refused)), Some(Ok(None))];
        let flows: Vec<Flow> = fates
            .into_iter()
            .zip(100..)
            .map(|(fate, at)| Flow { sent_monotonic: at, gone_monotonic: at, sent_realtime: at * 10, fate })
            .collect();
        let report = report(&flows, Duration::ZERO);
        assert_eq!((report.sent, report.answered, report.lost, report.refused), (6, 3, 2, 1));
        let shape: Vec<_> = report.ranges.iter().map(|range| (range.error.clone(), range.first, range.last)).collect();
        assert_eq!(shape, [(None, 0, 1), (Some(Failure::Timeout), 2, 3), (Some(Failure::Refused), 4, 4), (None, 5, 5)]);
        assert_eq!((report.ranges[0].first_received_us, report.ranges[0].last_received_us), (Some(5), Some(6)));
        assert_eq!((report.ranges[1].first_monotonic_us, report.ranges[1].last_realtime_us), (102, 1030));
    }

    #[test]
    fn a_server_tells_when_it_got_a_flow_and_nothing_about_other_datagrams() {
        assert_eq!(stamp(b"hello"), b"hello");
        let mut flow = MAGIC.to_vec();
        flow.extend_from_slice(&7u64.to_be_bytes());
        assert!(received_at(&stamp(&flow)).is_some_and(|time| time > 0));
    }
}
