//! What one endpoint, or one class of endpoints, needs in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use policy::model::{Family, GroupRef, NodePolicy, Peer};

use crate::intervals::{first_holders, merge};
use crate::names;
use crate::{Chain, CounterMap, PortMap};

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

/// Peers that are looked for in one map, each with the counter of its rule: what several peers hold counts for the first of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Merge {
    /// Members of these groups.
    Groups(BTreeMap<GroupRef, Arc<str>>),
    /// These networks and prefix lists.
    Nets(BTreeMap<Peer, Arc<str>>),
}

/// Members that groups may have together to be merged. Who is in two of them counts twice.
const MOST: usize = 65_536;

impl Merge {
    /// Named by its peers and their counters, not by what they hold: a member that comes or an edit of a prefix list is a change of elements.
    pub(crate) fn name(&self, family: Family) -> String {
        let digit = match family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        match self {
            Merge::Groups(groups) => {
                let key = names::merged(groups.iter().flat_map(|(group, counter)| [group.namespace.as_str(), &group.name, &**counter]));
                format!("members{digit}/{key}")
            }
            Merge::Nets(peers) => {
                let words: Vec<(String, &str)> = peers.iter().map(|(peer, counter)| (peer.to_string(), &**counter)).collect();
                format!("prefixes{digit}/{}", names::merged(words.iter().flat_map(|(peer, counter)| [peer.as_str(), counter])))
            }
        }
    }

    /// Whether it would cost more than it saves.
    pub(crate) fn too_large(&self, policy: &NodePolicy) -> bool {
        match self {
            Merge::Groups(groups) => {
                groups.keys().filter_map(|group| policy.members.get(group)).map(|members| members.len()).sum::<usize>() > MOST
            }
            Merge::Nets(_) => false,
        }
    }

    /// Whether what this peer holds is in it.
    pub(crate) fn holds(&self, peer: &Peer) -> bool {
        match (self, peer) {
            (Merge::Groups(groups), Peer::Group(group)) => groups.contains_key(group),
            (Merge::Groups(_), Peer::Net(_) | Peer::PrefixList(_)) => false,
            (Merge::Nets(peers), peer) => peers.contains_key(peer),
        }
    }

    /// The counter of the first of the groups whose member has this address.
    pub(crate) fn counter(&self, address: IpAddr, policy: &NodePolicy) -> Option<&Arc<str>> {
        let Merge::Groups(groups) = self else { return None };
        let has = |group: &GroupRef| policy.members.get(group).is_some_and(|members| members.contains(&address));
        groups.iter().find(|(group, _)| has(group)).map(|(_, counter)| counter)
    }

    /// The map.
    pub(crate) fn map(&self, policy: &NodePolicy, family: Family) -> CounterMap {
        match self {
            Merge::Groups(groups) => {
                let mut elements = OrdMap::new();
                for (group, counter) in groups {
                    let members = policy.members.get(group).into_iter().flatten().filter(|address| Family::of(**address) == family);
                    for address in members {
                        elements.entry(*address).or_insert_with(|| (*address, counter.clone()));
                    }
                }
                CounterMap { family, ranges: false, elements }
            }
            Merge::Nets(peers) => {
                let holders = peers.iter().map(|(peer, counter)| (merge(&nets(peer, policy), family), counter.clone()));
                CounterMap { family, ranges: true, elements: first_holders(holders) }
            }
        }
    }
}

fn nets(peer: &Peer, policy: &NodePolicy) -> BTreeSet<IpNet> {
    match peer {
        Peer::Net(net) => [net.trunc()].into(),
        Peer::PrefixList(list) => policy.prefix_lists.get(list).into_iter().flat_map(|entries| entries.iter()).map(IpNet::trunc).collect(),
        Peer::Group(_) => BTreeSet::new(),
    }
}
