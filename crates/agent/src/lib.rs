//! The parts of the node program that the kernel tests use without a cluster.

pub mod enforce;
pub mod plan;
