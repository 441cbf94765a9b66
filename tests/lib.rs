//! Tests that need more than one crate; see `tests/run`. Here is what several of them share.

pub mod conformance;

use anyhow::{Result, ensure};
use probe::{Failure, Report};

/// Not one allowed flow lost, not one denied flow answered, and enough of both to prove something.
pub fn undisturbed(allowed: &Report, denied: &Report, at_least: u64) -> Result<()> {
    let (sent, lost) = (allowed.sent, allowed.lost + allowed.refused);
    ensure!(sent >= at_least && denied.sent >= at_least, "too few flows: {sent} and {} of {at_least}", denied.sent);
    let missed = missed_by_the_server(allowed);
    if missed > 0 {
        println!("{missed} of {sent} flows were sent while the server itself was kept from running, and are not judged");
    }
    ensure!(lost == missed, "{} of {sent} allowed flows were lost: {:?}", lost - missed, allowed.ranges);
    ensure!(denied.answered == 0, "{} denied flows passed: {:?}", denied.answered, denied.ranges);
    Ok(())
}

/// Flows without an answer, all of them sent while the server did not run: it took what was sent before the first of them only after the last
/// of them. A verdict that changes keeps no server from running.
fn missed_by_the_server(report: &Report) -> u64 {
    let lost = report.ranges.windows(2).filter(|pair| {
        let took_late = pair[0].last_received_us.is_some_and(|taken| taken >= pair[1].last_monotonic_us);
        pair[1].error == Some(Failure::Timeout) && took_late
    });
    lost.map(|pair| pair[1].last - pair[1].first + 1).sum()
}

#[cfg(test)]
mod tests {
    use probe::stream::Range;

    use super::*;

    /// A stream of a flow each millisecond, the third of which is lost; the second is taken by the server at this time.
    fn stream(taken: u64) -> Report {
        let range = |first: u64, last: u64, error, taken| Range {
            error,
            first,
            last,
            first_monotonic_us: first * 1000,
            last_monotonic_us: last * 1000,
            first_realtime_us: 0,
            last_realtime_us: 0,
            first_received_us: taken,
            last_received_us: taken,
        };
        let ranges = vec![range(0, 1, None, Some(taken)), range(2, 2, Some(Failure::Timeout), None), range(3, 9, None, Some(9001))];
        Report { sent: 10, answered: 9, lost: 1, refused: 0, ranges, max_late_ms: 0.0 }
    }

    #[test]
    fn a_flow_that_is_lost_counts_unless_the_server_did_not_run() {
        let denied = Report { answered: 0, lost: 10, ranges: Vec::new(), ..stream(0) };
        assert!(undisturbed(&stream(1001), &denied, 10).is_err(), "taken at once");
        assert!(undisturbed(&stream(1999), &denied, 10).is_err(), "taken before the lost one was sent");
        assert!(undisturbed(&stream(2500), &denied, 10).is_ok(), "nothing was taken while it was sent");
        assert!(undisturbed(&stream(2500), &denied, 11).is_err(), "too few");
        assert!(undisturbed(&stream(2500), &stream(2500), 10).is_err(), "what is denied passes");
    }
}
