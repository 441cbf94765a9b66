//! How nftables would say it.
//!
//! *In:* a [`policy::model::NodePolicy`]. *Out:* a [`Ruleset`], and the [`Transaction`]s that lead from one to another:
//! `lower ─▶ diff ─▶ phases`. Beside them the fake kernel, which refuses what the kernel refuses, and the packet trace.
//!
//! Invariants
//! 1. No I/O, no clock, no failure.
//! 2. The ruleset depends on the policy only. [`Lowering`] remembers what it made to do less, never to make something else.
//! 3. One table, ours. Named objects only, no anonymous sets.
//! 4. This is the only crate that knows nft names.

mod blame;
mod class;
mod diff;
mod exempt;
mod fake;
mod fake_counted;
mod fake_rule;
mod fingerprint;
mod intervals;
mod lower;
mod lowering;
mod model;
mod names;
mod owners;
mod phases;
mod piece;
mod render;
mod room;
mod standing;
mod trace;

use std::collections::BTreeMap;

pub use blame::Part;
pub use diff::diff;
pub use exempt::exemption_counter;
pub use fake::{FakeKernel, Kind, Reason, Refused};
pub use fingerprint::Fingerprint;
pub use intervals::{merge, next, previous};
pub use lower::{denied_counter, group_denied_counter, invalid_counter, lower, lower_within, rule_counter};
pub use lowering::{Bounds, Lowering};
pub use model::*;
pub use phases::Phase;
pub use trace::trace;

/// What a named counter has counted since its table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the network header on.
    pub bytes: u64,
}

/// Where rulesets are in force: the real kernel, or the fake one of the tests.
pub trait Kernel {
    /// Why a call failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What our table holds now; `None` where there is no table, or where it holds what this program did not write (another version's
    /// table, a foreign edit): then it can only be replaced as a whole.
    fn load(&mut self) -> Result<Option<Ruleset>, Self::Error>;

    /// Applies a transaction as a whole or not at all.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Self::Error>;

    /// The table is as it should be: what guarded in its place while it was made anew, and was left behind, goes.
    fn settle(&mut self) -> Result<(), Self::Error>;

    /// The steps that were refused, by their place in the transaction; none of them where the kernel refused the whole without a word of
    /// steps. `None` where it may have taken all, and the answer was lost, and where the error is of no transaction.
    fn refused(error: &Self::Error) -> Option<Vec<usize>>;

    /// What every counter of our table has counted; empty where there is no table.
    fn counters(&mut self) -> Result<BTreeMap<String, Counter>, Self::Error>;
}
