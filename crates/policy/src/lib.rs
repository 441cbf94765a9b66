//! What it means.
//!
//! *In:* facts of the cluster (groups, attachments, pods, namespaces, slices). *Out:* who is in which group, and what one node has to
//! enforce: `index ─▶ resolve ─▶ compile ─▶ NodePolicy`; beside it [`verdict`], the oracle.
//!
//! Invariants
//! 1. No I/O, no clock, no failure: what cannot be understood is a `Problem` and fails closed (S38).
//! 2. Output depends on the current facts only: not on their order of arrival, nor on what was there before.

pub mod model;
