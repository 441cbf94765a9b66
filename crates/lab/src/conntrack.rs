//! The connections that the kernel of a namespace knows.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Namespace;

impl Namespace {
    /// Forgets all connections, so that a packet of any of them opens a new one.
    pub fn forget_connections(&self) -> Result<()> {
        self.run(forget)?.with_context(|| format!("forgetting the connections of {}", self.name()))
    }
}

fn forget() -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    // A netlink header (length, IPCTNL_MSG_CT_DELETE, REQUEST and ACK) and a netfilter one for every family.
    let mut message = Vec::from(20u32.to_ne_bytes());
    message.extend([0x0102u16.to_ne_bytes(), 5u16.to_ne_bytes()].concat());
    message.extend([0; 12]);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // The error number of the acknowledgement stands behind its header.
    match answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
