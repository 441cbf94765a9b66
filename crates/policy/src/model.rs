//! The words of the policy: parsed once, compared and ordered everywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::OnDeny;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

/// A SecurityGroup by namespace and name. Written `shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pod by namespace and name. Written `shop/web-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A PrefixList by namespace and name. Written `shop/offices`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixListRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A node's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(pub String);

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for PrefixListRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ingress or egress, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// The protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// IANA 6.
    Tcp,
    /// IANA 17.
    Udp,
    /// IANA 132.
    Sctp,
}

impl Transport {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// Destination ports `from..=to`, 1 to 65535 (S12), `from <= to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub from: u16,
    /// Last port.
    pub to: u16,
}

/// One kind of traffic (S10–S14), canonical: a number that has a name is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Every protocol.
    All,
    /// A protocol with ports; `None`: every port.
    Transport(Transport, Option<PortRange>),
    /// ICMP (`V4`: IPv4 packets only) or ICMPv6 (`V6`: IPv6 packets only), S16. A code is given only with a type.
    Icmp {
        /// Which of the two.
        family: Family,
        /// Type; `None`: every type.
        kind: Option<u8>,
        /// Code; `None`: every code.
        code: Option<u8>,
    },
    /// Another IANA protocol number, no ports. Never 1, 6, 17, 58, 132.
    Protocol(u8),
}

/// The far end of a rule. `self` is the group itself, by then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Addresses in a network, host bits cleared (S16).
    Net(IpNet),
    /// Members of a group (S17).
    Group(GroupRef),
    /// Addresses in the current entries of a prefix list (S21).
    PrefixList(PrefixListRef),
}

/// One (rule, peer) pair, S10.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Which traffic.
    pub traffic: Traffic,
    /// With whom.
    pub peer: Peer,
    /// Stable id `sgr-…` (S23).
    pub id: String,
}

/// What a node has to enforce: the output of `compile`, the input of `verdict` and of `lower`. A copy shares everything with the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePolicy {
    /// The guarded endpoints of this node. No two have an address in common.
    pub endpoints: OrdMap<PodRef, Endpoint>,
    /// The rules of every group that an endpoint here is in.
    pub groups: RulesOf,
    /// The members' addresses of every group that one of these rules names and that exists; one that does not is not here (S20).
    pub members: OrdMap<GroupRef, OrdSet<IpAddr>>,
    /// The entries of every prefix list that one of these rules names and that exists, host bits cleared; one that does not is not here.
    pub prefix_lists: OrdMap<PrefixListRef, Arc<BTreeSet<IpNet>>>,
    /// What always passes here.
    pub exempt: BTreeSet<Exemption>,
    /// The addresses at which cluster DNS answers; looked at only with [`Exemption::ClusterDns`].
    pub cluster_dns: BTreeSet<IpAddr>,
}

impl Default for NodePolicy {
    fn default() -> Self {
        NodePolicy {
            endpoints: OrdMap::new(),
            groups: OrdMap::new(),
            members: OrdMap::new(),
            prefix_lists: OrdMap::new(),
            exempt: Exemption::DEFAULT.into(),
            cluster_dns: BTreeSet::new(),
        }
    }
}

/// What always passes, before anything else (S36); each can be switched off by the administrator, and each has a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exemption {
    /// From a node to pods on that same node: kubelet's probes.
    Node,
    /// IPv6 router and neighbour solicitation and advertisement (ICMPv6 133 to 136), not redirects.
    NeighbourDiscovery,
    /// IPv6 multicast listener discovery (ICMPv6 130 to 132 and 143).
    ListenerDiscovery,
    /// UDP 68 to 67, 546 to 547, and back.
    Dhcp,
    /// What a node sends to itself.
    Loopback,
    /// A pod to itself through a Service.
    Hairpin,
    /// DNS questions (UDP and TCP 53) to the cluster's DNS. Ordinary traffic unless switched on.
    ClusterDns,
}

impl Exemption {
    /// All of them.
    pub const ALL: [Exemption; 7] = [
        Exemption::Node,
        Exemption::NeighbourDiscovery,
        Exemption::ListenerDiscovery,
        Exemption::Dhcp,
        Exemption::Loopback,
        Exemption::Hairpin,
        Exemption::ClusterDns,
    ];
    /// Those that are on unless the administrator says otherwise.
    pub const DEFAULT: [Exemption; 6] = [
        Exemption::Node,
        Exemption::NeighbourDiscovery,
        Exemption::ListenerDiscovery,
        Exemption::Dhcp,
        Exemption::Loopback,
        Exemption::Hairpin,
    ];
}

impl NodePolicy {
    /// Every group that some rule names, whether it exists or not.
    pub fn named(&self) -> BTreeSet<GroupRef> {
        self.groups.values().flat_map(|rules| rules.groups()).cloned().collect()
    }

    /// Leaves out the members and entries that no rule names.
    pub fn forget_unnamed(&mut self) {
        let (groups, lists) = (self.named(), self.named_lists());
        for group in self.members.keys().filter(|group| !groups.contains(*group)).cloned().collect::<Vec<_>>() {
            self.members.remove(&group);
        }
        for list in self.prefix_lists.keys().filter(|list| !lists.contains(*list)).cloned().collect::<Vec<_>>() {
            self.prefix_lists.remove(&list);
        }
    }

    /// Every prefix list that some rule names, whether it exists or not.
    pub fn named_lists(&self) -> BTreeSet<PrefixListRef> {
        self.groups.values().flat_map(|rules| rules.prefix_lists()).cloned().collect()
    }
}

/// A guarded endpoint of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// All its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The groups it is in that exist. None: it may neither send nor receive (its groups are missing, fail closed).
    pub groups: BTreeSet<GroupRef>,
    /// How what it is denied is answered (S32): Reject only when all its groups say so and none is missing.
    pub on_deny: OnDeny,
    /// The kernel takes no chain of its own for it: whatever its groups allow is dropped, and what it sends to itself.
    pub closed: bool,
}

/// The rules of groups.
pub type RulesOf = OrdMap<GroupRef, Arc<GroupRules>>;

/// The rules of one group, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRules {
    /// What may come in.
    pub ingress: BTreeSet<Rule>,
    /// What may go out.
    pub egress: BTreeSet<Rule>,
}

impl GroupRules {
    /// All rules, those of ingress first.
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.ingress.iter().chain(&self.egress)
    }

    /// The groups that they name, once for each rule.
    pub fn groups(&self) -> impl Iterator<Item = &GroupRef> {
        self.all().filter_map(|rule| match &rule.peer {
            Peer::Group(group) => Some(group),
            Peer::Net(_) | Peer::PrefixList(_) => None,
        })
    }

    /// The prefix lists that they name, once for each rule.
    pub fn prefix_lists(&self) -> impl Iterator<Item = &PrefixListRef> {
        self.all().filter_map(|rule| match &rule.peer {
            Peer::PrefixList(list) => Some(list),
            Peer::Net(_) | Peer::Group(_) => None,
        })
    }
}

/// A packet as one node sees it, the input of `verdict` and of the packet trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Sender, before source NAT (S33).
    pub source: IpAddr,
    /// Receiver, after destination NAT (S33); of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload,
    /// What conntrack says of it.
    pub state: ConnState,
    /// Its way through the node.
    pub path: Path,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// A transport packet.
    Transport {
        /// TCP, UDP or SCTP.
        protocol: Transport,
        /// Source port, never matched by a rule.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP over IPv4, ICMPv6 over IPv6 (by the packet's family).
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Another protocol, by IANA number; never 6, 17, 132, nor the family's own ICMP.
    Protocol(u8),
}

/// Conntrack's word (S31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnState {
    /// Opens a connection.
    New,
    /// Belongs to one that was allowed.
    Established,
    /// An ICMP error or a helper's connection that belongs to one.
    Related,
    /// Belongs to none and opens none (S37).
    Invalid,
}

/// The way of a packet through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// From one interface to another: pod to pod, pod to elsewhere, elsewhere to pod.
    Forward,
    /// To the node itself, from a pod of this node or from elsewhere (S30).
    Input,
    /// From the node itself.
    Output,
    /// From the node to itself.
    Loopback,
}

/// What becomes of a packet on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// Dropped silently.
    Drop,
    /// Answered with a TCP reset or ICMP "administratively prohibited" (S32).
    Reject,
}
