//! Member slices: from the slices there are to the slices there should be, in as few writes as can be.
//!
//! Exactly the groups that exist and that a rule names as a peer have slices. Each has one *head* slice, possibly empty, that is
//! written after all others when the group is published for the first time: whoever has seen the head has seen the whole membership.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::index::{Cluster, MemberSlice, SecurityGroup};
use crate::model::GroupRef;
use crate::resolve::Resolution;

/// Addresses a slice holds at most. A change of one member sends the whole slice to every watcher: this keeps it within 2 KiB.
pub const CAPACITY: usize = 32;
/// Addresses that stay together. A pod has two at most; should one ever have more than this, they are split.
const UNIT: usize = CAPACITY / 2;

/// A slice by namespace and name.
pub type SliceKey = (String, String);

/// One write. The writes of one group (one `group_id`) are to be made in the order in which they are given, and none after one that
/// failed; those of different groups have no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceOp {
    /// A new slice.
    Create {
        /// Its namespace and name.
        key: SliceKey,
        /// The group, which owns it.
        group: GroupRef,
        /// The group's UID.
        group_uid: String,
        /// What it holds.
        slice: MemberSlice,
    },
    /// Other addresses in a slice that exists.
    Update {
        /// Its namespace and name.
        key: SliceKey,
        /// What it holds from now on.
        slice: MemberSlice,
    },
    /// A slice that is not needed any more.
    Delete {
        /// Its namespace and name.
        key: SliceKey,
        /// The id of the group that it was of.
        group_id: String,
    },
}

impl SliceOp {
    /// The slice that it writes.
    pub fn key(&self) -> &SliceKey {
        match self {
            SliceOp::Create { key, .. } | SliceOp::Update { key, .. } | SliceOp::Delete { key, .. } => key,
        }
    }

    /// The id of the group that the slice is of.
    pub fn group_id(&self) -> &str {
        match self {
            SliceOp::Create { slice, .. } | SliceOp::Update { slice, .. } => &slice.group_id,
            SliceOp::Delete { group_id, .. } => group_id,
        }
    }

    /// What is there after it; `None`: nothing.
    pub fn outcome(&self) -> Option<&MemberSlice> {
        match self {
            SliceOp::Create { slice, .. } | SliceOp::Update { slice, .. } => Some(slice),
            SliceOp::Delete { .. } => None,
        }
    }
}

/// A group by namespace and id: a group of the same name made later is another.
pub type SliceGroup = (String, String);

/// The writes that lead from the slices of `cluster` to the membership of `resolution`. None when they agree.
pub fn plan(cluster: &Cluster, resolution: &Resolution) -> Vec<SliceOp> {
    let named = named_groups(cluster);
    let groups: BTreeSet<SliceGroup> = named.keys().cloned().chain(published_groups(cluster)).collect();
    groups.iter().flat_map(|group| plan_of(cluster, resolution, &named, group)).collect()
}

/// The groups that have slices.
pub(crate) fn published_groups(cluster: &Cluster) -> impl Iterator<Item = SliceGroup> {
    cluster.slices.groups().cloned()
}

/// The writes of one group, whether it is named or not.
pub(crate) fn plan_of(
    cluster: &Cluster,
    resolution: &Resolution,
    named: &BTreeMap<SliceGroup, GroupRef>,
    (namespace, id): &SliceGroup,
) -> Vec<SliceOp> {
    let mut slices: Vec<_> = cluster.slices.slices_of(namespace, id).collect();
    let facts = |group| cluster.groups.get_key_value(group);
    if let Some((group, facts)) = named.get(&(namespace.clone(), id.clone())).and_then(facts) {
        let mut names = Names { cluster, taken: BTreeSet::new() };
        return Drawer::open(&slices).rearrange(group, facts, members(resolution, group), &mut names);
    }
    // It is gone, or no rule names it. The head goes first: without it nobody takes the rest for the whole.
    slices.sort_by_key(|(_, slice)| !slice.head);
    slices.into_iter().map(|(key, _)| SliceOp::Delete { key: key.clone(), group_id: id.clone() }).collect()
}

/// The groups that exist and that a rule names, `self` included.
pub(crate) fn named_groups(cluster: &Cluster) -> BTreeMap<SliceGroup, GroupRef> {
    let peers: BTreeSet<&GroupRef> = cluster.groups.values().flat_map(|facts| facts.rules.groups()).collect();
    let named = peers.into_iter().filter_map(|group| cluster.groups.get_key_value(group));
    named.map(|(group, facts)| ((group.namespace.clone(), facts.id.clone()), group.clone())).collect()
}

/// The members' addresses, pod by pod: the addresses of one pod go into one slice, so that its coming and going is one write each.
fn members(resolution: &Resolution, group: &GroupRef) -> Vec<BTreeSet<IpAddr>> {
    let pods = resolution.members.get(group).into_iter().flatten();
    pods.filter_map(|pod| resolution.endpoints.get(pod)).map(|endpoint| endpoint.addresses.clone()).collect()
}

/// The slices of one group while they are rearranged.
struct Drawer {
    slices: BTreeMap<SliceKey, Slot>,
    head: Option<SliceKey>,
    /// A group has one head. Others (nobody of ours makes them) go once their addresses are elsewhere.
    surplus_heads: Vec<SliceKey>,
}

#[derive(Default)]
struct Slot {
    before: Option<BTreeSet<IpAddr>>,
    addresses: BTreeSet<IpAddr>,
}

impl Slot {
    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.addresses.len())
    }

    fn is_touched(&self) -> bool {
        self.before.as_ref() != Some(&self.addresses)
    }
}

impl Drawer {
    fn open(existing: &[(&SliceKey, &MemberSlice)]) -> Drawer {
        let mut drawer = Drawer { slices: BTreeMap::new(), head: None, surplus_heads: Vec::new() };
        for &(key, slice) in existing {
            if slice.head && drawer.head.is_some() {
                drawer.surplus_heads.push(key.clone());
                continue;
            }
            if slice.head {
                drawer.head = Some(key.clone());
            }
            drawer.slices.insert(key.clone(), Slot { before: Some(slice.addresses.clone()), addresses: slice.addresses.clone() });
        }
        drawer
    }

    fn rearrange(mut self, group: &GroupRef, facts: &SecurityGroup, members: Vec<BTreeSet<IpAddr>>, names: &mut Names<'_>) -> Vec<SliceOp> {
        let wanted: BTreeSet<IpAddr> = members.iter().flatten().copied().collect();
        let placed = self.keep_only(&wanted);
        let head = self.head.clone().unwrap_or_else(|| names.fresh(group, &facts.id));
        self.slices.entry(head.clone()).or_default();
        let missing = members.into_iter().map(|pod| pod.difference(&placed).copied().collect::<Vec<_>>());
        let units = missing.flat_map(|pod| pod.chunks(UNIT).map(<[IpAddr]>::to_vec).collect::<Vec<_>>()).collect();
        self.place(units, || names.fresh(group, &facts.id));
        self.ops(group, facts, &head)
    }

    /// Takes out who is no member, and who is in an earlier slice already; says who is left.
    fn keep_only(&mut self, wanted: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut placed = BTreeSet::new();
        for slot in self.slices.values_mut() {
            slot.addresses.retain(|address| wanted.contains(address) && placed.insert(*address));
        }
        placed
    }

    /// Puts all into the one slice that they fit best, one that is written anyway if there is one. What is too much for any one slice
    /// fills the emptiest that are at least half empty, then new ones: so slices stay half full as a group grows.
    fn place(&mut self, units: Vec<Vec<IpAddr>>, mut fresh: impl FnMut() -> SliceKey) {
        let mut total: usize = units.iter().map(Vec::len).sum();
        let mut units = units.into_iter().peekable();
        while units.peek().is_some() {
            let fitting = self.slices.iter().filter(|(_, slot)| slot.room() >= total);
            let best = fitting.min_by_key(|(_, slot)| (!slot.is_touched(), slot.room()));
            let half_empty = self.slices.iter().filter(|(_, slot)| slot.room() >= UNIT);
            let target = best.or(half_empty.max_by_key(|(_, slot)| slot.room())).map(|(key, _)| key.clone());
            let slot = self.slices.entry(target.unwrap_or_else(&mut fresh)).or_default();
            while let Some(unit) = units.next_if(|unit| unit.len() <= slot.room()) {
                total -= unit.len();
                slot.addresses.extend(unit);
            }
        }
    }

    fn ops(self, group: &GroupRef, facts: &SecurityGroup, head: &SliceKey) -> Vec<SliceOp> {
        let (mut writes, mut head_write, mut deletes) = (Vec::new(), None, Vec::new());
        for (key, slot) in self.slices {
            let is_head = key == *head;
            if slot.addresses.is_empty() && !is_head {
                deletes.push(SliceOp::Delete { key, group_id: facts.id.clone() });
                continue;
            }
            if !slot.is_touched() {
                continue;
            }
            let slice = MemberSlice { group_id: facts.id.clone(), head: is_head, addresses: slot.addresses };
            let op = match slot.before {
                Some(_) => SliceOp::Update { key, slice },
                None => SliceOp::Create { key, group: group.clone(), group_uid: facts.uid.clone(), slice },
            };
            if is_head { head_write = Some(op) } else { writes.push(op) }
        }
        let surplus = self.surplus_heads.into_iter().map(|key| SliceOp::Delete { key, group_id: facts.id.clone() });
        // The head after all that it vouches for; a surplus head only when its addresses are elsewhere.
        writes.into_iter().chain(deletes).chain(head_write).chain(surplus).collect()
    }
}

/// Names that no slice has: `<group>-<5 characters>`, the same for the same facts.
struct Names<'a> {
    cluster: &'a Cluster,
    /// Those that were given out.
    taken: BTreeSet<SliceKey>,
}

impl Names<'_> {
    fn fresh(&mut self, group: &GroupRef, group_id: &str) -> SliceKey {
        let mut key = (group.namespace.clone(), String::new());
        for n in 0u64.. {
            key.1 = format!("{}-{}", group.name, suffix(group_id, n));
            if !self.cluster.slices.all().contains_key(&key) && self.taken.insert(key.clone()) {
                break;
            }
        }
        key
    }
}

/// Five characters in which no word can be read, as in the names that Kubernetes generates.
fn suffix(group_id: &str, n: u64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = Sha256::new().chain_update(group_id).chain_update([0]).chain_update(n.to_be_bytes()).finalize();
    hash.iter().take(5).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests;
