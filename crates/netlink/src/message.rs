//! One netlink message: a step of a batch, or a request.

use std::cell::Cell;
use std::ffi::c_void;

use nftnl::{MsgType, NlMsg};
use nftnl_sys as sys;

use crate::object::{Chain, Flowtable, Object, Rule, Set, Table};

/// A message of nf_tables in the inet family.
pub(crate) struct Message {
    /// `NFT_MSG_*`
    kind: i32,
    /// `NLM_F_*`, without REQUEST, which every message gets.
    flags: Cell<i32>,
    body: Body,
    /// The number that it was last sent under.
    sequence: Cell<u32>,
}

/// What a message is about.
pub(crate) enum Body {
    Empty,
    Table(Table),
    Chain(Chain),
    Rule(Rule),
    Set(Set),
    Elements(Set),
    Object(Object),
    Flowtable(Flowtable),
}

impl Message {
    pub(crate) fn new(kind: i32, flags: i32, body: Body) -> Message {
        Message { kind, flags: Cell::new(flags), body, sequence: Cell::new(0) }
    }

    /// Asks the kernel for an answer also to success.
    pub(crate) fn acknowledge(&self) {
        self.flags.set(self.flags.get() | libc::NLM_F_ACK);
    }

    pub(crate) fn sequence(&self) -> u32 {
        self.sequence.get()
    }

    /// The message as bytes, for sending it outside a batch.
    pub(crate) fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        let mut buffer = vec![0_u64; (nftnl::nft_nlmsg_maxsize() as usize).div_ceil(size_of::<u64>())];
        // SAFETY: the buffer has the size that NlMsg::write asks for, and is aligned to eight bytes, more than nlmsghdr needs.
        unsafe { self.write(buffer.as_mut_ptr().cast(), sequence, MsgType::Add) };
        let mut bytes: Vec<u8> = buffer.into_iter().flat_map(u64::to_ne_bytes).collect();
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.truncate(length as usize);
        bytes
    }
}

// SAFETY: what `write` serializes is below the largest netlink message: names have at most 255 bytes, rules 128 expressions, and element
// messages the few elements that `encode` puts into one.
unsafe impl NlMsg for Message {
    /// The type of message is part of this one, so `msg_type` is not looked at.
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _msg_type: MsgType) {
        self.sequence.set(sequence);
        // SAFETY: the caller promises room for the largest message; a header is the smallest part of it.
        let header = unsafe {
            sys::nftnl_nlmsg_build_hdr(
                buffer.cast(),
                self.kind as u16,
                libc::NFPROTO_INET as u16,
                (libc::NLM_F_REQUEST | self.flags.get()) as u16,
                sequence,
            )
        };
        // SAFETY: the header was just written at the beginning of that room.
        unsafe {
            match &self.body {
                Body::Empty => {}
                Body::Table(table) => table.write(header),
                Body::Chain(chain) => chain.write(header),
                Body::Rule(rule) => rule.write(header),
                Body::Set(set) => set.write(header),
                Body::Elements(set) => set.write_elements(header),
                Body::Object(object) => object.write(header),
                Body::Flowtable(flowtable) => flowtable.write(header),
            }
        }
    }
}
