//! Shared by tests only: policies from text, objects in a line, and generators of random policies, packets and histories.
//!
//! *In:* text, or randomness. *Out:* a [`policy::model::NodePolicy`] and packets that are likely to meet its edges; objects as the API
//! server stores them ([`Manifest`]), and what it holds from moment to moment ([`steps`]), told in every way ([`history`]) to the
//! pipeline from index to kernel ([`Program`]).
//!
//! Everything random draws on one small [`World`] of addresses and ports, the same that the kernel tests build from namespaces, so that
//! a random packet can be sent for real.

mod draft;
mod generate;
pub mod history;
pub mod manifest;
pub mod metrics;
mod program;
mod scenario;
pub mod steps;

pub use draft::{Draft, Guard, Piece};
pub use generate::{Edit, case, draft, edit, entry, icmp_kinds, node_policy, packet, ports};
pub use manifest::Manifest;
pub use program::{Event, Program, from_scratch};
pub use scenario::Scenario;

use std::net::IpAddr;

/// The addresses of the random tests.
pub struct World;

impl World {
    /// Pods of this node: each has an IPv4 and an IPv6 address.
    pub const PODS: [[&'static str; 2]; 4] =
        [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00::3"], ["10.0.0.4", "fd00::4"]];
    /// Elsewhere: pods of other nodes and hosts outside.
    pub const ELSEWHERE: [&'static str; 8] =
        ["10.1.0.1", "10.1.0.2", "10.1.0.129", "192.0.2.7", "fd01::1", "fd01::2", "fd01::8001", "2001:db8::7"];
    /// The node itself.
    pub const NODE: [&'static str; 2] = ["10.0.0.254", "fd00::fe"];

    /// Addresses from text; only for the constants above.
    pub fn addresses<'a>(texts: impl IntoIterator<Item = &'a &'static str>) -> Vec<IpAddr> {
        texts.into_iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// All pods' addresses.
    pub fn pods() -> Vec<IpAddr> {
        Self::addresses(Self::PODS.iter().flatten())
    }

    /// All addresses elsewhere.
    pub fn elsewhere() -> Vec<IpAddr> {
        Self::addresses(&Self::ELSEWHERE)
    }

    /// The node's addresses.
    pub fn node() -> Vec<IpAddr> {
        Self::addresses(&Self::NODE)
    }
}
