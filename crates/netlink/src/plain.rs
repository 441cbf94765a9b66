//! Questions in plain bytes, for the parts of netlink that libnftnl has nothing to do with.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::attribute::{half, word};

/// nlmsghdr, in bytes.
const HEADER: usize = 16;
/// One device with all its statistics is a few KiB; the kernel writes no longer piece of a listing than half of this.
const BUFFER: usize = 64 * 1024;

/// A socket of one netlink protocol, in one network namespace.
#[derive(Debug)]
pub(crate) struct Plain {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Plain {
    /// In the network namespace that the calling thread is in; it stays with that namespace.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Plain> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // The kernel answers within `send`: this is for a kernel that does not answer at all.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        Ok(Plain { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends one message; what follows the header of the one that answers.
    pub(crate) fn ask(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.exchange(kind, flags, body, |message| answer = message.to_vec())?;
        Ok(answer)
    }

    /// Asks for a listing; what follows the header of each of its messages.
    pub(crate) fn list(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.exchange(kind, libc::NLM_F_DUMP, body, each)
    }

    fn exchange(&mut self, kind: u16, flags: i32, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
                let length = word(rest) as usize;
                let (header, answer) = rest.get(..length).and_then(|message| message.split_at_checked(HEADER)).ok_or_else(cut)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // What answers an earlier question that was given up.
                if word(&header[8..]) != self.sequence {
                    continue;
                }
                match i32::from(half(&header[4..])) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match word(answer) as i32 {
                            0 => Ok(()),
                            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                        };
                    }
                    _ => each(answer),
                }
                if half(&header[6..]) & libc::NLM_F_MULTI as u16 == 0 {
                    return Ok(());
                }
            }
        }
    }
}
