//! Tables, chains, rules, sets and counters as libnftnl keeps them, behind types that own them.
//!
//! An attribute is a constant that carries the type libnftnl keeps it in, so that no caller can mix them up.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::NonNull;

use nftnl_sys as sys;

use crate::error::Malformed;
use crate::expression::{BorrowedExpression, Expression};
use crate::socket::Reply;

/// `NFT_NAME_MAXLEN` without the zero.
const LONGEST_NAME: usize = 255;

/// A name as the kernel takes it. libmnl does not check for room, so an overlong one must never reach it.
pub(crate) fn name(name: &str) -> Result<CString, Malformed> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(Malformed::Name);
    }
    CString::new(name).map_err(|_| Malformed::Name)
}

/// A copy of a string; none for NULL.
///
/// # Safety
/// `pointer` must be NULL or a zero-terminated string.
pub(crate) unsafe fn text(pointer: *const c_char) -> Option<CString> {
    // SAFETY: not NULL, and by the function's contract zero-terminated.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_owned())
}

/// An attribute of the objects `O` that libnftnl keeps as a `V`.
pub(crate) struct Attribute<O, V> {
    number: u16,
    kind: PhantomData<fn(&O) -> V>,
}

impl<O, V> Attribute<O, V> {
    const fn new(number: u32) -> Self {
        Attribute { number: number as u16, kind: PhantomData }
    }
}

/// Marks an attribute that is a string.
pub(crate) struct Text;
/// Marks an attribute that is a `uint32_t`, or of that size.
pub(crate) struct Number;
/// Marks an attribute that is a `uint64_t`.
pub(crate) struct Long;
/// Marks an attribute of which we only ask whether it is there.
pub(crate) struct Other;

macro_rules! object {
    (
        $(#[$doc:meta])*
        $object:ident = $raw:ident { $alloc:ident, $free:ident, $is_set:ident, $get_text:ident, $set_text:ident, $get_number:ident,
                                     $set_number:ident, $build:ident, $parse:ident }
        $($attribute:ident: $kind:ident = $number:ident,)*
    ) => {
        $(#[$doc])*
        pub(crate) struct $object(NonNull<sys::$raw>);

        #[allow(dead_code, reason = "not every object has use for each of these")]
        impl $object {
            $(pub(crate) const $attribute: Attribute<$object, $kind> = Attribute::new(sys::$number);)*

            pub(crate) fn new() -> $object {
                // SAFETY: takes nothing; NULL only where there is no memory.
                match NonNull::new(unsafe { sys::$alloc() }) {
                    Some(raw) => $object(raw),
                    None => std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u64; 16]>()),
                }
            }

            pub(crate) fn is_set<V>(&self, attribute: Attribute<$object, V>) -> bool {
                // SAFETY: the object is ours; libnftnl tests a bit of a mask.
                unsafe { sys::$is_set(self.0.as_ptr(), attribute.number) }
            }

            pub(crate) fn text(&self, attribute: Attribute<$object, Text>) -> Option<CString> {
                // SAFETY: the object is ours, the attribute a string of it (its type says so); NULL where it is not set.
                unsafe { text(sys::$get_text(self.0.as_ptr(), attribute.number)) }
            }

            pub(crate) fn set_text(&mut self, attribute: Attribute<$object, Text>, value: &CStr) {
                // SAFETY: the object is ours, the attribute a string of it (its type says so), which libnftnl copies up to its zero.
                unsafe { sys::$set_text(self.0.as_ptr(), attribute.number, value.as_ptr()); }
            }

            pub(crate) fn number(&self, attribute: Attribute<$object, Number>) -> u32 {
                // SAFETY: the object is ours, the attribute a uint32_t of it (its type says so); 0 where it is not set.
                unsafe { sys::$get_number(self.0.as_ptr(), attribute.number) }
            }

            pub(crate) fn set_number(&mut self, attribute: Attribute<$object, Number>, value: u32) {
                // SAFETY: the object is ours, the attribute a uint32_t of it (its type says so).
                unsafe { sys::$set_number(self.0.as_ptr(), attribute.number, value); }
            }

            /// Writes the attributes behind a message's header.
            ///
            /// # Safety
            /// Behind `header` there must be room for the largest message of nf_tables (`nft_nlmsg_maxsize`).
            pub(crate) unsafe fn write(&self, header: *mut libc::nlmsghdr) {
                // SAFETY: the object is ours. libmnl does not check for room; but names are at most 255 bytes (`name`), a rule has at most
                // 128 expressions, each below 400 bytes, and a message of elements is cut by `encode`: all below 64 KiB.
                unsafe { sys::$build(header, self.0.as_ptr()) }
            }

            /// What a message from the kernel describes; none where libnftnl does not understand it.
            pub(crate) fn parse(reply: Reply<'_>) -> Option<$object> {
                let object = $object::new();
                // SAFETY: `Reply` guarantees an aligned message with a whole nfgenmsg, and as many bytes as its header says.
                (unsafe { sys::$parse(reply.header(), object.0.as_ptr()) } >= 0).then_some(object)
            }
        }

        impl Drop for $object {
            fn drop(&mut self) {
                // SAFETY: allocated by the library's own allocator in `new` and never given away.
                unsafe { sys::$free(self.0.as_ptr()) }
            }
        }
    };
}

object! {
    /// A table.
    Table = nftnl_table {
        nftnl_table_alloc, nftnl_table_free, nftnl_table_is_set, nftnl_table_get_str, nftnl_table_set_str, nftnl_table_get_u32,
        nftnl_table_set_u32, nftnl_table_nlmsg_build_payload, nftnl_table_nlmsg_parse
    }
    NAME: Text = NFTNL_TABLE_NAME,
    FLAGS: Number = NFTNL_TABLE_FLAGS,
    USERDATA: Other = NFTNL_TABLE_USERDATA,
}

object! {
    /// A chain.
    Chain = nftnl_chain {
        nftnl_chain_alloc, nftnl_chain_free, nftnl_chain_is_set, nftnl_chain_get_str, nftnl_chain_set_str, nftnl_chain_get_u32,
        nftnl_chain_set_u32, nftnl_chain_nlmsg_build_payload, nftnl_chain_nlmsg_parse
    }
    TABLE: Text = NFTNL_CHAIN_TABLE,
    NAME: Text = NFTNL_CHAIN_NAME,
    TYPE: Text = NFTNL_CHAIN_TYPE,
    HOOK: Number = NFTNL_CHAIN_HOOKNUM,
    // An int32_t; libnftnl copies its four bytes whatever their sign.
    PRIORITY: Number = NFTNL_CHAIN_PRIO,
    POLICY: Number = NFTNL_CHAIN_POLICY,
    FLAGS: Number = NFTNL_CHAIN_FLAGS,
    DEVICE: Other = NFTNL_CHAIN_DEV,
    DEVICES: Other = NFTNL_CHAIN_DEVICES,
    BYTES: Other = NFTNL_CHAIN_BYTES,
    USERDATA: Other = NFTNL_CHAIN_USERDATA,
}

object! {
    /// A rule.
    Rule = nftnl_rule {
        nftnl_rule_alloc, nftnl_rule_free, nftnl_rule_is_set, nftnl_rule_get_str, nftnl_rule_set_str, nftnl_rule_get_u32,
        nftnl_rule_set_u32, nftnl_rule_nlmsg_build_payload, nftnl_rule_nlmsg_parse
    }
    TABLE: Text = NFTNL_RULE_TABLE,
    CHAIN: Text = NFTNL_RULE_CHAIN,
    USERDATA: Other = NFTNL_RULE_USERDATA,
    COMPAT: Other = NFTNL_RULE_COMPAT_PROTO,
}

object! {
    /// A set or a map, perhaps with elements.
    Set = nftnl_set {
        nftnl_set_alloc, nftnl_set_free, nftnl_set_is_set, nftnl_set_get_str, nftnl_set_set_str, nftnl_set_get_u32, nftnl_set_set_u32,
        nftnl_set_nlmsg_build_payload, nftnl_set_nlmsg_parse
    }
    TABLE: Text = NFTNL_SET_TABLE,
    NAME: Text = NFTNL_SET_NAME,
    ID: Number = NFTNL_SET_ID,
    FLAGS: Number = NFTNL_SET_FLAGS,
    KEY_TYPE: Number = NFTNL_SET_KEY_TYPE,
    KEY_LENGTH: Number = NFTNL_SET_KEY_LEN,
    DATA_TYPE: Number = NFTNL_SET_DATA_TYPE,
    DATA_LENGTH: Number = NFTNL_SET_DATA_LEN,
    SIZE: Other = NFTNL_SET_DESC_SIZE,
    CONCATENATION: Other = NFTNL_SET_DESC_CONCAT,
    TIMEOUT: Other = NFTNL_SET_TIMEOUT,
    GC_INTERVAL: Other = NFTNL_SET_GC_INTERVAL,
    OBJECT_TYPE: Number = NFTNL_SET_OBJ_TYPE,
    EXPRESSION: Other = NFTNL_SET_EXPR,
    EXPRESSIONS: Other = NFTNL_SET_EXPRESSIONS,
}

object! {
    /// A stateful object; ours are counters.
    Object = nftnl_obj {
        nftnl_obj_alloc, nftnl_obj_free, nftnl_obj_is_set, nftnl_obj_get_str, nftnl_obj_set_str, nftnl_obj_get_u32, nftnl_obj_set_u32,
        nftnl_obj_nlmsg_build_payload, nftnl_obj_nlmsg_parse
    }
    TABLE: Text = NFTNL_OBJ_TABLE,
    NAME: Text = NFTNL_OBJ_NAME,
    TYPE: Number = NFTNL_OBJ_TYPE,
    USERDATA: Other = NFTNL_OBJ_USERDATA,
    // Only of counters.
    PACKETS: Long = NFTNL_OBJ_CTR_PKTS,
    BYTES: Long = NFTNL_OBJ_CTR_BYTES,
}

object! {
    /// A flow table; we have none.
    Flowtable = nftnl_flowtable {
        nftnl_flowtable_alloc, nftnl_flowtable_free, nftnl_flowtable_is_set, nftnl_flowtable_get_str, nftnl_flowtable_set_str,
        nftnl_flowtable_get_u32, nftnl_flowtable_set_u32, nftnl_flowtable_nlmsg_build_payload, nftnl_flowtable_nlmsg_parse
    }
    TABLE: Text = NFTNL_FLOWTABLE_TABLE,
}

/// The number of the tables' state, which every commit of anybody changes; none where the reply does not say.
pub(crate) fn generation(reply: Reply<'_>) -> Option<u32> {
    // SAFETY: takes nothing; NULL only where there is no memory.
    let generation = NonNull::new(unsafe { sys::nftnl_gen_alloc() })?;
    // SAFETY: `Reply` guarantees an aligned message with a whole nfgenmsg, and as many bytes as its header says; NFTNL_GEN_ID is a uint32_t,
    // and the object is ours until it is freed here.
    unsafe {
        let parsed = sys::nftnl_gen_nlmsg_parse(reply.header(), generation.as_ptr()) >= 0
            && sys::nftnl_gen_is_set(generation.as_ptr(), sys::NFTNL_GEN_ID as u16);
        let number = sys::nftnl_gen_get_u32(generation.as_ptr(), sys::NFTNL_GEN_ID as u16);
        sys::nftnl_gen_free(generation.as_ptr());
        parsed.then_some(number)
    }
}

impl Set {
    /// For what only sets have; valid as long as the set.
    pub(crate) fn raw(&self) -> *mut sys::nftnl_set {
        self.0.as_ptr()
    }
}

impl Object {
    /// A number of a counter; 0 for every other type, whose attributes of the same number are something else.
    pub(crate) fn long(&self, attribute: Attribute<Object, Long>) -> u64 {
        if self.number(Object::TYPE) != crate::expression::OBJECT_COUNTER {
            return 0;
        }
        // SAFETY: the object is ours and a counter, the attribute a uint64_t of counters (its type says so); 0 where it is not set.
        unsafe { sys::nftnl_obj_get_u64(self.0.as_ptr(), attribute.number) }
    }
}

impl Object {
    /// Sets a number of a counter; the object must have been made one by its type.
    pub(crate) fn set_long(&mut self, attribute: Attribute<Object, Long>, value: u64) {
        // SAFETY: the object is ours; libnftnl asks the type for its own setter, which copies a uint64_t (the attribute's type says so), and
        // does nothing where there is none.
        unsafe { sys::nftnl_obj_set_u64(self.0.as_ptr(), attribute.number, value) }
    }
}

impl Rule {
    /// Appends an expression; false where the linked library does not know it.
    pub(crate) fn push(&mut self, expression: &Expression) -> bool {
        let Some(raw) = expression.to_raw() else { return false };
        // SAFETY: the rule is ours; it takes the expression over and frees it with itself.
        unsafe { sys::nftnl_rule_add_expr(self.0.as_ptr(), raw.into_raw()) };
        true
    }

    /// Its expressions; none where one of them is not of ours.
    pub(crate) fn expressions(&self) -> Option<Vec<Expression>> {
        // SAFETY: the rule is ours and outlives the iterator, which is destroyed below; NULL where there is no memory.
        let iterator = NonNull::new(unsafe { sys::nftnl_expr_iter_create(self.0.as_ptr()) })?;
        let mut expressions = Vec::new();
        // SAFETY: the iterator is valid until destroyed; it gives NULL at the end.
        while let Some(raw) = NonNull::new(unsafe { sys::nftnl_expr_iter_next(iterator.as_ptr()) }) {
            // SAFETY: an expression of this rule, which is neither changed nor freed meanwhile.
            expressions.push(Expression::from_raw(unsafe { BorrowedExpression::new(raw) }));
        }
        // SAFETY: created above, and not used any more.
        unsafe { sys::nftnl_expr_iter_destroy(iterator.as_ptr()) };
        expressions.into_iter().collect()
    }
}
