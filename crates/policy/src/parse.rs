//! From what is written to canonical rules (S10–S16, S22). Whatever cannot be understood allows nothing (S38).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::{
    AddressFamily, Connections, ObjectPeer, Peer as WrittenPeer, PrefixListSpec, Preset, PresetTraffic, ProtocolField, SecurityGroupSpec,
    Stored,
};
use ipnet::IpNet;

use crate::id;
use crate::index::{PrefixList, SecurityGroup};
use crate::model::{Direction, Family, GroupRef, Peer, PortRange, PrefixListRef, Rule, Traffic, Transport};
use crate::problem::{NOT_UNDERSTOOD, ObjectRef, Problem};

/// The traffic fields of a rule of either direction.
macro_rules! written {
    ($rule:expr) => {
        Written {
            preset: &$rule.preset,
            protocol: &$rule.protocol,
            port: $rule.port,
            end_port: $rule.end_port,
            icmp_type: $rule.icmp_type,
            icmp_code: $rule.icmp_code,
        }
    };
}

/// Fills in rules, places, `on_deny` and problems from a readable spec.
pub(crate) fn group(group: &GroupRef, spec: &SecurityGroupSpec, facts: &mut SecurityGroup) {
    facts.on_deny = spec.on_deny.unwrap_or_default();
    if spec.connections == Some(Connections::Revoke) {
        let object = ObjectRef::SecurityGroup(group.clone());
        let message = "connections: Revoke is not supported yet; open connections go on as with Preserve";
        facts.problems.push(Problem::of_rule(object, "connections", "NotSupportedYet", message));
    }
    let mut into = Reading { group, facts };
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        into.rule(Direction::Ingress, i, rule, |rule| (written!(rule), &rule.from));
    }
    match &spec.egress {
        // S5: left out means everything, to both families.
        None => {
            for any in [IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)] {
                into.pair(Direction::Egress, "egress (default)".into(), Traffic::All, Peer::Net(any));
            }
        }
        Some(rules) => {
            for (i, rule) in rules.iter().enumerate() {
                into.rule(Direction::Egress, i, rule, |rule| (written!(rule), &rule.to));
            }
        }
    }
}

/// Fills in entries, weight and problems from a readable spec.
pub(crate) fn prefix_list(list: &PrefixListRef, spec: &PrefixListSpec, facts: &mut PrefixList) {
    let object = || ObjectRef::PrefixList(list.clone());
    let family = match spec.address_family {
        AddressFamily::IPv4 => Family::V4,
        AddressFamily::IPv6 => Family::V6,
    };
    facts.max_entries = usize::try_from(spec.max_entries).unwrap_or_default();
    let mut places = BTreeMap::new();
    for (i, stored) in spec.entries.iter().flatten().enumerate() {
        let place = format!("entries[{i}]");
        let entry = match stored {
            Stored::Understood(entry) => net(&entry.cidr),
            Stored::NotUnderstood { why, .. } => Err(format!("this version cannot read the entry ({why})")),
        };
        match entry {
            Ok(net) if Family::of(net.addr()) != family => {
                let why = format!("{net} is not {:?}; it matches nothing", spec.address_family);
                facts.problems.push(Problem::of_rule(object(), place, NOT_UNDERSTOOD, why));
            }
            Ok(net) => {
                if Arc::make_mut(&mut facts.entries).insert(net) {
                    places.insert(net, place);
                } else {
                    let first = places.get(&net).map_or("", String::as_str);
                    facts.problems.push(Problem::of_rule(
                        object(),
                        place,
                        DUPLICATE_ENTRIES,
                        format!("says the same as {first} and counts once"),
                    ));
                }
            }
            Err(why) => facts.problems.push(Problem::of_rule(object(), place, NOT_UNDERSTOOD, format!("{why}; it matches nothing"))),
        }
    }
}

/// The traffic fields of a rule, as written.
struct Written<'a> {
    preset: &'a Option<String>,
    protocol: &'a Option<ProtocolField>,
    port: Option<i32>,
    end_port: Option<i32>,
    icmp_type: Option<i32>,
    icmp_code: Option<i32>,
}

struct Reading<'a> {
    group: &'a GroupRef,
    facts: &'a mut SecurityGroup,
}

impl Reading<'_> {
    fn rule<R>(&mut self, direction: Direction, index: usize, stored: &Stored<R>, parts: impl Fn(&R) -> (Written<'_>, &Vec<WrittenPeer>)) {
        let place = format!("{direction}[{index}]");
        let rule = match stored {
            Stored::Understood(rule) => rule,
            Stored::NotUnderstood { why, .. } => return self.problem(&place, format!("this version cannot read the rule ({why})")),
        };
        let (written, peers) = parts(rule);
        let traffic = match traffic(&written) {
            Ok(traffic) => traffic,
            Err(why) => return self.problem(&place, why),
        };
        if peers.is_empty() {
            self.problem(&place, "the rule names no peer".into());
        }
        let list = if direction == Direction::Ingress { "from" } else { "to" };
        for (i, written) in peers.iter().enumerate() {
            let place = format!("{place}.{list}[{i}]");
            match peer(written, self.group).and_then(|peer| match (&peer, traffic) {
                (Peer::Net(net), Traffic::Icmp { family, .. }) if Family::of(net.addr()) != family => {
                    Err(format!("{net} is of the other family than {traffic}: the rule could never match"))
                }
                _ => Ok(peer),
            }) {
                Ok(peer) => self.pair(direction, place, traffic, peer),
                Err(why) => self.problem(&place, why),
            }
        }
    }

    fn problem(&mut self, place: &str, why: String) {
        let object = ObjectRef::SecurityGroup(self.group.clone());
        self.facts.problems.push(Problem::of_rule(object, place, NOT_UNDERSTOOD, format!("{why}; it allows nothing")));
    }

    fn pair(&mut self, direction: Direction, place: String, traffic: Traffic, peer: Peer) {
        let id = id::rule(&self.facts.uid, direction, traffic, &peer);
        let rules = match direction {
            Direction::Ingress => &mut Arc::make_mut(&mut self.facts.rules).ingress,
            Direction::Egress => &mut Arc::make_mut(&mut self.facts.rules).egress,
        };
        if rules.insert(Rule { traffic, peer, id: id.clone() }) {
            self.facts.places.insert(id, place);
            return;
        }
        // S22: an identical pair counts once and is named; it changes no verdict.
        let first = self.facts.places.get(&id).cloned().unwrap_or_default();
        let object = ObjectRef::SecurityGroup(self.group.clone());
        self.facts.problems.push(Problem::of_rule(object, place, DUPLICATE, format!("says the same as {first} and counts once")));
    }
}

/// The reason of a problem that changes no verdict (S22).
pub const DUPLICATE: &str = "DuplicateRules";
/// The same of a prefix list.
pub const DUPLICATE_ENTRIES: &str = "DuplicateEntries";

fn in_range(name: &str, value: i32, low: i32, high: i32) -> Result<i32, String> {
    if (low..=high).contains(&value) { Ok(value) } else { Err(format!("{name} {value} is not in {low} to {high}")) }
}

fn byte(name: &str, value: Option<i32>) -> Result<Option<u8>, String> {
    value.map(|v| in_range(name, v, 0, 255).map(|v| v as u8)).transpose()
}

impl Traffic {
    /// All traffic of an IANA protocol number, canonical (S11).
    pub fn protocol(number: u8) -> Traffic {
        match number {
            6 => Traffic::Transport(Transport::Tcp, None),
            17 => Traffic::Transport(Transport::Udp, None),
            132 => Traffic::Transport(Transport::Sctp, None),
            1 => Traffic::Icmp { family: Family::V4, kind: None, code: None },
            58 => Traffic::Icmp { family: Family::V6, kind: None, code: None },
            other => Traffic::Protocol(other),
        }
    }
}

fn traffic(written: &Written<'_>) -> Result<Traffic, String> {
    let plain = written.port.is_none() && written.end_port.is_none() && written.icmp_type.is_none() && written.icmp_code.is_none();
    let protocol = match (written.preset, written.protocol) {
        (Some(name), None) => {
            let preset = Preset::named(name).ok_or_else(|| format!("type {name} is unknown"))?;
            if !plain {
                return Err(format!("type {name} says port and ICMP type already"));
            }
            return Ok(preset_traffic(preset));
        }
        (None, Some(protocol)) => protocol,
        _ => return Err("exactly one of type and protocol is needed".into()),
    };
    let all = match protocol {
        ProtocolField::Number(number) => Traffic::protocol(in_range("protocol", *number, 0, 255)? as u8),
        ProtocolField::Name(name) => match name.as_str() {
            "All" => Traffic::All,
            "TCP" => Traffic::protocol(6),
            "UDP" => Traffic::protocol(17),
            "SCTP" => Traffic::protocol(132),
            "ICMP" => Traffic::protocol(1),
            "ICMPv6" => Traffic::protocol(58),
            _ => return Err(format!("protocol {name} is unknown: TCP, UDP, SCTP, ICMP, ICMPv6, All, or a number")),
        },
    };
    match all {
        Traffic::Transport(transport, _) => {
            if written.icmp_type.is_some() || written.icmp_code.is_some() {
                return Err(format!("icmpType and icmpCode do not go with {transport}"));
            }
            Ok(Traffic::Transport(transport, ports(written.port, written.end_port)?))
        }
        Traffic::Icmp { family, .. } => {
            if written.port.is_some() || written.end_port.is_some() {
                return Err("port and endPort do not go with ICMP".into());
            }
            let (kind, code) = (byte("icmpType", written.icmp_type)?, byte("icmpCode", written.icmp_code)?);
            if code.is_some() && kind.is_none() {
                return Err("icmpCode needs icmpType".into());
            }
            Ok(Traffic::Icmp { family, kind, code })
        }
        Traffic::All | Traffic::Protocol(_) if plain => Ok(all),
        // S14. Differs: AWS ignores them.
        Traffic::All | Traffic::Protocol(_) => Err(format!("{all} has neither ports nor ICMP types")),
    }
}

fn preset_traffic(preset: Preset) -> Traffic {
    match preset.traffic {
        PresetTraffic::All => Traffic::All,
        PresetTraffic::Protocol { number, port } => match (Traffic::protocol(number), port) {
            (Traffic::Transport(transport, _), Some(port)) => Traffic::Transport(transport, Some(PortRange { from: port, to: port })),
            (traffic, _) => traffic,
        },
    }
}

fn ports(port: Option<i32>, end_port: Option<i32>) -> Result<Option<PortRange>, String> {
    let Some(from) = port else {
        return if end_port.is_some() { Err("endPort needs port".into()) } else { Ok(None) };
    };
    let from = in_range("port", from, 1, 65535)?;
    let to = in_range("endPort", end_port.unwrap_or(from), 1, 65535)?;
    if to < from {
        return Err(format!("endPort {to} is below port {from}"));
    }
    Ok(Some(PortRange { from: from as u16, to: to as u16 }))
}

fn peer(written: &WrittenPeer, group: &GroupRef) -> Result<Peer, String> {
    let WrittenPeer { cidr, security_group, prefix_list, self_, .. } = written;
    match (cidr, security_group, prefix_list, self_) {
        (Some(cidr), None, None, None) => net(cidr).map(Peer::Net),
        (None, Some(ObjectPeer { name, namespace }), None, None) => {
            let (namespace, name) = other(name, namespace, group)?;
            Ok(Peer::Group(GroupRef { namespace, name }))
        }
        (None, None, Some(ObjectPeer { name, namespace }), None) => {
            let (namespace, name) = other(name, namespace, group)?;
            Ok(Peer::PrefixList(PrefixListRef { namespace, name }))
        }
        (None, None, None, Some(true)) => Ok(Peer::Group(group.clone())),
        (None, None, None, Some(false)) => Err("self can only be true".into()),
        _ => Err("a peer needs exactly one of cidr, securityGroup, prefixList and self".into()),
    }
}

/// Namespace and name of another object (S19): the group's own namespace unless another is written.
fn other(name: &str, namespace: &Option<String>, group: &GroupRef) -> Result<(String, String), String> {
    if name.is_empty() || namespace.as_deref() == Some("") {
        return Err("the name of an object, and its namespace where it is written, must not be empty".into());
    }
    Ok((namespace.clone().unwrap_or_else(|| group.namespace.clone()), name.into()))
}

/// A CIDR or a bare address, host bits cleared (S16).
pub(crate) fn net(text: &str) -> Result<IpNet, String> {
    let parsed = if text.contains('/') { text.parse::<IpNet>().ok() } else { text.parse::<IpAddr>().ok().map(IpNet::from) };
    let net = parsed.ok_or_else(|| format!("`{text}` is neither an address nor a CIDR"))?;
    if let IpAddr::V6(address) = net.addr()
        && address.to_ipv4_mapped().is_some()
    {
        return Err(format!("`{text}` is an IPv4-mapped IPv6 address; write it as IPv4"));
    }
    // One missing digit must not open a group to the world.
    if net.prefix_len() == 0 && !net.addr().is_unspecified() {
        return Err(format!("`{text}` means every address; write 0.0.0.0/0 or ::/0 if it should, or the prefix length that was meant"));
    }
    Ok(net.trunc())
}
