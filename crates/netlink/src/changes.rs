//! Who else touches our table: the kernel tells of every change of any table, and whose socket made it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, setsockopt, socket, sockopt,
};
use ruleset::TABLE;

use crate::Nftables;
use crate::attribute::{attributes, half, text, word};
use crate::error::Error;

/// nlmsghdr and nfgenmsg, in bytes.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// The attribute that names the table, in messages of every kind; but in NEWGEN it is the generation.
const TABLE_NAME: u16 = 1;
/// `NFNLGRP_NFTABLES`, as a bit of the groups that a socket listens to.
const GROUP: u32 = 1 << (libc::NFNLGRP_NFTABLES - 1);
/// One message of elements is up to 64 KiB.
const BUFFER: usize = 128 * 1024;
/// What waits while we are busy: others may fill their tables meanwhile.
const WAITING: usize = 4 * 1024 * 1024;

/// Changes of our table that another socket made.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
    own: u32,
    buffer: Vec<u8>,
}

impl Nftables {
    /// Listens for changes that others make, in the network namespace that the calling thread is in.
    pub fn changes(&self) -> Result<Changes, Error> {
        let open = || -> io::Result<Changes> {
            let own = getsockname::<NetlinkAddr>(self.socket.descriptor().as_raw_fd())?.pid();
            let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
            setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &WAITING)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            Ok(Changes { socket, own, buffer: vec![0; BUFFER] })
        };
        open().map_err(Error::Open)
    }
}

impl Changes {
    /// Waits until somebody else has touched our table, or may have: what the socket cannot hold is not known.
    pub fn wait(&mut self) -> io::Result<()> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) if foreign(&self.buffer[..length], self.own) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether one of these messages tells of our table, and of another's socket than this.
fn foreign(mut messages: &[u8], own: u32) -> bool {
    while let Some(header) = messages.get(..HEADER + GENERIC) {
        let length = word(header) as usize;
        let kind = half(&header[4..]);
        let Some(message) = messages.get(..length).filter(|message| message.len() >= HEADER + GENERIC) else { return false };
        let of_nftables = i32::from(kind >> 8) == libc::NFNL_SUBSYS_NFTABLES && i32::from(kind & 0xff) != libc::NFT_MSG_NEWGEN;
        let of_inet = i32::from(header[HEADER]) == libc::NFPROTO_INET;
        let of_ours = || attributes(message.get(HEADER + GENERIC..)).any(|(kind, value)| kind == TABLE_NAME && text(value) == TABLE);
        if of_nftables && of_inet && word(&header[12..]) != own && of_ours() {
            return true;
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::attribute;

    fn message(kind: i32, family: i32, port: u32, table: &str) -> Vec<u8> {
        let mut body = vec![family as u8, 0, 0, 0];
        attribute(&mut body, TABLE_NAME, format!("{table}\0").as_bytes());
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend((libc::NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes().iter().take(2));
        message.extend([0; 6]);
        message.extend(port.to_ne_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn only_what_others_do_to_our_table_counts() {
        let inet = libc::NFPROTO_INET;
        let theirs = message(libc::NFT_MSG_NEWRULE, inet, 7, TABLE);
        assert!(foreign(&theirs, 8));
        assert!(!foreign(&theirs, 7), "our own");
        assert!(!foreign(&message(libc::NFT_MSG_NEWRULE, inet, 7, "kube-proxy"), 8), "their own");
        assert!(!foreign(&message(libc::NFT_MSG_NEWRULE, libc::NFPROTO_IPV4, 7, TABLE), 8), "a table of another family");
        assert!(!foreign(&message(libc::NFT_MSG_NEWGEN, inet, 7, TABLE), 8), "no table, a generation");
        let several = [message(libc::NFT_MSG_NEWRULE, inet, 7, "other"), theirs.clone()].concat();
        assert!(foreign(&several, 8), "the second of two");
        for length in 0..theirs.len() {
            assert!(!foreign(&theirs[..length], 8), "cut off");
        }
        assert!(!foreign(&[0; 64], 8));
    }
}
