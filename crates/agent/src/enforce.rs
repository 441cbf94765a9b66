//! From a plan to the kernel: diff, commit, and the proof that it is in force.

use std::error::Error;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ruleset::{Kernel, Ruleset, Transaction, diff};
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
}

impl<T> Committed<T> {
    /// What is in force.
    pub fn value(&self) -> &T {
        &self.value
    }
}

/// The kernel did not take a plan. What was in force is in force still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it said, with causes: the step and the error number where it named them.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    fn of(error: &dyn Error) -> Failure {
        Failure { message: with_causes(error) }
    }
}

/// Owns the kernel's side.
#[derive(Debug)]
pub struct Enforcement<K> {
    kernel: K,
    held: Held,
    last_commit: Option<Time>,
}

/// What the table holds.
#[derive(Debug)]
enum Held {
    /// Not read yet: what an earlier run left is found out first, so that a restart changes only what has to be changed (S41).
    Unread,
    /// Nothing, another's, or unknown after a failure: it is replaced as a whole, in one transaction like every change (S42).
    Unknown,
    /// This, whose hash is that.
    Table(Ruleset, String),
}

impl<K: Kernel> Enforcement<K> {
    /// Takes over whatever the kernel holds.
    pub fn new(kernel: K) -> Enforcement<K> {
        Enforcement { kernel, held: Held::Unread, last_commit: None }
    }

    /// Puts a plan in force.
    pub fn enforce(&mut self, plan: Plan, now: impl FnOnce() -> Time) -> Result<Committed<Plan>, Failure> {
        if matches!(self.held, Held::Unread) {
            self.held = match self.kernel.load().map_err(|error| Failure::of(&error))? {
                Some(table) => {
                    let hash = table.hash();
                    Held::Table(table, hash)
                }
                None => Held::Unknown,
            };
        }
        let transaction = match &self.held {
            Held::Table(table, _) => diff(table, &plan.ruleset),
            Held::Unread | Held::Unknown => Transaction::replace(&plan.ruleset),
        };
        let ops = transaction.ops.len();
        let hash = match &self.held {
            Held::Table(_, hash) if transaction.is_empty() => hash.clone(),
            _ => {
                if let Err(error) = self.kernel.commit(&transaction) {
                    // Also a commit whose answer was lost may have taken effect.
                    self.held = Held::Unknown;
                    return Err(Failure::of(&error));
                }
                self.last_commit = Some(now());
                let hash = plan.ruleset.hash();
                self.held = Held::Table(plan.ruleset.clone(), hash.clone());
                hash
            }
        };
        Ok(Committed { value: plan, hash, last_commit: self.last_commit.clone(), ops })
    }

    /// Reads the table again: whether someone else has changed it. Then the next plan replaces it as a whole.
    pub fn recheck(&mut self) -> Result<bool, Failure> {
        let Held::Table(held, _) = &self.held else { return Ok(false) };
        let found = self.kernel.load().map_err(|error| Failure::of(&error))?;
        let changed = found.as_ref() != Some(held);
        if changed {
            self.held = Held::Unknown;
        }
        Ok(changed)
    }

    /// The kernel.
    #[cfg(test)]
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }
}
