//! What can go wrong between us and the kernel.

use std::io;

use ruleset::Op;

/// Why a call failed. After a failed commit nothing of its transaction is in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No socket.
    #[error("a netlink socket to nftables could not be opened")]
    Open(#[source] io::Error),
    /// The transaction was not sent, because it says what the kernel's format cannot carry or what the ruleset's contract forbids.
    #[error("step {index} of the transaction ({op}) was not sent: {reason}")]
    Malformed {
        /// Which op of the transaction, from 0.
        index: usize,
        /// That op.
        op: String,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// The kernel did not take the request.
    #[error("a request of {bytes} bytes could not be sent to the kernel")]
    Send {
        /// Its size.
        bytes: usize,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer could not be received")]
    Receive(#[source] io::Error),
    /// The kernel refused one or more ops, and with them the whole transaction.
    #[error("the kernel refused the transaction because of {} of its steps, the first being {first}", .others.len() + 1)]
    Refused {
        /// The first op that it refused; later ones are often only its consequence.
        #[source]
        first: Box<Refusal>,
        /// The other ops that it refused, in order.
        others: Vec<Refusal>,
        /// Whether these are all; false where the kernel had more to say than the socket could hold.
        complete: bool,
    },
    /// The kernel refused the transaction as a whole: no permission, no memory, or a conflict found at the end.
    #[error("the kernel refused the transaction as a whole: {}", meaning(.0))]
    RefusedWhole(#[source] io::Error),
    /// The kernel refused to list what we asked for.
    #[error("the kernel refused to list nftables' {what}: {}", meaning(.source))]
    Listing {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel said nothing of what it did with a request.
    #[error("the kernel did not answer in time")]
    NoAnswer,
    /// The tables changed so often that no consistent listing was to be had.
    #[error("nftables changed during each of {attempts} attempts to list it")]
    Unsettled {
        /// How often it was tried.
        attempts: usize,
    },
}

impl Error {
    /// The ops that the kernel refused, in order; empty for every other failure.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let (first, others) = match self {
            Error::Refused { first, others, .. } => (Some(&**first), others.as_slice()),
            _ => (None, [].as_slice()),
        };
        first.into_iter().chain(others)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Listing { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
    }
}

/// One op that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("step {index} ({op}): {text}")]
pub struct Refusal {
    /// Which op of the transaction, from 0.
    pub index: usize,
    /// That op.
    pub op: String,
    /// The kernel's error number, positive.
    pub errno: i32,
    /// The number's name and what it means here, with the kernel's own words where it has any.
    pub text: String,
    #[source]
    source: io::Error,
}

impl Refusal {
    pub(crate) fn new(index: usize, op: &Op, errno: i32, words: Option<&str>) -> Refusal {
        let source = io::Error::from_raw_os_error(errno);
        let mut text = format!("{:?}: {}", nix::errno::Errno::from_raw(errno), meaning(&source));
        if let Some(words) = words {
            text = format!("{text} ({words})");
        }
        Refusal { index, op: describe(op), errno, text, source }
    }
}

/// Why an op cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Names have 1 to 255 bytes.
    #[error("a name must have 1 to 255 bytes, none of them zero")]
    Name,
    /// The kernel's limit.
    #[error("a rule holds at most 128 expressions")]
    RuleTooLong,
    /// Ports of what has none.
    #[error("ports are matched only after a protocol that has ports")]
    PortsWithoutProtocol,
    /// No port is in it.
    #[error("a range of ports must not end before it begins")]
    PortsReversed,
    /// No address is in it, or more than one where there can be one only.
    #[error("a range of addresses must not end before it begins, and a single address is no range")]
    AddressesReversed,
    /// No packet has none.
    #[error("at least one connection state must be named")]
    NoState,
    /// ICMP of what is not ICMP.
    #[error("ICMP types and codes are matched only after the protocol of their family")]
    IcmpWithoutProtocol,
    /// A reset of what has no reset.
    #[error("only TCP can be reset, so the rule must match protocol 6")]
    ResetWithoutTcp,
    /// A library too old, or cut down.
    #[error("the linked libnftnl does not know an expression of the rule")]
    UnknownExpression,
    /// A network with host bits would come back from the kernel without them.
    #[error("a network must have its host bits cleared")]
    HostBits,
}

/// The op as text, short: one may carry thousands of elements.
pub(crate) fn describe(op: &Op) -> String {
    const LONGEST: usize = 200;
    let mut text = op.to_string();
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// What the kernel's error numbers mean for nftables; the usual texts ("No such file or directory") mislead.
fn meaning(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(libc::ENOENT) => "it, or something that it names, does not exist",
        Some(libc::EEXIST) => "it exists already, or with another value",
        Some(libc::EBUSY) => "something still refers to it",
        Some(libc::EPERM | libc::EACCES) => {
            "not permitted (CAP_NET_ADMIN in this network namespace is needed, and no other owner of the table)"
        }
        Some(libc::EINVAL) => "the kernel finds it invalid",
        Some(libc::EOPNOTSUPP) => "this kernel does not support it",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the kernel has no memory for it",
        Some(libc::ELOOP) => "chains would jump in a circle",
        Some(libc::EMLINK) => "chains would jump deeper than 16 levels",
        Some(libc::ENAMETOOLONG | libc::ERANGE) => "a value is longer or larger than the kernel takes",
        Some(libc::ERESTART) => "the tables changed in the meantime",
        _ => return error.to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use ruleset::Kernel;

    use super::*;
    use crate::Nftables;

    #[test]
    fn a_refusal_names_its_number_once() {
        let refusal = Refusal::new(2, &Op::AddTable, libc::ENOENT, Some("words"));
        assert_eq!(refusal.text, "ENOENT: it, or something that it names, does not exist (words)");
        assert_eq!(refusal.to_string(), format!("step 2 ({}): {}", refusal.op, refusal.text));
    }

    #[test]
    fn a_step_is_refused_for_what_it_is_and_not_because_memory_ran_out_at_it() {
        let refused = |errno| {
            let first = Box::new(Refusal::new(2, &Op::AddTable, errno, None));
            Nftables::refused(&Error::Refused { first, others: Vec::new(), complete: true })
        };
        assert_eq!(refused(libc::EINVAL), Some(vec![2]));
        assert_eq!(refused(libc::ENOMEM), Some(vec![]));
        assert_eq!(Nftables::refused(&Error::RefusedWhole(io::Error::from_raw_os_error(libc::EPERM))), Some(vec![]));
        assert_eq!(Nftables::refused(&Error::NoAnswer), None, "it may have taken all");
    }
}
