//! The instructions of the kernel's packet machine that our rules are made of, and their form in libnftnl.
//!
//! Only the subset that we write. Every value passes through register 1, as `nft` does it.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use nftnl_sys as sys;

use crate::object::text;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// `meta nfproto` into the register.
    LoadFamily,
    /// `meta iif`, the number of the interface that the packet came over, into the register.
    LoadInput,
    /// `meta oif` into the register.
    LoadOutput,
    /// `meta l4proto` into the register.
    LoadProtocol,
    /// `ct state` into the register.
    LoadState,
    /// Bytes of a header into the register.
    LoadHeader { header: Header, offset: u32, length: u32 },
    /// Ands the register with a mask of at most 16 bytes.
    Mask(Vec<u8>),
    /// Leaves the rule unless the register compares so with at most 16 bytes.
    Compare(Comparison, Vec<u8>),
    /// Leaves the rule unless the register is in the set.
    InSet(CString),
    /// Takes the verdict that the map has for the register; leaves the rule where it has none.
    Lookup(CString),
    /// Counts in a named counter.
    Count(CString),
    /// Counts in the counter that the map has for the register; leaves the rule where it has none.
    CountIn(CString),
    /// The verdict.
    Verdict(Verdict),
    /// Answers with a TCP reset.
    ResetTcp,
    /// Answers with ICMP or ICMPv6 "administratively prohibited".
    Prohibit,
}

/// Where bytes are loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Network,
    Transport,
}

/// How the register is compared, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
}

/// What ends a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(CString),
    Goto(CString),
}

const REGISTER: u32 = libc::NFT_REG_1 as u32;
const VERDICT_REGISTER: u32 = libc::NFT_REG_VERDICT as u32;
/// `NFT_OBJECT_COUNTER`
pub(crate) const OBJECT_COUNTER: u32 = 1;
/// No value of ours is longer than an IPv6 address.
const LONGEST_VALUE: usize = 16;

impl Expression {
    /// Its form in libnftnl; owned by the caller until a rule takes it. None where the linked library does not know the instruction.
    pub(crate) fn to_raw(&self) -> Option<RawExpression> {
        match self {
            Expression::LoadFamily => RawExpression::meta(libc::NFT_META_NFPROTO),
            Expression::LoadInput => RawExpression::meta(libc::NFT_META_IIF),
            Expression::LoadOutput => RawExpression::meta(libc::NFT_META_OIF),
            Expression::LoadProtocol => RawExpression::meta(libc::NFT_META_L4PROTO),
            Expression::LoadState => RawExpression::new(
                c"ct",
                &[(sys::NFTNL_EXPR_CT_KEY, Value::Number(libc::NFT_CT_STATE as u32)), (sys::NFTNL_EXPR_CT_DREG, Value::Number(REGISTER))],
            ),
            Expression::LoadHeader { header, offset, length } => RawExpression::new(
                c"payload",
                &[
                    (sys::NFTNL_EXPR_PAYLOAD_DREG, Value::Number(REGISTER)),
                    (sys::NFTNL_EXPR_PAYLOAD_BASE, Value::Number(header.number())),
                    (sys::NFTNL_EXPR_PAYLOAD_OFFSET, Value::Number(*offset)),
                    (sys::NFTNL_EXPR_PAYLOAD_LEN, Value::Number(*length)),
                ],
            ),
            Expression::Mask(mask) => RawExpression::new(
                c"bitwise",
                &[
                    (sys::NFTNL_EXPR_BITWISE_SREG, Value::Number(REGISTER)),
                    (sys::NFTNL_EXPR_BITWISE_DREG, Value::Number(REGISTER)),
                    (sys::NFTNL_EXPR_BITWISE_LEN, Value::Number(mask.len() as u32)),
                    (sys::NFTNL_EXPR_BITWISE_MASK, Value::Bytes(mask)),
                    (sys::NFTNL_EXPR_BITWISE_XOR, Value::Bytes(&vec![0; mask.len()])),
                ],
            ),
            Expression::Compare(comparison, value) => RawExpression::new(
                c"cmp",
                &[
                    (sys::NFTNL_EXPR_CMP_SREG, Value::Number(REGISTER)),
                    (sys::NFTNL_EXPR_CMP_OP, Value::Number(comparison.number())),
                    (sys::NFTNL_EXPR_CMP_DATA, Value::Bytes(value)),
                ],
            ),
            Expression::InSet(set) => RawExpression::new(
                c"lookup",
                &[(sys::NFTNL_EXPR_LOOKUP_SREG, Value::Number(REGISTER)), (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(set))],
            ),
            Expression::Lookup(map) => RawExpression::new(
                c"lookup",
                &[
                    (sys::NFTNL_EXPR_LOOKUP_SREG, Value::Number(REGISTER)),
                    (sys::NFTNL_EXPR_LOOKUP_DREG, Value::Number(VERDICT_REGISTER)),
                    (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(map)),
                ],
            ),
            Expression::Count(counter) => RawExpression::new(
                c"objref",
                &[
                    (sys::NFTNL_EXPR_OBJREF_IMM_TYPE, Value::Number(OBJECT_COUNTER)),
                    (sys::NFTNL_EXPR_OBJREF_IMM_NAME, Value::Text(counter)),
                ],
            ),
            Expression::CountIn(map) => RawExpression::new(
                c"objref",
                &[(sys::NFTNL_EXPR_OBJREF_SET_SREG, Value::Number(REGISTER)), (sys::NFTNL_EXPR_OBJREF_SET_NAME, Value::Text(map))],
            ),
            Expression::Verdict(verdict) => {
                let (number, chain) = verdict.parts();
                let mut values = vec![
                    (sys::NFTNL_EXPR_IMM_DREG, Value::Number(VERDICT_REGISTER)),
                    (sys::NFTNL_EXPR_IMM_VERDICT, Value::Number(number as u32)),
                ];
                values.extend(chain.map(|chain| (sys::NFTNL_EXPR_IMM_CHAIN, Value::Text(chain))));
                RawExpression::new(c"immediate", &values)
            }
            Expression::ResetTcp => RawExpression::reject(libc::NFT_REJECT_TCP_RST, 0),
            Expression::Prohibit => RawExpression::reject(libc::NFT_REJECT_ICMPX_UNREACH, libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED as u8),
        }
    }

    /// What libnftnl has parsed; none where it is nothing that we write.
    pub(crate) fn from_raw(raw: BorrowedExpression<'_>) -> Option<Expression> {
        let number = |attribute: u32| raw.number(attribute);
        let unset = |attribute: u32| !raw.is_set(attribute);
        match raw.name()?.as_str() {
            "meta" if number(sys::NFTNL_EXPR_META_DREG)? == REGISTER && unset(sys::NFTNL_EXPR_META_SREG) => {
                match number(sys::NFTNL_EXPR_META_KEY)? as i32 {
                    libc::NFT_META_NFPROTO => Some(Expression::LoadFamily),
                    libc::NFT_META_L4PROTO => Some(Expression::LoadProtocol),
                    libc::NFT_META_IIF => Some(Expression::LoadInput),
                    libc::NFT_META_OIF => Some(Expression::LoadOutput),
                    _ => None,
                }
            }
            "ct" => {
                let plain = number(sys::NFTNL_EXPR_CT_DREG)? == REGISTER
                    && unset(sys::NFTNL_EXPR_CT_SREG)
                    && unset(sys::NFTNL_EXPR_CT_DIR)
                    && number(sys::NFTNL_EXPR_CT_KEY)? == libc::NFT_CT_STATE as u32;
                plain.then_some(Expression::LoadState)
            }
            "payload" if number(sys::NFTNL_EXPR_PAYLOAD_DREG)? == REGISTER && unset(sys::NFTNL_EXPR_PAYLOAD_SREG) => {
                Some(Expression::LoadHeader {
                    header: Header::from_number(number(sys::NFTNL_EXPR_PAYLOAD_BASE)?)?,
                    offset: number(sys::NFTNL_EXPR_PAYLOAD_OFFSET)?,
                    length: number(sys::NFTNL_EXPR_PAYLOAD_LEN)?,
                })
            }
            "bitwise" => {
                let mask = raw.bytes(sys::NFTNL_EXPR_BITWISE_MASK)?;
                let plain = number(sys::NFTNL_EXPR_BITWISE_SREG)? == REGISTER
                    && number(sys::NFTNL_EXPR_BITWISE_DREG)? == REGISTER
                    && number(sys::NFTNL_EXPR_BITWISE_LEN)? as usize == mask.len()
                    && number(sys::NFTNL_EXPR_BITWISE_OP).unwrap_or(0) == 0
                    && raw.bytes(sys::NFTNL_EXPR_BITWISE_XOR)?.iter().all(|byte| *byte == 0);
                plain.then_some(Expression::Mask(mask))
            }
            "cmp" if number(sys::NFTNL_EXPR_CMP_SREG)? == REGISTER => {
                let comparison = Comparison::from_number(number(sys::NFTNL_EXPR_CMP_OP)?)?;
                Some(Expression::Compare(comparison, raw.bytes(sys::NFTNL_EXPR_CMP_DATA)?))
            }
            "lookup" if number(sys::NFTNL_EXPR_LOOKUP_SREG)? == REGISTER && number(sys::NFTNL_EXPR_LOOKUP_FLAGS).unwrap_or(0) == 0 => {
                let set = raw.text(sys::NFTNL_EXPR_LOOKUP_SET)?;
                match number(sys::NFTNL_EXPR_LOOKUP_DREG) {
                    None => Some(Expression::InSet(set)),
                    Some(VERDICT_REGISTER) => Some(Expression::Lookup(set)),
                    Some(_) => None,
                }
            }
            "objref" => match number(sys::NFTNL_EXPR_OBJREF_SET_SREG) {
                Some(REGISTER) => Some(Expression::CountIn(raw.text(sys::NFTNL_EXPR_OBJREF_SET_NAME)?)),
                Some(_) => None,
                None if number(sys::NFTNL_EXPR_OBJREF_IMM_TYPE)? == OBJECT_COUNTER => {
                    Some(Expression::Count(raw.text(sys::NFTNL_EXPR_OBJREF_IMM_NAME)?))
                }
                None => None,
            },
            "immediate" if number(sys::NFTNL_EXPR_IMM_DREG)? == VERDICT_REGISTER => {
                let chain = || raw.text(sys::NFTNL_EXPR_IMM_CHAIN);
                Some(Expression::Verdict(match number(sys::NFTNL_EXPR_IMM_VERDICT)? as i32 {
                    libc::NF_ACCEPT => Verdict::Accept,
                    libc::NF_DROP => Verdict::Drop,
                    libc::NFT_RETURN => Verdict::Return,
                    libc::NFT_JUMP => Verdict::Jump(chain()?),
                    libc::NFT_GOTO => Verdict::Goto(chain()?),
                    _ => return None,
                }))
            }
            "reject" => match (number(sys::NFTNL_EXPR_REJECT_TYPE)? as i32, raw.byte(sys::NFTNL_EXPR_REJECT_CODE)) {
                (libc::NFT_REJECT_TCP_RST, _) => Some(Expression::ResetTcp),
                (libc::NFT_REJECT_ICMPX_UNREACH, Some(code)) if i32::from(code) == libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED => {
                    Some(Expression::Prohibit)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Header {
    fn number(self) -> u32 {
        match self {
            Header::Network => libc::NFT_PAYLOAD_NETWORK_HEADER as u32,
            Header::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32,
        }
    }

    fn from_number(number: u32) -> Option<Header> {
        [Header::Network, Header::Transport].into_iter().find(|header| header.number() == number)
    }
}

impl Comparison {
    fn number(self) -> u32 {
        let number = match self {
            Comparison::Equal => libc::NFT_CMP_EQ,
            Comparison::NotEqual => libc::NFT_CMP_NEQ,
            Comparison::AtLeast => libc::NFT_CMP_GTE,
            Comparison::AtMost => libc::NFT_CMP_LTE,
        };
        number as u32
    }

    fn from_number(number: u32) -> Option<Comparison> {
        let all = [Comparison::Equal, Comparison::NotEqual, Comparison::AtLeast, Comparison::AtMost];
        all.into_iter().find(|comparison| comparison.number() == number)
    }
}

impl Verdict {
    fn parts(&self) -> (i32, Option<&CStr>) {
        match self {
            Verdict::Accept => (libc::NF_ACCEPT, None),
            Verdict::Drop => (libc::NF_DROP, None),
            Verdict::Return => (libc::NFT_RETURN, None),
            Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        }
    }
}

/// A value of an attribute, in the type that libnftnl keeps it in.
enum Value<'a> {
    Byte(u8),
    Number(u32),
    Text(&'a CStr),
    Bytes(&'a [u8]),
}

/// An expression of libnftnl that no rule owns yet.
pub(crate) struct RawExpression(NonNull<sys::nftnl_expr>);

impl RawExpression {
    /// Private: the pairs must be attributes of that expression, with values of the type that libnftnl keeps them in.
    fn new(name: &CStr, values: &[(u32, Value<'_>)]) -> Option<RawExpression> {
        // SAFETY: nftnl_expr_alloc reads a zero-terminated name, and gives NULL for one that it does not know.
        let raw = RawExpression(NonNull::new(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) })?);
        for (attribute, value) in values {
            let (expression, attribute) = (raw.0.as_ptr(), *attribute as u16);
            match value {
                // SAFETY: the expression is ours; the attribute is one that libnftnl keeps as uint8_t (REJECT_CODE).
                Value::Byte(value) => unsafe { sys::nftnl_expr_set_u8(expression, attribute, *value) },
                // SAFETY: the expression is ours; the attribute is one that libnftnl keeps as uint32_t or int.
                Value::Number(value) => unsafe { sys::nftnl_expr_set_u32(expression, attribute, *value) },
                // SAFETY: the expression is ours; the attribute is a string, which libnftnl copies up to its zero.
                Value::Text(value) => unsafe {
                    sys::nftnl_expr_set_str(expression, attribute, value.as_ptr());
                },
                Value::Bytes(value) => {
                    let value = &value[..value.len().min(LONGEST_VALUE)];
                    // SAFETY: the expression is ours; the attribute is a data register, into whose 64 bytes (NFT_DATA_VALUE_MAXLEN)
                    // libnftnl copies `data_len` bytes, at most 16 here.
                    unsafe {
                        sys::nftnl_expr_set(expression, attribute, value.as_ptr().cast(), value.len() as u32);
                    }
                }
            }
        }
        Some(raw)
    }

    fn meta(key: i32) -> Option<RawExpression> {
        RawExpression::new(
            c"meta",
            &[(sys::NFTNL_EXPR_META_KEY, Value::Number(key as u32)), (sys::NFTNL_EXPR_META_DREG, Value::Number(REGISTER))],
        )
    }

    fn reject(kind: i32, code: u8) -> Option<RawExpression> {
        RawExpression::new(
            c"reject",
            &[(sys::NFTNL_EXPR_REJECT_TYPE, Value::Number(kind as u32)), (sys::NFTNL_EXPR_REJECT_CODE, Value::Byte(code))],
        )
    }

    /// Gives it away; the receiver frees it.
    pub(crate) fn into_raw(self) -> *mut sys::nftnl_expr {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Drop for RawExpression {
    fn drop(&mut self) {
        // SAFETY: allocated by nftnl_expr_alloc, and no rule has taken it (into_raw forgets self).
        unsafe { sys::nftnl_expr_free(self.0.as_ptr()) }
    }
}

/// An expression of a rule of libnftnl.
#[derive(Clone, Copy)]
pub(crate) struct BorrowedExpression<'rule> {
    raw: NonNull<sys::nftnl_expr>,
    rule: std::marker::PhantomData<&'rule ()>,
}

impl BorrowedExpression<'_> {
    /// # Safety
    /// `raw` must be a valid expression and remain so for the lifetime.
    pub(crate) unsafe fn new(raw: NonNull<sys::nftnl_expr>) -> Self {
        BorrowedExpression { raw, rule: std::marker::PhantomData }
    }

    fn name(self) -> Option<String> {
        // SAFETY: the expression is valid (new); NFTNL_EXPR_NAME is a string that lives as long as its kind of expression.
        let name = unsafe { text(sys::nftnl_expr_get_str(self.raw.as_ptr(), sys::NFTNL_EXPR_NAME as u16)) }?;
        name.into_string().ok()
    }

    fn is_set(self, attribute: u32) -> bool {
        // SAFETY: the expression is valid (new); libnftnl tests a bit of a mask.
        unsafe { sys::nftnl_expr_is_set(self.raw.as_ptr(), attribute as u16) }
    }

    /// The bytes of an attribute in whatever type libnftnl keeps it.
    fn bytes(self, attribute: u32) -> Option<Vec<u8>> {
        if !self.is_set(attribute) {
            return None;
        }
        let mut length = 0;
        // SAFETY: the expression is valid (new) and the attribute set; `length` receives how many bytes there are behind the pointer.
        let data = unsafe { sys::nftnl_expr_get(self.raw.as_ptr(), attribute as u16, &mut length) };
        if data.is_null() {
            return None;
        }
        // SAFETY: nftnl_expr_get says that `length` bytes are there; they are copied before anything else happens to the expression.
        Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) }.to_vec())
    }

    fn number(self, attribute: u32) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(attribute)?.try_into().ok()?))
    }

    fn byte(self, attribute: u32) -> Option<u8> {
        self.bytes(attribute)?.first().copied()
    }

    /// Private: the attribute must be a string.
    fn text(self, attribute: u32) -> Option<CString> {
        // SAFETY: the expression is valid (new); the attribute is a string of it, or NULL where it is not set.
        unsafe { text(sys::nftnl_expr_get_str(self.raw.as_ptr(), attribute as u16)) }
    }
}
