//! What one endpoint, or one class of endpoints, needs in the table.

use std::cmp::Ordering;
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
    /// Also those that there is no room for, and may be one day.
    pub(crate) merges: BTreeSet<Merge>,
    /// Groups and prefix lists that would change it by coming or going.
    pub(crate) peers: BTreeSet<Peer>,
}

/// Peers that are looked for in one map, each with the counter of its rule: what several peers hold counts for the first of them.
///
/// Named by its peers and their counters, not by what they hold: a member that comes or an edit of a prefix list is a change of elements. Two of
/// the same name are the same. A copy costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct Merge {
    digest: Arc<str>,
    peers: Arc<Peers>,
}

/// What is looked for, and which counter is whose.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    /// Members of these groups.
    Groups(BTreeMap<GroupRef, Arc<str>>),
    /// These networks and prefix lists.
    Nets(BTreeMap<Peer, Arc<str>>),
}

impl PartialEq for Merge {
    fn eq(&self, other: &Merge) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Merge {}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Merge) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Merge {
    fn cmp(&self, other: &Merge) -> Ordering {
        self.digest.cmp(&other.digest)
    }
}

impl Merge {
    pub(crate) fn groups(groups: BTreeMap<GroupRef, Arc<str>>) -> Merge {
        let words = groups.iter().flat_map(|(group, counter)| [group.namespace.as_str(), &group.name, &**counter]);
        Merge { digest: names::merged(["groups"].into_iter().chain(words)).into(), peers: Arc::new(Peers::Groups(groups)) }
    }

    pub(crate) fn nets(peers: BTreeMap<Peer, Arc<str>>) -> Merge {
        let words: Vec<(String, &str)> = peers.iter().map(|(peer, counter)| (peer.to_string(), &**counter)).collect();
        let words = words.iter().flat_map(|(peer, counter)| [peer.as_str(), counter]);
        Merge { digest: names::merged(["networks"].into_iter().chain(words)).into(), peers: Arc::new(Peers::Nets(peers)) }
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn name(&self, family: Family) -> String {
        let digit = match family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        let kind = match *self.peers {
            Peers::Groups(_) => "members",
            Peers::Nets(_) => "prefixes",
        };
        format!("{kind}{digit}/{}", self.digest)
    }

    /// Its peers.
    pub(crate) fn all(&self) -> impl Iterator<Item = Peer> {
        let (groups, nets) = match &*self.peers {
            Peers::Groups(groups) => (Some(groups), None),
            Peers::Nets(peers) => (None, Some(peers)),
        };
        let groups = groups.into_iter().flatten().map(|(group, _)| Peer::Group(group.clone()));
        groups.chain(nets.into_iter().flatten().map(|(peer, _)| peer.clone()))
    }

    /// Those that may come to hold something else.
    pub(crate) fn changing(&self) -> impl Iterator<Item = Peer> {
        self.all().filter(|peer| !matches!(peer, Peer::Net(_)))
    }

    /// What is said of its groups.
    pub(crate) fn groups_among<'a, T>(&'a self, said: &'a BTreeMap<GroupRef, T>) -> impl Iterator<Item = &'a T> {
        let groups = match &*self.peers {
            Peers::Groups(groups) => Some(groups),
            Peers::Nets(_) => None,
        };
        let few = said.len() < groups.map_or(0, BTreeMap::len);
        let by_word =
            said.iter().filter(move |(group, _)| few && groups.is_some_and(|groups| groups.contains_key(*group))).map(|(_, word)| word);
        by_word.chain(groups.into_iter().flatten().filter(move |_| !few).filter_map(|(group, _)| said.get(group)))
    }

    /// Whether it costs less to make the map, which holds so many members, than to look for the group of each of so many addresses.
    pub(crate) fn is_cheaper_anew(&self, members: usize, addresses: usize) -> bool {
        matches!(&*self.peers, Peers::Groups(groups) if addresses.saturating_mul(groups.len()) > members)
    }

    /// The counter of the first of the groups whose member has this address.
    pub(crate) fn counter(&self, address: IpAddr, policy: &NodePolicy) -> Option<&Arc<str>> {
        let Peers::Groups(groups) = &*self.peers else { return None };
        let has = |group: &GroupRef| policy.members.get(group).is_some_and(|members| members.contains(&address));
        groups.iter().find(|(group, _)| has(group)).map(|(_, counter)| counter)
    }

    /// The map.
    pub(crate) fn map(&self, policy: &NodePolicy, family: Family) -> CounterMap {
        match &*self.peers {
            Peers::Groups(groups) => {
                let mut elements = OrdMap::new();
                for (group, counter) in groups {
                    let members = policy.members.get(group).into_iter().flatten().filter(|address| Family::of(**address) == family);
                    for address in members {
                        elements.entry(*address).or_insert_with(|| (*address, counter.clone()));
                    }
                }
                CounterMap { family, ranges: false, elements }
            }
            Peers::Nets(peers) => {
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
