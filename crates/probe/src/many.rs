//! Many probes at once: one `exec` in a pod gives a whole row of a matrix.

use serde::{Deserialize, Serialize};

use crate::outcome::{Failure, Outcome, Target};
use crate::{icmp, raw, sctp, tcp, udp};

/// One probe as data: `{"kind":"tcp","address":"10.244.1.5","port":80,"timeoutMs":500}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Probe {
    /// [`tcp::connect`]
    Tcp {
        /// To whom.
        #[serde(flatten)]
        target: Target,
        /// To which port.
        port: u16,
    },
    /// [`udp::echo`]
    Udp {
        /// To whom.
        #[serde(flatten)]
        target: Target,
        /// To which port.
        port: u16,
    },
    /// [`sctp::init`]
    Sctp {
        /// To whom.
        #[serde(flatten)]
        target: Target,
        /// To which port.
        port: u16,
    },
    /// [`icmp::ping`]
    Ping {
        /// To whom.
        #[serde(flatten)]
        target: Target,
    },
    /// [`icmp::message`]
    Icmp {
        /// To whom.
        #[serde(flatten)]
        target: Target,
        /// The ICMP type.
        #[serde(rename = "type")]
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
    /// [`raw::packet`]
    RawIp {
        /// To whom.
        #[serde(flatten)]
        target: Target,
        /// The IP protocol's number.
        protocol: u8,
    },
}

impl Probe {
    /// Where it goes.
    pub fn target_mut(&mut self) -> &mut Target {
        match self {
            Probe::Tcp { target, .. }
            | Probe::Udp { target, .. }
            | Probe::Sctp { target, .. }
            | Probe::Ping { target }
            | Probe::Icmp { target, .. }
            | Probe::RawIp { target, .. } => target,
        }
    }

    /// Does it, in this thread's network namespace.
    pub fn run(&self) -> Outcome {
        match self {
            Probe::Tcp { target, port } => tcp::connect(target, *port),
            Probe::Udp { target, port } => udp::echo(target, *port),
            Probe::Sctp { target, port } => sctp::init(target, *port),
            Probe::Ping { target } => icmp::ping(target),
            Probe::Icmp { target, kind, code } => icmp::message(target, *kind, *code),
            Probe::RawIp { target, protocol } => raw::packet(target, *protocol),
        }
    }
}

/// Does all of them at the same time; results in the same order.
pub fn run_all(probes: &[Probe]) -> Vec<Outcome> {
    // Threads belong to the namespace of the one that starts them.
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            probes.iter().map(|probe| std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, || probe.run())).collect();
        threads
            .into_iter()
            .map(|thread| match thread.map(|running| running.join()) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(error) => Outcome { ok: false, ms: 0.0, error: Some(Failure::from(&error)), reply: None },
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_one_flat_object() {
        let text = r#"{"kind":"icmp","address":"fd00::1","timeoutMs":500,"type":128,"code":0}"#;
        let probe: Probe = serde_json::from_str(text).unwrap();
        assert_eq!(
            probe,
            Probe::Icmp { target: Target::new("fd00::1".parse::<std::net::IpAddr>().unwrap()).within_ms(500), kind: 128, code: 0 }
        );
        assert_eq!(serde_json::to_string(&probe).unwrap(), text);
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        assert!(serde_json::from_str::<Probe>(r#"{"kind":"tcp","address":"10.0.0.1"}"#).is_err(), "no port");
        assert!(serde_json::from_str::<Probe>(r#"{"kind":"tpc","address":"10.0.0.1","port":1}"#).is_err());
    }
}
