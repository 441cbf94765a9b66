//! An nftables table as a value: our one table, `inet k8s-sg`. `Display` of everything is nft syntax.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use policy::model::Family;

use crate::Counter;

/// The family-independent name of our one table (family `inet`).
pub const TABLE: &str = "k8s-sg";

/// Everything in our table. Names are unique per kind; sets and maps of every sort are of one kind in this.
///
/// A copy shares everything with the original, and two that come from one another are compared at the cost of what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Named counters.
    pub counters: OrdSet<String>,
    /// Hash sets of addresses.
    pub sets: OrdMap<String, Set>,
    /// Interval sets of addresses.
    pub intervals: OrdMap<String, IntervalSet>,
    /// Verdict maps from address to chain.
    pub maps: OrdMap<String, VerdictMap>,
    /// Verdict maps from destination port to chain.
    pub port_maps: OrdMap<String, Arc<PortMap>>,
    /// Maps from address to counter.
    pub counter_maps: OrdMap<String, CounterMap>,
    /// Chains with their rules in order.
    pub chains: OrdMap<String, Arc<Chain>>,
}

/// A hash set of addresses of one family, without flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The family of its elements.
    pub family: Family,
    /// Its elements, all of that family.
    pub elements: OrdSet<IpAddr>,
}

/// A set of addresses of one family, as ranges (`flags interval`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalSet {
    /// The family of its ranges.
    pub family: Family,
    /// First address to last address, all of that family. No two overlap or touch: the kernel refuses the one, and reads back the other
    /// as it likes.
    pub ranges: OrdMap<IpAddr, IpAddr>,
}

/// A map from an address to a chain that is gone to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictMap {
    /// The family of its keys.
    pub family: Family,
    /// Address to the name of the chain (`goto`).
    pub elements: OrdMap<IpAddr, String>,
}

/// A map from a destination port to a chain that is jumped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Whether keys are ranges (`flags interval`); otherwise each is one port, which the kernel finds faster.
    pub ranges: bool,
    /// First port to last port and the name of the chain. No two overlap.
    pub elements: BTreeMap<u16, (u16, String)>,
}

/// A map from an address to the counter that counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterMap {
    /// The family of its keys.
    pub family: Family,
    /// Whether keys are ranges (`flags interval`); otherwise each is one address, which the kernel finds faster.
    pub ranges: bool,
    /// First address to last address and the counter's name. No two overlap.
    pub elements: OrdMap<IpAddr, (IpAddr, Arc<str>)>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters it; none: a regular chain. The policy of a base chain is accept.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// The hook of a base chain (type filter, policy accept).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// Which hook.
    pub hook: Hook,
    /// Its place among all chains of the hook.
    pub priority: i32,
}

/// Netfilter hooks that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// To the node itself.
    Input,
    /// Through the node.
    Forward,
    /// From the node itself.
    Output,
}

/// A rule: all matches hold, then the counter counts, then the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What must hold, in order.
    pub matches: Vec<Match>,
    /// The named counter that counts what matches.
    pub counter: Option<String>,
    /// What becomes of what matches.
    pub action: Action,
}

/// Source or destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `saddr`
    Source,
    /// `daddr`
    Destination,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `ct state established,related`: bits of [`CtStates`].
    CtState(CtStates),
    /// `meta nfproto ipv4|ipv6`
    Family(Family),
    /// `meta l4proto NUMBER`
    L4Proto(u8),
    /// `iif lo`: comes over the loopback interface.
    FromLoopback,
    /// `oif lo`: goes over the loopback interface.
    ToLoopback,
    /// `ip saddr @set` and the like, of a set or an interval set; implies the family.
    InSet {
        /// Which address.
        side: Side,
        /// The family of the set.
        family: Family,
        /// The set's name.
        set: String,
    },
    /// `counter name ip saddr map @map` and the like: is in the map, and counts there; implies the family. Only the last one of a rule.
    CountedIn {
        /// Which address.
        side: Side,
        /// The family of the map.
        family: Family,
        /// The map's name.
        map: String,
    },
    /// `ip saddr 10.0.0.0/8` and the like; implies the family. A prefix of length 0 tests the family alone.
    InNet {
        /// Which address.
        side: Side,
        /// The network, host bits cleared.
        net: IpNet,
    },
    /// `th dport FROM-TO`: destination ports, inclusive; only after an L4Proto that has ports.
    DestinationPorts {
        /// First.
        from: u16,
        /// Last.
        to: u16,
    },
    /// `th sport NUMBER`; only after an L4Proto that has ports (DHCP, S36).
    SourcePort(u16),
    /// `icmp type N` or `icmpv6 type N`; only after the L4Proto of that family.
    IcmpType(Family, u8),
    /// `icmp code N` or `icmpv6 code N`.
    IcmpCode(Family, u8),
}

/// States of `ct state`, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CtStates {
    /// `established`
    pub established: bool,
    /// `related`
    pub related: bool,
    /// `new`
    pub new: bool,
    /// `invalid`
    pub invalid: bool,
    /// `untracked`: somebody has kept it from conntrack (`notrack`).
    pub untracked: bool,
}

/// What becomes of a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends this base chain's judgement.
    Accept,
    /// Ends it for good.
    Drop,
    /// Answered with a TCP reset; only after L4Proto 6.
    RejectTcpReset,
    /// Answered with ICMP or ICMPv6 "administratively prohibited".
    RejectAdminProhibited,
    /// To that chain and back.
    Jump(String),
    /// To that chain for good.
    Goto(String),
    /// Back to the caller.
    Return,
    /// `ip saddr vmap @map`: to the chain that the map has for the address; on to the next rule where it has none or the family is another.
    Lookup {
        /// Which address.
        side: Side,
        /// The family of the map.
        family: Family,
        /// The map's name.
        map: String,
    },
    /// `th dport vmap @map`: to the chain that the map has for the destination port and back; on to the next rule where it has none. Only
    /// after an L4Proto that has ports.
    PortLookup(String),
    /// No verdict: on to the next rule. For what is only counted.
    Continue,
}

/// A change of our table, sent as one batch: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// In the order in which the kernel must see them.
    pub ops: Vec<Op>,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the table if it is not there.
    AddTable,
    /// Removes the table with all in it; it must be there.
    DeleteTable,
    /// Makes a counter.
    AddCounter(String),
    /// Makes a counter that goes on from what one of its name had counted.
    ContinueCounter(String, Counter),
    /// Removes a counter that nobody uses.
    DeleteCounter(String),
    /// Makes an empty set.
    AddSet(String, Family),
    /// Removes a set that nobody uses.
    DeleteSet(String),
    /// Adds elements to a set.
    AddElements(String, OrdSet<IpAddr>),
    /// Removes elements; all must be there.
    DeleteElements(String, OrdSet<IpAddr>),
    /// Makes an empty interval set.
    AddIntervalSet(String, Family),
    /// Removes an interval set that nobody uses.
    DeleteIntervalSet(String),
    /// Adds ranges, first to last address; one that overlaps a range that is there is an error, unless it is the same.
    AddIntervals(String, OrdMap<IpAddr, IpAddr>),
    /// Removes ranges; all must be there exactly so.
    DeleteIntervals(String, OrdMap<IpAddr, IpAddr>),
    /// Makes an empty verdict map.
    AddMap(String, Family),
    /// Removes a map that nobody uses.
    DeleteMap(String),
    /// Adds elements to a map; a key that is there with another chain is an error.
    AddMapElements(String, OrdMap<IpAddr, String>),
    /// Removes elements of a map; all must be there.
    DeleteMapElements(String, OrdSet<IpAddr>),
    /// Makes an empty port map, of ranges or of single ports. [`Op::DeleteMap`] removes it.
    AddPortMap(String, bool),
    /// Adds elements to a port map of the same sort; one that overlaps another is an error.
    AddPorts(String, PortMap),
    /// Removes elements of a port map of the same sort; all must be there.
    DeletePorts(String, PortMap),
    /// Makes an empty counter map, of ranges or of single addresses. [`Op::DeleteMap`] removes it.
    AddCounterMap(String, Family, bool),
    /// Adds elements to a counter map of the same sort; one that overlaps another is an error.
    AddCounted(String, CounterMap),
    /// Removes elements of a counter map of the same sort; all must be there.
    DeleteCounted(String, CounterMap),
    /// Makes an empty chain.
    AddChain(String, Option<Base>),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Removes an empty chain that nobody refers to.
    DeleteChain(String),
    /// Appends a rule to a chain.
    AddRule(String, Rule),
}
