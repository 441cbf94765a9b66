//! Elements of sets and maps as libnftnl keeps them.

use std::ffi::CString;
use std::net::IpAddr;
use std::ptr::NonNull;

use nftnl_sys as sys;

use crate::field::octets;
use crate::object::{Set, text};
use crate::socket::Reply;

/// An element: the key, and where it leads in a verdict map or what counts it in a counter map; or the end of a range of an interval set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) leads: Option<Leads>,
    /// The key is the one behind the last of a range.
    pub(crate) end: bool,
}

/// What a map has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To a chain for good.
    Goto(CString),
    /// To a chain and back.
    Jump(CString),
    /// To the next instruction, counted by this counter.
    Counted(CString),
}

/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;

impl Element {
    /// An address, or the first of a range.
    pub(crate) fn key(address: IpAddr) -> Element {
        Element { key: octets(address), leads: None, end: false }
    }

    /// A port, or the first of a range.
    pub(crate) fn port(port: u16) -> Element {
        Element { key: port.to_be_bytes().to_vec(), leads: None, end: false }
    }
}

impl Leads {
    const fn verdict(&self) -> Option<i32> {
        match self {
            Leads::Goto(_) => Some(libc::NFT_GOTO),
            Leads::Jump(_) => Some(libc::NFT_JUMP),
            Leads::Counted(_) => None,
        }
    }
}

impl Set {
    /// Adds an element to this copy of the set.
    pub(crate) fn push(&mut self, Element { key, leads, end }: &Element) {
        // SAFETY: takes nothing; NULL only where there is no memory.
        let Some(element) = NonNull::new(unsafe { sys::nftnl_set_elem_alloc() }) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u64; 16]>())
        };
        let (number, longest) = (|attribute: u32| attribute as u16, 16);
        let key = &key[..key.len().min(longest)];
        // SAFETY: the element is ours; libnftnl copies the key's bytes into the 64 (NFT_DATA_VALUE_MAXLEN) that it has for it.
        unsafe {
            sys::nftnl_set_elem_set(element.as_ptr(), number(sys::NFTNL_SET_ELEM_KEY), key.as_ptr().cast(), key.len() as u32);
        }
        if *end {
            // SAFETY: the element is ours; the flags are a uint32_t.
            unsafe { sys::nftnl_set_elem_set_u32(element.as_ptr(), number(sys::NFTNL_SET_ELEM_FLAGS), INTERVAL_END) };
        }
        if let Some(leads) = leads {
            let (attribute, text) = match leads {
                Leads::Goto(chain) | Leads::Jump(chain) => (sys::NFTNL_SET_ELEM_CHAIN, chain),
                Leads::Counted(counter) => (sys::NFTNL_SET_ELEM_OBJREF, counter),
            };
            if let Some(verdict) = leads.verdict() {
                // SAFETY: the element is ours; the verdict is a uint32_t.
                unsafe { sys::nftnl_set_elem_set_u32(element.as_ptr(), number(sys::NFTNL_SET_ELEM_VERDICT), verdict as u32) };
            }
            // SAFETY: the element is ours; chain and object are strings that libnftnl copies up to their zero.
            unsafe { sys::nftnl_set_elem_set_str(element.as_ptr(), number(attribute), text.as_ptr()) };
        }
        // SAFETY: the set is ours; it takes the element over and frees it with itself.
        unsafe { sys::nftnl_set_elem_add(self.raw(), element.as_ptr()) }
    }

    /// Writes name and elements behind a message's header.
    ///
    /// # Safety
    /// Behind `header` there must be room for the largest message of nf_tables (`nft_nlmsg_maxsize`), and there must be few enough elements
    /// for one.
    pub(crate) unsafe fn write_elements(&self, header: *mut libc::nlmsghdr) {
        // SAFETY: the set is ours; room is the caller's promise.
        unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.raw()) }
    }

    /// The elements in a message from the kernel; none where one of them is nothing that we write.
    pub(crate) fn parse_elements(reply: Reply<'_>) -> Option<Vec<Element>> {
        let set = Set::new();
        // SAFETY: `Reply` guarantees an aligned message with a whole nfgenmsg, and as many bytes as its header says.
        if unsafe { sys::nftnl_set_elems_nlmsg_parse(reply.header(), set.raw()) } < 0 {
            return None;
        }
        // SAFETY: the set is ours and outlives the iterator, which is destroyed below; NULL where there is no memory.
        let iterator = NonNull::new(unsafe { sys::nftnl_set_elems_iter_create(set.raw()) })?;
        let mut elements = Vec::new();
        // SAFETY: the iterator is valid until destroyed; it gives NULL at the end.
        while let Some(raw) = NonNull::new(unsafe { sys::nftnl_set_elems_iter_next(iterator.as_ptr()) }) {
            // SAFETY: an element of this set, which is neither changed nor freed meanwhile.
            elements.push(unsafe { element(raw) });
        }
        // SAFETY: created above, and not used any more.
        unsafe { sys::nftnl_set_elems_iter_destroy(iterator.as_ptr()) };
        elements.into_iter().collect()
    }
}

/// # Safety
/// `raw` must be a valid element.
unsafe fn element(raw: NonNull<sys::nftnl_set_elem>) -> Option<Element> {
    // SAFETY: the element is valid (the function's contract); libnftnl tests a bit of a mask.
    let is_set = |attribute: u32| unsafe { sys::nftnl_set_elem_is_set(raw.as_ptr(), attribute as u16) };
    // SAFETY: the element is valid (the function's contract); only for attributes of uint32_t, 0 where not set.
    let number = |attribute: u32| unsafe { sys::nftnl_set_elem_get_u32(raw.as_ptr(), attribute as u16) };

    let foreign = [
        sys::NFTNL_SET_ELEM_DATA,
        sys::NFTNL_SET_ELEM_TIMEOUT,
        sys::NFTNL_SET_ELEM_EXPIRATION,
        sys::NFTNL_SET_ELEM_USERDATA,
        sys::NFTNL_SET_ELEM_EXPR,
        sys::NFTNL_SET_ELEM_EXPRESSIONS,
        sys::NFTNL_SET_ELEM_KEY_END,
    ];
    let flags = if is_set(sys::NFTNL_SET_ELEM_FLAGS) { number(sys::NFTNL_SET_ELEM_FLAGS) } else { 0 };
    let end = flags == INTERVAL_END;
    if flags & !INTERVAL_END != 0 || foreign.into_iter().any(is_set) || !is_set(sys::NFTNL_SET_ELEM_KEY) {
        return None;
    }
    let mut length = 0;
    // SAFETY: the element is valid (the function's contract) and has a key; `length` receives how many bytes there are of it.
    let key = unsafe { sys::nftnl_set_elem_get(raw.as_ptr(), sys::NFTNL_SET_ELEM_KEY as u16, &mut length) };
    if key.is_null() {
        return None;
    }
    // SAFETY: nftnl_set_elem_get says that `length` bytes are there; they are copied before anything else happens to the element.
    let key = unsafe { std::slice::from_raw_parts(key.cast::<u8>(), length as usize) }.to_vec();
    let (leads, attribute): (fn(CString) -> Leads, u32) = match (is_set(sys::NFTNL_SET_ELEM_VERDICT), is_set(sys::NFTNL_SET_ELEM_OBJREF)) {
        (false, false) => return Some(Element { key, leads: None, end }),
        (false, true) => (Leads::Counted, sys::NFTNL_SET_ELEM_OBJREF),
        (true, false) => match number(sys::NFTNL_SET_ELEM_VERDICT) as i32 {
            libc::NFT_GOTO => (Leads::Goto, sys::NFTNL_SET_ELEM_CHAIN),
            libc::NFT_JUMP => (Leads::Jump, sys::NFTNL_SET_ELEM_CHAIN),
            _ => return None,
        },
        (true, true) => return None,
    };
    // SAFETY: the element is valid (the function's contract); chain and object are strings, or NULL where they are not set.
    let name = unsafe { text(sys::nftnl_set_elem_get_str(raw.as_ptr(), attribute as u16)) };
    Some(Element { key, leads: Some(leads(name?)), end })
}
