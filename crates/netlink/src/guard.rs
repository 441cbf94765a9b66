//! A table that is made anew as a whole, and no packet notices (S42).
//!
//! One batch would do it for the table, but not for packets under way: those that have begun with the old rules find the old sets and maps
//! without elements, and interval sets that are new are empty to newer kernels until the end of the batch. The table has one name, so for that
//! time there is a second one, the guard:
//!
//! 1. The guard is made, its base chains last. From then on a packet must pass both: old rules and new ones.
//! 2. The table's base chains go, and once no packet is under way in it, the rest.
//! 3. The table is made, its base chains last.
//! 4. The guard goes as the table went.
//!
//! Whatever ends this half-way, one of the two judges at every moment. A guard that is left behind goes as soon as the table is as it should be
//! ([`ruleset::Kernel::settle`]); where there is no table, it guards until there is one. What the kernel refuses it refuses in the first step,
//! and nothing has changed.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::time::Duration;

use ruleset::{Op, Transaction};

use crate::commit::send;
use crate::encode::{encode, table_name};
use crate::error::Error;
use crate::load;
use crate::message::{Body, Message};
use crate::object::Chain;
use crate::owner::Owner;
use crate::socket::Socket;

/// The guard's name.
const GUARD: &CStr = c"k8s-sg-next";
/// What packets are given that are under way where no other comes: they need microseconds, and a processor that is taken away a little longer.
const UNDER_WAY: Duration = Duration::from_millis(10);

/// Makes the table anew by a transaction that begins with its removal.
pub(crate) fn replace(socket: &mut Socket, owner: Owner, transaction: &Transaction) -> Result<(), Error> {
    let table = table_name();
    // One without base chains guards nothing: it was being made, or taken away.
    let guarded = !base_chains(socket, GUARD)?.is_empty();
    if !guarded {
        remove(socket, GUARD)?;
    }
    if !guarded && !base_chains(socket, &table)?.is_empty() {
        make(socket, GUARD, owner, transaction).inspect_err(|_| drop(remove(socket, GUARD)))?;
    }
    if let Err(error) = remove(socket, &table) {
        // Where the table goes on guarding, no second one does.
        if !base_chains(socket, &table)?.is_empty() {
            remove(socket, GUARD)?;
        }
        return Err(error);
    }
    make(socket, &table, owner, transaction)?;
    remove(socket, GUARD)
}

/// Removes a guard that was left behind.
pub(crate) fn settle(socket: &mut Socket) -> Result<(), Error> {
    remove(socket, GUARD)
}

/// All that nobody meets first, then the base chains with their rules.
fn make(socket: &mut Socket, table: &CStr, owner: Owner, transaction: &Transaction) -> Result<(), Error> {
    let base = |op: &Op| if let Op::AddChain(name, Some(_)) = op { Some(name.clone()) } else { None };
    let bases: BTreeSet<String> = transaction.ops.iter().filter_map(base).collect();
    let is_met = |op: &Op| matches!(op, Op::AddChain(name, _) | Op::AddRule(name, _) if bases.contains(name));
    // Adding and deleting what was there before is not for here.
    let removal = transaction.ops.iter().position(|op| *op == Op::DeleteTable);
    let steps = encode(table, owner, transaction)?.into_iter().filter(|(index, _)| removal.is_none_or(|removal| *index > removal));
    let (met, unmet): (Vec<_>, Vec<_>) = steps.partition(|(index, _)| transaction.ops.get(*index).is_some_and(is_met));
    send(socket, transaction, &unmet)?;
    send(socket, transaction, &met)
}

/// Takes a table away, if there is one: first what leads packets into it.
fn remove(socket: &mut Socket, table: &CStr) -> Result<(), Error> {
    if load::table(socket, table, |_| true)?.is_none() {
        return Ok(());
    }
    let bases = base_chains(socket, table)?;
    if !bases.is_empty() {
        let unhook = Transaction { ops: bases.into_iter().map(Op::DeleteChain).collect() };
        let messages = encode(table, Owner::Anybody, &unhook)?;
        // Where they cannot go by themselves, they go with the table.
        if send(socket, &unhook, &messages).is_ok() {
            std::thread::sleep(UNDER_WAY);
        }
    }
    // The same step as in what makes a table anew; there is one, so the step before is not needed.
    let removal = Transaction { ops: vec![Op::AddTable, Op::DeleteTable] };
    let messages: Vec<_> = encode(table, Owner::Anybody, &removal)?.into_iter().filter(|(index, _)| *index == 1).collect();
    send(socket, &removal, &messages)
}

/// What leads packets into a table.
fn base_chains(socket: &mut Socket, table: &CStr) -> Result<Vec<String>, Error> {
    let request = Message::new(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP, Body::Empty);
    let bases = socket.ask("base chains", &request, |reply| {
        let chain = Chain::parse(reply).filter(|chain| chain.is_set(Chain::HOOK))?;
        chain.text(Chain::TABLE).filter(|of| of.as_c_str() == table)?;
        chain.text(Chain::NAME).map(CString::into_string)?.ok()
    })?;
    Ok(bases.into_iter().flatten().collect())
}
