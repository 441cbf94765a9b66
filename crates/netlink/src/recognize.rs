//! Instructions as a rule again: what `assemble` writes, and what `nft` writes for the same text.

use std::ffi::CString;
use std::net::IpAddr;

use ipnet::IpNet;
use ruleset::{Action, CtStates, Match, Rule};

use crate::expression::{Comparison, Expression, Header, Verdict};
use crate::field::{Known, STATES, TCP, address, family_of, full_length, side_at};

/// The rule that these instructions are; none where no rule of ours is written so.
pub(crate) fn recognize(expressions: &[Expression]) -> Option<Rule> {
    let mut known = Known::default();
    let mut matches = Vec::new();
    let mut rest = expressions;
    loop {
        let before = rest.len();
        rest = condition(rest, &mut known, &mut matches)?;
        if rest.len() == before {
            break;
        }
    }
    let (counter, rest) = match rest {
        [Expression::Count(counter), rest @ ..] => (Some(string(counter)?), rest),
        rest => (None, rest),
    };
    let rest = skip_dependency(rest, &mut known);
    Some(Rule { matches, counter, action: action(rest, &known)? })
}

/// Takes one condition from the front; the same slice where there is none.
fn condition<'a>(expressions: &'a [Expression], known: &mut Known, matches: &mut Vec<Match>) -> Option<&'a [Expression]> {
    use Comparison::{AtLeast, AtMost, Equal, NotEqual};
    use Expression::{Compare, InSet, LoadFamily, LoadHeader, LoadProtocol, LoadState, Lookup, Mask};

    let rest = skip_dependency(expressions, known);
    let rest = match rest {
        [LoadState, Mask(mask), Compare(NotEqual, zero), rest @ ..] if zero == &[0; 4] => {
            matches.push(Match::CtState(states(mask)?));
            rest
        }
        [LoadFamily, Compare(Equal, value), rest @ ..] => {
            let family = family_of(value)?;
            known.family = Some(family);
            matches.push(Match::Family(family));
            rest
        }
        [LoadProtocol, Compare(Equal, value), rest @ ..] => {
            let [protocol] = value.as_slice() else { return None };
            known.protocol = Some(*protocol);
            matches.push(Match::L4Proto(*protocol));
            rest
        }
        // The look-up of a verdict is the action, not a condition.
        [LoadHeader { header: Header::Network, .. }, Lookup(_), ..] => return Some(expressions),
        [LoadHeader { header: Header::Network, offset, length }, rest @ ..] => {
            let family = known.family?;
            let side = side_at(*offset, family)?;
            let full = *length == full_length(family);
            match rest {
                [InSet(set), rest @ ..] if full => {
                    matches.push(Match::InSet { side, family, set: string(set)? });
                    rest
                }
                [Mask(mask), Compare(Equal, value), rest @ ..] if full => {
                    let prefix = ipnet::ip_mask_to_prefix(address(family, mask)?).ok()?;
                    matches.push(Match::InNet { side, net: network(address(family, value)?, prefix)? });
                    rest
                }
                [Compare(Equal, value), rest @ ..] if value.len() == *length as usize => {
                    let mut bytes = value.clone();
                    bytes.resize(full_length(family) as usize, 0);
                    let prefix = u8::try_from(length * 8).ok()?;
                    matches.push(Match::InNet { side, net: network(address(family, &bytes)?, prefix)? });
                    rest
                }
                _ => return None,
            }
        }
        [LoadHeader { header: Header::Transport, offset: 2, length: 2 }, Compare(AtLeast, from), Compare(AtMost, to), rest @ ..]
            if known.ports() =>
        {
            matches.push(Match::DestinationPorts { from: port(from)?, to: port(to)? });
            rest
        }
        [LoadHeader { header: Header::Transport, offset, length }, Compare(Equal, value), rest @ ..] if value.len() == *length as usize => {
            transport(*offset, value, known, matches)?;
            rest
        }
        _ => return Some(expressions),
    };
    Some(rest)
}

/// `nft` joins tests of neighbouring fields into one: type and code, source and destination port.
fn transport(offset: u32, value: &[u8], known: &Known, matches: &mut Vec<Match>) -> Option<()> {
    if let Some(family) = known.icmp() {
        match (offset, value) {
            (0, [kind]) => matches.push(Match::IcmpType(family, *kind)),
            (1, [code]) => matches.push(Match::IcmpCode(family, *code)),
            (0, [kind, code]) => matches.extend([Match::IcmpType(family, *kind), Match::IcmpCode(family, *code)]),
            _ => return None,
        }
    } else if known.ports() {
        let destination = |value: &[u8]| port(value).map(|port| Match::DestinationPorts { from: port, to: port });
        match (offset, value.len()) {
            (0, 2) => matches.push(Match::SourcePort(port(value)?)),
            (2, 2) => matches.push(destination(value)?),
            (0, 4) => matches.extend([Match::SourcePort(port(&value[..2])?), destination(&value[2..])?]),
            _ => return None,
        }
    } else {
        return None;
    }
    Some(())
}

fn action(expressions: &[Expression], known: &Known) -> Option<Action> {
    match expressions {
        [Expression::Verdict(verdict)] => Some(match verdict {
            Verdict::Accept => Action::Accept,
            Verdict::Drop => Action::Drop,
            Verdict::Return => Action::Return,
            Verdict::Jump(chain) => Action::Jump(string(chain)?),
            Verdict::Goto(chain) => Action::Goto(string(chain)?),
        }),
        [Expression::ResetTcp] if known.protocol == Some(TCP) => Some(Action::RejectTcpReset),
        [Expression::Prohibit] => Some(Action::RejectAdminProhibited),
        [Expression::LoadHeader { header: Header::Network, offset, length }, Expression::Lookup(map)] => {
            let family = known.family.filter(|family| *length == full_length(*family))?;
            Some(Action::Lookup { side: side_at(*offset, family)?, family, map: string(map)? })
        }
        _ => None,
    }
}

/// A test of the family right before an address belongs to the address.
fn skip_dependency<'a>(expressions: &'a [Expression], known: &mut Known) -> &'a [Expression] {
    match expressions {
        [
            Expression::LoadFamily,
            Expression::Compare(Comparison::Equal, value),
            Expression::LoadHeader { header: Header::Network, .. },
            ..,
        ] => match family_of(value) {
            Some(family) => {
                known.family = Some(family);
                &expressions[2..]
            }
            None => expressions,
        },
        _ => expressions,
    }
}

fn states(mask: &[u8]) -> Option<CtStates> {
    let bits = u32::from_ne_bytes(mask.try_into().ok()?);
    let mut states = CtStates::default();
    let mut left = bits;
    for (bit, field) in STATES {
        *field(&mut states) = bits & bit != 0;
        left &= !bit;
    }
    (left == 0).then_some(states)
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn network(address: IpAddr, prefix: u8) -> Option<IpNet> {
    let net = IpNet::new(address, prefix).ok()?;
    (net.trunc() == net).then_some(net)
}

fn string(name: &CString) -> Option<String> {
    name.to_str().ok().map(str::to_owned)
}
