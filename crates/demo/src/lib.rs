//! The three tiers of the AWS article, running on a real cluster: what `deploy/demo` shows, and the cluster tests hold to.
//!
//! *In:* a [`lab::Cluster`] that has the product's image. *Out:* expectations that held or failed ([`Ledger`]), and what a user sees.
//!
//! Invariants
//! 1. Everything is done as a user does it: `kubectl`, the sample file, and real connections from real pods.
//! 2. Nothing is said to hold that no packet has shown.

mod install;
mod ledger;
mod matrix;
mod shop;
mod story;

pub use install::{apply_sample, apply_workloads, chart, install, install_chart, wait_in_force};
pub use ledger::Ledger;
pub use matrix::{Matrix, Place, expected};
pub use shop::{PORTS, Shop, ShopPod, TIERS};
pub use story::{ping_story, relabel_story, scale_story};

use std::path::PathBuf;

/// The root of the checkout that this was built from.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
