//! Lowering again and again, each time at the cost of what has changed since the last.
//!
//! The table is made of pieces ([`crate::piece`]): one for each endpoint and one for each class, and sets for each group and prefix list
//! that rules name. What several pieces need is there as long as one of them does.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use imbl::{OrdSet, ordset};
use policy::Counted;
use policy::model::{Direction, Endpoint, Family, GroupRef, NodePolicy, Peer, PodRef};

use crate::class;
use crate::intervals::merge;
use crate::lower::{endpoint_chain, fixed, judged, members_name, prefixes_name};
use crate::piece::{Merge, Piece};
use crate::room::Room;
use crate::{IntervalSet, Ruleset, Set};

/// A class: a direction, and the groups whose rules it has.
pub(crate) type Class = (Direction, Vec<GroupRef>);

/// Where a table is laid out in another way. Within whatever bounds, it gives the same verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// So many rules of a class stand one after another at most, before they are found by what a packet carries.
    pub few: usize,
    /// So many groups that may the same are looked at one after another at most, before their members stand in one map as well.
    pub peers: usize,
    /// So many elements are in maps of several groups' members at most, all together; who is in two groups of a map counts twice.
    pub most: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { few: 8, peers: 2, most: 131_072 }
    }
}

/// Remembers what it has made, to make the next from it: never another than [`crate::lower`] would make.
#[derive(Clone, Debug)]
pub struct Lowering {
    bounds: Bounds,
    /// The families of the endpoints' addresses: packets of another never come to a class, so there are no sets and no rules for them.
    spoken: Vec<Family>,
    policy: NodePolicy,
    ruleset: Ruleset,
    endpoints: BTreeMap<PodRef, (Piece, Vec<Class>)>,
    classes: BTreeMap<Class, Piece>,
    class_users: Counted<Class>,
    counters: Counted<String>,
    merges: Counted<Merge>,
    /// By group and prefix list.
    merges_of: BTreeMap<Peer, BTreeSet<Merge>>,
    room: Room,
    /// Merges that are needed, and are put into the table once it is known whether there is room.
    new: BTreeSet<Merge>,
}

impl Default for Lowering {
    fn default() -> Self {
        Lowering::within(Bounds::default())
    }
}

/// What has come and gone since the last time.
#[derive(Default)]
struct Differences {
    /// Peers that exist now and did not, or the other way round.
    peers: BTreeSet<Peer>,
    /// Prefix lists that hold something else.
    lists: BTreeSet<Peer>,
    /// Groups that have other members: who came, and who went.
    members: BTreeMap<GroupRef, (Vec<IpAddr>, Vec<IpAddr>)>,
    /// Groups that have other rules, or none any more.
    rules: BTreeSet<GroupRef>,
    /// Groups whose rules are known now and were not, or the other way round.
    known: BTreeSet<GroupRef>,
    endpoints: BTreeSet<PodRef>,
}

impl Differences {
    fn between(before: &NodePolicy, after: &NodePolicy) -> Differences {
        let mut differences = Differences::default();
        for item in before.members.diff(&after.members) {
            let none = OrdSet::new();
            let (group, old, new) = match item {
                DiffItem::Add(group, new) => (group, &none, new),
                DiffItem::Update { old: (group, old), new: (_, new) } => (group, old, new),
                DiffItem::Remove(group, old) => (group, old, &none),
            };
            if !matches!(item, DiffItem::Update { .. }) {
                differences.peers.insert(Peer::Group(group.clone()));
            }
            let (come, gone) = differences.members.entry(group.clone()).or_default();
            for item in old.diff(new) {
                match item {
                    ordset::DiffItem::Add(address) => come.push(*address),
                    ordset::DiffItem::Remove(address) => gone.push(*address),
                }
            }
        }
        for item in before.prefix_lists.diff(&after.prefix_lists) {
            let (DiffItem::Add(list, _) | DiffItem::Remove(list, _) | DiffItem::Update { old: (list, _), .. }) = item;
            let peer = Peer::PrefixList(list.clone());
            if !matches!(item, DiffItem::Update { .. }) {
                differences.peers.insert(peer.clone());
            }
            differences.lists.insert(peer);
        }
        for item in before.groups.diff(&after.groups) {
            let (DiffItem::Add(group, _) | DiffItem::Remove(group, _) | DiffItem::Update { old: (group, _), .. }) = item;
            if !matches!(item, DiffItem::Update { .. }) {
                differences.known.insert(group.clone());
            }
            differences.rules.insert(group.clone());
        }
        for item in before.endpoints.diff(&after.endpoints) {
            let (DiffItem::Add(pod, _) | DiffItem::Remove(pod, _) | DiffItem::Update { old: (pod, _), .. }) = item;
            differences.endpoints.insert(pod.clone());
        }
        if !differences.known.is_empty() {
            let concerned = |endpoint: &Endpoint| !endpoint.groups.is_disjoint(&differences.known);
            let pods = after.endpoints.iter().filter(|(_, endpoint)| concerned(endpoint)).map(|(pod, _)| pod.clone());
            differences.endpoints.extend(pods.collect::<Vec<_>>());
        }
        differences
    }
}

impl Lowering {
    /// One that keeps within these bounds.
    pub fn within(bounds: Bounds) -> Lowering {
        Lowering {
            bounds,
            spoken: Vec::new(),
            policy: NodePolicy::default(),
            ruleset: Ruleset::default(),
            endpoints: BTreeMap::new(),
            classes: BTreeMap::new(),
            class_users: Counted::default(),
            counters: Counted::default(),
            merges: Counted::default(),
            merges_of: BTreeMap::new(),
            room: Room::of(bounds.most),
            new: BTreeSet::new(),
        }
    }

    /// The ruleset that gives every packet the verdict of the policy.
    pub fn lower(&mut self, policy: &NodePolicy) -> Ruleset {
        let same_endpoints = self.policy.endpoints.ptr_eq(&policy.endpoints);
        let spoken = if same_endpoints { self.spoken.clone() } else { judged(policy) };
        if self.policy.exempt != policy.exempt || self.spoken != spoken {
            *self = Lowering { spoken, ..Lowering::within(self.bounds) };
        }
        let before = std::mem::replace(&mut self.policy, policy.clone());
        let differences = Differences::between(&before, &self.policy);
        let is_new = self.ruleset.chains.is_empty();
        if is_new || !differences.endpoints.is_empty() || before.cluster_dns != self.policy.cluster_dns {
            fixed(&mut self.ruleset, &self.policy);
        }
        self.members(&differences);
        self.prefix_lists(&differences);
        let resized = self.resize(&differences);
        self.other_classes(&differences);
        self.endpoints(&differences);
        self.make_room();
        self.fill(&differences, resized);
        self.ruleset.clone()
    }

    /// The policy that was lowered last.
    pub fn policy(&self) -> &NodePolicy {
        &self.policy
    }

    /// What it was lowered to.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What an endpoint needs of its own, and its classes.
    pub(crate) fn pieces_of(&self, pod: &PodRef) -> Option<&(Piece, Vec<Class>)> {
        self.endpoints.get(pod)
    }

    /// Its classes.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (&Class, &Piece)> {
        self.classes.iter()
    }

    /// A group whose rules are not known allows nothing (S38).
    pub(crate) fn groups_with_a_say<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a GroupRef> {
        endpoint.groups.iter().filter(|group| !endpoint.closed && self.policy.groups.contains_key(*group))
    }

    /// Peers that are looked for in one map.
    pub(crate) fn merges(&self) -> impl Iterator<Item = &Merge> {
        self.merges.iter()
    }

    /// The sets of the groups.
    fn members(&mut self, differences: &Differences) {
        for (group, (come, gone)) in &differences.members {
            for family in self.spoken.clone() {
                let name = members_name(group, family);
                if !self.policy.members.contains_key(group) {
                    self.ruleset.sets.remove(&name);
                    continue;
                }
                let elements = &mut self.ruleset.sets.entry(name).or_insert(Set { family, elements: OrdSet::new() }).elements;
                change(elements, family, come, gone.iter().copied());
            }
        }
    }

    /// The interval sets of the prefix lists. A list has entries of one family; of a list without any both sets are there and empty.
    fn prefix_lists(&mut self, differences: &Differences) {
        for peer in &differences.lists {
            let Peer::PrefixList(list) = peer else { continue };
            for family in self.spoken.clone() {
                let name = prefixes_name(list, family);
                match self.policy.prefix_lists.get(list) {
                    Some(entries) => drop(self.ruleset.intervals.insert(name, IntervalSet { family, ranges: merge(entries, family) })),
                    None => drop(self.ruleset.intervals.remove(&name)),
                }
            }
        }
    }

    /// The maps whose groups have other members now; those of other networks are made anew.
    fn resize(&mut self, differences: &Differences) -> BTreeSet<Merge> {
        for merge in differences.lists.iter().flat_map(|list| self.merges_with(list)).collect::<Vec<_>>() {
            self.remove_maps(&merge);
            self.new.insert(merge);
        }
        let of_group = |group: &GroupRef| self.merges_with(&Peer::Group(group.clone()));
        let resized: BTreeSet<Merge> = differences.members.keys().flat_map(of_group).collect();
        for merge in &resized {
            self.room.resize(merge, &self.policy);
        }
        resized
    }

    /// Takes maps out for which there is no room any more, and finds those for which there is again.
    fn make_room(&mut self) {
        let turned = self.room.allot();
        for merge in &turned {
            if self.room.has(merge) {
                self.new.insert(merge.clone());
            } else if !self.new.remove(merge) {
                self.remove_maps(merge);
            }
        }
        if !turned.is_empty() {
            self.make_again(|_, piece| turned.iter().any(|merge| piece.merges.contains(merge)));
        }
    }

    /// Fills maps, once it is known which there is room for: never more is held than the table shall have.
    fn fill(&mut self, differences: &Differences, resized: BTreeSet<Merge>) {
        for merge in resized {
            if self.new.contains(&merge) || !self.merges.contains(&merge) || !self.room.has(&merge) {
                continue;
            }
            let moved: Vec<IpAddr> =
                merge.groups_among(&differences.members).flat_map(|(come, gone)| come.iter().chain(gone)).copied().collect();
            if merge.is_cheaper_anew(self.room.size(&merge), moved.len()) {
                self.new.insert(merge);
                continue;
            }
            for family in self.spoken.clone() {
                let Some(map) = self.ruleset.counter_maps.get_mut(&merge.name(family)) else { continue };
                for address in moved.iter().filter(|address| Family::of(**address) == family) {
                    // What stays as it is stays shared.
                    match merge.counter(*address, &self.policy) {
                        Some(counter) if map.elements.get(address).is_some_and(|(_, before)| before == counter) => {}
                        Some(counter) => drop(map.elements.insert(*address, (*address, counter.clone()))),
                        None => drop(map.elements.remove(address)),
                    }
                }
            }
        }
        for merge in std::mem::take(&mut self.new) {
            for family in self.spoken.clone() {
                self.ruleset.counter_maps.insert(merge.name(family), merge.map(&self.policy, family));
            }
        }
    }

    /// The maps that hold what this group or prefix list holds.
    fn merges_with(&self, peer: &Peer) -> Vec<Merge> {
        self.merges_of.get(peer).into_iter().flatten().cloned().collect()
    }

    fn need_merged(&mut self, merge: &Merge) {
        if self.merges.need(merge) {
            for peer in merge.changing() {
                self.merges_of.entry(peer).or_default().insert(merge.clone());
            }
            self.room.resize(merge, &self.policy);
            self.new.insert(merge.clone());
        }
    }

    fn release_merged(&mut self, merge: &Merge) {
        if self.merges.release(merge) {
            for peer in merge.changing() {
                if let Entry::Occupied(mut merges) = self.merges_of.entry(peer) {
                    merges.get_mut().remove(merge);
                    if merges.get().is_empty() {
                        merges.remove();
                    }
                }
            }
            if self.room.has(merge) && !self.new.remove(merge) {
                self.remove_maps(merge);
            }
            self.room.remove(merge);
        }
    }

    fn remove_maps(&mut self, merge: &Merge) {
        for family in self.spoken.clone() {
            self.ruleset.counter_maps.remove(&merge.name(family));
        }
    }

    /// Classes whose rules are other ones, or are said in other words.
    fn other_classes(&mut self, differences: &Differences) {
        if differences.rules.is_empty() && differences.peers.is_empty() {
            return;
        }
        self.make_again(|(_, groups), piece| {
            groups.iter().any(|group| differences.rules.contains(group)) || differences.peers.iter().any(|peer| piece.peers.contains(peer))
        });
    }

    fn make_again(&mut self, which: impl Fn(&Class, &Piece) -> bool) {
        let classes: Vec<Class> =
            self.classes.iter().filter(|(class, piece)| which(class, piece)).map(|(class, _)| class.clone()).collect();
        for class in classes {
            let old = self.classes.remove(&class);
            self.make(class, old);
        }
    }

    /// Makes a class in place of what it was.
    fn make(&mut self, class: Class, old: Option<Piece>) {
        let piece = class::piece(&self.policy, &class.1, class.0, &self.spoken, self.bounds, &self.room);
        self.exchange(old.as_ref(), Some(&piece));
        self.classes.insert(class, piece);
    }

    /// Endpoints that are others, or are gone. First all that goes: an address may go from one to another.
    fn endpoints(&mut self, differences: &Differences) {
        let mut new = Vec::new();
        for pod in &differences.endpoints {
            let Some(endpoint) = self.policy.endpoints.get(pod) else { continue };
            let groups: Vec<GroupRef> = self.groups_with_a_say(endpoint).cloned().collect();
            let (mut piece, mut classes) = (Piece::default(), Vec::new());
            for direction in [Direction::Ingress, Direction::Egress] {
                endpoint_chain(&mut piece, &self.policy, pod, endpoint, &groups, direction);
                if !groups.is_empty() {
                    classes.push((direction, groups.clone()));
                }
            }
            new.push((pod.clone(), piece, classes));
        }
        let old: Vec<_> = differences.endpoints.iter().filter_map(|pod| self.endpoints.remove(pod)).collect();
        for class in new.iter().flat_map(|(_, _, classes)| classes) {
            if self.class_users.need(class) {
                self.make(class.clone(), None);
            }
        }
        for (piece, classes) in &old {
            self.exchange(Some(piece), None);
            for class in classes {
                if self.class_users.release(class) {
                    let piece = self.classes.remove(class);
                    self.exchange(piece.as_ref(), None);
                }
            }
        }
        for (pod, piece, classes) in new {
            self.exchange(None, Some(&piece));
            self.endpoints.insert(pod, (piece, classes));
        }
    }

    /// Puts one piece in the place of another. What both need stays.
    fn exchange(&mut self, old: Option<&Piece>, new: Option<&Piece>) {
        for counter in new.into_iter().flat_map(|piece| &piece.counters) {
            if self.counters.need(counter) {
                self.ruleset.counters.insert(counter.clone());
            }
        }
        new.into_iter().flat_map(|piece| &piece.merges).for_each(|merge| self.need_merged(merge));
        if let Some(piece) = old {
            piece.chains.iter().for_each(|(name, _)| drop(self.ruleset.chains.remove(name)));
            piece.port_maps.iter().for_each(|(name, _)| drop(self.ruleset.port_maps.remove(name)));
            for (map, address, _) in &piece.elements {
                if let Some(map) = self.ruleset.maps.get_mut(*map) {
                    map.elements.remove(address);
                }
            }
            for counter in &piece.counters {
                if self.counters.release(counter) {
                    self.ruleset.counters.remove(counter);
                }
            }
            piece.merges.iter().for_each(|merge| self.release_merged(merge));
        }
        if let Some(piece) = new {
            piece.chains.iter().for_each(|(name, chain)| drop(self.ruleset.chains.insert(name.clone(), chain.clone().into())));
            piece.port_maps.iter().for_each(|(name, map)| drop(self.ruleset.port_maps.insert(name.clone(), map.clone().into())));
            for (map, address, chain) in &piece.elements {
                if let Some(map) = self.ruleset.maps.get_mut(*map) {
                    map.elements.insert(*address, chain.clone());
                }
            }
        }
    }
}

/// Changes the elements of one family; what stays as it is stays shared.
fn change(elements: &mut OrdSet<IpAddr>, family: Family, come: &[IpAddr], gone: impl Iterator<Item = IpAddr>) {
    for address in gone.filter(|address| Family::of(*address) == family) {
        elements.remove(&address);
    }
    for address in
        come.iter().filter(|address| Family::of(**address) == family && !elements.contains(*address)).copied().collect::<Vec<_>>()
    {
        elements.insert(address);
    }
}
