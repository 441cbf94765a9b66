//! Tests of the crate from outside, in one program.

mod build;
mod diff;
mod fake_kernel;
mod generate;
mod golden;
mod lint;
mod phases;
mod properties;
mod trace;
