//! When to write what is due: one write at a time in each lane, a bounded number in all.
//!
//! Pure but for the time, which is passed in. What is due is offered anew in every round and replaces what was offered before, so the
//! backlog is never longer than the number of objects and never older than the facts.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::due::{Lane, Part, Work, Written};
use crate::facts::Facts;

/// Writes under way at the same time.
pub const CONCURRENCY: usize = 32;
/// Between two writes of one status. The first is made at once.
pub const STATUS_INTERVAL: Duration = Duration::from_millis(250);
/// How long statuses wait for slices that are under way at most: packets wait for slices, and the server has one processor or two.
const SLICES_FIRST: Duration = Duration::from_millis(50);
/// How long we wait for the watch to show what we have written before we believe the watch.
pub const UNSEEN: Duration = Duration::from_secs(2);

const CONFLICT_DELAY: Duration = Duration::from_millis(20);
const FAILURE_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As meant.
    Done,
    /// What is there is not what we thought: the watch will tell soon.
    Conflict,
    /// The server refused or could not be reached.
    Failed,
}

#[derive(Debug)]
struct Progress {
    under_way: bool,
    /// Since when what is under way has been due.
    since: Timestamp,
    unseen: Vec<Written>,
    believe_watch_at: Instant,
    not_before: Instant,
    failures: u32,
}

impl Progress {
    fn free_at(&self) -> Option<Instant> {
        match (self.under_way, self.unseen.is_empty()) {
            (true, _) => None,
            (false, true) => Some(self.not_before),
            (false, false) => Some(self.not_before.max(self.believe_watch_at)),
        }
    }
}

/// Lanes with something going on, and what is due.
#[derive(Debug, Default)]
pub struct Outbox {
    progress: BTreeMap<Lane, Progress>,
    backlog: BTreeMap<Lane, Work>,
    /// Since when each lane of the backlog has been due.
    due_since: BTreeMap<Lane, Timestamp>,
    under_way: usize,
    slices_under_way: usize,
    /// Since when there has always been a slice under way; stale where there is none.
    slices_since: Option<Instant>,
}

impl Outbox {
    /// Looks at what the watches have shown by now of this part, and forgets lanes where nothing goes on. What is due has to be worked out
    /// from the same facts, and offered, before anything is written.
    pub fn look(&mut self, part: Part, facts: &Facts, now: Instant) {
        self.progress.retain(|lane, progress| {
            if lane.part() != part {
                return true;
            }
            progress.unseen.retain(|written| now < progress.believe_watch_at && !written.is_seen(facts));
            progress.under_way || !progress.unseen.is_empty() || progress.failures > 0 || now < progress.not_before
        });
    }

    /// What is due now of this part, in place of what was, with the time of the first change that the last round did not know. A lane where
    /// nothing is due has nothing to try again either.
    pub fn offer(&mut self, part: Part, due: BTreeMap<Lane, Work>, changed_at: Timestamp) {
        for (lane, progress) in self.progress.iter_mut().filter(|(lane, _)| lane.part() == part) {
            if !due.contains_key(lane) {
                progress.failures = 0;
            }
        }
        self.due_since.retain(|lane, _| lane.part() != part || due.contains_key(lane));
        for lane in due.keys() {
            self.due_since.entry(lane.clone()).or_insert(changed_at);
        }
        self.backlog.retain(|lane, _| lane.part() != part);
        self.backlog.extend(due);
    }

    /// Nothing is due, because we may not write.
    pub fn clear(&mut self) {
        self.backlog.clear();
        self.due_since.clear();
    }

    /// The next write to make of a part that is up to date, if one may be made now, and since when it has been due.
    pub fn next(&mut self, now: Instant, up_to_date: impl Fn(Part) -> bool) -> Option<(Lane, Work, Timestamp)> {
        if self.under_way >= CONCURRENCY {
            return None;
        }
        let slices_only = self.slices_first_until(now).is_some();
        let free = |lane: &&Lane| {
            let in_turn = !slices_only || lane.part() == Part::Slices;
            in_turn
                && up_to_date(lane.part())
                && self.progress.get(lane).is_none_or(|progress| progress.free_at().is_some_and(|at| at <= now))
                && !lane.beside().and_then(|beside| self.progress.get(&beside)).is_some_and(|beside| beside.under_way)
        };
        let lane = self.backlog.keys().find(free)?.clone();
        let work = self.backlog.remove(&lane)?;
        let since = self.due_since.remove(&lane)?;
        let idle = || Progress { under_way: true, since, unseen: Vec::new(), believe_watch_at: now, not_before: now, failures: 0 };
        let progress = self.progress.entry(lane.clone()).or_insert_with(idle);
        progress.under_way = true;
        progress.since = since;
        progress.unseen.clear();
        progress.not_before = now
            + match lane.part() {
                Part::Slices => Duration::ZERO,
                Part::Rest => STATUS_INTERVAL,
            };
        self.under_way += 1;
        if lane.part() == Part::Slices {
            if self.slices_under_way == 0 {
                self.slices_since = Some(now);
            }
            self.slices_under_way += 1;
        }
        Some((lane, work, since))
    }

    /// A write has ended; `written` is what it did before it did. Whether more was due in its lane: that was worked out from what was
    /// before this write, and has to be again.
    #[must_use]
    pub fn ended(&mut self, lane: &Lane, written: Vec<Written>, ending: Ending, now: Instant) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        if lane.part() == Part::Slices {
            self.slices_under_way = self.slices_under_way.saturating_sub(1);
        }
        let more = self.backlog.remove(lane).is_some();
        let Some(progress) = self.progress.get_mut(lane) else { return more };
        progress.under_way = false;
        progress.unseen = written;
        progress.believe_watch_at = now + UNSEEN;
        let delay = match ending {
            Ending::Done => {
                progress.failures = 0;
                return more;
            }
            Ending::Conflict => CONFLICT_DELAY,
            Ending::Failed => FAILURE_DELAY,
        };
        let delay = delay.saturating_mul(1 << progress.failures.min(10)).min(LONGEST_DELAY);
        progress.failures += 1;
        self.due_since.insert(lane.clone(), progress.since);
        progress.not_before = progress.not_before.max(now + delay);
        more
    }

    /// When to work this part out again although nothing has happened. `None`: something that happens will tell.
    pub fn wake_at(&self, part: Part, now: Instant) -> Option<Instant> {
        if self.under_way >= CONCURRENCY {
            return None;
        }
        let waits = part == Part::Rest && self.backlog.keys().any(|lane| lane.part() == part);
        let free = self.progress.iter().filter(|(lane, _)| lane.part() == part).filter_map(|(_, progress)| progress.free_at());
        free.chain(self.slices_first_until(now).filter(|_| waits)).min()
    }

    /// Until when slices that are under way go before everything else at most.
    pub fn slices_first_until(&self, now: Instant) -> Option<Instant> {
        let until = self.slices_since.filter(|_| self.slices_under_way > 0).map(|since| since + SLICES_FIRST);
        until.filter(|until| now < *until)
    }

    /// Writes under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Writes that are due and wait.
    pub fn waiting(&self) -> usize {
        self.backlog.len()
    }
}

#[cfg(test)]
mod tests;
