//! Which member slices this node watches: those of the groups that its rules name.
//!
//! One watch by label selector. When the named set changes a new watch is opened beside the old one, whose facts go on until the new one has
//! listed. A new watch is never given up for a newer one before it has listed: else a set that keeps changing would never be listed at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::Cluster;
use policy::index::{Changed, Key, Kind, Object};
use runtime::watch::Change;

/// Tells the messages of one watch from those of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// Which watches are open. `W` closes its watch when it is dropped.
#[derive(Debug)]
pub struct Slices<W> {
    wanted: Arc<BTreeSet<String>>,
    current: Option<Opened<W>>,
    pending: Option<Opened<W>>,
    last: Epoch,
}

#[derive(Debug)]
struct Opened<W> {
    epoch: Epoch,
    ids: Arc<BTreeSet<String>>,
    /// Nothing to watch where no group is named.
    _watch: Option<W>,
}

impl<W> Default for Slices<W> {
    fn default() -> Self {
        Slices { wanted: Arc::default(), current: None, pending: None, last: Epoch::default() }
    }
}

impl<W> Slices<W> {
    /// A first list of what was named is in.
    pub fn listed(&self) -> bool {
        self.current.is_some()
    }

    /// The slices of exactly these groups, by id, are wanted from now on. `open` opens a watch; its messages come back to
    /// [`take`](Self::take) with the epoch.
    pub fn want(&mut self, ids: Arc<BTreeSet<String>>, cluster: &mut Cluster, mut open: impl FnMut(Epoch, &BTreeSet<String>) -> W) {
        self.wanted = ids;
        if self.pending.is_none() && self.current.as_ref().is_none_or(|current| current.ids != self.wanted) {
            self.last = Epoch(self.last.0 + 1);
            let watch = (!self.wanted.is_empty()).then(|| open(self.last, &self.wanted));
            self.pending = Some(Opened { epoch: self.last, ids: self.wanted.clone(), _watch: watch });
            if self.wanted.is_empty() {
                let _ = self.take(self.last, Change::Reset(Kind::MemberSlice, Vec::new()), cluster);
            }
        }
    }

    /// Takes a change that the watch of this epoch saw; one of a watch that is closed by now is nothing. A watch of very many groups sees the
    /// slices of others, too: those are as if they were not there.
    pub fn take(&mut self, epoch: Epoch, change: Change, cluster: &mut Cluster) -> Changed {
        if let Some(current) = self.current.as_ref().filter(|current| current.epoch == epoch) {
            return match change {
                Change::Apply(Object::MemberSlice(name, slice)) if !current.ids.contains(&slice.group_id) => {
                    // One alone does not tell of a group that has not been listed, though it be the head; of one that was kept it does.
                    let is_known = self.wanted.contains(&slice.group_id) && cluster.slices.of(&name.0, &slice.group_id).is_some();
                    match is_known {
                        true => cluster.apply(Object::MemberSlice(name, slice)),
                        false => cluster.delete(&Key::MemberSlice(name)),
                    }
                }
                Change::Reset(kind, mut listed) => {
                    listed.retain(|object| self.is_wanted(current, object));
                    cluster.reset(kind, listed)
                }
                change => change.apply_to(cluster),
            };
        }
        match (&self.pending, change) {
            (Some(pending), Change::Reset(kind, listed)) if pending.epoch == epoch => {
                // A group that was named, was not when this watch was opened, and is again: what is known of it stays until the next
                // watch, which `want` opens, has listed it. What this one has listed is newer.
                let kept = cluster.slices.all().iter().filter(|(_, slice)| self.wanted.contains(&slice.group_id));
                let kept = kept.filter(|(_, slice)| !pending.ids.contains(&slice.group_id));
                let mut slices: Vec<Object> = kept.map(|(name, slice)| Object::MemberSlice(name.clone(), slice.clone())).collect();
                slices.extend(listed.into_iter().filter(|object| self.is_wanted(pending, object)));
                self.current = self.pending.take();
                let _ = cluster.reset(kind, slices);
                // Also where the facts are the same: a plan may have waited for the list.
                Changed::Yes
            }
            _ => Changed::No,
        }
    }

    /// Whether a slice is of a group that this watch was opened for, or that is wanted by now.
    fn is_wanted(&self, watch: &Opened<W>, object: &Object) -> bool {
        let Object::MemberSlice(_, slice) = object else { return false };
        watch.ids.contains(&slice.group_id) || self.wanted.contains(&slice.group_id)
    }
}

/// Whether a change is one of member slices.
pub fn concerns_slices(change: &Change) -> bool {
    match change {
        Change::Reset(kind, _) => *kind == Kind::MemberSlice,
        Change::Apply(object) => matches!(object, Object::MemberSlice(..)),
        Change::Delete(key) => matches!(key, Key::MemberSlice(_)),
    }
}
