//! Everything in nft's own words: what `nft -f` reads and an operator knows from `nft list table`.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::Family;

use crate::{
    Action, Base, Chain, Counter, CounterMap, CtStates, Hook, IntervalSet, Match, Op, PortMap, Rule, Ruleset, Set, Side, TABLE,
    Transaction, VerdictMap,
};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for name in &self.counters {
            writeln!(f, "  counter {name} {{ }}")?;
        }
        for (name, set) in &self.sets {
            write!(f, "  set {name} {set}")?;
        }
        for (name, set) in &self.intervals {
            write!(f, "  set {name} {set}")?;
        }
        for (name, map) in &self.maps {
            write!(f, "  map {name} {map}")?;
        }
        for (name, map) in &self.port_maps {
            write!(f, "  map {name} {map}")?;
        }
        for (name, map) in &self.counter_maps {
            write!(f, "  map {name} {map}")?;
        }
        for (name, chain) in &self.chains {
            write!(f, "  chain {name} {chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{\n    type {}", key_type(self.family))?;
        if !self.elements.is_empty() {
            writeln!(f, "    elements = {{ {} }}", List(&self.elements))?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for IntervalSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{\n    type {}\n    flags interval", key_type(self.family))?;
        if !self.ranges.is_empty() {
            writeln!(f, "    elements = {{ {} }}", List(self.ranges.iter().map(Range::from)))?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for VerdictMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{\n    type {} : verdict", key_type(self.family))?;
        if !self.elements.is_empty() {
            writeln!(f, "    elements = {{ {} }}", List(self.elements.iter().map(Entry::from)))?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for PortMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{\n    {}", PORT_KEY)?;
        if self.ranges {
            writeln!(f, "    flags interval")?;
        }
        if !self.elements.is_empty() {
            writeln!(f, "    elements = {{ {} }}", List(self.elements.iter().map(PortEntry::from)))?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for CounterMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{\n    type {} : counter", key_type(self.family))?;
        if self.ranges {
            writeln!(f, "    flags interval")?;
        }
        if !self.elements.is_empty() {
            writeln!(f, "    elements = {{ {} }}", List(self.elements.iter().map(CountedEntry::from)))?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{{")?;
        if let Some(base) = &self.base {
            writeln!(f, "    {base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "    {rule}")?;
        }
        writeln!(f, "  }}")
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "type filter hook {} priority {}; policy accept;", self.hook, self.priority)
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for test in &self.matches {
            write!(f, "{test} ")?;
        }
        match (&self.counter, &self.action) {
            (Some(counter), Action::Continue) => write!(f, "counter name \"{counter}\""),
            (Some(counter), action) => write!(f, "counter name \"{counter}\" {action}"),
            (None, action) => action.fmt(f),
        }
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Match::CtState(states) => write!(f, "ct state {states}"),
            Match::Family(family) => write!(f, "meta nfproto {}", nfproto(*family)),
            // By number: names would need /etc/protocols.
            Match::L4Proto(number) => write!(f, "meta l4proto {number}"),
            Match::FromLoopback => f.write_str("iif \"lo\""),
            Match::ToLoopback => f.write_str("oif \"lo\""),
            Match::InSet { side, family, set } => write!(f, "{} {side} @{set}", header(*family)),
            Match::CountedIn { side, family, map } => write!(f, "counter name {} {side} map @{map}", header(*family)),
            Match::InNet { side, net } => {
                let family = Family::of(net.addr());
                match net.prefix_len() {
                    0 => write!(f, "meta nfproto {}", nfproto(family)),
                    length if length == net.max_prefix_len() => write!(f, "{} {side} {}", header(family), net.addr()),
                    _ => write!(f, "{} {side} {net}", header(family)),
                }
            }
            Match::DestinationPorts { from, to } if from == to => write!(f, "th dport {from}"),
            Match::DestinationPorts { from, to } => write!(f, "th dport {from}-{to}"),
            Match::SourcePort(port) => write!(f, "th sport {port}"),
            Match::IcmpType(family, kind) => write!(f, "{} type {kind}", icmp(*family)),
            Match::IcmpCode(family, code) => write!(f, "{} code {code}", icmp(*family)),
        }
    }
}

impl Display for CtStates {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let states = [
            (self.established, "established"),
            (self.related, "related"),
            (self.new, "new"),
            (self.invalid, "invalid"),
            (self.untracked, "untracked"),
        ];
        let names: Vec<&str> = states.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
        f.write_str(&names.join(","))
    }
}

impl Display for Side {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        })
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Action::Accept => f.write_str("accept"),
            Action::Drop => f.write_str("drop"),
            Action::RejectTcpReset => f.write_str("reject with tcp reset"),
            Action::RejectAdminProhibited => f.write_str("reject with icmpx admin-prohibited"),
            Action::Jump(chain) => write!(f, "jump {chain}"),
            Action::Goto(chain) => write!(f, "goto {chain}"),
            Action::Return => f.write_str("return"),
            Action::Lookup { side, family, map } => write!(f, "{} {side} vmap @{map}", header(*family)),
            Action::PortLookup(map) => write!(f, "th dport vmap @{map}"),
            Action::Continue => f.write_str("continue"),
        }
    }
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddTable => write!(f, "add table inet {TABLE}"),
            Op::DeleteTable => write!(f, "delete table inet {TABLE}"),
            Op::AddCounter(name) => write!(f, "add counter inet {TABLE} {name}"),
            Op::ContinueCounter(name, Counter { packets, bytes }) => {
                write!(f, "add counter inet {TABLE} {name} {{ packets {packets} bytes {bytes} }}")
            }
            Op::DeleteCounter(name) => write!(f, "delete counter inet {TABLE} {name}"),
            Op::AddSet(name, family) => write!(f, "add set inet {TABLE} {name} {{ type {}; }}", key_type(*family)),
            Op::DeleteSet(name) => write!(f, "delete set inet {TABLE} {name}"),
            Op::AddElements(name, elements) => write!(f, "add element inet {TABLE} {name} {{ {} }}", List(elements)),
            Op::DeleteElements(name, elements) => write!(f, "delete element inet {TABLE} {name} {{ {} }}", List(elements)),
            Op::AddIntervalSet(name, family) => {
                write!(f, "add set inet {TABLE} {name} {{ type {}; flags interval; }}", key_type(*family))
            }
            Op::DeleteIntervalSet(name) => write!(f, "delete set inet {TABLE} {name}"),
            Op::AddIntervals(name, ranges) => {
                write!(f, "add element inet {TABLE} {name} {{ {} }}", List(ranges.iter().map(Range::from)))
            }
            Op::DeleteIntervals(name, ranges) => {
                write!(f, "delete element inet {TABLE} {name} {{ {} }}", List(ranges.iter().map(Range::from)))
            }
            Op::AddMap(name, family) => write!(f, "add map inet {TABLE} {name} {{ type {} : verdict; }}", key_type(*family)),
            Op::DeleteMap(name) => write!(f, "delete map inet {TABLE} {name}"),
            Op::AddMapElements(name, elements) => {
                write!(f, "add element inet {TABLE} {name} {{ {} }}", List(elements.iter().map(Entry::from)))
            }
            Op::DeleteMapElements(name, keys) => write!(f, "delete element inet {TABLE} {name} {{ {} }}", List(keys)),
            Op::AddPortMap(name, false) => write!(f, "add map inet {TABLE} {name} {{ {PORT_KEY}; }}"),
            Op::AddPortMap(name, true) => write!(f, "add map inet {TABLE} {name} {{ {PORT_KEY}; flags interval; }}"),
            Op::AddPorts(name, PortMap { elements, .. }) => {
                write!(f, "add element inet {TABLE} {name} {{ {} }}", List(elements.iter().map(PortEntry::from)))
            }
            Op::DeletePorts(name, PortMap { elements, .. }) => {
                let ports = elements.iter().map(|(from, (to, _))| Ports(*from, *to));
                write!(f, "delete element inet {TABLE} {name} {{ {} }}", List(ports))
            }
            Op::AddCounterMap(name, family, false) => write!(f, "add map inet {TABLE} {name} {{ type {} : counter; }}", key_type(*family)),
            Op::AddCounterMap(name, family, true) => {
                write!(f, "add map inet {TABLE} {name} {{ type {} : counter; flags interval; }}", key_type(*family))
            }
            Op::AddCounted(name, CounterMap { elements, .. }) => {
                write!(f, "add element inet {TABLE} {name} {{ {} }}", List(elements.iter().map(CountedEntry::from)))
            }
            Op::DeleteCounted(name, CounterMap { elements, .. }) => {
                let keys = elements.iter().map(|(first, (last, _))| Range(first, last));
                write!(f, "delete element inet {TABLE} {name} {{ {} }}", List(keys))
            }
            Op::AddChain(name, None) => write!(f, "add chain inet {TABLE} {name}"),
            Op::AddChain(name, Some(base)) => write!(f, "add chain inet {TABLE} {name} {{ {base} }}"),
            Op::FlushChain(name) => write!(f, "flush chain inet {TABLE} {name}"),
            Op::DeleteChain(name) => write!(f, "delete chain inet {TABLE} {name}"),
            Op::AddRule(chain, rule) => write!(f, "add rule inet {TABLE} {chain} {rule}"),
        }
    }
}

/// Comma-separated.
struct List<I>(I);

impl<I: IntoIterator<Item: Display> + Clone> Display for List<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (place, item) in self.0.clone().into_iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

/// One element of an interval set.
struct Range<'a>(&'a IpAddr, &'a IpAddr);

impl<'a> From<(&'a IpAddr, &'a IpAddr)> for Range<'a> {
    fn from((first, last): (&'a IpAddr, &'a IpAddr)) -> Self {
        Range(first, last)
    }
}

impl Display for Range<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { self.0.fmt(f) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

/// One element of a verdict map.
struct Entry<'a>(&'a IpAddr, &'a str);

impl<'a> From<(&'a IpAddr, &'a String)> for Entry<'a> {
    fn from((key, chain): (&'a IpAddr, &'a String)) -> Self {
        Entry(key, chain)
    }
}

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} : goto {}", self.0, self.1)
    }
}

/// One element of a counter map.
struct CountedEntry<'a>(Range<'a>, &'a str);

impl<'a> From<(&'a IpAddr, &'a (IpAddr, Arc<str>))> for CountedEntry<'a> {
    fn from((first, (last, counter)): (&'a IpAddr, &'a (IpAddr, Arc<str>))) -> Self {
        CountedEntry(Range(first, last), counter)
    }
}

impl Display for CountedEntry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} : \"{}\"", self.0, self.1)
    }
}

/// Key and value of a port map.
const PORT_KEY: &str = "type inet_service : verdict";

/// One key of a port map.
struct Ports(u16, u16);

impl Display for Ports {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { self.0.fmt(f) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

/// One element of a port map.
struct PortEntry<'a>(Ports, &'a str);

impl<'a> From<(&'a u16, &'a (u16, String))> for PortEntry<'a> {
    fn from((from, (to, chain)): (&'a u16, &'a (u16, String))) -> Self {
        PortEntry(Ports(*from, *to), chain)
    }
}

impl Display for PortEntry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} : jump {}", self.0, self.1)
    }
}

const fn key_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

const fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

const fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn icmp(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}
