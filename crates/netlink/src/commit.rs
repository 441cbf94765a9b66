//! A transaction as one batch, and the kernel's answer to it.

use std::ffi::CStr;
use std::io::{self, IoSlice};

use nftnl::{Batch, MsgType};
use ruleset::Transaction;
use tracing::debug;

use crate::encode::{encode, table_name};
use crate::error::{Error, Refusal};
use crate::message::Message;
use crate::owner::Owner;
use crate::socket::{Socket, Verdict};

/// Applies a transaction as a whole or not at all. One that changes nothing costs no system call.
pub(crate) fn commit(socket: &mut Socket, owner: Owner, transaction: &Transaction) -> Result<(), Error> {
    send(socket, transaction, &encode(&table_name(), owner, transaction)?)
}

/// Sends messages of a transaction, which need not be all it has, as one batch.
pub(crate) fn send(socket: &mut Socket, transaction: &Transaction, messages: &[(usize, Message)]) -> Result<(), Error> {
    let Some((_, last)) = messages.last() else { return Ok(()) };
    // Errors are reported unasked. One acknowledgement at the end tells success from silence; more of them would only fill the socket.
    last.acknowledge();

    let mut batch = Batch::new();
    for (_, message) in messages {
        batch.add(message, MsgType::Add);
    }
    let batch = batch.finalize();
    let pages: Vec<IoSlice<'_>> = batch.iter().map(IoSlice::new).collect();
    let bytes = pages.iter().map(|page| page.len()).sum();

    socket.discard()?;
    socket.reserve(bytes, messages.len()).map_err(|source| Error::Send { bytes, source })?;
    socket.send(&pages)?;
    let (verdicts, complete) = socket.verdicts()?;
    debug!(ops = transaction.ops.len(), messages = messages.len(), bytes, answers = verdicts.len(), "batch sent");
    judge(transaction, messages, &verdicts, complete)
}

/// Whether the kernel would take a transaction on that table; it does not come to be. The kernel takes back a batch that has no end.
pub(crate) fn check(socket: &mut Socket, table: &CStr, owner: Owner, transaction: &Transaction) -> Result<(), Error> {
    let messages = encode(table, owner, transaction)?;
    let Some((_, last)) = messages.last() else { return Ok(()) };
    last.acknowledge();
    let mut batch = begin();
    for (number, (_, message)) in messages.iter().enumerate() {
        batch.extend(message.to_bytes(FIRST + number as u32));
    }
    socket.discard()?;
    socket.reserve(batch.len(), messages.len()).map_err(|source| Error::Send { bytes: batch.len(), source })?;
    socket.send(&[IoSlice::new(&batch)])?;
    let (verdicts, complete) = socket.verdicts()?;
    judge(transaction, &messages, &verdicts, complete)
}

/// The number of the first message behind the one that begins the batch.
const FIRST: u32 = 1;

/// nlmsghdr and nfgenmsg of `NFNL_MSG_BATCH_BEGIN`.
fn begin() -> Vec<u8> {
    const LENGTH: u32 = 20;
    let mut message = LENGTH.to_ne_bytes().to_vec();
    message.extend((libc::NFNL_MSG_BATCH_BEGIN as u16).to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 4 + 4]);
    message.extend([libc::AF_UNSPEC as u8, 0]);
    message.extend((libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes());
    message
}

fn judge(transaction: &Transaction, messages: &[(usize, Message)], verdicts: &[Verdict], complete: bool) -> Result<(), Error> {
    let first = messages.first().map_or(0, |(_, message)| message.sequence());
    let op_of = |verdict: &Verdict| {
        let place = verdict.sequence.checked_sub(first)?;
        messages.get(place as usize).map(|(index, _)| *index)
    };
    let mut refusals: Vec<Refusal> = Vec::new();
    let mut whole = None;
    for verdict in verdicts.iter().filter(|verdict| verdict.errno != 0) {
        match op_of(verdict).and_then(|index| Some((index, transaction.ops.get(index)?))) {
            // Several messages of one op are refused for the same reason.
            Some((index, _)) if refusals.last().is_some_and(|last| last.index == index) => {}
            Some((index, op)) => refusals.push(Refusal::new(index, op, verdict.errno, verdict.words.as_deref())),
            None => whole = Some(io::Error::from_raw_os_error(verdict.errno)),
        }
    }
    refusals.sort_by_key(|refusal| refusal.index);
    let mut refusals = refusals.into_iter();
    if let Some(first) = refusals.next() {
        return Err(Error::Refused { first: Box::new(first), others: refusals.collect(), complete });
    }
    if let Some(error) = whole {
        return Err(Error::RefusedWhole(error));
    }
    // What overruns the socket are errors, for we asked for one acknowledgement.
    if !complete {
        return Err(Error::RefusedWhole(io::Error::from_raw_os_error(libc::ENOBUFS)));
    }
    let last = messages.last().map(|(_, message)| message.sequence());
    if verdicts.iter().any(|verdict| Some(verdict.sequence) == last) { Ok(()) } else { Err(Error::NoAnswer) }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{setsockopt, sockopt};
    use ruleset::{Op, Ruleset};

    use super::*;
    use crate::load::load;

    /// More answers than the socket holds: the transaction failed, it is said that there is more to say, and the next call does not take
    /// the leftovers for its own answer.
    #[test]
    fn a_socket_that_overflows_does_not_pass_for_success() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a network namespace of its own; run these tests as root: sudo -E cargo test -p netlink");
            let mut socket = Socket::open().expect("a netlink socket");
            let absent = Transaction { ops: (0..2_000).map(|number| Op::DeleteCounter(format!("absent-{number}"))).collect() };
            socket.reserve(1 << 20, 1 << 16).expect("room");
            setsockopt(&socket.descriptor(), sockopt::RcvBuf, &4096).expect("a small buffer");

            let error = commit(&mut socket, Owner::Anybody, &absent).expect_err("there is no table");
            let Error::Refused { first, complete, .. } = error else { panic!("{error}") };
            assert_eq!((first.index, first.errno, complete), (0, libc::ENOENT, false));
            commit(&mut socket, Owner::Anybody, &Transaction { ops: vec![Op::AddTable] }).expect("a legal transaction");
            assert_eq!(load(&mut socket, Owner::Anybody).expect("a listing"), Some(Ruleset::default()));
        };
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    /// A dry run finds what a commit would find, also where only the whole is wrong or a table is there, and leaves nothing.
    #[test]
    fn a_dry_run_is_judged_like_a_commit_and_leaves_nothing() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a network namespace of its own; run these tests as root: sudo -E cargo test -p netlink");
            let mut socket = Socket::open().expect("a netlink socket");
            let good = Transaction { ops: vec![Op::AddTable, Op::AddCounter("one".into())] };
            let bad = Transaction { ops: [good.ops.clone(), vec![Op::DeleteCounter("two".into())]].concat() };
            for _ in 0..2 {
                check(&mut socket, &table_name(), Owner::Anybody, &good).expect("it would be taken");
                let error = check(&mut socket, &table_name(), Owner::Anybody, &bad).expect_err("it would not");
                let Error::Refused { first, complete, .. } = error else { panic!("{error}") };
                assert_eq!((first.index, first.errno, complete), (2, libc::ENOENT, true));
                assert_eq!(load(&mut socket, Owner::Anybody).expect("a listing"), None);
            }
            commit(&mut socket, Owner::Anybody, &good).expect("a legal transaction");
            assert!(load(&mut socket, Owner::Anybody).expect("a listing").is_some());
        };
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
