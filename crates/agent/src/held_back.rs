//! What the kernel does not take stays as it was, so that one bad object never keeps the others from coming into force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ReportedProblem;
use policy::model::{GroupRef, GroupRules, NodePolicy};
use ruleset::Part;

use crate::plan::Plan;

/// The parts of the policy that are not in force as written. A restart forgets what they were before: then they allow nothing.
#[derive(Clone, Debug, Default)]
pub struct HeldBack {
    parts: BTreeMap<Part, Refusal>,
    /// The last policy that came into force.
    in_force: NodePolicy,
}

#[derive(Clone, Debug)]
struct Refusal {
    /// Where the part is as it was refused; another one is tried at once.
    policy: NodePolicy,
    /// What the kernel said.
    message: String,
    /// How many looks at the table are still to come before it is tried again.
    wait: u32,
}

/// Looks at the table from one try to the next. They come once a minute, and oftener only where somebody else touches the table.
const WAIT: u32 = 5;

impl HeldBack {
    /// A policy with what is held back as it was.
    pub fn out_of(&mut self, wanted: &NodePolicy) -> NodePolicy {
        self.parts.retain(|part, refusal| refusal.wait > 0 && part.is_same(&refusal.policy, wanted));
        let mut policy = wanted.clone();
        for part in self.parts.keys() {
            part.take_from(&self.in_force, &mut policy);
        }
        policy
    }

    /// A plan for this policy does not claim to have in force what is held back, and says why.
    pub fn tell(&self, wanted: &NodePolicy, plan: &mut Plan) {
        for (part, refusal) in &self.parts {
            let concerned = |(group, rules): &(&GroupRef, &Arc<GroupRules>)| match part {
                Part::Rules(refused) => *group == refused,
                Part::Members(named) => rules.groups().any(|group| group == named),
                Part::PrefixList(named) => rules.prefix_lists().any(|list| list == named),
            };
            plan.incomplete.extend(wanted.groups.iter().filter(concerned).map(|(group, _)| group.clone()));
            if let Part::PrefixList(list) = part {
                plan.prefix_lists.retain(|applied| (&applied.namespace, &applied.name) != (&list.namespace, &list.name));
            }
            plan.problems.push(ReportedProblem {
                object: part.to_string(),
                rule: String::new(),
                reason: "RefusedByKernel".into(),
                message: format!("{} as before, for the kernel does not take what is new: {}", part.what(), refusal.message),
            });
        }
    }

    /// This policy has come into force.
    pub fn in_force(&mut self, policy: &NodePolicy) {
        self.in_force.clone_from(policy);
    }

    /// These parts of this policy were refused. Whether there is one that can stay as it was: one that already was so is no help.
    pub fn add(&mut self, parts: BTreeSet<Part>, policy: &NodePolicy, message: &str) -> bool {
        let before = self.parts.len();
        for part in parts.into_iter().filter(|part| !part.is_same(policy, &self.in_force)) {
            self.parts.insert(part, Refusal { policy: policy.clone(), message: message.into(), wait: WAIT });
        }
        self.parts.len() > before
    }

    /// The table is looked at.
    pub fn looked(&mut self) {
        for refusal in self.parts.values_mut() {
            refusal.wait = refusal.wait.saturating_sub(1);
        }
    }
}
