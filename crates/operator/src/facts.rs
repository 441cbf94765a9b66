//! What the operator knows: the facts, what nodes report, and what statuses and slices say now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{AttachmentStatus, NodeReport, NodeReportStatus, PrefixListStatus, SecurityGroupStatus};
use kube::api::DynamicObject;
use policy::index::{Changed, Key, Kind, Object};
use policy::model::{GroupRef, NodeName, PrefixListRef};
use policy::slices::SliceKey;
use policy::{AttachmentRef, Cluster, Resolution, resolve};
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
}

impl<T> With<T> {
    /// Beside a fact its present status; one that this version cannot read is as if it were empty, and is written anew.
    pub fn status(object: &DynamicObject, fact: Object) -> With<T>
    where
        T: DeserializeOwned + Default,
    {
        let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        With { name: Name::from(&object.metadata), fact, beside: status.unwrap_or_default() }
    }
}

impl With<String> {
    /// Beside a slice its `resourceVersion`.
    pub fn version(slice: &api::MemberSlice) -> With<String> {
        let version = slice.metadata.resource_version.clone().unwrap_or_default();
        With { name: Name::from(&slice.metadata), fact: Object::member_slice(slice), beside: version }
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
}

impl Source {
    const ALL: usize = 7;
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// The facts that policy is made of.
    pub cluster: Cluster,
    /// What each node has in force.
    pub reports: BTreeMap<NodeName, NodeReportStatus>,
    /// The present status of each group.
    pub group_statuses: BTreeMap<GroupRef, SecurityGroupStatus>,
    /// The present status of each attachment.
    pub attachment_statuses: BTreeMap<AttachmentRef, AttachmentStatus>,
    /// The present status of each prefix list.
    pub prefix_list_statuses: BTreeMap<PrefixListRef, PrefixListStatus>,
    /// The `resourceVersion` of each slice.
    pub slice_versions: BTreeMap<SliceKey, String>,
    listed: BTreeSet<Source>,
    resolution: Option<Arc<Resolution>>,
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
                let (step, statuses) = apart(step, |name| GroupRef { namespace: name.namespace, name: name.name });
                either(self.fact(Change::of(Kind::SecurityGroup, step)), statuses.apply_to(&mut self.group_statuses))
            }
            Message::Attachment(step) => {
                self.note(Source::Attachments, &step);
                let (step, statuses) = apart(step, |name| AttachmentRef { namespace: name.namespace, name: name.name });
                either(self.fact(Change::of(Kind::Attachment, step)), statuses.apply_to(&mut self.attachment_statuses))
            }
            Message::PrefixList(step) => {
                self.note(Source::PrefixLists, &step);
                let (step, statuses) = apart(step, |name| PrefixListRef { namespace: name.namespace, name: name.name });
                either(self.fact(Change::of(Kind::PrefixList, step)), statuses.apply_to(&mut self.prefix_list_statuses))
            }
            Message::Slice(step) => {
                self.note(Source::Slices, &step);
                let (step, versions) = apart(step, |name| (name.namespace, name.name));
                either(self.fact(Change::of(Kind::MemberSlice, step)), versions.apply_to(&mut self.slice_versions))
            }
            Message::Report(step) => {
                self.note(Source::Reports, &step);
                let entries = match step {
                    Step::Reset(reports) => Entries::All(reports.into_iter().map(in_force).collect()),
                    Step::Apply(report) => Entries::One(in_force(report)),
                    Step::Delete(name) => Entries::Gone(NodeName(name.name)),
                };
                entries.apply_to(&mut self.reports)
            }
        }
    }

    /// Who is in which group. Worked out again only when something changed that it depends on.
    pub fn resolution(&mut self) -> Arc<Resolution> {
        self.resolution.get_or_insert_with(|| Arc::new(resolve(&self.cluster))).clone()
    }

    fn fact(&mut self, change: Change) -> Changed {
        let of_slice = match &change {
            Change::Reset(kind, _) => *kind == Kind::MemberSlice,
            Change::Apply(object) => matches!(object, Object::MemberSlice(..)),
            Change::Delete(key) => matches!(key, Key::MemberSlice(_)),
        };
        let changed = change.apply_to(&mut self.cluster);
        if changed == Changed::Yes && !of_slice {
            self.resolution = None;
        }
        changed
    }

    fn note<T>(&mut self, source: Source, step: &Step<T>) {
        if matches!(step, Step::Reset(_)) {
            self.listed.insert(source);
        }
    }
}

/// Of a report what statuses are made from: the rest changes more often.
fn in_force(report: NodeReport) -> (NodeName, NodeReportStatus) {
    let status = report.status.unwrap_or_default();
    let NodeReportStatus { groups, attachments, prefix_lists, .. } = status;
    let status = NodeReportStatus { groups, attachments, prefix_lists, ..NodeReportStatus::default() };
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
        match self {
            Entries::All(all) => {
                let changed = *map != all;
                *map = all;
                changed.into()
            }
            Entries::One((key, value)) => {
                let changed = map.get(&key) != Some(&value);
                map.insert(key, value);
                changed.into()
            }
            Entries::Gone(key) => map.remove(&key).is_some().into(),
        }
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
