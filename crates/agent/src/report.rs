//! What is said of what is in force.

use std::collections::BTreeMap;

use api::{AppliedGroup, NodeReportStatus, PacketCounts, ReportedProblem};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use policy::model::{GroupRef, RulesOf};
use runtime::condition::{Status, Wanted, merge};

use crate::bridge::Bridging;
use crate::enforce::{Committed, Failure};
use crate::passage::Passage;
use crate::plan::{Plan, name_of};
use crate::support::Support;

/// The last report, from which the next is made.
#[derive(Clone, Debug, Default)]
pub struct Report {
    status: NodeReportStatus,
    /// What the last look at the node's bridges found. While packets pass beside the rules, no group is said to be in force here.
    pub bridging: Bridging,
    /// What the last look at the ways to guarded pods found; likewise.
    pub passage: Passage,
    /// What the kernel takes. While it lacks something, no group is said to be in force here either.
    pub support: Support,
    /// What each group had counted when it was last looked at: it stands in every report until the next look.
    packets: BTreeMap<GroupRef, PacketCounts>,
    /// When somebody else's changes of the table were last put right, and how often since this program started.
    repaired: Option<(Time, u64)>,
    /// The rules with which each group was last in force as a whole; none where an earlier run reported it.
    whole: RulesOf,
    /// The problems that have been logged.
    logged: Vec<ReportedProblem>,
}

/// So long a repair is to be seen in the report.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);

impl Report {
    /// Goes on from what an earlier run of this program reported.
    pub fn continuing(status: NodeReportStatus) -> Report {
        let packets = status.groups.iter().map(|group| (name_of(group), group.packets)).collect();
        Report { status, packets, ..Report::default() }
    }

    /// What groups have counted by now; none where that is what was said last.
    pub fn counted(&mut self, packets: BTreeMap<GroupRef, PacketCounts>) -> Option<NodeReportStatus> {
        let before = self.status.groups.clone();
        self.packets = packets;
        self.tell_packets();
        (self.status.groups != before).then(|| self.status.clone())
    }

    fn tell_packets(&mut self) {
        for group in &mut self.status.groups {
            group.packets = self.packets.get(&name_of(group)).copied().unwrap_or_default();
        }
    }

    /// Whether the last report said that everything is in force.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.type_ == api::condition::READY && condition.status == "True")
    }

    /// What was said last.
    #[cfg(test)]
    pub fn continued(&self) -> NodeReportStatus {
        self.status.clone()
    }

    /// A plan is in force.
    pub fn committed(&mut self, committed: &Committed<Plan>, now: &Time) -> NodeReportStatus {
        let plan = committed.value();
        if committed.repaired {
            let times = self.repaired.as_ref().map_or(0, |(_, times)| *times);
            self.repaired = Some((now.clone(), times + 1));
        }
        let same_table = self.status.ruleset_hash == committed.hash;
        if committed.before.as_deref() != Some(self.status.ruleset_hash.as_str()) {
            // The table was not the one that was reported last, as after a reboot: nothing of that report was in force any more.
            self.status.groups.clear();
        }
        let groups = plan.scope.groups.iter().filter_map(|group| self.in_force(plan, group)).collect();
        let mut whole = plan.rules.clone();
        for group in &plan.incomplete {
            match self.whole.get(group) {
                Some(rules) => drop(whole.insert(group.clone(), rules.clone())),
                None => drop(whole.remove(group)),
            }
        }
        self.whole = whole;
        let beside = |condition: Wanted| Wanted { type_: api::condition::READY, status: Status::False, ..condition };
        let ready = match (self.passage.escapes(), self.bridging.escapes()) {
            (true, _) => beside(self.passage.condition()),
            (false, true) => beside(self.bridging.condition()),
            (false, false) if plan.held_back => Wanted {
                type_: api::condition::READY,
                status: Status::False,
                reason: "RefusedByKernel".into(),
                message:
                    "the kernel does not take what is new of some objects; status.problems names them, and says how they are meanwhile"
                        .into(),
            },
            (false, false) => Wanted {
                type_: api::condition::READY,
                status: Status::True,
                reason: "InForce".into(),
                message: "the kernel has the rules that the cluster asks for".into(),
            },
        };
        self.status = NodeReportStatus {
            groups,
            attachments: plan.scope.attachments.clone(),
            prefix_lists: plan.scope.prefix_lists.clone(),
            exemptions: plan.scope.exemptions.clone(),
            problems: told(&plan.scope.problems),
            ruleset_hash: committed.hash.clone(),
            // Said below.
            kernel: None,
            last_commit: committed.last_commit.clone().or_else(|| self.status.last_commit.clone().filter(|_| same_table)),
            conditions: std::mem::take(&mut self.status.conditions),
        };
        self.said(ready, now)
    }

    /// The kernel did not take the last plan. What was reported is in force still if its table is known to stand; else nothing is said to be.
    pub fn failed(&mut self, failure: &Failure, now: &Time) -> NodeReportStatus {
        let stands = failure.stands.as_deref() == Some(self.status.ruleset_hash.as_str());
        if !stands {
            self.status = NodeReportStatus { conditions: std::mem::take(&mut self.status.conditions), ..NodeReportStatus::default() };
        }
        let ready = Wanted {
            type_: api::condition::READY,
            status: Status::False,
            reason: "CommitFailed".into(),
            message: match stands {
                true => format!("the kernel did not take the last change, so the rules from before it are in force: {failure}"),
                false => format!("nobody knows which rules are in force: {failure}"),
            },
        };
        self.said(ready, now)
    }

    /// The report with its conditions. Rules that packets do not meet are in the kernel and not in force, and of what the kernel lacks nobody
    /// knows which rule needs it next.
    fn said(&mut self, ready: Wanted, now: &Time) -> NodeReportStatus {
        let ready = match self.support.lacks() {
            true => Wanted { type_: api::condition::READY, ..self.support.condition() },
            false => ready,
        };
        let wanted = vec![ready, self.support.condition(), self.passage.condition(), self.bridging.condition(), self.intact(now)];
        self.status.conditions = merge(&self.status.conditions, wanted, None, now);
        self.status.kernel = Some(self.support.report());
        self.bridging.tell(&mut self.status.problems);
        self.passage.tell(&mut self.status.problems);
        if self.passage.escapes() || self.bridging.escapes() || self.support.lacks() {
            self.status.groups.clear();
            self.status.attachments.clear();
            self.status.prefix_lists.clear();
        }
        self.tell_packets();
        self.log();
        self.status.clone()
    }

    /// Each problem once, as long as it is one.
    fn log(&mut self) {
        if self.logged == self.status.problems {
            return;
        }
        for problem in self.status.problems.iter().filter(|problem| !self.logged.contains(*problem)) {
            let (kind, object) = problem.object.split_once(' ').unwrap_or((&problem.object, ""));
            let (namespace, name) = object.split_once('/').unwrap_or(("", object));
            let ReportedProblem { rule, reason, message, .. } = problem;
            tracing::warn!(kind, namespace, name, rule, reason, "not in force as written: {message}");
        }
        self.logged.clone_from(&self.status.problems);
    }

    fn intact(&self, now: &Time) -> Wanted {
        let of_late = self.repaired.as_ref().filter(|(at, _)| now.0.duration_since(at.0) < REMEMBERED);
        let (status, reason, message) = match of_late {
            None => (Status::True, "Intact", "nobody else has changed the table of late".into()),
            Some((at, times)) => {
                let message = format!(
                    "somebody else changed the table inet k8s-sg; it was put right at {}, {times} times since this agent started",
                    at.0
                );
                (Status::False, "RulesetRepaired", message)
            }
        };
        Wanted { type_: api::condition::RULESET_INTACT, status, reason: reason.into(), message }
    }

    /// A group that names one whose members have not all been seen is not in force as written: it stays at the generation that was in
    /// force as a whole, if there was one. Where it is what the kernel refused that is missing, only if its rules are still those.
    fn in_force(&self, plan: &Plan, group: &AppliedGroup) -> Option<AppliedGroup> {
        let name = name_of(group);
        if !plan.incomplete.contains(&name) {
            return Some(group.clone());
        }
        let before = self.status.groups.iter().find(|before| before.namespace == group.namespace && before.name == group.name)?;
        let same = !plan.partly.contains(&name) || self.whole.get(&name).is_none_or(|rules| plan.rules.get(&name) == Some(rules));
        (same && before.uid == group.uid).then(|| AppliedGroup { generation: before.generation, ..group.clone() })
    }
}

/// Problems that a report tells at most: it has to stay an object that the API server stores, whatever is written in all namespaces.
pub const PROBLEMS: usize = 100;

/// As many problems as a report has room for, and how many are not among them.
fn told(problems: &[ReportedProblem]) -> Vec<ReportedProblem> {
    let mut told: Vec<_> = problems.iter().take(PROBLEMS).cloned().collect();
    if problems.len() > PROBLEMS {
        told.push(ReportedProblem {
            object: "NodeReport".into(),
            reason: "TooManyProblems".into(),
            message: format!("{} more; the status of each group, attachment and prefix list tells its own", problems.len() - PROBLEMS),
            ..ReportedProblem::default()
        });
    }
    told
}
