//! When a report is written: news at once, counts seldom. Pure; times are passed in.

use std::time::Duration;

use api::NodeReportStatus;
use runtime::patch::same;
use tokio::time::Instant;

/// Between two writes, whatever is new.
pub const NEWS: Duration = Duration::from_millis(200);
/// Between two writes when only counts (and with them the table) have changed: of a scaling Deployment nobody waits for each step.
pub const COUNTS: Duration = Duration::from_secs(10);
/// A report is written again after this long although nothing is new: someone may have deleted it. After a write that failed it is written
/// again much sooner, since a write whose answer was lost may yet arrive after a newer one.
pub const REFRESH: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What has been written and how it went.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    written: Option<(NodeReportStatus, Instant)>,
    failures: u32,
    failed_at: Option<Instant>,
    unsure: bool,
}

impl Throttle {
    /// When to write this status; a time that is past means now.
    pub fn due(&self, wanted: &NodeReportStatus, now: Instant) -> Instant {
        let due = match &self.written {
            None => now,
            Some((written, at)) if is_news(written, wanted) => *at + NEWS,
            Some((written, at)) if !same(written, wanted) => *at + COUNTS,
            Some((_, at)) => *at + if self.unsure { COUNTS } else { REFRESH },
        };
        match self.failed_at {
            Some(failed_at) => due.max(failed_at + retry_after(self.failures)),
            None => due,
        }
    }

    /// It was written.
    pub fn written(&mut self, status: NodeReportStatus, now: Instant) {
        *self = Throttle { written: Some((status, now)), failures: 0, failed_at: None, unsure: self.failures > 0 };
    }

    /// It could not be written.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }
}

fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY)
}

/// Someone may wait for it: a generation in force, a problem, the Ready condition.
fn is_news(written: &NodeReportStatus, wanted: &NodeReportStatus) -> bool {
    let generations = |status: &NodeReportStatus| -> Vec<_> {
        status.groups.iter().map(|group| (group.namespace.clone(), group.name.clone(), group.uid.clone(), group.generation)).collect()
    };
    generations(written) != generations(wanted)
        || written.attachments != wanted.attachments
        || written.prefix_lists != wanted.prefix_lists
        || written.exemptions != wanted.exemptions
        || written.problems != wanted.problems
        || written.kernel != wanted.kernel
        || !same(&written.conditions, &wanted.conditions)
}
