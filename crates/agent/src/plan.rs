//! From facts to what should be in force here: resolve, compile, lower.

use std::collections::{BTreeMap, BTreeSet};

use api::{AppliedAttachment, AppliedGroup, ReportedProblem};
use policy::model::{GroupRef, GroupRules, NodeName, Peer};
use policy::{Cluster, Compiled, compile, resolve};
use ruleset::{Ruleset, lower};

/// What should be in force on this node, and what can be said of it once it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The table.
    pub ruleset: Ruleset,
    /// The groups with an endpoint here.
    pub groups: Vec<AppliedGroup>,
    /// Those of them that are not in force as written yet, because a group that they name has not been seen as a whole.
    pub incomplete: BTreeSet<GroupRef>,
    /// The attachments with an endpoint here.
    pub attachments: Vec<AppliedAttachment>,
    /// What is not in force as written.
    pub problems: Vec<ReportedProblem>,
    /// The ids of the groups whose member slices this node needs.
    pub named: BTreeSet<String>,
    /// How many endpoints are guarded here.
    pub endpoints: usize,
}

/// Depends on the facts alone.
pub fn plan(cluster: &Cluster, node: &NodeName) -> Plan {
    let compiled = compile(cluster, &resolve(cluster), node);
    Plan {
        ruleset: lower(&compiled.policy),
        groups: groups(cluster, &compiled),
        incomplete: incomplete(&compiled),
        attachments: attachments(cluster, &compiled),
        problems: problems(&compiled),
        named: compiled.named.values().cloned().collect(),
        endpoints: compiled.policy.endpoints.len(),
    }
}

fn groups(cluster: &Cluster, compiled: &Compiled) -> Vec<AppliedGroup> {
    let mut endpoints: BTreeMap<&GroupRef, i64> = BTreeMap::new();
    for group in compiled.policy.endpoints.values().flat_map(|endpoint| &endpoint.groups) {
        *endpoints.entry(group).or_default() += 1;
    }
    endpoints
        .into_iter()
        .filter_map(|(group, endpoints)| {
            let facts = cluster.groups.get(group)?;
            Some(AppliedGroup {
                namespace: group.namespace.clone(),
                name: group.name.clone(),
                uid: facts.uid.clone(),
                generation: facts.generation,
                endpoints,
            })
        })
        .collect()
}

fn incomplete(compiled: &Compiled) -> BTreeSet<GroupRef> {
    let names_awaited = |rules: &GroupRules| {
        rules.ingress.iter().chain(&rules.egress).any(|rule| match &rule.peer {
            Peer::Group(group) => compiled.awaited.contains(group),
            Peer::Net(_) => false,
        })
    };
    compiled.policy.groups.iter().filter(|(_, rules)| names_awaited(rules)).map(|(group, _)| group.clone()).collect()
}

fn attachments(cluster: &Cluster, compiled: &Compiled) -> Vec<AppliedAttachment> {
    compiled
        .attachments
        .iter()
        .filter_map(|attachment| {
            let facts = cluster.attachments.get(attachment)?;
            Some(AppliedAttachment {
                namespace: attachment.namespace.clone(),
                name: attachment.name.clone(),
                uid: facts.uid.clone(),
                generation: facts.generation,
            })
        })
        .collect()
}

fn problems(compiled: &Compiled) -> Vec<ReportedProblem> {
    let mut problems: Vec<_> = compiled
        .problems
        .iter()
        .map(|problem| ReportedProblem {
            object: problem.object.to_string(),
            rule: problem.rule.clone(),
            reason: problem.reason.to_string(),
            message: problem.message.clone(),
        })
        .collect();
    problems.sort();
    problems.dedup();
    problems
}
