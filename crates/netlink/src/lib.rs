//! Saying it to the kernel.
//!
//! *In:* a [`ruleset::Transaction`]. *Out:* one batch through nftnl and mnl, and what the kernel answered; the other way round, the table
//! as the kernel has it as a [`ruleset::Ruleset`], and its counters; the news that somebody else has touched it; and what of all this the
//! kernel does not take.
//!
//! ```text
//! Transaction ─ encode ─▶ messages ─ commit ─▶ one sendmsg          rule ─ assemble ─▶ expressions ─▶ libnftnl
//! Ruleset ◀─── load ───── listings ◀────────── socket              rule ◀─ recognize ─ expressions ◀─ libnftnl
//! ```
//!
//! Invariants
//! 1. One table, `inet k8s-sg`: no other is read, and no other is written, but one beside it while it is made anew as a whole
//!    (`guard`); what the kernel takes is tried in one that never comes to be. Of devices, only a bridge's switches that decide whether nftables
//!    sees its packets at all; that and which way packets take is read (`devices`, `connections`).
//! 2. A transaction is one batch in one `sendmsg`: all of it or nothing. One that makes the table anew is several; what is refused of it
//!    has changed nothing either.
//! 3. Whatever the kernel answers is an answer or an [`Error`], never a panic.
//! 4. `commit` and then `load` gives back the same value.
//! 5. This is the only crate with `unsafe`; each block names the library rule that makes it sound. Only the modules that touch libnftnl and
//!    the socket have any (`object`, `element`, `expression`, `message`, `socket`); what rules mean (`assemble`, `recognize`) and what
//!    steps are (`encode`, `commit`, `load`) is safe code above them.
//!
//! Not here: what the rules are to be (`ruleset`), and when to write them (the agent).

mod assemble;
mod attribute;
mod changes;
mod commit;
mod connections;
mod contents;
mod devices;
mod element;
mod encode;
mod error;
mod expression;
mod field;
mod guard;
mod load;
mod message;
mod object;
mod owner;
mod plain;
mod probe;
mod recognize;
mod socket;

use std::collections::BTreeMap;

use ruleset::{Counter, Kernel, Op, Ruleset, Transaction};

pub use changes::Changes;
pub use connections::Connections;
pub use devices::{Bridge, Device, Devices, Route};
pub use error::{Error, Refusal};
pub use probe::{Unsupported, unsupported};

use owner::Owner;
use socket::Socket;

/// The nftables of one network namespace: a long-lived netlink socket.
pub struct Nftables {
    socket: Socket,
    owner: Owner,
}

impl Nftables {
    /// Opens the socket, in the network namespace that the calling thread is in; it stays with that namespace.
    pub fn open() -> Result<Nftables, Error> {
        Ok(Nftables { socket: Socket::open().map_err(Error::Open)?, owner: Owner::Anybody })
    }

    /// The same, and nobody else shall be able to change the table as long as the socket is open, where the kernel leaves such a table in
    /// force when the socket closes: Linux 6.9 and newer, found out by trying. A table that another owner has left is adopted when it is
    /// loaded; one that was made otherwise is loaded as nothing that we have written, and so replaced as a whole.
    pub fn open_as_owner() -> Result<Nftables, Error> {
        let mut kernel = Nftables::open()?;
        kernel.owner = Owner::possible(&mut kernel.socket)?;
        Ok(kernel)
    }

    /// Whether the table that this socket makes or adopts is its own.
    pub fn is_owner(&self) -> bool {
        self.owner == Owner::Us
    }
}

impl Kernel for Nftables {
    type Error = Error;

    fn load(&mut self) -> Result<Option<Ruleset>, Error> {
        self.owner.adopt(&mut self.socket)?;
        load::load(&mut self.socket, self.owner)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        // What only removes the table is one batch like any other.
        match transaction.ops.as_slice() {
            [Op::AddTable, Op::DeleteTable, Op::AddTable, ..] => guard::replace(&mut self.socket, self.owner, transaction),
            _ => commit::commit(&mut self.socket, self.owner, transaction),
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        guard::settle(&mut self.socket)
    }

    fn refused(error: &Error) -> Option<Vec<usize>> {
        match error {
            Error::Malformed { index, .. } => Some(vec![*index]),
            // It names the step at which it ran out of memory, which may be any.
            Error::Refused { .. } if error.refusals().any(|refusal| matches!(refusal.errno, libc::ENOMEM | libc::ENOBUFS)) => {
                Some(Vec::new())
            }
            Error::Refused { .. } => Some(error.refusals().map(|refusal| refusal.index).collect()),
            Error::Send { .. } | Error::RefusedWhole(_) => Some(Vec::new()),
            Error::Open(_) | Error::Receive(_) | Error::NoAnswer | Error::Listing { .. } | Error::Unsettled { .. } => None,
        }
    }

    fn counters(&mut self) -> Result<BTreeMap<String, Counter>, Error> {
        load::counters(&mut self.socket)
    }
}
