//! What the operator knows: the facts, what nodes report, the administrator's limits, and what statuses, finalizers and slices say now.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use api::condition::{BRIDGE_TRAFFIC_FILTERED, KERNEL_SUPPORTED, RULESET_INTACT};
use api::{AppliedGroup, AttachmentStatus, NodeReport, NodeReportStatus, PacketCounts, PrefixListStatus, SecurityGroupStatus};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::DynamicObject;
use policy::index::{Changed, Kind, Object};
use policy::model::{GroupRef, NodeName, PrefixListRef};
use policy::protection::{Blockers, blockers};
use policy::quota::Limits;
use policy::slices::SliceKey;
use policy::status::{packets, unable};
use policy::{AttachmentRef, Cluster, ObjectRef, Publisher, Reach};
use runtime::watch::{Change, Name, Step};
use serde::de::DeserializeOwned;

/// What a watch says.
#[derive(Debug)]
pub enum Message {
    /// Pods and namespaces.
    Fact(Change),
    /// Security groups and their present status.
    Group(Step<With<SecurityGroupStatus>>),
    /// Attachments and their present status.
    Attachment(Step<With<AttachmentStatus>>),
    /// Prefix lists and their present status.
    PrefixList(Step<With<PrefixListStatus>>),
    /// Member slices and the version of each.
    Slice(Step<With<String>>),
    /// What nodes report.
    Report(Step<NodeReport>),
    /// The administrator's limits.
    Limits(Step<Limits>),
}

/// A fact, and what we have to know of its object to write to it.
#[derive(Clone, Debug, PartialEq)]
pub struct With<T> {
    /// The object's name.
    pub name: Name,
    /// The fact.
    pub fact: Object,
    /// Its present status, or its version.
    pub beside: T,
    /// Whether it is held.
    pub held: Held,
}

/// Whether an object is held by our finalizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its UID.
    pub uid: String,
    /// It has our finalizer.
    pub held: bool,
    /// Marked for deletion.
    pub deleting: bool,
}

impl Held {
    fn of(metadata: &ObjectMeta) -> Held {
        Held {
            uid: metadata.uid.clone().unwrap_or_default(),
            held: metadata.finalizers.iter().flatten().any(|finalizer| finalizer == api::FINALIZER_IN_USE),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

impl<T> With<T> {
    /// Beside a fact its present status; one that this version cannot read is as if it were empty, and is written anew.
    pub fn status(object: &DynamicObject, fact: Object) -> With<T>
    where
        T: DeserializeOwned + Default,
    {
        let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        With { name: Name::from(&object.metadata), fact, beside: status.unwrap_or_default(), held: Held::of(&object.metadata) }
    }
}

impl With<String> {
    /// Beside a slice its `resourceVersion`.
    pub fn version(slice: &api::MemberSlice) -> With<String> {
        let version = slice.metadata.resource_version.clone().unwrap_or_default();
        With { name: Name::from(&slice.metadata), fact: Object::member_slice(slice), beside: version, held: Held::of(&slice.metadata) }
    }
}

/// Of a node's report what is told on as an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The report's UID.
    pub uid: String,
    /// Its conditions that are told.
    pub conditions: Vec<Condition>,
}

/// What keeps a node from enforcing, and that somebody else has changed its table.
const TOLD_OF_NODES: [&str; 3] = [RULESET_INTACT, KERNEL_SUPPORTED, BRIDGE_TRAFFIC_FILTERED];

impl Said {
    fn of(report: &NodeReport) -> (NodeName, Said) {
        let conditions = report.status.iter().flat_map(|status| &status.conditions);
        let conditions = conditions.filter(|condition| TOLD_OF_NODES.contains(&condition.type_.as_str())).cloned().collect();
        let uid = report.metadata.uid.clone().unwrap_or_default();
        (NodeName(report.metadata.name.clone().unwrap_or_default()), Said { uid, conditions })
    }
}

/// The watches, each of which has to list before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Pods,
    Namespaces,
    Groups,
    Attachments,
    PrefixLists,
    Slices,
    Reports,
    Limits,
}

impl Source {
    const ALL: usize = 8;
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// The facts that policy is made of.
    pub cluster: Cluster,
    /// What each node has in force.
    pub reports: BTreeMap<NodeName, NodeReportStatus>,
    /// What each of these reports says that is told on.
    pub said: BTreeMap<NodeName, Said>,
    /// The present status of each group.
    pub group_statuses: BTreeMap<GroupRef, SecurityGroupStatus>,
    /// Which groups are held.
    pub group_holds: BTreeMap<GroupRef, Held>,
    /// Which prefix lists are held.
    pub prefix_list_holds: BTreeMap<PrefixListRef, Held>,
    /// The present status of each attachment.
    pub attachment_statuses: BTreeMap<AttachmentRef, AttachmentStatus>,
    /// The present status of each prefix list.
    pub prefix_list_statuses: BTreeMap<PrefixListRef, PrefixListStatus>,
    /// The `resourceVersion` of each slice.
    pub slice_versions: BTreeMap<SliceKey, String>,
    /// The administrator's limits.
    pub limits: Limits,
    /// What groups have counted on all nodes, as last summed up, by their UID too.
    packets: BTreeMap<GroupRef, (String, PacketCounts)>,
    /// The group that was last summed up; none: all have had their turn.
    summed: Option<GroupRef>,
    /// Turns of this round so far.
    turns: usize,
    listed: BTreeSet<Source>,
    publisher: Publisher,
    blockers: Option<Arc<BTreeMap<ObjectRef, Blockers>>>,
}

impl Facts {
    /// Every watch has delivered its first list.
    pub fn are_complete(&self) -> bool {
        self.listed.len() == Source::ALL
    }

    /// Takes a message; whether anything we look at differs from before.
    pub fn apply(&mut self, message: Message) -> Changed {
        match message {
            Message::Fact(change) => {
                if let Change::Reset(kind, _) = &change {
                    self.listed.extend(match kind {
                        Kind::Pod => Some(Source::Pods),
                        Kind::Namespace => Some(Source::Namespaces),
                        // These come with something beside them.
                        Kind::SecurityGroup | Kind::Attachment | Kind::PrefixList | Kind::MemberSlice => None,
                        // An agent's affair.
                        Kind::Dns => None,
                    });
                }
                self.fact(change)
            }
            Message::Group(step) => {
                self.note(Source::Groups, &step);
                let holds = holds(&step, |name| GroupRef { namespace: name.namespace, name: name.name });
                let holds = holds.apply_to(&mut self.group_holds);
                let (step, statuses) = apart(step, |name| GroupRef { namespace: name.namespace, name: name.name });
                let statuses = statuses.apply_to(&mut self.group_statuses);
                either(self.fact(Change::of(Kind::SecurityGroup, step)), either(holds, statuses))
            }
            Message::Attachment(step) => {
                self.note(Source::Attachments, &step);
                let (step, statuses) = apart(step, |name| AttachmentRef { namespace: name.namespace, name: name.name });
                either(self.fact(Change::of(Kind::Attachment, step)), statuses.apply_to(&mut self.attachment_statuses))
            }
            Message::PrefixList(step) => {
                self.note(Source::PrefixLists, &step);
                let holds = holds(&step, |name| PrefixListRef { namespace: name.namespace, name: name.name });
                let holds = holds.apply_to(&mut self.prefix_list_holds);
                let (step, statuses) = apart(step, |name| PrefixListRef { namespace: name.namespace, name: name.name });
                let statuses = statuses.apply_to(&mut self.prefix_list_statuses);
                either(self.fact(Change::of(Kind::PrefixList, step)), either(holds, statuses))
            }
            Message::Slice(step) => {
                self.note(Source::Slices, &step);
                let (step, versions) = apart(step, |name| (name.namespace, name.name));
                either(self.fact(Change::of(Kind::MemberSlice, step)), versions.apply_to(&mut self.slice_versions))
            }
            Message::Report(step) => {
                self.note(Source::Reports, &step);
                let said = match &step {
                    Step::Reset(reports) => Entries::All(reports.iter().map(Said::of).collect()),
                    Step::Apply(report) => Entries::One(Said::of(report)),
                    Step::Delete(name) => Entries::Gone(NodeName(name.name.clone())),
                };
                let entries = match step {
                    Step::Reset(reports) => Entries::All(reports.into_iter().map(in_force).collect()),
                    Step::Apply(report) => Entries::One(in_force(report)),
                    Step::Delete(name) => Entries::Gone(NodeName(name.name)),
                };
                // Counts change all the time: they are looked at when it is their turn.
                either(said.apply_to(&mut self.said), entries.apply_unless(&mut self.reports, differ_in_counts_only))
            }
            Message::Limits(step) => {
                self.note(Source::Limits, &step);
                let limits = match step {
                    Step::Reset(all) => all.into_iter().next().unwrap_or_default(),
                    Step::Apply(limits) => limits,
                    Step::Delete(_) => Limits::default(),
                };
                let changed = limits != self.limits;
                self.limits = limits;
                changed.into()
            }
        }
    }

    /// Sums up what groups have counted, so many of them at a time that each has its turn about once a minute; whether any sum is another
    /// than before. Each such group is a status to write: of however many groups there are, [`RECOUNTED`] at most each [`RECOUNT`].
    pub fn recount(&mut self) -> Changed {
        let over = self.summed.is_none() && self.turns > 0;
        self.turns += 1;
        if over {
            // A round that was quick waits for its minute.
            self.turns %= RECOUNTS;
            return Changed::No;
        }
        let groups = &self.cluster.groups;
        let share = groups.len().div_ceil(RECOUNTS).min(RECOUNTED);
        let after = self.summed.take().map_or(Bound::Unbounded, Bound::Excluded);
        let turn: Vec<_> = groups.range((after, Bound::Unbounded)).take(share).collect();
        let mut changed = false;
        for (group, facts) in &turn {
            let sum = (facts.uid.clone(), packets(group, &facts.uid, &self.reports));
            changed |= self.packets.get(*group) != Some(&sum);
            self.packets.insert((*group).clone(), sum);
        }
        let is_last = |group: &GroupRef| groups.last_key_value().is_none_or(|(last, _)| last <= group);
        self.summed = turn.last().map(|(group, _)| (*group).clone()).filter(|group| !is_last(group));
        if self.summed.is_none() {
            self.packets.retain(|group, _| groups.contains_key(group));
            if self.turns >= RECOUNTS {
                self.turns = 0;
            }
        }
        changed.into()
    }

    /// What a group has counted; what its status says where it has not been summed up yet.
    pub fn packets(&self, group: &GroupRef, uid: &str) -> PacketCounts {
        let summed = self.packets.get(group).filter(|(of, _)| of == uid).map(|(_, packets)| *packets);
        summed.or_else(|| self.group_statuses.get(group).map(|status| status.packets)).unwrap_or_default()
    }

    /// Who is in which group and what slices are due, worked out anew as far as something changed that they depend on.
    pub fn follow(&mut self) -> &Publisher {
        self.publisher.follow(&self.cluster);
        &self.publisher
    }

    /// The same as it was followed last.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What keeps objects from being removed. Worked out again only when something changed that it depends on.
    pub fn blockers(&mut self) -> Arc<BTreeMap<ObjectRef, Blockers>> {
        self.blockers.get_or_insert_with(|| Arc::new(blockers(&self.cluster))).clone()
    }

    /// Whether an object is held; `None`: there is no such object.
    pub fn held(&self, object: &ObjectRef) -> Option<&Held> {
        match object {
            ObjectRef::SecurityGroup(group) => self.group_holds.get(group),
            ObjectRef::PrefixList(list) => self.prefix_list_holds.get(list),
            ObjectRef::Attachment(_) | ObjectRef::Namespace(_) => None,
        }
    }

    /// Everything that can be held.
    pub fn holdable(&self) -> impl Iterator<Item = (ObjectRef, &Held)> {
        let groups = self.group_holds.iter().map(|(group, held)| (ObjectRef::SecurityGroup(group.clone()), held));
        groups.chain(self.prefix_list_holds.iter().map(|(list, held)| (ObjectRef::PrefixList(list.clone()), held)))
    }

    fn fact(&mut self, change: Change) -> Changed {
        let (kind, reach) = match &change {
            Change::Reset(kind, _) => (*kind, Reach::of_list(*kind)),
            Change::Apply(object) => (object.kind(), Reach::of_object(&self.cluster, object)),
            Change::Delete(key) => (key.kind(), Reach::of_deletion(&self.cluster, key)),
        };
        let changed = change.apply_to(&mut self.cluster);
        if changed == Changed::Yes {
            self.publisher.changed(reach);
            // Who is a member, and what is published of it, holds nothing.
            if !matches!(kind, Kind::Pod | Kind::MemberSlice) {
                self.blockers = None;
            }
        }
        changed
    }

    fn note<T>(&mut self, source: Source, step: &Step<T>) {
        if matches!(step, Step::Reset(_)) {
            self.listed.insert(source);
        }
    }
}

/// The limits in the administrator's ConfigMap; what cannot be read there is said in the log, and refused at admission.
pub fn limits(map: &ConfigMap) -> Limits {
    let (limits, complaints) = Limits::read(map.data.as_ref().unwrap_or(&BTreeMap::new()));
    for complaint in complaints {
        tracing::warn!(complaint, "ConfigMap {} cannot be read as it is", api::quota::CONFIG_MAP);
    }
    limits
}

/// Between two times that groups' counts are summed up.
pub const RECOUNT: Duration = Duration::from_secs(10);
/// So many times, and each group has had its turn.
const RECOUNTS: usize = 6;
/// Groups that are summed up at a time at most: 20 statuses a second to write.
const RECOUNTED: usize = 200;

fn differ_in_counts_only(one: &NodeReportStatus, other: &NodeReportStatus) -> bool {
    let same = |(one, other): (&AppliedGroup, &AppliedGroup)| *one == AppliedGroup { packets: one.packets, ..other.clone() };
    one.attachments == other.attachments
        && one.prefix_lists == other.prefix_lists
        && one.groups.len() == other.groups.len()
        && one.groups.iter().zip(&other.groups).all(same)
}

/// Of a report what statuses are made from: the rest changes more often.
fn in_force(report: NodeReport) -> (NodeName, NodeReportStatus) {
    let status = report.status.unwrap_or_default();
    let conditions = unable(&status).into_iter().flatten().cloned().collect();
    let NodeReportStatus { groups, attachments, prefix_lists, .. } = status;
    let status = NodeReportStatus { groups, attachments, prefix_lists, conditions, ..NodeReportStatus::default() };
    (NodeName(report.metadata.name.unwrap_or_default()), status)
}

fn either(one: Changed, other: Changed) -> Changed {
    (one == Changed::Yes || other == Changed::Yes).into()
}

/// A step for a map.
enum Entries<K, V> {
    All(BTreeMap<K, V>),
    One((K, V)),
    Gone(K),
}

impl<K: Ord, V: PartialEq> Entries<K, V> {
    fn apply_to(self, map: &mut BTreeMap<K, V>) -> Changed {
        self.apply_unless(map, V::eq)
    }

    /// Takes them all; values that are alike are no change.
    fn apply_unless(self, map: &mut BTreeMap<K, V>, alike: impl Fn(&V, &V) -> bool) -> Changed {
        match self {
            Entries::All(all) => {
                let same = |((key, value), (before, present)): ((&K, &V), (&K, &V))| key == before && alike(value, present);
                let changed = all.len() != map.len() || !all.iter().zip(&*map).all(same);
                *map = all;
                changed.into()
            }
            Entries::One((key, value)) => {
                let changed = !map.get(&key).is_some_and(|present| alike(&value, present));
                map.insert(key, value);
                changed.into()
            }
            Entries::Gone(key) => map.remove(&key).is_some().into(),
        }
    }
}

/// Which objects of a step are held.
fn holds<K: Ord, T>(step: &Step<With<T>>, key: impl Fn(Name) -> K) -> Entries<K, Held> {
    let entry = |with: &With<T>| (key(with.name.clone()), with.held.clone());
    match step {
        Step::Reset(all) => Entries::All(all.iter().map(entry).collect()),
        Step::Apply(with) => Entries::One(entry(with)),
        Step::Delete(name) => Entries::Gone(key(name.clone())),
    }
}

/// The fact, and what is beside it.
fn apart<K: Ord, T>(step: Step<With<T>>, key: impl Fn(Name) -> K) -> (Step<Object>, Entries<K, T>) {
    match step {
        Step::Reset(all) => {
            let (facts, beside): (Vec<_>, BTreeMap<_, _>) = all.into_iter().map(|with| (with.fact, (key(with.name), with.beside))).unzip();
            (Step::Reset(facts), Entries::All(beside))
        }
        Step::Apply(with) => (Step::Apply(with.fact), Entries::One((key(with.name), with.beside))),
        Step::Delete(name) => (Step::Delete(name.clone()), Entries::Gone(key(name))),
    }
}
