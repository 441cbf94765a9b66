//! One transaction as up to three, so that packets under way miss nothing (S42).
//!
//! A batch changes all rules at one moment, but a packet that has begun with the rules from before finds maps and sets as they are now: a
//! jump into a chain that is new finds it empty, a map that goes has lost its elements, and on newer kernels an interval set that is new has
//! none before the end of the batch. At ten thousand packets a second a few of a thousand changes met one. So what is new is made and filled
//! while nothing refers to it; then one batch changes what packets meet; and what nothing refers to any more goes after that. The first and
//! the last change no verdict.
//!
//! Not for a table that is replaced as a whole: it has one name, and its rules must not be missing for a moment. That is the kernel's side's
//! to see to, by a second table that guards meanwhile.

use std::collections::BTreeSet;

use crate::{Op, Transaction};

/// When a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// What is new is made and filled; nothing refers to it.
    Make,
    /// What packets meet is changed.
    Change,
    /// What nothing refers to any more goes.
    Clear,
}

impl Transaction {
    /// The steps of this transaction as transactions to be committed one after another; none of them is empty.
    pub fn phases(self) -> Vec<(Phase, Transaction)> {
        if self.replaces() {
            return vec![(Phase::Change, self)];
        }
        let (mut made, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for op in &self.ops {
            match op {
                Op::AddChain(name, None) => made.insert((true, name.clone())),
                Op::AddSet(name, _) | Op::AddIntervalSet(name, _) | Op::AddMap(name, _) => made.insert((false, name.clone())),
                Op::AddPortMap(name, _) | Op::AddCounterMap(name, ..) => made.insert((false, name.clone())),
                Op::DeleteChain(name) => gone.insert((true, name.clone())),
                Op::DeleteSet(name) | Op::DeleteIntervalSet(name) | Op::DeleteMap(name) => gone.insert((false, name.clone())),
                _ => false,
            };
        }
        // Of chains and of sets: each have names of their own.
        let of = |chain: bool, name: &String| match (chain, name.clone()) {
            key if made.contains(&key) => Phase::Make,
            key if gone.contains(&key) => Phase::Clear,
            _ => Phase::Change,
        };
        let phase = |op: &Op| match op {
            Op::AddTable | Op::DeleteTable => Phase::Change,
            Op::AddCounter(_) | Op::ContinueCounter(..) => Phase::Make,
            Op::DeleteCounter(_) => Phase::Clear,
            Op::AddChain(name, _) | Op::FlushChain(name) | Op::DeleteChain(name) | Op::AddRule(name, _) => of(true, name),
            Op::AddSet(name, _) | Op::AddIntervalSet(name, _) | Op::AddMap(name, _) | Op::AddPortMap(name, _) => of(false, name),
            Op::AddCounterMap(name, ..) | Op::AddCounted(name, _) | Op::DeleteCounted(name, _) => of(false, name),
            Op::DeleteSet(name) | Op::DeleteIntervalSet(name) | Op::DeleteMap(name) => of(false, name),
            Op::AddElements(name, _) | Op::DeleteElements(name, _) => of(false, name),
            Op::AddIntervals(name, _) | Op::DeleteIntervals(name, _) => of(false, name),
            Op::AddMapElements(name, _) | Op::DeleteMapElements(name, _) => of(false, name),
            Op::AddPorts(name, _) | Op::DeletePorts(name, _) => of(false, name),
        };
        let mut phases = [Phase::Make, Phase::Change, Phase::Clear].map(|phase| (phase, Vec::new()));
        for op in self.ops {
            let at = phase(&op);
            if let Some((_, ops)) = phases.iter_mut().find(|(phase, _)| *phase == at) {
                ops.push(op);
            }
        }
        phases.into_iter().filter(|(_, ops)| !ops.is_empty()).map(|(phase, ops)| (phase, Transaction { ops })).collect()
    }
}
