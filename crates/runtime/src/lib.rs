//! Talking to the cluster: what both programs share.
//!
//! *In:* watches of the API server, signals, a Lease. *Out:* [`watch::Change`]s for `policy::Cluster`, status patches, health, metrics, logs.
//!
//! Invariants
//! 1. A watch never ends and never stops a program: an object that cannot be read is a line in the log and a fact that fails closed
//!    (S38), a server that cannot be reached is retried for ever.
//! 2. Every write ends within [`client::WRITE_TIMEOUT`]; who writes again decides what to write then.
//! 3. What is decided (leadership, conditions, whether two statuses are the same) is decided by pure functions with the time passed in.
//!
//! Not here: what facts mean (`policy`), and what is written when (`agent`, `operator`).

pub mod calls;
pub mod client;
pub mod condition;
pub mod health;
pub mod lease;
pub mod logs;
pub mod patch;
pub mod shutdown;
pub mod watch;

mod lean;
