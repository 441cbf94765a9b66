//! Which maps of several groups' members there is room for.
//!
//! A member stands in as many of them as there are different lists of rules that name its groups, so a few hundred lists can hold millions of
//! elements, more than the kernel takes at once. What there is no room for is found in the groups' own sets, at the cost of a rule for each.

use std::collections::BTreeMap;

use policy::model::NodePolicy;

use crate::piece::{Merge, Peers};

/// The maps that are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Elements that they may hold together; who is in two groups of a map counts twice.
    most: usize,
    wanted: BTreeMap<Merge, Wanted>,
    total: usize,
    /// Something is left out.
    full: bool,
    /// Something is wanted, or not any more, or of another size since all were looked at.
    changed: bool,
}

/// Up by an eighth at most: one member more or fewer hardly ever makes another map give way.
fn rounded(size: usize) -> usize {
    size.next_multiple_of((size.next_power_of_two() / 16).max(1))
}

#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    size: usize,
    left_out: bool,
}

impl Room {
    /// For so many elements.
    pub(crate) fn of(most: usize) -> Room {
        Room { most, wanted: BTreeMap::new(), total: 0, full: false, changed: false }
    }

    /// A map is wanted, or holds another number of members than before.
    pub(crate) fn resize(&mut self, merge: &Merge, policy: &NodePolicy) {
        let Peers::Groups(groups) = merge.peers() else { return };
        let size = rounded(groups.keys().filter_map(|group| policy.members.get(group)).map(|members| members.len()).sum());
        let before = match self.wanted.get_mut(merge) {
            Some(wanted) => std::mem::replace(&mut wanted.size, size),
            None => {
                self.wanted.insert(merge.clone(), Wanted { size, left_out: false });
                0
            }
        };
        self.total = self.total + size - before;
        self.changed |= size != before;
    }

    /// A map is not wanted any more.
    pub(crate) fn remove(&mut self, merge: &Merge) {
        if let Some(wanted) = self.wanted.remove(merge) {
            self.total -= wanted.size;
            self.changed = true;
        }
    }

    /// How many elements it may take, a few more than it holds.
    pub(crate) fn size(&self, merge: &Merge) -> usize {
        self.wanted.get(merge).map_or(0, |wanted| wanted.size)
    }

    /// Whether there is room for it. For one that is not wanted yet, there is until all are looked at together.
    pub(crate) fn has(&self, merge: &Merge) -> bool {
        !self.wanted.get(merge).is_some_and(|wanted| wanted.left_out)
    }

    /// Looks at all that are wanted, whatever was before; those for which there is room now and was not, or the other way round. Those that
    /// take the place of most rules for an element come first.
    pub(crate) fn allot(&mut self) -> Vec<Merge> {
        let was_full = std::mem::replace(&mut self.full, self.total > self.most);
        if !std::mem::take(&mut self.changed) || !was_full && !self.full {
            return Vec::new();
        }
        let cost = |(merge, wanted): &(&Merge, &mut Wanted)| match merge.peers() {
            Peers::Groups(groups) => wanted.size.div_ceil(groups.len()),
            Peers::Nets(_) => 0,
        };
        let mut in_order: Vec<(&Merge, &mut Wanted)> = self.wanted.iter_mut().collect();
        in_order.sort_by_cached_key(cost);
        let mut room = self.most;
        let mut turned = Vec::new();
        for (merge, wanted) in in_order {
            let left = room.checked_sub(wanted.size);
            room = left.unwrap_or(room);
            if std::mem::replace(&mut wanted.left_out, left.is_none()) != left.is_none() {
                turned.push(merge.clone());
            }
        }
        turned
    }
}
