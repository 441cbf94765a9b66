//! What slices are due, from change to change.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{Cluster, Key, Kind, Object};
use crate::model::{GroupRef, PodRef};
use crate::resolve::{Resolution, Resolver};
use crate::slices::{SliceGroup, SliceOp, named_groups, plan_of, published_groups};

/// What a change of the facts may bear on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach(Touched);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Touched {
    Nothing,
    /// Where a pod belongs.
    Pod(PodRef),
    /// What rules name.
    Rules,
    /// Where the pods of a namespace belong, and what rules name.
    Namespace(String),
    /// What these groups have published.
    Slices(Vec<SliceGroup>),
    /// The full list of slices has come.
    AllSlices,
    Everything,
}

impl Reach {
    /// Of an object that is new or has changed; asked before the facts have it.
    pub fn of_object(before: &Cluster, object: &Object) -> Reach {
        Reach(match object {
            // Whoever names it goes on naming it, and it has the members that it had.
            Object::SecurityGroup(group, facts) if before.groups.get(group).is_some_and(|old| old.uid == facts.uid) => Touched::Rules,
            Object::MemberSlice(key, slice) => {
                let old = before.slices.all().get(key).map(|old| &old.group_id);
                Touched::Slices(old.into_iter().chain([&slice.group_id]).map(|id| (key.0.clone(), id.clone())).collect())
            }
            Object::Pod(pod, _) => Touched::Pod(pod.clone()),
            Object::SecurityGroup(group, _) => Touched::Namespace(group.namespace.clone()),
            Object::Attachment(attachment, _) => Touched::Namespace(attachment.namespace.clone()),
            Object::Namespace(namespace, _) => Touched::Namespace(namespace.clone()),
            Object::PrefixList(..) | Object::Dns(..) => Touched::Nothing,
        })
    }

    /// Of an object that is gone; asked while the facts have it.
    pub fn of_deletion(before: &Cluster, key: &Key) -> Reach {
        Reach(match key {
            Key::Pod(pod) => Touched::Pod(pod.clone()),
            Key::SecurityGroup(group) => Touched::Namespace(group.namespace.clone()),
            Key::Attachment(attachment) => Touched::Namespace(attachment.namespace.clone()),
            Key::Namespace(namespace) => Touched::Namespace(namespace.clone()),
            Key::MemberSlice(key) => {
                let old = before.slices.all().get(key);
                Touched::Slices(old.map(|old| (key.0.clone(), old.group_id.clone())).into_iter().collect())
            }
            Key::PrefixList(_) | Key::Dns(_) => Touched::Nothing,
        })
    }

    /// Of a full list.
    pub fn of_list(kind: Kind) -> Reach {
        Reach(match kind {
            Kind::MemberSlice => Touched::AllSlices,
            Kind::PrefixList | Kind::Dns => Touched::Nothing,
            Kind::Pod | Kind::SecurityGroup | Kind::Attachment | Kind::Namespace => Touched::Everything,
        })
    }
}

/// Who is in which group, and the writes that slices need, followed from change to change at the cost of what a change bears on: the same
/// as [`resolve`](crate::resolve()) and [`plan`](crate::slices::plan) say.
#[derive(Clone, Debug, Default)]
pub struct Publisher {
    resolver: Resolver,
    named: BTreeMap<SliceGroup, GroupRef>,
    due: BTreeMap<SliceGroup, Vec<SliceOp>>,
    stale: Stale,
}

/// What has to be looked at again.
#[derive(Clone, Debug, Default)]
struct Stale {
    everything: bool,
    rules: bool,
    all_slices: bool,
    namespaces: BTreeSet<String>,
    pods: BTreeSet<PodRef>,
    groups: BTreeSet<SliceGroup>,
}

impl Publisher {
    /// A change has been made that reaches so far.
    pub fn changed(&mut self, reach: Reach) {
        let stale = &mut self.stale;
        match reach.0 {
            Touched::Nothing => {}
            Touched::Pod(pod) => drop(stale.pods.insert(pod)),
            Touched::Rules => stale.rules = true,
            Touched::Namespace(namespace) => {
                stale.rules = true;
                stale.namespaces.insert(namespace);
            }
            Touched::Slices(groups) => stale.groups.extend(groups),
            Touched::AllSlices => stale.all_slices = true,
            Touched::Everything => stale.everything = true,
        }
    }

    /// A change has not been followed yet that slices may have to answer. Another slice is none.
    pub fn is_behind(&self) -> bool {
        let Stale { everything, rules, namespaces, pods, .. } = &self.stale;
        *everything || *rules || !namespaces.is_empty() || !pods.is_empty()
    }

    /// Takes the facts as they are, after [`changed`](Self::changed) was told of every change.
    pub fn follow(&mut self, cluster: &Cluster) {
        let Stale { everything, rules, all_slices, namespaces, mut pods, mut groups } = std::mem::take(&mut self.stale);
        if everything {
            self.resolver = Resolver::default();
            pods = cluster.pods.keys().cloned().collect();
        }
        for namespace in namespaces.into_iter().filter(|_| !everything) {
            let first = PodRef { namespace: namespace.clone(), name: String::new() };
            pods.extend(cluster.pods.range(first..).map(|(pod, _)| pod).take_while(|pod| pod.namespace == namespace).cloned());
        }
        let moved = self.resolver.follow(cluster, pods);
        if everything || rules {
            let before = std::mem::replace(&mut self.named, named_groups(cluster));
            groups.extend(before.keys().filter(|group| !self.named.contains_key(*group)).cloned());
            groups.extend(self.named.keys().filter(|group| !before.contains_key(*group)).cloned());
        }
        let id = |group: &GroupRef| cluster.groups.get(group).map(|facts| (group.namespace.clone(), facts.id.clone()));
        groups.extend(moved.iter().filter_map(id));
        if everything || all_slices {
            groups.extend(self.named.keys().cloned().chain(std::mem::take(&mut self.due).into_keys()).chain(published_groups(cluster)));
        }
        for group in groups {
            let ops = plan_of(cluster, self.resolver.resolution(), &self.named, &group);
            match ops.is_empty() {
                true => drop(self.due.remove(&group)),
                false => drop(self.due.insert(group, ops)),
            }
        }
    }

    /// Who is in which group, by the facts that were followed last.
    pub fn resolution(&self) -> &Resolution {
        self.resolver.resolution()
    }

    /// The writes that lead from the slices that there are to those that there should be, group by group.
    pub fn due(&self) -> &BTreeMap<SliceGroup, Vec<SliceOp>> {
        &self.due
    }
}
