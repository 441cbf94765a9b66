//! What the kernel does not take stays as it was, so that one bad object never keeps the others from coming into force.
//!
//! A refusal that is about one part holds back that part. One that may be about several, or says nothing of steps, holds back all of them
//! first, and then lets them go in ever smaller lots, until the one is found that is refused by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ReportedProblem;
use policy::model::{GroupRef, NodePolicy, PrefixListRef};
use policy::{AttachmentRef, Resolution};
use ruleset::{Lowering, Op, Part, Ruleset};

use crate::past::Past;
use crate::plan::{Plan, name_of};

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
    unnamed: u32,
    /// While something was held back the kernel has taken something else.
    took: bool,
    /// The search goes on when the table is looked at.
    rests: bool,
    /// What should be in force.
    wanted: NodePolicy,
    /// How what is held back was.
    past: Past,
    /// So many times since the table was looked at, what is another than when it was refused was tried at once.
    tries: u32,
    /// So many refusals one after another there was nothing to be held back because of.
    helpless: u32,
}

#[derive(Clone, Debug)]
struct Refusal {
    /// What should have been in force then; where it is another part now, or another of those because of which it is held back, it may be tried
    /// at once.
    policy: NodePolicy,
    /// The parts that it has a use for, and of which it was of no help to hold them back.
    because: BTreeSet<Part>,
    /// What the kernel said.
    message: String,
    /// It said which steps it does not take.
    named: bool,
    /// How many looks at the table are still to come before it is tried again.
    wait: u32,
}

/// What is to be held back because of a step.
struct Blamed {
    parts: BTreeSet<Part>,
    because: BTreeSet<Part>,
}

const fn is_endpoint(part: &Part) -> bool {
    matches!(part, Part::Endpoint(_))
}

/// What is there for others before those.
const fn rank(part: &Part) -> u8 {
    match part {
        Part::Members(_) | Part::PrefixList(_) => 0,
        Part::Rules(_) => 1,
        Part::Endpoint(_) => 2,
    }
}

/// Looks at the table from one try to the next. They come once a minute, and oftener only where somebody else touches the table.
const WAIT: u32 = 5;
/// The same for what was refused without a word of steps: the kernel may have lacked memory for a while.
const SHORT_WAIT: u32 = 1;
/// And so many such refusals may be nobody's fault.
const PATIENCE: u32 = 3;
/// Where at least so many parts are refused and none is taken, it is not the parts: the kernel takes nothing.
const MANY: u32 = 4;
/// After so many one after another it is enough for a while.
const ENOUGH: u32 = 16;
/// Of what changes all the time the kernel is not asked all the time: everybody else waits meanwhile.
const TRIES: u32 = 4;
/// Of so many tries one after another the last is to make the table anew, where nothing can be held back.
const HELPLESS: u32 = 3;

impl HeldBack {
    /// A policy with what is held back as it was.
    pub fn out_of(&mut self, wanted: &NodePolicy) -> NodePolicy {
        self.wanted.clone_from(wanted);
        let is_same = |part: &Part, refusal: &Refusal| {
            let mut parts = std::iter::once(part).chain(&refusal.because);
            parts.all(|part| part.is_same(&refusal.policy, wanted))
        };
        if self.tries < TRIES && self.refused.iter().any(|(part, refusal)| !is_same(part, refusal)) {
            self.tries += 1;
            self.refused.retain(|part, refusal| is_same(part, refusal));
        }
        self.refused.retain(|_, refusal| refusal.wait > 0);
        let mut policy = wanted.clone();
        for part in self.parts() {
            part.take_from(self.past.in_force(), &mut policy);
        }
        if self.parts().any(|part| matches!(part, Part::Rules(_))) {
            policy.forget_unnamed();
        }
        policy
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.refused.keys().chain(&self.suspects)
    }

    /// A plan for a policy in place of the wanted one does not claim to have in force what is held back, and says why.
    pub fn tell(&self, policy: &NodePolicy, wanted: &NodePolicy, resolution: &Resolution, plan: &mut Plan) {
        let held: BTreeSet<&Part> = self.parts().collect();
        if held.is_empty() {
            return;
        }
        plan.held_back = true;
        // Not even as they were.
        let mut gone: BTreeSet<&GroupRef> = BTreeSet::new();
        for (part, groups) in concerned(&held, wanted) {
            if !self.stands(part, wanted) {
                gone.extend(&groups);
            }
            if matches!(part, Part::Members(_) | Part::PrefixList(_)) {
                plan.partly.extend(groups.iter().copied().cloned());
            }
            plan.incomplete.extend(groups.into_iter().cloned());
        }
        let scope = Arc::make_mut(&mut plan.scope);
        scope.groups.retain(|applied| !gone.contains(&name_of(applied)));
        scope.attachments.retain(|applied| {
            let attachment = AttachmentRef { namespace: applied.namespace.clone(), name: applied.name.clone() };
            let mut pods = resolution.attached.get(&attachment).into_iter().flatten();
            !pods.any(|pod| held.contains(&Part::Endpoint(pod.clone())))
        });
        // What those name alone whose rules are as before is not there.
        scope.prefix_lists.retain(|applied| {
            let list = PrefixListRef { namespace: applied.namespace.clone(), name: applied.name.clone() };
            policy.prefix_lists.contains_key(&list) && !held.contains(&Part::PrefixList(list))
        });
        let problem = |part: &Part, why: String| ReportedProblem {
            object: part.to_string(),
            rule: String::new(),
            reason: "RefusedByKernel".into(),
            message: format!("{}, for {why}", part.what(policy)),
        };
        let refused = self.refused.iter().map(|(part, refusal)| {
            let why = format!("the kernel does not take what is new: {}", refusal.message);
            problem(part, why)
        });
        let suspects = self.suspects.iter().filter(|_| self.rests).map(|part| {
            let why = "the kernel refuses something, and it is not known yet whether it is this; the search goes on within a minute";
            problem(part, why.into())
        });
        // Before what users have written: a report has room for so many.
        scope.problems.splice(0..0, refused.chain(suspects));
    }

    /// Whether what is held back is in force as it was, with all that it names.
    fn stands(&self, part: &Part, wanted: &NodePolicy) -> bool {
        let before = self.past.in_force();
        match part {
            Part::Rules(group) => before.groups.get(group).is_some_and(|old| {
                let named = |group| wanted.members.contains_key(group) || !before.members.contains_key(group);
                let listed = |list| wanted.prefix_lists.contains_key(list) || !before.prefix_lists.contains_key(list);
                old.groups().all(named) && old.prefix_lists().all(listed)
            }),
            Part::Members(group) => before.members.contains_key(group),
            Part::PrefixList(list) => before.prefix_lists.contains_key(list),
            // It is in fewer groups than it should be.
            Part::Endpoint(_) => false,
        }
    }

    /// This policy has come into force by this table, in so many steps. Whether another plan is due at once, to let go of more.
    pub fn in_force(&mut self, policy: &NodePolicy, table: &Ruleset, steps: usize) -> bool {
        if self.tried.iter().any(|part| !part.is_same(policy, self.past.in_force())) {
            // They were innocent: on with larger lots.
            self.lot *= 2;
            self.unnamed = 0;
        }
        self.past.came(policy, table);
        self.helpless = 0;
        self.took = (self.took || steps > 0) && self.parts().next().is_some();
        if self.rests {
            self.tried.clear();
            return false;
        }
        // From the end: endpoints before the rules that they need. Rules without an open endpoint are not in the table, so they would pass.
        let first = self.suspects.iter().nth(self.suspects.len().saturating_sub(self.lot)).cloned();
        self.tried = first.map_or_else(BTreeSet::new, |first| self.suspects.split_off(&first));
        if self.tried.is_empty() {
            (self.whole, self.unnamed) = (0, 0);
        }
        !self.tried.is_empty()
    }

    /// The table that was there when these steps were refused.
    pub fn found(&mut self, table: &Ruleset, lowering: &Lowering, refused: &[Op]) {
        self.past.found(table, lowering, refused);
    }

    /// Nothing can be held back, time after time.
    pub fn is_helpless(&self) -> bool {
        self.helpless % HELPLESS == HELPLESS - 1
    }

    /// This policy was refused, each time because of one of some parts, or of some others where those have not changed; or of nobody knows what.
    /// Whether the next one is another.
    pub fn add(&mut self, blamed: Vec<Vec<BTreeSet<Part>>>, policy: &NodePolicy, message: &str) -> bool {
        let is_other = self.isolate(blamed, policy, message);
        self.helpless = if is_other { 0 } else { self.helpless.wrapping_add(1) };
        is_other
    }

    fn isolate(&mut self, blamed: Vec<Vec<BTreeSet<Part>>>, policy: &NodePolicy, message: &str) -> bool {
        let tried = std::mem::take(&mut self.tried);
        let blamed: Vec<Blamed> = blamed.into_iter().map(|parts| self.free(parts, policy)).filter(|it| !it.parts.is_empty()).collect();
        self.past.judged();
        let mut sure: BTreeMap<Part, BTreeSet<Part>> = BTreeMap::new();
        for Blamed { parts, because } in blamed.iter().filter(|it| it.parts.len() == 1) {
            parts.iter().for_each(|part| sure.entry(part.clone()).or_default().extend(because.iter().cloned()));
        }
        // Endpoints last: with those of a class its rules go as well, whosever they are.
        if sure.keys().any(|part| !is_endpoint(part)) {
            sure.retain(|part, _| !is_endpoint(part));
        }
        if !sure.is_empty() {
            self.suspects.extend(tried.into_iter().filter(|part| !sure.contains_key(part)));
            for (part, because) in sure {
                self.refuse(part, because, message, true);
            }
            return true;
        }
        let named = !blamed.is_empty();
        let because: BTreeSet<Part> = blamed.iter().flat_map(|it| &it.because).cloned().collect();
        let mut parts: BTreeSet<Part> = match (named, tried.is_empty()) {
            (true, _) => blamed.into_iter().flat_map(|it| it.parts).collect(),
            (false, false) => tried.clone(),
            (false, true) => {
                self.whole += 1;
                if self.whole < PATIENCE || self.unnamed >= MANY {
                    return false;
                }
                // What was there in another form is not closed because of nobody knows what.
                let is_free = |part: &Part| self.is_free(part, policy) && !self.past.has_forgotten(part);
                Part::that_differ(policy, self.past.in_force()).into_iter().filter(is_free).collect()
            }
        };
        // What nobody can read stays as it is, rather than to be closed because of nobody knows what.
        if !self.past.is_known() && !named {
            return false;
        }
        self.release(&because, parts.iter().map(rank).min().unwrap_or_default());
        self.suspects.extend(tried.into_iter().filter(|part| !parts.contains(part)));
        self.lot = (parts.len() / 2).max(1);
        if parts.len() > 1 {
            self.suspects.extend(parts);
            return true;
        }
        let Some(part) = parts.pop_first() else {
            return self.give_up();
        };
        self.unnamed += 1;
        if !self.took && self.unnamed >= MANY && (self.suspects.is_empty() || self.unnamed >= ENOUGH) {
            return self.give_up();
        }
        self.rests = self.unnamed >= ENOUGH;
        self.refuse(part, BTreeSet::new(), message, false);
        true
    }

    /// Of the first of these parts those that can be held back; where none can, as they are as they were, of the next, and then of those that
    /// have a use for them.
    fn free(&self, blamed: Vec<BTreeSet<Part>>, policy: &NodePolicy) -> Blamed {
        let any_free = |parts: &BTreeSet<Part>| parts.iter().any(|part| self.is_free(part, policy));
        let at = blamed.iter().position(any_free);
        let mut because: BTreeSet<Part> = blamed.iter().take(at.unwrap_or(blamed.len())).flatten().cloned().collect();
        let mut parts = blamed.get(at.unwrap_or_default()).cloned().unwrap_or_default();
        while !parts.is_empty() && !any_free(&parts) {
            let users = parts.iter().flat_map(|part| part.users(policy)).collect();
            because.append(&mut std::mem::replace(&mut parts, users));
        }
        parts.retain(|part| self.is_free(part, policy));
        Blamed { parts, because }
    }

    fn is_free(&self, part: &Part, policy: &NodePolicy) -> bool {
        !self.refused.contains_key(part) && !self.suspects.contains(part) && !self.past.has(part, policy)
    }

    /// Holds it back, and not what it was of no help to hold back.
    fn refuse(&mut self, part: Part, because: BTreeSet<Part>, message: &str, named: bool) {
        self.release(&because, rank(&part));
        let wait = if named { WAIT } else { SHORT_WAIT };
        self.refused.insert(part, Refusal { policy: self.wanted.clone(), because, message: message.into(), named, wait });
    }

    /// Lets go of what it was of no help to hold back; only where what is there for it is held instead, else two would take turns for ever.
    fn release(&mut self, because: &BTreeSet<Part>, instead: u8) {
        self.refused.retain(|part, _| rank(part) >= instead || !because.contains(part));
    }

    /// What is refused is none of the parts, or all: nothing is held back that the kernel has not named, until the table is looked at.
    fn give_up(&mut self) -> bool {
        self.suspects.clear();
        self.refused.retain(|_, refusal| refusal.named);
        self.unnamed = MANY;
        false
    }

    /// The table is looked at.
    pub fn looked(&mut self) {
        // A search comes to its end first.
        if self.suspects.is_empty() {
            self.refused.values_mut().for_each(|refusal| refusal.wait = refusal.wait.saturating_sub(1));
        }
        if self.unnamed >= MANY {
            (self.whole, self.unnamed) = (0, 0);
            self.past.looked_in_vain();
        }
        (self.tries, self.rests) = (0, false);
    }
}

/// The groups that have such a part, or name it.
fn concerned<'a>(held: &BTreeSet<&'a Part>, wanted: &'a NodePolicy) -> BTreeMap<&'a Part, BTreeSet<&'a GroupRef>> {
    let mut concerned: BTreeMap<&Part, BTreeSet<&GroupRef>> = BTreeMap::new();
    for (group, rules) in &wanted.groups {
        let members = rules.groups().cloned().map(Part::Members);
        let lists = rules.prefix_lists().cloned().map(Part::PrefixList);
        for part in std::iter::once(Part::Rules(group.clone())).chain(members).chain(lists) {
            if let Some(part) = held.get(&part) {
                concerned.entry(part).or_default().insert(group);
            }
        }
    }
    for part in held {
        if let Part::Endpoint(pod) = part
            && let Some(endpoint) = wanted.endpoints.get(pod)
        {
            concerned.entry(part).or_default().extend(&endpoint.groups);
        }
    }
    concerned
}
