//! Which parts of the policy each name in the table is there for.

use std::collections::{BTreeMap, BTreeSet};

use policy::model::{Direction, GroupRef, Peer};

use crate::blame::{Part, Thing};
use crate::lower::{FAMILIES, group_denied_counter, members_name, own_chain, prefixes_name, rule_counter};
use crate::lowering::Lowering;
use crate::piece::Peers;

const WAYS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Made once for as many steps as were refused.
#[derive(Default)]
pub(crate) struct Owners<'a> {
    chains: BTreeMap<String, BTreeSet<Part>>,
    counters: BTreeMap<String, BTreeSet<Part>>,
    sets: BTreeMap<String, BTreeSet<Part>>,
    /// The groups of whose rules one names a peer.
    namers: BTreeMap<&'a Peer, BTreeSet<&'a GroupRef>>,
}

impl<'a> Owners<'a> {
    /// Of all that was lowered last.
    pub(crate) fn of(lowering: &'a Lowering) -> Owners<'a> {
        let mut owners = Owners::default();
        let policy = lowering.policy();
        for (group, rules) in &policy.groups {
            for rule in rules.all() {
                owners.namers.entry(&rule.peer).or_default().insert(group);
            }
            for (way, rules) in [(Direction::Ingress, &rules.ingress), (Direction::Egress, &rules.egress)] {
                for rule in rules {
                    add(&mut owners.counters, rule_counter(way, group, &rule.id), [Part::Rules(group.clone())]);
                }
            }
        }
        for ((_, groups), piece) in lowering.classes() {
            let parts = || groups.iter().cloned().map(Part::Rules);
            piece.chains.iter().for_each(|(name, _)| add(&mut owners.chains, name.clone(), parts()));
            piece.port_maps.iter().for_each(|(name, _)| add(&mut owners.sets, name.clone(), parts()));
        }
        for (pod, endpoint) in &policy.endpoints {
            for way in WAYS {
                let part = || [Part::Endpoint(pod.clone())];
                add(&mut owners.chains, own_chain(pod, way), part());
                endpoint.groups.iter().for_each(|group| add(&mut owners.counters, group_denied_counter(way, group), part()));
            }
        }
        for family in FAMILIES {
            for group in policy.members.keys() {
                add(&mut owners.sets, members_name(group, family), [Part::Members(group.clone())]);
            }
            for list in policy.prefix_lists.keys() {
                add(&mut owners.sets, prefixes_name(list, family), [Part::PrefixList(list.clone())]);
            }
            for merge in lowering.merges() {
                let parts: Vec<Part> = match merge.peers() {
                    Peers::Groups(groups) => groups.keys().cloned().map(Part::Members).collect(),
                    Peers::Nets(peers) => peers.keys().flat_map(|peer| owners.of_network(peer)).collect(),
                };
                add(&mut owners.sets, merge.name(family), parts);
            }
        }
        owners
    }

    fn of_network(&self, peer: &Peer) -> Vec<Part> {
        let list = match peer {
            Peer::PrefixList(list) => Some(Part::PrefixList(list.clone())),
            Peer::Net(_) | Peer::Group(_) => None,
        };
        self.naming(peer).cloned().map(Part::Rules).chain(list).collect()
    }

    /// The groups that name a peer.
    pub(crate) fn naming(&self, peer: &Peer) -> impl Iterator<Item = &'a GroupRef> {
        self.namers.get(peer).into_iter().flatten().copied()
    }

    /// Nobody in particular where it is there for all, as the maps that lead to endpoints are.
    pub(crate) fn of_thing(&self, thing: Thing<'_>) -> BTreeSet<Part> {
        match thing {
            Thing::Chain(name) => self.chain(name),
            Thing::Counter(name) => self.counter(name),
            Thing::Set(name) => self.set(name),
            Thing::Element(..) => BTreeSet::new(),
        }
    }

    /// The groups of a class, or an endpoint.
    pub(crate) fn chain(&self, name: &str) -> BTreeSet<Part> {
        self.chains.get(name).cloned().unwrap_or_default()
    }

    /// The group whose rule it counts, or the endpoints for whose groups it counts what is denied.
    pub(crate) fn counter(&self, name: &str) -> BTreeSet<Part> {
        self.counters.get(name).cloned().unwrap_or_default()
    }

    /// Those whose members or entries it holds; of a map of ports, the groups of the class.
    pub(crate) fn set(&self, name: &str) -> BTreeSet<Part> {
        self.sets.get(name).cloned().unwrap_or_default()
    }
}

fn add(owners: &mut BTreeMap<String, BTreeSet<Part>>, name: String, parts: impl IntoIterator<Item = Part>) {
    owners.entry(name).or_default().extend(parts);
}
