//! What the tests run inside pods and namespaces: it listens, connects, pings, and reports JSON.
//!
//! In: addresses (never names: nothing here asks a DNS), ports, protocols, a patience. Out: an [`Outcome`] a probe, a [`Report`] a stream.
//! Everything is a plain function that works in the network namespace of the thread that calls it, for tests that are in one, and a
//! subcommand of the program `probe` for those that `exec` into a pod. A probe that got no answer is a result, not an error: the program
//! still ends with 0.
//!
//! Invariants:
//! 1. One probe is one packet (or one handshake): nothing is ever sent again by us, so a count of answers is a count of packets.
//! 2. `ok` means that the other side answered; for a protocol that nobody speaks there, the ICMP error that says so is that answer.
//! 3. Times are CLOCK_MONOTONIC, which all namespaces of a machine share: what two pods say can be compared.
//!
//! Not here: any expectation. What should have been answered is the test's to know.

pub mod forward;
pub mod icmp;
pub mod init;
pub mod lookup;
mod many;
mod nonce;
mod outcome;
pub mod raw;
pub mod sctp;
pub mod serve;
pub mod stream;
pub mod tcp;
pub mod udp;

pub use many::{Probe, run_all};
pub use outcome::{Failure, Outcome, Target};
pub use stream::{Report, Stream};
