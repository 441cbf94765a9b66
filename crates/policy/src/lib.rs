//! What it means.
//!
//! *In:* facts of the cluster (groups, attachments, pods, namespaces, slices). *Out:* who is in which group, and what one node has to
//! enforce: `index ─▶ resolve ─▶ compile ─▶ NodePolicy`; beside it [`verdict`], the oracle.
//!
//! Invariants
//! 1. No I/O, no clock, no failure: what cannot be understood is a [`Problem`] and fails closed (S38).
//! 2. Output depends on the current facts only: not on their order of arrival, nor on what was there before. [`Compiler`] and
//!    [`Publisher`] remember what was there before to do less, never to do something else.
//!
//! Not here: how the kernel does it (`ruleset`), who watches and who writes (`runtime`, `agent`, `operator`).

pub mod compile;
mod counted;
pub mod id;
pub mod index;
pub mod model;
mod parse;
mod problem;
pub mod protection;
mod published;
mod publisher;
pub mod quota;
pub mod resolve;
pub mod slices;
pub mod status;
pub mod text;
mod verdict;

pub use compile::{Compiled, Compiler, Since, compile};
pub use counted::Counted;
pub use index::Cluster;
pub use parse::{DUPLICATE, DUPLICATE_ENTRIES};
pub use problem::{AttachmentRef, ObjectRef, Problem};
pub use published::{MemberSlices, Published};
pub use publisher::{Publisher, Reach};
pub use resolve::{Membership, Resolution, Resolver, missing_default_group, missing_groups, resolve};
pub use verdict::verdict;
