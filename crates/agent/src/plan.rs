//! From facts to what should be in force here: resolve, compile, lower.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{AppliedGroup, AppliedObject, Exempted, ReportedProblem};
use imbl::OrdMap;
use policy::model::{Exemption, GroupRef, GroupRules, NodeName, NodePolicy, PodRef, RulesOf};
use policy::{Cluster, Compiled, Compiler, Since};
use ruleset::{Lowering, Ruleset, exemption_counter};

use crate::enforce::Failure;
use crate::held_back::HeldBack;

/// What should be in force on this node, and what can be said of it once it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The table.
    pub ruleset: Ruleset,
    /// The rules of the groups that have a say here, each of which has its counters in the table.
    pub rules: RulesOf,
    /// The groups with an endpoint here that are not in force as written yet, because a group that they name has not been seen as a whole.
    pub incomplete: BTreeSet<GroupRef>,
    /// Those of them that name what the kernel does not take.
    pub partly: BTreeSet<GroupRef>,
    /// Something is left as it was, since the kernel does not take what is new of it.
    pub held_back: bool,
    /// The table is to be replaced, not to be changed: it may be a step from what is there that is refused, and not where it leads.
    pub anew: bool,
    /// Whom and what it concerns. Members elsewhere change nothing of it.
    pub scope: Arc<Scope>,
}

/// Whom and what a plan concerns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// The groups with an endpoint here.
    pub groups: Vec<AppliedGroup>,
    /// The attachments with an endpoint here.
    pub attachments: Vec<AppliedObject>,
    /// The prefix lists that a rule here names.
    pub prefix_lists: Vec<AppliedObject>,
    /// What always passes here, and what does not although it could.
    pub exemptions: Vec<Exempted>,
    /// What is not in force as written.
    pub problems: Vec<ReportedProblem>,
    /// The ids of the groups whose member slices this node needs.
    pub named: Arc<BTreeSet<String>>,
    /// How many endpoints are guarded here.
    pub endpoints: usize,
    /// Their addresses, and whose each is.
    pub addresses: BTreeMap<IpAddr, PodRef>,
}

/// Depends on the facts and on what the administrator exempts alone.
pub fn plan(cluster: &Cluster, node: &NodeName, exempt: &BTreeSet<Exemption>) -> Plan {
    Planner::new(node.clone(), exempt.clone()).plan(cluster, Since::Anything)
}

/// Plans again and again, each time at the cost of what has changed: the same plan as from nothing.
#[derive(Clone, Debug)]
pub struct Planner {
    exempt: BTreeSet<Exemption>,
    compiler: Compiler,
    lowering: Lowering,
    scope: Arc<Scope>,
    /// The named groups of the last plan.
    named: OrdMap<GroupRef, String>,
    /// The policy of the last plan.
    policy: NodePolicy,
    held_back: HeldBack,
}

impl Planner {
    /// For this node, of which nothing is known yet.
    pub fn new(node: NodeName, exempt: BTreeSet<Exemption>) -> Planner {
        Planner {
            exempt,
            compiler: Compiler::new(node),
            lowering: Lowering::default(),
            scope: Arc::default(),
            named: OrdMap::new(),
            policy: NodePolicy::default(),
            held_back: HeldBack::default(),
        }
    }

    /// What should be in force by these facts. The first time anything has changed.
    pub fn plan(&mut self, cluster: &Cluster, since: Since) -> Plan {
        let slices_alone = since == Since::Slices;
        let compiled = self.compiler.follow(cluster, since);
        let wanted = NodePolicy { exempt: self.exempt.clone(), ..compiled.policy.clone() };
        self.policy = self.held_back.out_of(&wanted);
        if !slices_alone {
            let same = compiled.named.ptr_eq(&self.named);
            let named = if same { self.scope.named.clone() } else { Arc::new(compiled.named.values().cloned().collect()) };
            self.named.clone_from(&compiled.named);
            self.scope = Arc::new(Scope {
                groups: groups(cluster, compiled),
                attachments: attachments(cluster, compiled),
                prefix_lists: prefix_lists(cluster, compiled),
                exemptions: exemptions(&self.exempt),
                problems: problems(compiled),
                named,
                endpoints: self.policy.endpoints.len(),
                addresses: addresses(&self.policy),
            });
        }
        let mut plan = Plan {
            ruleset: self.lowering.lower(&self.policy),
            // What is held back may have changed.
            rules: self.policy.groups.clone(),
            incomplete: incomplete(compiled),
            partly: BTreeSet::new(),
            held_back: false,
            anew: self.held_back.is_helpless(),
            scope: self.scope.clone(),
        };
        self.held_back.tell(&self.policy, &wanted, self.compiler.resolution(), &mut plan);
        plan
    }

    /// The last plan is in force, by so many steps. Whether the next one is due at once, since this one held back more than is known to be refused.
    pub fn committed(&mut self, steps: usize) -> bool {
        self.held_back.in_force(&self.policy, self.lowering.ruleset(), steps)
    }

    /// The kernel refused the last plan; whether the next one leaves what it may be about as it was.
    pub fn refused(&mut self, failure: &Failure) -> bool {
        let Some(steps) = &failure.refused else { return false };
        if let Some(table) = &failure.found {
            self.held_back.found(table, &self.lowering, steps);
        }
        self.held_back.add(self.lowering.blame(steps), &self.policy, &failure.message)
    }

    /// The table is looked at: what was refused long ago is in the next plan.
    pub fn looked(&mut self) {
        self.held_back.looked();
    }
}

fn addresses(policy: &NodePolicy) -> BTreeMap<IpAddr, PodRef> {
    policy.endpoints.iter().flat_map(|(pod, endpoint)| endpoint.addresses.iter().map(|address| (*address, pod.clone()))).collect()
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

/// The group that is applied.
pub fn name_of(group: &AppliedGroup) -> GroupRef {
    GroupRef { namespace: group.namespace.clone(), name: group.name.clone() }
}

fn incomplete(compiled: &Compiled) -> BTreeSet<GroupRef> {
    if compiled.awaited.is_empty() {
        return BTreeSet::new();
    }
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
