//! From facts to what should be in force here: resolve, compile, lower.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{AppliedGroup, AppliedObject, Exempted, ReportedProblem};
use policy::model::{Exemption, GroupRef, GroupRules, NodeName};
use policy::{Cluster, Compiled, compile, resolve};
use ruleset::{Ruleset, exemption_counter, lower};

/// What should be in force on this node, and what can be said of it once it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The table.
    pub ruleset: Ruleset,
    /// The rules of the groups that have a say here, each of which has its counters in the table.
    pub rules: Arc<BTreeMap<GroupRef, GroupRules>>,
    /// The groups with an endpoint here.
    pub groups: Vec<AppliedGroup>,
    /// Those of them that are not in force as written yet, because a group that they name has not been seen as a whole.
    pub incomplete: BTreeSet<GroupRef>,
    /// The attachments with an endpoint here.
    pub attachments: Vec<AppliedObject>,
    /// The prefix lists that a rule here names.
    pub prefix_lists: Vec<AppliedObject>,
    /// What always passes here, and what does not although it could.
    pub exemptions: Vec<Exempted>,
    /// What is not in force as written.
    pub problems: Vec<ReportedProblem>,
    /// The ids of the groups whose member slices this node needs.
    pub named: BTreeSet<String>,
    /// How many endpoints are guarded here.
    pub endpoints: usize,
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Depends on the facts and on what the administrator exempts alone.
pub fn plan(cluster: &Cluster, node: &NodeName, exempt: &BTreeSet<Exemption>) -> Plan {
    let mut compiled = compile(cluster, &resolve(cluster), node);
    compiled.policy.exempt.clone_from(exempt);
    Plan {
        ruleset: lower(&compiled.policy),
        groups: groups(cluster, &compiled),
        incomplete: incomplete(&compiled),
        attachments: attachments(cluster, &compiled),
        prefix_lists: prefix_lists(cluster, &compiled),
        exemptions: exemptions(exempt),
        problems: problems(&compiled),
        named: compiled.named.values().cloned().collect(),
        endpoints: compiled.policy.endpoints.len(),
        addresses: compiled.policy.endpoints.values().flat_map(|endpoint| &endpoint.addresses).copied().collect(),
        rules: Arc::new(compiled.policy.groups),
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
                // Counted later.
                packets: Default::default(),
            })
        })
        .collect()
}

fn incomplete(compiled: &Compiled) -> BTreeSet<GroupRef> {
    let names_awaited = |rules: &GroupRules| rules.groups().any(|group| compiled.awaited.contains(group));
    compiled.policy.groups.iter().filter(|(_, rules)| names_awaited(rules)).map(|(group, _)| group.clone()).collect()
}

fn attachments(cluster: &Cluster, compiled: &Compiled) -> Vec<AppliedObject> {
    compiled
        .attachments
        .iter()
        .filter_map(|attachment| {
            let facts = cluster.attachments.get(attachment)?;
            Some(AppliedObject {
                namespace: attachment.namespace.clone(),
                name: attachment.name.clone(),
                uid: facts.uid.clone(),
                generation: facts.generation,
            })
        })
        .collect()
}

fn prefix_lists(cluster: &Cluster, compiled: &Compiled) -> Vec<AppliedObject> {
    compiled
        .policy
        .prefix_lists
        .keys()
        .filter_map(|list| {
            let facts = cluster.prefix_lists.get(list)?;
            Some(AppliedObject {
                namespace: list.namespace.clone(),
                name: list.name.clone(),
                uid: facts.uid.clone(),
                generation: facts.generation,
            })
        })
        .collect()
}

fn exemptions(exempt: &BTreeSet<Exemption>) -> Vec<Exempted> {
    let line = |exemption: Exemption| Exempted {
        name: exemption.to_string(),
        exempt: exempt.contains(&exemption),
        counter: exemption_counter(exemption).into(),
    };
    Exemption::ALL.map(line).into()
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
