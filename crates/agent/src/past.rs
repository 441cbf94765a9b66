//! What was in force before a plan: what of a new one need not be doubted, and how what is held back was.

use std::collections::BTreeSet;

use policy::model::NodePolicy;
use ruleset::{Lowering, Op, Part, Ruleset};

/// The past, as far as it is remembered, and after a start as far as the table tells it.
#[derive(Clone, Debug, Default)]
pub struct Past {
    in_force: NodePolicy,
    known: bool,
    /// What the table had in another form after a start: that form cannot be had again.
    forgotten: BTreeSet<Part>,
    /// What the kernel took of a table that is made anew, and that it refused because of something else.
    taken: NodePolicy,
}

impl Past {
    /// The last policy that came into force. Before the first one: what of it the table had that was there.
    pub fn in_force(&self) -> &NodePolicy {
        &self.in_force
    }

    /// Whether there is such a policy or table.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// This policy has come into force.
    pub fn came(&mut self, policy: &NodePolicy) {
        *self = Past { in_force: policy.clone(), known: true, ..Past::default() };
    }

    /// The table that was there, empty if there was none, when these steps towards what was lowered last were refused. It says what is in force
    /// where nobody remembers, and where somebody has removed it.
    pub fn found(&mut self, table: &Ruleset, lowering: &Lowering, refused: &[Op]) {
        let is_gone = *table == Ruleset::default();
        if !self.known || is_gone {
            self.in_force = lowering.standing_in(table);
            self.known = true;
            let policy = lowering.policy();
            let was_there = |part: &Part| part.is_known_to(table, policy);
            self.forgotten = Part::that_differ(policy, &self.in_force).into_iter().filter(was_there).collect();
        }
        if is_gone && !refused.is_empty() {
            self.taken = lowering.standing_without(refused);
        }
    }

    /// It is known what the refusal was about.
    pub fn judged(&mut self) {
        self.taken = NodePolicy::default();
    }

    /// Whether the kernel is known to take this part of a policy.
    pub fn has(&self, part: &Part, policy: &NodePolicy) -> bool {
        part.is_same(policy, &self.in_force) || part.is_same(policy, &self.taken)
    }

    /// Whether it was there in a form that cannot be had again.
    pub fn has_forgotten(&self, part: &Part) -> bool {
        self.forgotten.contains(part)
    }
}
