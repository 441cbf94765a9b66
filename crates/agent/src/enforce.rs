//! From a plan to the kernel: diff, commit, and the proof that it is in force.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ruleset::{Counter, Kernel, Ruleset, Transaction, diff};
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
    /// Not read yet: what an earlier run left is found out first, so that a restart changes only what has to be changed (S41).
    Unread,
    /// Nothing, another's, or unknown after a failure: it is replaced as a whole, in one transaction (S42).
    Unknown,
    /// This, whose hash is that.
    Table(Ruleset, String),
}

impl<K: Kernel> Enforcement<K> {
    /// Takes over whatever the kernel holds.
    pub fn new(kernel: K) -> Enforcement<K> {
        Enforcement { kernel, held: Held::Unread, stands: None, last_commit: None, unreadable: 0, foreign: false, counted: BTreeMap::new() }
    }

    /// Puts a plan in force.
    pub fn enforce(&mut self, plan: Plan, now: impl FnOnce() -> Time) -> Result<Committed<Plan>, Failure> {
        if matches!(self.held, Held::Unread) {
            self.held = self.take_over()?;
        }
        let before = self.stands.clone();
        let transaction = match &self.held {
            Held::Table(table, _) => diff(table, &plan.ruleset),
            Held::Unread | Held::Unknown => Transaction::replace(&plan.ruleset),
        };
        let transaction = if transaction.replaces() { self.keeping(transaction) } else { transaction };
        let ops = transaction.ops.len();
        let hash = match &self.held {
            Held::Table(_, hash) if transaction.is_empty() => hash.clone(),
            _ => {
                if let Err(error) = transaction.phases().iter().try_for_each(|phase| self.kernel.commit(phase)) {
                    // Also a commit whose answer was lost may have taken effect, and what is new may be there without being used.
                    self.held = Held::Unknown;
                    return Err(self.failure(&error));
                }
                self.last_commit = Some(now());
                let hash = plan.ruleset.hash();
                self.held = Held::Table(plan.ruleset.clone(), hash.clone());
                self.stands = Some(hash.clone());
                hash
            }
        };
        let repaired = std::mem::take(&mut self.foreign);
        Ok(Committed { value: plan, hash, last_commit: self.last_commit.clone(), ops, before, repaired })
    }

    /// What an earlier run, or somebody else, has left.
    fn take_over(&mut self) -> Result<Held, Failure> {
        match self.kernel.load() {
            Ok(found) => {
                self.unreadable = 0;
                let Some(table) = found else { return Ok(Held::Unknown) };
                let hash = table.hash();
                self.stands = Some(hash.clone());
                Ok(Held::Table(table, hash))
            }
            Err(error) => {
                self.unreadable += 1;
                if self.unreadable >= READ_TRIES { Ok(Held::Unknown) } else { Err(self.failure(&error)) }
            }
        }
    }

    /// Counters go on where the table is made anew: by the kernel's word, or where the table is gone by what was last read.
    fn keeping(&mut self, transaction: Transaction) -> Transaction {
        // Counts are for people: rules do not wait for them.
        let _ = self.counters();
        transaction.keeping(&self.counted)
    }

    fn failure(&self, error: &dyn Error) -> Failure {
        Failure { message: with_causes(error), stands: self.stands.clone() }
    }

    /// Reads the table again: whether someone else has changed it. Then the next plan replaces it as a whole.
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
            self.held = Held::Unknown;
            self.stands = None;
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
