//! When the loop syncs. Pure; times are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// From the first change to the sync: what belongs together often comes together.
pub const SETTLE: Duration = Duration::from_millis(3);
/// Between two syncs: a flood of changes becomes some tens of syncs a second, not thousands.
pub const BETWEEN: Duration = Duration::from_millis(25);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A change may be the cure of a failure, so it waits at most this long.
const CHANGE_WAITS: Duration = Duration::from_secs(1);

/// The table is read again this often, however much changes meanwhile: someone else may have touched it.
pub const RECHECK: Duration = Duration::from_secs(60);

/// Whether and when to sync.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    changed_at: Option<Instant>,
    synced_at: Option<Instant>,
    checked_at: Option<Instant>,
    failures: u32,
}

/// What a sync is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// When the first change came that it answers, if it answers one.
    pub changed_at: Option<Instant>,
    /// The table is to be read again first.
    pub recheck: bool,
}

impl Pace {
    /// The facts have changed.
    pub fn changed(&mut self, now: Instant) {
        self.changed_at.get_or_insert(now);
    }

    /// When to sync; none: there is nothing to do before the first change.
    pub fn due(&self) -> Option<Instant> {
        let change = self.changed_at.map(|at| {
            let settled = at + SETTLE;
            let between = if self.failures == 0 { BETWEEN } else { retry_after(self.failures).min(CHANGE_WAITS) };
            self.synced_at.map_or(settled, |synced| settled.max(synced + between))
        });
        let again = match self.failures {
            0 => self.checked_at.map(|checked| checked + RECHECK),
            failures => self.synced_at.map(|synced| synced + retry_after(failures)),
        };
        change.into_iter().chain(again).min()
    }

    /// A sync begins. The first one reads the table anyway.
    pub fn begin(&mut self, now: Instant) -> Begun {
        let recheck = self.checked_at.is_some_and(|checked| now >= checked + RECHECK);
        if recheck || self.checked_at.is_none() {
            self.checked_at = Some(now);
        }
        Begun { changed_at: self.changed_at.take(), recheck }
    }

    /// It has ended.
    pub fn ended(&mut self, succeeded: bool, now: Instant) {
        self.synced_at = Some(now);
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
    }
}

fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY)
}
