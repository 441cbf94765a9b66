//! The one text form of a rule: `ingress tcp 80-90 from sg/shop/web`. Used in tests, logs, ids and messages.

use std::fmt;
use std::str::FromStr;

use crate::model::{Direction, Exemption, Family, GroupRef, Peer, PortRange, PrefixListRef, Traffic, Transport};

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{}-{}", self.from, self.to) }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Traffic::All => f.write_str("all"),
            Traffic::Transport(transport, None) => transport.fmt(f),
            Traffic::Transport(transport, Some(ports)) => write!(f, "{transport} {ports}"),
            Traffic::Icmp { family, kind, code } => {
                f.write_str(match family {
                    Family::V4 => "icmp",
                    Family::V6 => "icmpv6",
                })?;
                match (kind, code) {
                    (Some(kind), Some(code)) => write!(f, " {kind}/{code}"),
                    (Some(kind), None) => write!(f, " {kind}"),
                    _ => Ok(()),
                }
            }
            Traffic::Protocol(number) => write!(f, "protocol-{number}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Net(net) => net.fmt(f),
            Peer::Group(group) => write!(f, "sg/{group}"),
            Peer::PrefixList(list) => write!(f, "pl/{list}"),
        }
    }
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exemption::Node => "Node",
            Exemption::NeighbourDiscovery => "NeighbourDiscovery",
            Exemption::ListenerDiscovery => "ListenerDiscovery",
            Exemption::Dhcp => "DHCP",
            Exemption::Loopback => "Loopback",
            Exemption::Hairpin => "Hairpin",
            Exemption::ClusterDns => "ClusterDNS",
        })
    }
}

impl FromStr for Exemption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Exemption::ALL.map(|exemption| exemption.to_string()).join(", ");
        Exemption::ALL
            .into_iter()
            .find(|e| e.to_string() == text)
            .ok_or_else(|| format!("`{text}` is no exemption; there are: {}", names()))
    }
}

/// A rule as text, with its direction and without its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// Ingress or egress.
    pub direction: Direction,
    /// Which traffic.
    pub traffic: Traffic,
    /// With whom.
    pub peer: Peer,
}

impl fmt::Display for RuleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preposition = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        write!(f, "{} {} {preposition} {}", self.direction, self.traffic, self.peer)
    }
}

/// Text that is no rule; says which word is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARule(String);

impl fmt::Display for NotARule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; a rule reads like `ingress tcp 80-90 from sg/shop/web`", self.0)
    }
}

impl std::error::Error for NotARule {}

fn wrong<T>(what: impl Into<String>) -> Result<T, NotARule> {
    Err(NotARule(what.into()))
}

impl FromStr for RuleText {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [direction, traffic @ .., preposition, peer] = words.as_slice() else { return wrong(format!("`{text}` is too short")) };
        let direction = match (*direction, *preposition) {
            ("ingress", "from") => Direction::Ingress,
            ("egress", "to") => Direction::Egress,
            _ => return wrong(format!("`{direction} … {preposition}` is neither `ingress … from` nor `egress … to`")),
        };
        Ok(RuleText { direction, traffic: traffic_of(traffic)?, peer: peer.parse()? })
    }
}

impl FromStr for Peer {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        if let Some((namespace, name)) = text.strip_prefix("sg/").and_then(|group| group.split_once('/')) {
            return Ok(Peer::Group(GroupRef { namespace: namespace.into(), name: name.into() }));
        }
        if let Some((namespace, name)) = text.strip_prefix("pl/").and_then(|list| list.split_once('/')) {
            return Ok(Peer::PrefixList(PrefixListRef { namespace: namespace.into(), name: name.into() }));
        }
        crate::parse::net(text).map(Peer::Net).or_else(wrong)
    }
}

fn traffic_of(words: &[&str]) -> Result<Traffic, NotARule> {
    let number = |word: &str| word.parse::<u8>().or_else(|_| wrong(format!("`{word}` is not 0 to 255")));
    let icmp = |family, rest: &[&str]| match rest {
        [] => Ok(Traffic::Icmp { family, kind: None, code: None }),
        [one] => match one.split_once('/') {
            Some((kind, code)) => Ok(Traffic::Icmp { family, kind: Some(number(kind)?), code: Some(number(code)?) }),
            None => Ok(Traffic::Icmp { family, kind: Some(number(one)?), code: None }),
        },
        _ => wrong(format!("`{}` is too much", rest.join(" "))),
    };
    let ports = |transport, rest: &[&str]| match rest {
        [] => Ok(Traffic::Transport(transport, None)),
        [one] => {
            let (from, to) = one.split_once('-').unwrap_or((one, one));
            match (from.parse::<u16>(), to.parse::<u16>()) {
                (Ok(from), Ok(to)) if 0 < from && from <= to => Ok(Traffic::Transport(transport, Some(PortRange { from, to }))),
                _ => wrong(format!("`{one}` is no range of ports")),
            }
        }
        _ => wrong(format!("`{}` is too much", rest.join(" "))),
    };
    match words {
        ["all"] => Ok(Traffic::All),
        ["tcp", rest @ ..] => ports(Transport::Tcp, rest),
        ["udp", rest @ ..] => ports(Transport::Udp, rest),
        ["sctp", rest @ ..] => ports(Transport::Sctp, rest),
        ["icmp", rest @ ..] => icmp(Family::V4, rest),
        ["icmpv6", rest @ ..] => icmp(Family::V6, rest),
        [word] if word.starts_with("protocol-") => Ok(Traffic::protocol(number(&word["protocol-".len()..])?)),
        _ => wrong(format!("`{}` is no traffic", words.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back() {
        for text in [
            "ingress all from 0.0.0.0/0",
            "ingress tcp from ::/0",
            "ingress tcp 80 from sg/shop/web",
            "egress udp 80-90 to 10.0.0.0/8",
            "egress sctp 1-65535 to sg/a/b",
            "ingress icmp from 10.0.0.1/32",
            "ingress icmp 8 from 10.0.0.1/32",
            "ingress icmpv6 1/4 from 2001:db8::/32",
            "ingress protocol-47 from 10.0.0.0/8",
            "egress tcp 443 to pl/shop/offices",
        ] {
            assert_eq!(text.parse::<RuleText>().map(|rule| rule.to_string()), Ok(text.to_string()));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "ingress",
            "ingress tcp 80 to 10.0.0.0/8",
            "ingress tcp 0 from ::/0",
            "ingress tcp 9-8 from ::/0",
            "egress foo to ::/0",
            "ingress all from nobody",
        ] {
            assert!(text.parse::<RuleText>().is_err(), "{text}");
        }
    }
}
