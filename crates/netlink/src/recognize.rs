//! Instructions as a rule again: what `assemble` writes, and what `nft` writes for the same text.

use std::ffi::CString;
use std::net::IpAddr;

use ipnet::IpNet;
use ruleset::{Action, Match, Rule};

use crate::expression::{Comparison, Expression, Header, Verdict};
use crate::field::{Known, LOOPBACK, TCP, address, family_of, full_length, side_at, states_of};

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
    use Expression::{Compare, CountIn, InSet, LoadFamily, LoadHeader, LoadInput, LoadOutput, LoadProtocol, LoadState, Lookup, Mask};

    let rest = skip_dependency(expressions, known);
    let rest = match rest {
        [LoadState, Mask(mask), Compare(NotEqual, zero), rest @ ..] if zero == &[0; 4] => {
            matches.push(Match::CtState(states_of(u32::from_ne_bytes(mask.as_slice().try_into().ok()?))?));
            rest
        }
        [LoadFamily, Compare(Equal, value), rest @ ..] => {
            let family = family_of(value)?;
            known.family = Some(family);
            matches.push(Match::Family(family));
            rest
        }
        [LoadInput, Compare(Equal, value), rest @ ..] if value == &LOOPBACK.to_ne_bytes() => {
            matches.push(Match::FromLoopback);
            rest
        }
        [LoadOutput, Compare(Equal, value), rest @ ..] if value == &LOOPBACK.to_ne_bytes() => {
            matches.push(Match::ToLoopback);
            rest
        }
        [LoadProtocol, Compare(Equal, value), rest @ ..] => {
            let [protocol] = value.as_slice() else { return None };
            known.protocol = Some(*protocol);
            matches.push(Match::L4Proto(*protocol));
            rest
        }
        // The look-up of a verdict is the action, not a condition.
        [LoadHeader { .. }, Lookup(_), ..] => return Some(expressions),
        [LoadHeader { header: Header::Network, offset, length }, rest @ ..] => {
            let family = known.family?;
            let side = side_at(*offset, family)?;
            let full = *length == full_length(family);
            match rest {
                [InSet(set), rest @ ..] if full => {
                    matches.push(Match::InSet { side, family, set: string(set)? });
                    rest
                }
                [CountIn(map), rest @ ..] if full => {
                    matches.push(Match::CountedIn { side, family, map: string(map)? });
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
        [Expression::LoadHeader { header: Header::Transport, offset: 2, length: 2 }, Expression::Lookup(map)] if known.ports() => {
            Some(Action::PortLookup(string(map)?))
        }
        [] => Some(Action::Continue),
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

#[cfg(test)]
mod tests {
    use policy::model::Family;
    use proptest::prelude::*;

    use super::*;
    use crate::assemble::assemble;
    use crate::field::{address_offset, family_number};
    use ruleset::Side;

    fn load(offset: u32, length: u32) -> Expression {
        Expression::LoadHeader { header: Header::Transport, offset, length }
    }

    fn equal(value: &[u8]) -> Expression {
        Expression::Compare(Comparison::Equal, value.to_vec())
    }

    fn protocol(number: u8) -> [Expression; 2] {
        [Expression::LoadProtocol, equal(&[number])]
    }

    fn accept() -> Expression {
        Expression::Verdict(Verdict::Accept)
    }

    fn recognized(parts: &[&[Expression]]) -> Option<Vec<Match>> {
        recognize(&parts.concat()).map(|rule| rule.matches)
    }

    #[test]
    fn fields_that_nft_tests_at_once_are_two_conditions() {
        let icmp = recognized(&[&protocol(1), &[load(0, 2), equal(&[3, 4]), accept()]]);
        let expected = [Match::L4Proto(1), Match::IcmpType(Family::V4, 3), Match::IcmpCode(Family::V4, 4)];
        assert_eq!(icmp.as_deref(), Some(&expected[..]));

        let ports = recognized(&[&protocol(17), &[load(0, 4), equal(&[0, 67, 0, 68]), accept()]]);
        let expected = [Match::L4Proto(17), Match::SourcePort(67), Match::DestinationPorts { from: 68, to: 68 }];
        assert_eq!(ports.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn what_is_not_ours_is_not_taken_for_ours() {
        let foreign: [&[Expression]; 8] = [
            &[accept(), accept()],
            // Ports of a protocol without ports.
            &[Expression::LoadProtocol, equal(&[1]), load(2, 2), Expression::Lookup(c"m".into())],
            // Ports and types of no protocol in particular.
            &[load(2, 2), equal(&[0, 80]), accept()],
            &[load(0, 1), equal(&[8]), accept()],
            // An address of no family in particular.
            &[Expression::LoadHeader { header: Header::Network, offset: 12, length: 4 }, equal(&[10, 0, 0, 1]), accept()],
            // A value that is not of the length of what is compared.
            &[Expression::LoadProtocol, equal(&[6, 0]), accept()],
            &[Expression::LoadState, Expression::Mask(vec![2, 0]), Expression::Compare(Comparison::NotEqual, vec![0; 4]), accept()],
            &[Expression::ResetTcp],
        ];
        for expressions in foreign {
            assert_eq!(recognize(expressions), None, "{expressions:?}");
        }
    }

    /// `nft` writes /24 without a mask; the same with one means the same.
    #[test]
    fn a_mask_at_the_end_of_a_byte_is_a_network_too() {
        let family = [Expression::LoadFamily, equal(&[family_number(Family::V4)])];
        let offset = address_offset(Side::Destination, Family::V4);
        let header = Expression::LoadHeader { header: Header::Network, offset, length: 4 };
        let masked = |mask: [u8; 4], value: [u8; 4]| {
            recognized(&[&family, &[header.clone(), Expression::Mask(mask.to_vec()), equal(&value), accept()]])
        };
        let net = "10.1.2.0/24".parse().expect("a network");
        assert_eq!(masked([255, 255, 255, 0], [10, 1, 2, 0]), Some(vec![Match::InNet { side: Side::Destination, net }]));
        assert_eq!(masked([255, 0, 255, 0], [10, 0, 2, 0]), None, "a mask with a hole");
        assert_eq!(masked([255, 255, 255, 0], [10, 1, 2, 3]), None, "bits behind the mask");
    }

    fn expression() -> impl Strategy<Value = Expression> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..=17);
        let comparison = prop::sample::select(&[Comparison::Equal, Comparison::NotEqual, Comparison::AtLeast, Comparison::AtMost][..]);
        let header = prop::sample::select(&[Header::Network, Header::Transport][..]);
        let plain = [
            Expression::LoadFamily,
            Expression::LoadProtocol,
            Expression::LoadState,
            Expression::InSet(c"s".into()),
            Expression::Lookup(c"m".into()),
            Expression::Count(c"c".into()),
            Expression::CountIn(c"k".into()),
            Expression::ResetTcp,
            Expression::Prohibit,
            equal(&[2]),
            equal(&[10]),
            equal(&[6]),
            Expression::Verdict(Verdict::Jump(c"a".into())),
        ];
        prop_oneof![
            3 => prop::sample::select(plain.to_vec()),
            1 => (header, 0..30_u32, 0..20_u32).prop_map(|(header, offset, length)| Expression::LoadHeader { header, offset, length }),
            1 => bytes().prop_map(Expression::Mask),
            1 => (comparison, bytes()).prop_map(|(comparison, value)| Expression::Compare(comparison, value)),
        ]
    }

    proptest! {
        /// Whatever the kernel has: no panic, and what is taken for ours is sent again with the same meaning.
        #[test]
        fn any_expressions(expressions in prop::collection::vec(expression(), 0..8)) {
            if let Some(rule) = recognize(&expressions) {
                let again = assemble(&rule).map(|expressions| recognize(&expressions));
                prop_assert_eq!(again, Ok(Some(rule)));
            }
        }
    }
}
