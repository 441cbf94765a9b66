//! The parts of the node program that the kernel tests use without a cluster.

pub mod enforce;
mod held_back;
mod past;
pub mod plan;
