//! Tests that need more than one crate; see `tests/run`. Here is what several of them share.

pub mod conformance;

use anyhow::{Result, ensure};
use probe::Report;

/// Not one allowed flow lost, not one denied flow answered, and enough of both to prove something.
pub fn undisturbed(allowed: &Report, denied: &Report, at_least: u64) -> Result<()> {
    let (sent, answered) = (allowed.sent, allowed.answered);
    ensure!(sent >= at_least && denied.sent >= at_least, "too few flows: {sent} and {} of {at_least}", denied.sent);
    ensure!(answered == sent, "{} of {sent} allowed flows were lost: {:?}", sent - answered, allowed.ranges);
    ensure!(denied.answered == 0, "{} denied flows passed: {:?}", denied.answered, denied.ranges);
    Ok(())
}
