//! A rule as instructions.
//!
//! The instructions are those that `nft` writes for the same rule, so that `nft list` shows the rule as people write it. `nft` puts a
//! `meta nfproto` test before the first address of a family in an inet table, and leaves it out when it lists. A test of the family that
//! the ruleset itself asks for ([`Match::Family`]) must not be taken for that one when the rule is read back; so a test right before an
//! address always belongs to the address.

use ipnet::IpNet;
use policy::model::Family;
use ruleset::{Action, CtStates, Match, Rule, Side};

use crate::error::Malformed;
use crate::expression::{Comparison, Expression, Header, Verdict};
use crate::field::{Known, LOOPBACK, TCP, address_offset, family_number, full_length, octets, state_bits};
use crate::object::name;

/// `NFT_RULE_MAXEXPRS`
const MOST_EXPRESSIONS: usize = 128;

/// The instructions of a rule.
pub(crate) fn assemble(rule: &Rule) -> Result<Vec<Expression>, Malformed> {
    let mut assembly = Assembly::default();
    for condition in &rule.matches {
        assembly.condition(condition)?;
    }
    if let Some(counter) = &rule.counter {
        assembly.out.push(Expression::Count(name(counter)?));
    }
    assembly.action(&rule.action)?;
    if assembly.out.len() > MOST_EXPRESSIONS {
        return Err(Malformed::RuleTooLong);
    }
    Ok(assembly.out)
}

#[derive(Default)]
struct Assembly {
    known: Known,
    out: Vec<Expression>,
}

impl Assembly {
    fn condition(&mut self, condition: &Match) -> Result<(), Malformed> {
        match condition {
            Match::CtState(states) if *states == CtStates::default() => return Err(Malformed::NoState),
            Match::CtState(states) => {
                self.out.push(Expression::LoadState);
                self.out.push(Expression::Mask(state_bits(*states).to_ne_bytes().to_vec()));
                self.out.push(Expression::Compare(Comparison::NotEqual, vec![0; 4]));
            }
            Match::Family(family) => self.family(*family),
            Match::FromLoopback => self.interface(Expression::LoadInput),
            Match::ToLoopback => self.interface(Expression::LoadOutput),
            Match::L4Proto(protocol) => {
                self.out.push(Expression::LoadProtocol);
                self.equals(vec![*protocol]);
                self.known.protocol = Some(*protocol);
            }
            Match::InSet { side, family, set } => {
                self.address(*side, *family, full_length(*family));
                self.out.push(Expression::InSet(name(set)?));
            }
            Match::CountedIn { side, family, map } => {
                self.address(*side, *family, full_length(*family));
                self.out.push(Expression::CountIn(name(map)?));
            }
            Match::InNet { side, net } => self.network(*side, *net)?,
            Match::DestinationPorts { from, to } if from > to => return Err(Malformed::PortsReversed),
            Match::DestinationPorts { from, to } => {
                self.port(2)?;
                if from == to {
                    self.equals(from.to_be_bytes().to_vec());
                } else {
                    self.out.push(Expression::Compare(Comparison::AtLeast, from.to_be_bytes().to_vec()));
                    self.out.push(Expression::Compare(Comparison::AtMost, to.to_be_bytes().to_vec()));
                }
            }
            Match::SourcePort(port) => {
                self.port(0)?;
                self.equals(port.to_be_bytes().to_vec());
            }
            Match::IcmpType(family, kind) => self.icmp(*family, 0, *kind)?,
            Match::IcmpCode(family, code) => self.icmp(*family, 1, *code)?,
        }
        Ok(())
    }

    fn action(&mut self, action: &Action) -> Result<(), Malformed> {
        let last = match action {
            Action::Continue => return Ok(()),
            Action::PortLookup(map) => {
                self.port(2)?;
                Expression::Lookup(name(map)?)
            }
            Action::Accept => Expression::Verdict(Verdict::Accept),
            Action::Drop => Expression::Verdict(Verdict::Drop),
            Action::Return => Expression::Verdict(Verdict::Return),
            Action::Jump(chain) => Expression::Verdict(Verdict::Jump(name(chain)?)),
            Action::Goto(chain) => Expression::Verdict(Verdict::Goto(name(chain)?)),
            Action::RejectTcpReset if self.known.protocol != Some(TCP) => return Err(Malformed::ResetWithoutTcp),
            Action::RejectTcpReset => Expression::ResetTcp,
            Action::RejectAdminProhibited => Expression::Prohibit,
            Action::Lookup { side, family, map } => {
                self.address(*side, *family, full_length(*family));
                Expression::Lookup(name(map)?)
            }
        };
        self.out.push(last);
        Ok(())
    }

    fn equals(&mut self, value: Vec<u8>) {
        self.out.push(Expression::Compare(Comparison::Equal, value));
    }

    fn interface(&mut self, load: Expression) {
        self.out.push(load);
        self.equals(LOOPBACK.to_ne_bytes().to_vec());
    }

    fn family(&mut self, family: Family) {
        self.out.push(Expression::LoadFamily);
        self.equals(vec![family_number(family)]);
        self.known.family = Some(family);
    }

    fn address(&mut self, side: Side, family: Family, length: u32) {
        let tested_just_now = matches!(self.out.as_slice(), [.., Expression::LoadFamily, Expression::Compare(..)]);
        if self.known.family != Some(family) || tested_just_now {
            self.family(family);
        }
        self.out.push(Expression::LoadHeader { header: Header::Network, offset: address_offset(side, family), length });
    }

    /// `nft` loads only the bytes that count where the prefix ends with a byte, and masks otherwise.
    fn network(&mut self, side: Side, net: IpNet) -> Result<(), Malformed> {
        if net.trunc() != net {
            return Err(Malformed::HostBits);
        }
        let family = Family::of(net.addr());
        let mut bytes = octets(net.addr());
        let prefix = usize::from(net.prefix_len());
        if prefix > 0 && prefix.is_multiple_of(8) {
            bytes.truncate(prefix / 8);
            self.address(side, family, bytes.len() as u32);
        } else {
            self.address(side, family, full_length(family));
            self.out.push(Expression::Mask(octets(net.netmask())));
        }
        self.equals(bytes);
        Ok(())
    }

    fn port(&mut self, offset: u32) -> Result<(), Malformed> {
        if !self.known.ports() {
            return Err(Malformed::PortsWithoutProtocol);
        }
        self.out.push(Expression::LoadHeader { header: Header::Transport, offset, length: 2 });
        Ok(())
    }

    fn icmp(&mut self, family: Family, offset: u32, value: u8) -> Result<(), Malformed> {
        if self.known.icmp() != Some(family) {
            return Err(Malformed::IcmpWithoutProtocol);
        }
        self.out.push(Expression::LoadHeader { header: Header::Transport, offset, length: 1 });
        self.equals(vec![value]);
        Ok(())
    }
}
