//! The netlink socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, sendmsg, setsockopt, sockopt};

use crate::error::Error;
use crate::message::Message;

/// The kernel writes no longer piece of a listing, and answers to a batch are short (NETLINK_CAP_ACK).
const BUFFER: usize = 64 * 1024;
/// How long the kernel may think about a listing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a listing is begun anew because the tables changed meanwhile.
const ATTEMPTS: usize = 100;

/// Bound to nf_tables, not blocking.
pub(crate) struct Socket {
    socket: mnl::Socket,
    /// Of u64, because netlink messages must be aligned.
    buffer: Vec<u64>,
    sequence: u32,
    send_buffer: usize,
    receive_buffer: usize,
}

// SAFETY: the only part that is not Send by itself is libmnl's socket, a file descriptor and a port number in memory of its own; libmnl keeps
// nothing per thread, and only the owner of the `Socket` reaches it.
unsafe impl Send for Socket {}

/// A whole message from the kernel: aligned, with a header and an nfgenmsg (or as many other bytes), as long as the header says.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a>(&'a [u8]);

impl Reply<'_> {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    const SHORTEST: usize = Self::HEADER + 4;

    fn new(message: &[u8]) -> Option<Reply<'_>> {
        let aligned = message.as_ptr().cast::<libc::nlmsghdr>().is_aligned();
        (aligned && message.len() >= Self::SHORTEST).then_some(Reply(message))
    }

    pub(crate) fn header(&self) -> *const libc::nlmsghdr {
        self.0.as_ptr().cast()
    }

    fn half(&self, at: usize) -> u16 {
        self.0.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes)
    }

    fn word(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    fn kind(&self) -> i32 {
        i32::from(self.half(4))
    }

    fn flags(&self) -> i32 {
        i32::from(self.half(6))
    }

    fn sequence(&self) -> u32 {
        self.word(8)
    }

    /// The error number (0: success) of an acknowledgement or of the end of a listing.
    fn status(&self) -> i32 {
        (self.word(Self::HEADER) as i32).saturating_neg()
    }

    /// The kernel's own words (NETLINK_EXT_ACK), which stand behind the header of the message that they are about.
    fn words(&self) -> Option<String> {
        const MESSAGE: u16 = 1; // NLMSGERR_ATTR_MSG
        if self.flags() & libc::NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let mut at = Self::HEADER + 4 + Self::HEADER;
        while at + 4 <= self.0.len() {
            let (length, kind) = (usize::from(self.half(at)), self.half(at + 2));
            if length < 4 {
                return None;
            }
            if kind == MESSAGE {
                let text = self.0.get(at + 4..at + length)?;
                return Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            }
            at += length.next_multiple_of(4);
        }
        None
    }
}

/// What the kernel said of one message of a batch.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) sequence: u32,
    /// 0: it was taken.
    pub(crate) errno: i32,
    pub(crate) words: Option<String>,
}

impl Socket {
    pub(crate) fn open() -> io::Result<Socket> {
        let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
        let mut socket = Socket { socket, buffer: vec![0; BUFFER / size_of::<u64>()], sequence: 0, send_buffer: 0, receive_buffer: 0 };
        fcntl(socket.descriptor(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // libmnl opens it without; a program that we start must not inherit it.
        fcntl(socket.descriptor(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // Errors come back without a copy of the message (64 KiB of elements each), and with a text where the kernel has one.
        socket.enable(libc::NETLINK_CAP_ACK)?;
        socket.enable(libc::NETLINK_EXT_ACK)?;
        socket.reserve(256 * 1024, 1024)?;
        Ok(socket)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: mnl::Socket keeps its descriptor open as long as it lives, and it is borrowed for the lifetime.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn enable(&self, option: i32) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: setsockopt reads `size_of::<c_int>()` bytes at the pointer, and the descriptor is open.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Makes room for a batch of so many bytes and for one answer to each of its messages. By force, since the usual limits
    /// (`net.core.wmem_max`, about 200 KiB) are less than one batch or 256 answers.
    pub(crate) fn reserve(&mut self, bytes: usize, messages: usize) -> io::Result<()> {
        /// What the kernel keeps beside a batch's bytes.
        const SPARE: usize = 64 * 1024;
        /// What the kernel charges for one short answer.
        const ANSWER: usize = 2 * 1024;
        // The kernel doubles what it is given, and takes at most half of an int.
        const MOST: usize = i32::MAX as usize / 2;
        let (send, receive) = ((bytes + SPARE).min(MOST), (BUFFER + messages * ANSWER).min(MOST));
        if send > self.send_buffer {
            // Without CAP_NET_ADMIN the kernel refuses the batch, and says so better than here.
            setsockopt(&self.descriptor(), sockopt::SndBufForce, &send)
                .or_else(|_| setsockopt(&self.descriptor(), sockopt::SndBuf, &send))?;
            self.send_buffer = send;
        }
        if receive > self.receive_buffer {
            setsockopt(&self.descriptor(), sockopt::RcvBufForce, &receive)
                .or_else(|_| setsockopt(&self.descriptor(), sockopt::RcvBuf, &receive))?;
            self.receive_buffer = receive;
        }
        Ok(())
    }

    /// All pieces in one `sendmsg`, for the kernel takes a batch only whole.
    pub(crate) fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Error> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let failed = |source: io::Error| Error::Send { bytes, source };
        loop {
            match sendmsg::<NetlinkAddr>(self.socket.as_raw_fd(), pieces, &[], MsgFlags::empty(), None) {
                Ok(sent) if sent == bytes => return Ok(()),
                Ok(sent) => return Err(failed(io::Error::other(format!("only {sent} bytes were taken")))),
                // Interrupted before the kernel looked at it.
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// What lies ready; none where nothing does. `ENOBUFS` says that the kernel had more to say.
    fn receive(&mut self) -> io::Result<Option<mnl::NlMessages<'_>>> {
        let size = self.buffer.len() * size_of::<u64>();
        // SAFETY: these are the initialized bytes of our buffer, which nobody else reaches while `self` is borrowed mutably; any bytes are
        // valid u64s.
        let buffer = unsafe { std::slice::from_raw_parts_mut(self.buffer.as_mut_ptr().cast::<u8>(), size) };
        loop {
            match self.socket.recv_raw(buffer) {
                Ok(length) => return Ok(Some(mnl::NlMessages::new(&buffer[..length]))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Throws away what an earlier call left unread.
    pub(crate) fn discard(&mut self) -> Result<(), Error> {
        loop {
            match self.receive() {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(Error::Receive(error)),
            }
        }
    }

    /// What the kernel said of a batch, and whether that is all: it works on a batch within `sendmsg`, so all answers lie ready after it.
    pub(crate) fn verdicts(&mut self) -> Result<(Vec<Verdict>, bool), Error> {
        let (mut verdicts, mut complete) = (Vec::new(), true);
        loop {
            let messages = match self.receive() {
                Ok(None) => return Ok((verdicts, complete)),
                Ok(Some(messages)) => messages,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    complete = false;
                    continue;
                }
                Err(error) => return Err(Error::Receive(error)),
            };
            for message in messages {
                let Some(reply) = Reply::new(message.map_err(Error::Receive)?) else { continue };
                // The answer names the message that it is about in a copy of its header.
                if reply.kind() == libc::NLMSG_ERROR {
                    let sequence = reply.word(Reply::HEADER + 4 + 8);
                    verdicts.push(Verdict { sequence, errno: reply.status(), words: reply.words() });
                }
            }
        }
    }

    /// Asks, and reads each message of the answer. A listing during which the tables changed is begun anew.
    pub(crate) fn ask<T>(&mut self, what: &'static str, request: &Message, read: impl Fn(Reply<'_>) -> T) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            self.discard()?;
            self.sequence = self.sequence.wrapping_add(1).max(1);
            let bytes = request.to_bytes(self.sequence);
            self.send(&[IoSlice::new(&bytes)])?;
            if let Some(answer) = self.answer(what, &read)? {
                return Ok(answer);
            }
        }
        Err(Error::Unsettled { attempts: ATTEMPTS })
    }

    /// None where it is not consistent.
    fn answer<T>(&mut self, what: &'static str, read: &impl Fn(Reply<'_>) -> T) -> Result<Option<Vec<T>>, Error> {
        let (mut answer, mut consistent) = (Vec::new(), true);
        let (sequence, deadline) = (self.sequence, Instant::now() + PATIENCE);
        loop {
            let messages = match self.receive() {
                Ok(Some(messages)) => messages,
                Ok(None) => {
                    self.wait(deadline)?;
                    continue;
                }
                // The kernel could not deliver part of it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(error) => return Err(Error::Receive(error)),
            };
            for message in messages {
                let Some(reply) = Reply::new(message.map_err(Error::Receive)?) else { continue };
                if reply.sequence() != sequence {
                    continue;
                }
                consistent &= reply.flags() & libc::NLM_F_DUMP_INTR == 0;
                match reply.kind() {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match reply.status() {
                            0 if consistent => Ok(Some(answer)),
                            0 | libc::EINTR => Ok(None),
                            errno => Err(Error::Listing { what, source: io::Error::from_raw_os_error(errno) }),
                        };
                    }
                    libc::NLMSG_NOOP | libc::NLMSG_OVERRUN => {}
                    _ => answer.push(read(reply)),
                }
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.descriptor(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            Ok(0) => Err(Error::NoAnswer),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Receive(errno.into())),
        }
    }
}
