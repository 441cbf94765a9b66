//! What a probe finds out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Whether the other side answered.
    pub ok: bool,
    /// Milliseconds until the answer, or until it was given up.
    pub ms: f64,
    /// Why not; absent when it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// What it answered: its host name, `echo-reply`, `init-ack`, `protocol-unreachable` …; absent when it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// Why a probe got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// Silence: what a packet that is dropped looks like.
    Timeout,
    /// Nobody listens there (TCP reset, ICMP port unreachable).
    Refused,
    /// ICMP says that the way is closed, or there is no way.
    Unreachable,
    /// An answer came, and then the connection was cut.
    Reset,
    /// This machine would not send it (a local rule, a missing capability).
    NotPermitted,
    /// Anything else, in words.
    #[serde(untagged)]
    Other(String),
}

impl Outcome {
    pub(crate) fn answered(start: Instant, reply: Option<String>) -> Outcome {
        Outcome { ok: true, ms: milliseconds(start.elapsed()), error: None, reply }
    }

    pub(crate) fn failed(start: Instant, failure: Failure) -> Outcome {
        Outcome { ok: false, ms: milliseconds(start.elapsed()), error: Some(failure), reply: None }
    }

    pub(crate) fn of(start: Instant, result: io::Result<Option<String>>) -> Outcome {
        match result {
            Ok(reply) => Outcome::answered(start, reply),
            Err(error) => Outcome::failed(start, Failure::from(&error)),
        }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Failure {
        use io::ErrorKind::*;
        // What an ICMPv6 "administratively prohibited" becomes; a rule of our own is EPERM.
        if error.raw_os_error() == Some(nix::libc::EACCES) {
            return Failure::Unreachable;
        }
        match error.kind() {
            TimedOut | WouldBlock => Failure::Timeout,
            ConnectionRefused => Failure::Refused,
            ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => Failure::Reset,
            HostUnreachable | NetworkUnreachable => Failure::Unreachable,
            PermissionDenied => Failure::NotPermitted,
            _ => Failure::Other(error.to_string()),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// From where to where a probe goes, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The other side.
    pub address: IpAddr,
    /// Our own address, where it matters which; absent: the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// How long to wait for an answer.
    #[serde(default = "Target::default_timeout")]
    pub timeout_ms: u64,
}

impl Target {
    /// A target with the usual second of patience.
    pub fn new(address: impl Into<IpAddr>) -> Target {
        Target { address: address.into(), source: None, timeout_ms: Target::default_timeout() }
    }

    /// The same from one of our own addresses.
    pub fn from(self, source: impl Into<IpAddr>) -> Target {
        Target { source: Some(source.into()), ..self }
    }

    /// The same with another patience.
    pub fn within_ms(self, timeout_ms: u64) -> Target {
        Target { timeout_ms, ..self }
    }

    fn default_timeout() -> u64 {
        1000
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.max(1))
    }

    pub(crate) fn socket_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// A socket of the right family, bound to the source if there is one.
    pub(crate) fn socket(&self, kind: socket2::Type, protocol: Option<socket2::Protocol>) -> io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(self.socket_address(0)), kind, protocol)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    /// A socket that sends from a port of our choice.
    pub(crate) fn socket_from(&self, kind: socket2::Type, port: u16) -> io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(self.socket_address(0)), kind, None)?;
        // Another stream may send from this port to somebody else; answers find their way by both ends.
        socket.set_reuse_address(true)?;
        let any = if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(self.source.unwrap_or(any), port).into())?;
        Ok(socket)
    }
}
