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
/// Where the kernel says that someone has, it is read again at once, but not more often than this: they may go on.
pub const SUSPICION: Duration = Duration::from_millis(250);

/// Whether and when to sync.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    changed_at: Option<Instant>,
    since: Option<Instant>,
    synced_at: Option<Instant>,
    checked_at: Option<Instant>,
    suspected_at: Option<Instant>,
    failures: u32,
}

impl Pace {
    /// The facts have changed, by something that one of our programs first saw some time ago.
    pub fn changed(&mut self, now: Instant, age: Duration) {
        self.changed_at.get_or_insert(now);
        let since = now.checked_sub(age).unwrap_or(now);
        self.since = Some(self.since.map_or(since, |first| first.min(since)));
    }

    /// Someone else has touched the table.
    pub fn suspect(&mut self, now: Instant) {
        self.suspected_at.get_or_insert(now);
    }

    /// The next plan is another than the one that has just been tried, whether that was refused or not: it is tried at once.
    pub fn search(&mut self, now: Instant) {
        self.changed_at.get_or_insert(now);
        self.failures = 0;
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
        let suspicion = self.suspected_at.map(|at| self.checked_at.map_or(at, |checked| at.max(checked + SUSPICION)));
        change.into_iter().chain(again).chain(suspicion).min()
    }

    /// A sync begins; whether the table is to be read again first. The first sync reads it anyway.
    pub fn begin(&mut self, now: Instant) -> bool {
        let suspected = self.suspected_at.is_some() && self.checked_at.is_none_or(|checked| now >= checked + SUSPICION);
        if suspected {
            self.suspected_at = None;
        }
        let recheck = suspected || self.checked_at.is_some_and(|checked| now >= checked + RECHECK);
        if recheck || self.checked_at.is_none() {
            self.checked_at = Some(now);
        }
        self.changed_at = None;
        recheck
    }

    /// It has ended; how long ago the first change was seen that is in force now, if there was one.
    pub fn ended(&mut self, succeeded: bool, now: Instant) -> Option<Duration> {
        self.synced_at = Some(now);
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
        if succeeded { self.since.take().map(|since| now.saturating_duration_since(since)) } else { None }
    }
}

fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY)
}
