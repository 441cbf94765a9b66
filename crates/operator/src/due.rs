//! What differs between what is and what should be: the writes that are due.

use std::collections::BTreeMap;
use std::fmt;

use api::{AttachmentStatus, PrefixListStatus, SecurityGroupStatus};
use k8s_openapi::jiff::Timestamp;
use policy::index::MemberSlice;
use policy::model::{GroupRef, PrefixListRef};
use policy::protection::Blockers;
use policy::slices::{SliceKey, SliceOp};
use policy::status::{View, stamp};
use policy::{AttachmentRef, ObjectRef};

use crate::facts::{Facts, Held};

/// What is written by one writer at a time. Slices come first: packets wait for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The slices of the group of this id.
    Slices(String),
    /// The finalizer of an object, by its UID as well.
    Finalizer(ObjectRef, String),
    /// The status of a group, by its UID as well: one made again under its name is another.
    Group(GroupRef, String),
    /// The status of an attachment, likewise.
    Attachment(AttachmentRef, String),
    /// The status of a prefix list, likewise.
    PrefixList(PrefixListRef, String),
}

/// What is worked out at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Slices: packets wait for them.
    Slices,
    /// Statuses and finalizers.
    Rest,
}

/// An object in the fields of a log line.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace, where it is known.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

impl Lane {
    /// Which part it belongs to.
    pub fn part(&self) -> Part {
        if matches!(self, Lane::Slices(_)) { Part::Slices } else { Part::Rest }
    }

    /// The object that it writes to; slices are known by the id of their group.
    pub fn of(&self) -> Of<'_> {
        match self {
            Lane::Slices(id) => Of { kind: "MemberSlice", namespace: None, name: id },
            Lane::Finalizer(ObjectRef::SecurityGroup(GroupRef { namespace, name }), _) | Lane::Group(GroupRef { namespace, name }, _) => {
                Of { kind: "SecurityGroup", namespace: Some(namespace), name }
            }
            Lane::Finalizer(ObjectRef::Attachment(AttachmentRef { namespace, name }), _)
            | Lane::Attachment(AttachmentRef { namespace, name }, _) => Of { kind: "Attachment", namespace: Some(namespace), name },
            Lane::Finalizer(ObjectRef::PrefixList(PrefixListRef { namespace, name }), _)
            | Lane::PrefixList(PrefixListRef { namespace, name }, _) => Of { kind: "PrefixList", namespace: Some(namespace), name },
            Lane::Finalizer(ObjectRef::Namespace(name), _) => Of { kind: "Namespace", namespace: None, name },
        }
    }

    /// The other lane of the same object. A finalizer is written on the version that was read, which a status would change meanwhile.
    pub fn beside(&self) -> Option<Lane> {
        match self {
            Lane::Finalizer(ObjectRef::SecurityGroup(group), uid) => Some(Lane::Group(group.clone(), uid.clone())),
            Lane::Group(group, uid) => Some(Lane::Finalizer(ObjectRef::SecurityGroup(group.clone()), uid.clone())),
            Lane::Finalizer(ObjectRef::PrefixList(list), uid) => Some(Lane::PrefixList(list.clone(), uid.clone())),
            Lane::PrefixList(list, uid) => Some(Lane::Finalizer(ObjectRef::PrefixList(list.clone()), uid.clone())),
            Lane::Slices(_) | Lane::Finalizer(..) | Lane::Attachment(..) => None,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Slices(group_id) => write!(f, "slices of {group_id}"),
            Lane::Finalizer(object, _) => write!(f, "finalizer of {object}"),
            Lane::Group(group, _) => write!(f, "status of SecurityGroup {group}"),
            Lane::Attachment(attachment, _) => write!(f, "status of Attachment {attachment}"),
            Lane::PrefixList(list, _) => write!(f, "status of PrefixList {list}"),
        }
    }
}

/// What to write in a lane.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In this order, none after one that failed; with the version that a slice has to be at.
    Slices(Vec<(SliceOp, Option<String>)>),
    /// Hold the object, or let it go.
    Finalizer(bool),
    /// A group's status.
    Group(SecurityGroupStatus),
    /// An attachment's status.
    Attachment(AttachmentStatus),
    /// A prefix list's status.
    PrefixList(PrefixListStatus),
}

/// What a lane's write has put there. The watch says the same sooner or later; until it does, our facts are older than our deeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// A slice, or none.
    Slice(SliceKey, Option<MemberSlice>),
    /// An object's finalizer, or none.
    Finalizer(ObjectRef, String, bool),
    /// A group's status.
    Group(GroupRef, String, SecurityGroupStatus),
    /// An attachment's status.
    Attachment(AttachmentRef, String, AttachmentStatus),
    /// A prefix list's status.
    PrefixList(PrefixListRef, String, PrefixListStatus),
}

impl Written {
    /// The watch has shown it, or that its object is another or gone.
    pub fn is_seen(&self, facts: &Facts) -> bool {
        let cluster = &facts.cluster;
        match self {
            Written::Slice(key, slice) => cluster.slices.all().get(key) == slice.as_ref(),
            Written::Finalizer(object, uid, held) => facts.held(object).is_none_or(|now| now.uid != *uid || now.held == *held),
            Written::Group(group, uid, status) => {
                cluster.groups.get(group).is_none_or(|now| now.uid != *uid) || facts.group_statuses.get(group) == Some(status)
            }
            Written::Attachment(attachment, uid, status) => {
                cluster.attachments.get(attachment).is_none_or(|now| now.uid != *uid)
                    || facts.attachment_statuses.get(attachment) == Some(status)
            }
            Written::PrefixList(list, uid, status) => {
                cluster.prefix_lists.get(list).is_none_or(|now| now.uid != *uid) || facts.prefix_list_statuses.get(list) == Some(status)
            }
        }
    }
}

/// The statuses and finalizers that are due. `now` is the time of the transitions found.
pub fn rest_due(facts: &Facts, blockers: &BTreeMap<ObjectRef, Blockers>, now: Timestamp) -> BTreeMap<Lane, Work> {
    let mut due = finalizers_due(facts, blockers);
    let resolution = facts.publisher().resolution();
    let view = View::new(&facts.cluster, resolution, &facts.reports).limited_by(facts.limits).protected_by(blockers);
    // As it is stored: whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    for (group, object) in &facts.cluster.groups {
        let present = facts.group_statuses.get(group);
        let Some(mut wanted) = view.group(group) else { continue };
        wanted.packets = facts.packets(group, &object.uid);
        stamp(&mut wanted.conditions, present.map_or(&[], |status| &status.conditions), now);
        if present != Some(&wanted) {
            due.insert(Lane::Group(group.clone(), object.uid.clone()), Work::Group(wanted));
        }
    }
    for (attachment, object) in &facts.cluster.attachments {
        let present = facts.attachment_statuses.get(attachment);
        let Some(mut wanted) = view.attachment(attachment) else { continue };
        stamp(&mut wanted.conditions, present.map_or(&[], |status| &status.conditions), now);
        if present != Some(&wanted) {
            due.insert(Lane::Attachment(attachment.clone(), object.uid.clone()), Work::Attachment(wanted));
        }
    }
    for (list, object) in &facts.cluster.prefix_lists {
        let present = facts.prefix_list_statuses.get(list);
        let Some(mut wanted) = view.prefix_list(list) else { continue };
        stamp(&mut wanted.conditions, present.map_or(&[], |status| &status.conditions), now);
        if present != Some(&wanted) {
            due.insert(Lane::PrefixList(list.clone(), object.uid.clone()), Work::PrefixList(wanted));
        }
    }
    due
}

/// The slices that are due.
pub fn slices_due(facts: &Facts) -> BTreeMap<Lane, Work> {
    let mut lanes: BTreeMap<String, Vec<(SliceOp, Option<String>)>> = BTreeMap::new();
    for op in facts.publisher().due().values().flatten().cloned() {
        let version = facts.slice_versions.get(op.key()).cloned();
        lanes.entry(op.group_id().to_string()).or_default().push((op, version));
    }
    lanes.into_iter().map(|(id, ops)| (Lane::Slices(id), Work::Slices(ops))).collect()
}

/// An object is held while something names it. What is unused has no finalizer: it goes at once, whether we run or not.
fn finalizers_due(facts: &Facts, blockers: &BTreeMap<ObjectRef, Blockers>) -> BTreeMap<Lane, Work> {
    let lane = |object: ObjectRef, now: &Held| Lane::Finalizer(object, now.uid.clone());
    let mut due = BTreeMap::new();
    for (object, now) in facts.holdable() {
        match (blockers.contains_key(&object), now.held) {
            // The server takes no new finalizer on what is being deleted.
            (true, false) if !now.deleting => due.insert(lane(object, now), Work::Finalizer(true)),
            (false, true) => due.insert(lane(object, now), Work::Finalizer(false)),
            _ => None,
        };
    }
    due
}
