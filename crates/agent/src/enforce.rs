//! From a plan to the kernel: diff, commit, and the proof that it is in force.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ruleset::{Counter, Fingerprint, Kernel, Op, Phase, Ruleset, Transaction, diff};
use runtime::client::with_causes;

use crate::plan::Plan;

/// Proof that the value is in force. Only [`Enforcement::enforce`] makes it, after the kernel has said so; only with it can be reported.
#[derive(Debug)]
pub struct Committed<T> {
    value: T,
    /// Hash of the table that the kernel has.
    pub hash: String,
    /// When this program last changed the table; none: it found it as it should be.
    pub last_commit: Option<Time>,
    /// How many steps it took; none: it was in force already.
    pub ops: usize,
    /// Hash of the table that was there before, where that is known.
    pub before: Option<String>,
    /// Someone else had changed the table, and it was put right.
    pub repaired: bool,
}

impl<T> Committed<T> {
    /// What is in force.
    pub fn value(&self) -> &T {
        &self.value
    }
}

/// The kernel did not take a plan, or would not say what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it said, with causes: the step and the error number where it named them.
    pub message: String,
    /// Hash of the table that is still in force; none: nobody knows what is.
    pub stands: Option<String>,
    /// That table, as it was read before the plan was refused, and empty where there was none; `None` where it cannot be read.
    pub found: Option<Box<Ruleset>>,
    /// The steps that the kernel does not take, none of them where it does not say which; `None` where the plan may have been right, and
    /// what is there is other than we thought, or cannot be read.
    pub refused: Option<Vec<Op>>,
}

impl Failure {
    /// What packets meet now, in words.
    pub fn outcome(&self) -> &'static str {
        match self.stands {
            Some(_) => "and what was in force stays in force",
            None => "and nobody knows which rules are in force",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Owns the kernel's side.
#[derive(Debug)]
pub struct Enforcement<K> {
    kernel: K,
    held: Held,
    /// Hash of the table that was last known to be in force. A refused commit leaves it there.
    stands: Option<String>,
    last_commit: Option<Time>,
    unreadable: u32,
    /// Someone else has changed the table since the last commit.
    foreign: bool,
    /// What counters had counted when they were last read: what goes on in a table that is made anew.
    counted: BTreeMap<String, Counter>,
}

/// A table that cannot be read is replaced after so many tries: on a node that has just booted nothing else would guard its pods.
const READ_TRIES: u32 = 3;

/// What the table holds.
#[derive(Debug)]
enum Held {
    /// What an earlier run left, or a failure: it is found out first, so that only what has to be changed is changed (S41).
    Unread,
    /// Nothing, another's, or what cannot be read: it is replaced as a whole, in one transaction (S42).
    Unknown,
    /// This.
    Table(Ruleset, Fingerprint),
}

impl<K: Kernel> Enforcement<K> {
    /// Takes over whatever the kernel holds.
    pub fn new(kernel: K) -> Enforcement<K> {
        Enforcement { kernel, held: Held::Unread, stands: None, last_commit: None, unreadable: 0, foreign: false, counted: BTreeMap::new() }
    }

    /// Puts a plan in force.
    pub fn enforce(&mut self, plan: Plan, now: impl FnOnce() -> Time) -> Result<Committed<Plan>, Failure> {
        let just_read = matches!(self.held, Held::Unread);
        if just_read {
            self.held = self.take_over()?;
        }
        let before = self.stands.clone();
        let (transaction, fingerprint) = match &self.held {
            Held::Table(table, fingerprint) if !plan.anew => (diff(table, &plan.ruleset), fingerprint.follow(table, &plan.ruleset)),
            _ => (Transaction::replace(&plan.ruleset), Fingerprint::of(&plan.ruleset)),
        };
        let made_anew = transaction.replaces();
        let transaction = if made_anew || just_read { self.keeping(transaction) } else { transaction };
        let ops = transaction.ops.len();
        let mut cleared = true;
        for (phase, part) in transaction.phases() {
            if let Err(error) = self.kernel.commit(&part) {
                if phase == Phase::Clear {
                    // Of what is left over no packet knows: the plan is in force.
                    tracing::warn!(
                        error = with_causes(&error),
                        "cannot remove what nothing refers to any more; the next change tries again"
                    );
                    cleared = false;
                    break;
                }
                // A commit whose answer was lost may have taken effect.
                let held = std::mem::replace(&mut self.held, Held::Unread);
                let refused: Option<Vec<Op>> =
                    K::refused(&error).map(|steps| steps.into_iter().filter_map(|step| part.ops.get(step).cloned()).collect());
                let found = match held {
                    Held::Table(table, _) => Some(table),
                    // A table of whatever version has counters.
                    Held::Unknown if self.counters().is_ok_and(|counted| counted.is_empty()) => Some(Ruleset::default()),
                    Held::Unread | Held::Unknown => None,
                };
                match (&found, phase, &refused) {
                    (_, Phase::Change, None) => self.stands = None,
                    (Some(before), Phase::Change, Some(_)) if !made_anew => self.take_back(before),
                    _ => {}
                }
                // What is refused otherwise may fit what we believe, and not what is there.
                let refused = refused.filter(|_| made_anew || just_read);
                return Err(Failure { found: found.map(Box::new), refused, ..self.failure(&error) });
            }
        }
        if just_read && let Err(error) = self.kernel.settle() {
            self.held = Held::Unread;
            return Err(self.failure(&error));
        }
        if ops > 0 {
            self.last_commit = Some(now());
            self.stands = Some(fingerprint.to_string());
        }
        self.held = match cleared {
            true => Held::Table(plan.ruleset.clone(), fingerprint),
            false => {
                let held = self.kernel.load().map_or(Held::Unread, |found| self.holding(found));
                // What is left over is no part of what is in force.
                self.stands = Some(fingerprint.to_string());
                held
            }
        };
        let repaired = std::mem::take(&mut self.foreign);
        Ok(Committed { value: plan, hash: fingerprint.to_string(), last_commit: self.last_commit.clone(), ops, before, repaired })
    }

    /// What an earlier run, or somebody else, has left.
    fn take_over(&mut self) -> Result<Held, Failure> {
        match self.kernel.load() {
            Ok(found) => {
                self.unreadable = 0;
                Ok(self.holding(found))
            }
            Err(error) => {
                self.unreadable += 1;
                if self.unreadable >= READ_TRIES { Ok(Held::Unknown) } else { Err(self.failure(&error)) }
            }
        }
    }

    /// Removes what was made for a change that was refused: nothing refers to it. What cannot be removed now is found at the next reading.
    fn take_back(&mut self, before: &Ruleset) {
        if let Ok(Some(found)) = self.kernel.load() {
            for (_, part) in diff(&found, before).phases() {
                let _ = self.kernel.commit(&part);
            }
        }
    }

    /// What there is, where it is a table that can be changed step by step.
    fn holding(&mut self, found: Option<Ruleset>) -> Held {
        let held = found.map_or(Held::Unknown, |table| {
            let fingerprint = Fingerprint::of(&table);
            Held::Table(table, fingerprint)
        });
        self.stands = match &held {
            Held::Table(_, fingerprint) => Some(fingerprint.to_string()),
            Held::Unread | Held::Unknown => None,
        };
        held
    }

    /// Counters go on where the table is made anew: by the kernel's word, or where the table is gone by what was last read.
    fn keeping(&mut self, transaction: Transaction) -> Transaction {
        // Counts are for people: rules do not wait for them.
        let _ = self.counters();
        transaction.keeping(&self.counted)
    }

    fn failure(&self, error: &dyn Error) -> Failure {
        Failure { message: with_causes(error), stands: self.stands.clone(), found: None, refused: None }
    }

    /// Reads the table again: whether someone else has changed it. Then the next plan puts it right.
    pub fn recheck(&mut self) -> Result<bool, Failure> {
        let Held::Table(held, _) = &self.held else { return Ok(false) };
        let found = match self.kernel.load() {
            Ok(found) => found,
            Err(error) => {
                self.held = Held::Unread;
                self.stands = None;
                return Err(self.failure(&error));
            }
        };
        let changed = found.as_ref() != Some(held);
        if changed {
            self.foreign = true;
            self.held = self.holding(found);
        }
        Ok(changed)
    }

    /// What the table's counters have counted.
    pub fn counters(&mut self) -> Result<BTreeMap<String, Counter>, K::Error> {
        let counters = self.kernel.counters()?;
        if counters.is_empty() {
            return Ok(counters);
        }
        // A hand that sets counters back does not set ours back.
        let most = |(name, counter): (String, Counter)| {
            let counter = self.counted.get(&name).map_or(counter, |before| counter.max(*before));
            (name, counter)
        };
        self.counted = counters.into_iter().map(most).collect();
        Ok(self.counted.clone())
    }

    /// The kernel, past the enforcement.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }
}
