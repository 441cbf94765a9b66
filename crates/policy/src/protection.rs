//! What keeps an object from being removed: whatever names it, unless that is going itself.

use std::collections::BTreeMap;
use std::fmt;

use crate::index::{Cluster, SecurityGroup};
use crate::model::{GroupRef, Peer, PrefixListRef};
use crate::problem::ObjectRef;

/// How many blockers of an object are kept by name.
pub const NAMED: usize = 10;

/// What names an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    /// The first ones, at most [`NAMED`].
    pub named: Vec<Blocker>,
    /// How many there are.
    pub count: usize,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocker {
    /// The object that names it.
    pub object: ObjectRef,
    /// Where in it: `ingress[0].from[1]`, the first of several places; `securitygroups.dev/default-group` of a namespace; empty of an
    /// attachment, which has one place only.
    pub place: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => self.object.fmt(f),
            place => write!(f, "{} ({place})", self.object),
        }
    }
}

/// The blockers of every object that has one: attachments first, then namespaces, then rules of groups.
///
/// Nothing in a namespace that is being deleted waits for anything, and what is being deleted, or stands in such a namespace, blocks
/// nothing: two groups that name each other can go together.
pub fn blockers(cluster: &Cluster) -> BTreeMap<ObjectRef, Blockers> {
    let mut found = Found { cluster, blockers: BTreeMap::new() };
    for (attachment, facts) in cluster.attachments.iter().filter(|(name, facts)| !facts.deleting && !ends(cluster, &name.namespace)) {
        for group in &facts.groups {
            found.group(group, || Blocker { object: ObjectRef::Attachment(attachment.clone()), place: String::new() });
        }
    }
    for (namespace, facts) in cluster.namespaces.iter().filter(|(_, facts)| !facts.deleting) {
        let Some(name) = &facts.default_group else { continue };
        let place = api::LABEL_DEFAULT_GROUP.to_string();
        found.group(&GroupRef { namespace: namespace.clone(), name: name.clone() }, || Blocker {
            object: ObjectRef::Namespace(namespace.clone()),
            place,
        });
    }
    for (group, facts) in cluster.groups.iter().filter(|(name, facts)| !facts.deleting && !ends(cluster, &name.namespace)) {
        for (peer, place) in peers(facts) {
            let blocker = || Blocker { object: ObjectRef::SecurityGroup(group.clone()), place: place.to_string() };
            match peer {
                Peer::Group(peer) if peer != group => found.group(peer, blocker),
                Peer::PrefixList(peer) => found.prefix_list(peer, blocker),
                Peer::Group(_) | Peer::Net(_) => {}
            }
        }
    }
    found.blockers
}

fn ends(cluster: &Cluster, namespace: &str) -> bool {
    cluster.namespaces.get(namespace).is_some_and(|facts| facts.deleting)
}

/// Each peer of a group's rules once, with its first place.
fn peers(facts: &SecurityGroup) -> BTreeMap<&Peer, &str> {
    let mut peers: BTreeMap<&Peer, &str> = BTreeMap::new();
    for rule in facts.rules.ingress.iter().chain(&facts.rules.egress).filter(|rule| !matches!(rule.peer, Peer::Net(_))) {
        let place = facts.places.get(&rule.id).map_or("", String::as_str);
        let first = peers.entry(&rule.peer).or_insert(place);
        if order(place) < order(first) {
            *first = place;
        }
    }
    peers
}

/// Ingress before egress, `[2]` before `[10]`.
fn order(place: &str) -> (bool, Vec<u32>) {
    let numbers = place.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    (!place.starts_with("ingress"), numbers)
}

struct Found<'a> {
    cluster: &'a Cluster,
    blockers: BTreeMap<ObjectRef, Blockers>,
}

impl Found<'_> {
    fn group(&mut self, group: &GroupRef, blocker: impl FnOnce() -> Blocker) {
        if self.cluster.groups.contains_key(group) && !ends(self.cluster, &group.namespace) {
            self.add(ObjectRef::SecurityGroup(group.clone()), blocker);
        }
    }

    fn prefix_list(&mut self, list: &PrefixListRef, blocker: impl FnOnce() -> Blocker) {
        if self.cluster.prefix_lists.contains_key(list) && !ends(self.cluster, &list.namespace) {
            self.add(ObjectRef::PrefixList(list.clone()), blocker);
        }
    }

    fn add(&mut self, object: ObjectRef, blocker: impl FnOnce() -> Blocker) {
        let blockers = self.blockers.entry(object).or_default();
        blockers.count += 1;
        if blockers.named.len() < NAMED {
            blockers.named.push(blocker());
        }
    }
}

#[cfg(test)]
mod tests;
