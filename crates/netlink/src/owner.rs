//! A table that belongs to our socket: others may read it and not change it, and `nft flush ruleset` passes it by.
//!
//! It is made to persist: when the socket closes, however that comes, the table stays in force and belongs to nobody until the next one adopts
//! it. Both flags or none: a table with an owner that does not persist would go with its owner, and everything would be open.

use std::ffi::CString;

use ruleset::{Op, Transaction};

use crate::encode::table_name;
use crate::error::Error;
use crate::object::Table;
use crate::socket::Socket;
use crate::{commit, load, probe};

/// `NFT_TABLE_F_OWNER`
const OWNER: u32 = 2;
/// `NFT_TABLE_F_PERSIST`, of Linux 6.9 and newer.
const PERSIST: u32 = 4;

/// Whose our table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Anybody's who may change tables at all.
    Anybody,
    /// The socket's that made or adopted it.
    Us,
}

impl Owner {
    /// The table's flags.
    pub(crate) fn flags(self) -> u32 {
        match self {
            Owner::Anybody => 0,
            Owner::Us => OWNER | PERSIST,
        }
    }

    /// Ours where the kernel can do both.
    pub(crate) fn possible(socket: &mut Socket) -> Result<Owner, Error> {
        let table = CString::new(probe::TABLE).unwrap_or_default();
        match commit::check(socket, &table, Owner::Us, &make()) {
            Ok(()) => Ok(Owner::Us),
            Err(error) => probe::refusal(&error).map(|_| Owner::Anybody).ok_or(error),
        }
    }

    /// Takes over a table that an earlier owner has left. Any other stays as it is, to be replaced as a whole.
    pub(crate) fn adopt(self, socket: &mut Socket) -> Result<(), Error> {
        let left = |table: &Table| table.number(Table::FLAGS) == PERSIST;
        if self == Owner::Us && load::table(socket, &table_name(), left)? == Some(true) {
            commit::commit(socket, self, &make())?;
        }
        Ok(())
    }
}

fn make() -> Transaction {
    Transaction { ops: vec![Op::AddTable] }
}
