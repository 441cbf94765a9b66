//! What was in force before a plan: what of a new one need not be doubted, and how what is held back was.

use std::collections::BTreeSet;

use policy::model::{GroupRef, NodePolicy};
use ruleset::{Lowering, Op, Part, Ruleset};

/// Looks at the table, a minute each, until what was there in another form may be held back, too.
const LOOKS: u32 = 2;

/// The past, as far as it is remembered, and as far as the table bears it out.
#[derive(Clone, Debug, Default)]
pub struct Past {
    in_force: NodePolicy,
    /// The table that says so; none where nothing is known.
    table: Option<Ruleset>,
    /// What the table had in another form after a start: that form cannot be had again.
    forgotten: BTreeSet<Part>,
    /// So many looks at the table in vain since.
    looks: u32,
    /// What the kernel took of a table that is made anew, and that it refused because of something else.
    taken: NodePolicy,
}

impl Past {
    /// The last policy that came into force, as far as it still is. Before the first one: what of it the table had that was there.
    pub fn in_force(&self) -> &NodePolicy {
        &self.in_force
    }

    /// Whether there is such a policy or table.
    pub fn is_known(&self) -> bool {
        self.table.is_some()
    }

    /// This policy has come into force, by this table.
    pub fn came(&mut self, policy: &NodePolicy, table: &Ruleset) {
        *self = Past { in_force: with_a_say(policy), table: Some(table.clone()), ..Past::default() };
    }

    /// The table that was there, empty if there was none, when these steps towards what was lowered last were refused. It says what is in force
    /// where nobody remembers, and where somebody has changed or removed it.
    pub fn found(&mut self, table: &Ruleset, lowering: &Lowering, refused: &[Op]) {
        match &self.table {
            Some(before) if before == table => {}
            Some(_) => {
                let mut before = Lowering::default();
                before.lower(&self.in_force);
                self.in_force = before.standing_in(table);
            }
            None => {
                self.in_force = lowering.standing_in(table);
                let was_there = |part: &Part| part.is_known_to(table, lowering.policy());
                self.forgotten = Part::that_differ(lowering.policy(), &self.in_force).into_iter().filter(was_there).collect();
            }
        }
        self.table = Some(table.clone());
        if *table == Ruleset::default() && !refused.is_empty() {
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

    /// The table is looked at, and nothing has come into force because of nobody knows what. What was there in another form is better than nothing
    /// for a while (S41); but pods that come are open until something else can be held.
    pub fn looked_in_vain(&mut self) {
        self.looks += 1;
        if self.looks >= LOOKS {
            self.forgotten.clear();
        }
    }

    /// Whether it was there in a form that cannot be had again.
    pub fn has_forgotten(&self, part: &Part) -> bool {
        self.forgotten.contains(part)
    }
}

/// Of groups whose endpoints are all closed nothing is in the table, so nobody knows whether the kernel takes their rules.
fn with_a_say(policy: &NodePolicy) -> NodePolicy {
    let mut policy = policy.clone();
    if policy.endpoints.values().any(|endpoint| endpoint.closed) {
        let open = policy.endpoints.values().filter(|endpoint| !endpoint.closed);
        let said: BTreeSet<GroupRef> = open.flat_map(|endpoint| &endpoint.groups).cloned().collect();
        policy.groups =
            policy.groups.iter().filter(|(group, _)| said.contains(group)).map(|(group, it)| (group.clone(), it.clone())).collect();
    }
    policy
}
