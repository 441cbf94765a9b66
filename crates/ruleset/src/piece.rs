//! What one endpoint, or one class of endpoints, needs in the table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::model::{Family, GroupRef, NodePolicy, Peer};

use crate::intervals::merge;
use crate::names;
use crate::{Chain, IntervalSet, PortMap, Set};

/// Chains and maps that belong to one alone, and the names of what several may need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) chains: Vec<(String, Chain)>,
    pub(crate) port_maps: Vec<(String, PortMap)>,
    /// Map, address and chain.
    pub(crate) elements: Vec<(&'static str, IpAddr, String)>,
    pub(crate) counters: BTreeSet<String>,
    /// Also those that were too large, and may not be so for ever.
    pub(crate) merges: BTreeSet<Merge>,
    /// Groups and prefix lists that would change it by coming or going.
    pub(crate) peers: BTreeSet<Peer>,
}

/// Peers that are looked for in one set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Merge {
    /// Members of these groups.
    Groups(BTreeSet<GroupRef>),
    /// These networks and prefix lists.
    Nets(BTreeSet<Peer>),
}

/// Members that groups may have together to be merged. Who is in two of them counts twice.
const MOST: usize = 65_536;

impl Merge {
    /// Named by its peers, not by what they hold: a member that comes or an edit of a prefix list is a change of elements.
    pub(crate) fn name(&self, family: Family) -> String {
        let digit = match family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        match self {
            Merge::Groups(groups) => {
                let key = names::merged(groups.iter().flat_map(|group| [group.namespace.as_str(), &group.name]));
                format!("members{digit}/{key}")
            }
            Merge::Nets(peers) => {
                let words: Vec<String> = peers.iter().map(ToString::to_string).collect();
                format!("prefixes{digit}/{}", names::merged(words.iter().map(String::as_str)))
            }
        }
    }

    /// Whether it would cost more than it saves.
    pub(crate) fn too_large(&self, policy: &NodePolicy) -> bool {
        match self {
            Merge::Groups(groups) => {
                groups.iter().filter_map(|group| policy.members.get(group)).map(|members| members.len()).sum::<usize>() > MOST
            }
            Merge::Nets(_) => false,
        }
    }

    /// Whether what this peer holds is in it.
    pub(crate) fn holds(&self, peer: &Peer) -> bool {
        match (self, peer) {
            (Merge::Groups(groups), Peer::Group(group)) => groups.contains(group),
            (Merge::Groups(_), Peer::Net(_) | Peer::PrefixList(_)) => false,
            (Merge::Nets(peers), peer) => peers.contains(peer),
        }
    }

    /// Whether an address is a member's of one of the groups.
    pub(crate) fn has(&self, address: IpAddr, policy: &NodePolicy) -> bool {
        match self {
            Merge::Groups(groups) => groups.iter().any(|group| policy.members.get(group).is_some_and(|members| members.contains(&address))),
            Merge::Nets(_) => false,
        }
    }

    /// The set of the groups' members.
    pub(crate) fn set(&self, policy: &NodePolicy, family: Family) -> Option<Set> {
        let Merge::Groups(groups) = self else { return None };
        let members = groups.iter().filter_map(|group| policy.members.get(group)).flatten();
        Some(Set { family, elements: members.copied().filter(|address| Family::of(*address) == family).collect() })
    }

    /// The set of the networks.
    pub(crate) fn intervals(&self, policy: &NodePolicy, family: Family) -> Option<IntervalSet> {
        let Merge::Nets(peers) = self else { return None };
        let mut nets: BTreeSet<IpNet> = BTreeSet::new();
        for peer in peers {
            match peer {
                Peer::Net(net) => drop(nets.insert(net.trunc())),
                Peer::PrefixList(list) => {
                    nets.extend(policy.prefix_lists.get(list).into_iter().flat_map(|entries| entries.iter()).map(IpNet::trunc));
                }
                Peer::Group(_) => {}
            }
        }
        Some(IntervalSet { family, ranges: merge(&nets, family) })
    }
}
