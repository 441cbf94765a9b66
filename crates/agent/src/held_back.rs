//! What the kernel does not take stays as it was, so that one bad object never keeps the others from coming into force.
//!
//! A refusal that is about one part holds back that part. One that may be about several, or says nothing of steps, holds back all of them
//! first, and then lets them go in ever smaller lots, until the one is found that is refused by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ReportedProblem;
use policy::model::{GroupRef, GroupRules, NodePolicy};
use ruleset::Part;

use crate::plan::{Plan, Scope};

/// The parts of the policy that are not in force as written. A restart forgets what they were before: then they allow nothing.
#[derive(Clone, Debug, Default)]
pub struct HeldBack {
    refused: BTreeMap<Part, Refusal>,
    /// One of them at least is refused, and it is not known yet which.
    suspects: BTreeSet<Part>,
    /// Suspects that the next plan has as written.
    tried: BTreeSet<Part>,
    /// How many suspects are tried together.
    lot: usize,
    /// Refusals one after another that say nothing of steps.
    whole: u32,
    /// So many parts one after another were refused by themselves without a word of steps.
    found: u32,
    /// The last policy that came into force.
    in_force: NodePolicy,
}

#[derive(Clone, Debug)]
struct Refusal {
    /// Where the part is as it was refused; another one is tried at once.
    policy: NodePolicy,
    /// What the kernel said.
    message: String,
    /// It said which steps it does not take.
    named: bool,
    /// How many looks at the table are still to come before it is tried again.
    wait: u32,
}

/// Looks at the table from one try to the next. They come once a minute, and oftener only where somebody else touches the table.
const WAIT: u32 = 5;
/// The same for what was refused without a word of steps: the kernel may have lacked memory for a while.
const SHORT_WAIT: u32 = 1;
/// And so many such refusals may be nobody's fault.
const PATIENCE: u32 = 3;
/// Where so many parts are refused, it is not the parts: the kernel takes nothing.
const MANY: u32 = 4;

impl HeldBack {
    /// A policy with what is held back as it was.
    pub fn out_of(&mut self, wanted: &NodePolicy) -> NodePolicy {
        self.refused.retain(|part, refusal| refusal.wait > 0 && part.is_same(&refusal.policy, wanted));
        let mut policy = wanted.clone();
        for part in self.parts() {
            part.take_from(&self.in_force, &mut policy);
        }
        policy
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.refused.keys().chain(&self.suspects)
    }

    /// A plan for this policy does not claim to have in force what is held back, and says why.
    pub fn tell(&self, wanted: &NodePolicy, plan: &mut Plan) {
        for part in self.parts() {
            let concerned = |(group, rules): &(&GroupRef, &Arc<GroupRules>)| match part {
                Part::Rules(refused) => *group == refused,
                Part::Members(named) => rules.groups().any(|group| group == named),
                Part::PrefixList(named) => rules.prefix_lists().any(|list| list == named),
                Part::Endpoint(_) => false,
            };
            plan.incomplete.extend(wanted.groups.iter().filter(concerned).map(|(group, _)| group.clone()));
            withdraw(part, wanted, Arc::make_mut(&mut plan.scope));
        }
        for (part, refusal) in &self.refused {
            let stays = match part {
                Part::Endpoint(pod) if !self.in_force.endpoints.contains_key(pod) => "no rule guards it",
                part => part.stays(),
            };
            Arc::make_mut(&mut plan.scope).problems.push(ReportedProblem {
                object: part.to_string(),
                rule: String::new(),
                reason: "RefusedByKernel".into(),
                message: format!("{stays}, for the kernel does not take what is new: {}", refusal.message),
            });
        }
    }

    /// This policy has come into force. Whether another plan is due at once, to let go of more.
    pub fn in_force(&mut self, policy: &NodePolicy) -> bool {
        self.in_force.clone_from(policy);
        let rest = self.suspects.iter().nth(self.lot).cloned();
        let rest = rest.map_or_else(BTreeSet::new, |first| self.suspects.split_off(&first));
        self.tried = std::mem::replace(&mut self.suspects, rest);
        if self.tried.is_empty() {
            (self.whole, self.found) = (0, 0);
        }
        !self.tried.is_empty()
    }

    /// This policy was refused because of one of these parts, or of nobody knows what where there are none. Whether the next one is another:
    /// what is as it was already is no help.
    pub fn add(&mut self, blamed: BTreeSet<Part>, policy: &NodePolicy, message: &str) -> bool {
        let tried = std::mem::take(&mut self.tried);
        let blamed: BTreeSet<Part> = blamed.into_iter().filter(|part| !part.is_same(policy, &self.in_force)).collect();
        let named = !blamed.is_empty();
        let mut parts = match (named, tried.is_empty()) {
            (true, _) => blamed,
            (false, false) => tried.clone(),
            (false, true) => {
                self.whole += 1;
                if self.whole < PATIENCE || self.found >= MANY {
                    return false;
                }
                self.more(policy)
            }
        };
        self.suspects.extend(tried.into_iter().filter(|part| !parts.contains(part)));
        self.lot = (parts.len() / 2).max(1);
        if parts.len() > 1 {
            self.suspects.extend(parts);
            return true;
        }
        let Some(part) = parts.pop_first() else {
            // What is held back is not what is refused.
            self.suspects.clear();
            return false;
        };
        self.found += u32::from(!named);
        if self.found >= MANY {
            self.suspects.clear();
            self.refused.retain(|_, refusal| refusal.named);
            return false;
        }
        let wait = if named { WAIT } else { SHORT_WAIT };
        self.refused.insert(part, Refusal { policy: policy.clone(), message: message.into(), named, wait });
        true
    }

    /// What is new in a policy and could stay as it was: what allows, and if that is nothing or no help, endpoints too.
    fn more(&self, policy: &NodePolicy) -> BTreeSet<Part> {
        let changed = Part::that_differ(policy, &self.in_force);
        let (endpoints, others): (BTreeSet<Part>, BTreeSet<Part>) = changed.into_iter().partition(|part| matches!(part, Part::Endpoint(_)));
        if others.is_empty() { endpoints } else { others }
    }

    /// The table is looked at.
    pub fn looked(&mut self) {
        for refusal in self.refused.values_mut() {
            refusal.wait = refusal.wait.saturating_sub(1);
        }
    }
}

/// Claims nothing for what is held back.
fn withdraw(part: &Part, wanted: &NodePolicy, scope: &mut Scope) {
    match part {
        Part::PrefixList(list) => {
            scope.prefix_lists.retain(|applied| (&applied.namespace, &applied.name) != (&list.namespace, &list.name));
        }
        Part::Endpoint(pod) => {
            let groups = wanted.endpoints.get(pod).map(|endpoint| &endpoint.groups);
            let has = |namespace: &str, name: &str| {
                groups.is_some_and(|groups| groups.iter().any(|group| group.namespace == namespace && group.name == name))
            };
            scope.groups.retain(|applied| !has(&applied.namespace, &applied.name));
            // Nobody knows here which of them select it.
            scope.attachments.retain(|applied| applied.namespace != pod.namespace);
        }
        Part::Rules(_) | Part::Members(_) => {}
    }
}
