//! The loop: one task owns the facts, no locks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::NodeReportStatus;
use k8s_openapi::jiff::Timestamp;
use policy::index::Changed;
use policy::model::RulesOf;
use ruleset::Ruleset;
use runtime::health::{Heartbeat, Readiness};
use runtime::patch::now;
use runtime::shutdown::CancellationToken;
use runtime::watch::{Watch, Watches};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::bridge::Bridging;
use crate::facts::{Facts, Message};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::passage::Passage;
use crate::report::Report;
use crate::slices::Epoch;
use crate::support::Support;
use crate::tally::Tally;
use crate::thread::{Gone, KernelThread};

/// What `/readyz` waits for, beside the watches.
pub const FIRST_SYNC: &str = "first sync";
/// And once the kernel has refused a change until it takes the next.
const KERNEL: &str = "kernel";
const SUPPORT: &str = "kernel support";

/// How often the kernel's counters become metrics.
pub const COUNT: Duration = Duration::from_secs(10);

/// Everything that the loop holds.
pub struct Agent {
    /// What is known.
    pub facts: Facts<Watch>,
    /// Opens the watches of member slices.
    pub watches: Arc<Watches<Message>>,
    /// What the watches say.
    pub messages: mpsc::Receiver<Message>,
    /// The kernel's side.
    pub kernel: KernelThread,
    /// Says that somebody else has touched the table.
    pub foreign: mpsc::Receiver<()>,
    /// What the kernel takes.
    pub support: watch::Receiver<Support>,
    /// When what groups have counted is told.
    pub tally: Tally,
    /// What is said of what is in force.
    pub report: Report,
    /// To the reporter.
    pub reports: watch::Sender<Option<NodeReportStatus>>,
    /// Told after the first sync, and when the kernel refuses.
    pub readiness: Readiness,
    /// Told in every turn of the loop.
    pub heartbeat: Heartbeat,
    /// Counts.
    pub metrics: Metrics,
    /// The rules in force.
    pub rules: RulesOf,
    /// The table in force.
    pub table: Ruleset,
    /// A first sync has succeeded.
    pub synced: bool,
}

impl Agent {
    /// Runs until shutdown. Whatever ends it, the table stays as it is (S41).
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Gone> {
        let mut pace = Pace::default();
        let mut count = interval(COUNT);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = Heartbeat::pulse();
        self.supported();
        loop {
            self.heartbeat.beat();
            let due = pace.due();
            tokio::select! {
                message = self.messages.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    self.take(message, &mut pace);
                    while let Ok(message) = self.messages.try_recv() {
                        self.take(message, &mut pace);
                    }
                }
                Some(()) = self.foreign.recv() => pace.suspect(Instant::now()),
                Ok(()) = self.support.changed() => {
                    self.supported();
                    pace.suspect(Instant::now());
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.sync(&mut pace).await?,
                _ = pulse.tick() => {}
                _ = count.tick(), if self.synced => {
                    self.metrics.tracked();
                    let counters = self.kernel.counters().await?;
                    self.metrics.counted(&counters);
                    self.metrics.counted_of(&counters, &self.rules);
                    self.metrics.sized(&self.table);
                    let packets = self.tally.take(&counters, &self.rules, Instant::now());
                    if let Some(status) = packets.and_then(|packets| self.report.counted(packets)) {
                        self.reports.send_replace(Some(status));
                    }
                    // A connection may have been forwarded since.
                    if self.report.passage.is_open() {
                        pace.suspect(Instant::now());
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn take(&mut self, message: Message, pace: &mut Pace) {
        let age = message.age(Timestamp::now());
        if self.facts.take(message) == Changed::Yes {
            pace.changed(Instant::now(), age);
        }
    }

    /// Notes what the kernel takes; an agent on one that lacks something is not ready.
    fn supported(&mut self) {
        let support = self.support.borrow_and_update().clone();
        match support.lacks() {
            true => self.readiness.wait(SUPPORT, support.condition().message),
            false => self.readiness.done(SUPPORT),
        }
        self.report.support = support;
    }

    /// Notes where packets pass beside the rules, and says so when that changes.
    fn bridged(&mut self, bridging: Bridging) {
        self.metrics.bridges_escaping.set(i64::try_from(bridging.escaping()).unwrap_or(i64::MAX));
        if self.report.bridging != bridging {
            match bridging.escapes() {
                true => tracing::error!("{}", bridging.message()),
                false => tracing::info!("{}", bridging.message()),
            }
            self.report.bridging = bridging;
        }
    }

    /// The same of the ways to pods.
    fn passed(&mut self, passage: Passage) {
        if self.report.passage != passage {
            match passage.escapes() {
                true => tracing::error!("{}", passage.message()),
                false => tracing::info!("{}", passage.message()),
            }
            self.report.passage = passage;
        }
    }

    async fn sync(&mut self, pace: &mut Pace) -> Result<(), Gone> {
        let begun = Instant::now();
        let recheck = pace.begin(begun);
        if recheck {
            self.facts.looked();
        }
        let watches = &self.watches;
        let open =
            |epoch: Epoch, ids: &BTreeSet<String>| watches.member_slices_of(ids, move |change, at| Message::Slices(epoch, change, at));
        let Some(plan) = self.facts.plan(open) else { return Ok(()) };
        let (outcome, bridging, passage) = self.kernel.enforce(plan, recheck).await?;
        self.bridged(bridging);
        self.passed(passage);
        let took = pace.ended(outcome.is_ok(), Instant::now());
        let status = match outcome {
            Ok(committed) => {
                if self.facts.committed(committed.ops) {
                    pace.search(Instant::now());
                }
                let plan = committed.value();
                self.rules.clone_from(&plan.rules);
                if let Some(took) = took {
                    self.metrics.programming_seconds.observe(took.as_secs_f64());
                }
                self.metrics.endpoints.set(i64::try_from(plan.scope.endpoints).unwrap_or(i64::MAX));
                self.metrics.groups.set(i64::try_from(plan.scope.groups.len()).unwrap_or(i64::MAX));
                self.metrics.problems.set(i64::try_from(plan.scope.problems.len()).unwrap_or(i64::MAX));
                if committed.repaired {
                    self.metrics.repairs.inc();
                }
                self.table.clone_from(&plan.ruleset);
                if committed.ops > 0 {
                    self.metrics.commits.inc();
                    self.metrics.ops.inc_by(u64::try_from(committed.ops).unwrap_or(u64::MAX));
                    tracing::info!(
                        ops = committed.ops,
                        endpoints = plan.scope.endpoints,
                        groups = plan.scope.groups.len(),
                        took = ?begun.elapsed(),
                        hash = committed.hash,
                        "in force"
                    );
                }
                if !self.synced && committed.ops == 0 {
                    tracing::info!(
                        endpoints = plan.scope.endpoints,
                        groups = plan.scope.groups.len(),
                        "took over a table that was as it should be"
                    );
                }
                self.synced = true;
                self.readiness.done(FIRST_SYNC);
                self.readiness.done(KERNEL);
                self.report.committed(&committed, &now())
            }
            Err(failure) => {
                self.metrics.failures.inc();
                let outcome = failure.outcome();
                self.readiness.wait(KERNEL, format!("it did not take the last change, {outcome}: {failure}"));
                tracing::error!(%failure, "the kernel did not take the change, {outcome}");
                if self.facts.refused(&failure) {
                    tracing::warn!("the next try leaves what is refused as it was");
                    pace.search(Instant::now());
                }
                self.report.failed(&failure, &now())
            }
        };
        self.metrics.enforcing.set(self.report.is_ready().into());
        self.reports.send_replace(Some(status));
        Ok(())
    }
}
