//! The facts: what the cluster says now, in plain ordered maps.
//!
//! [`Cluster`] takes objects as they come, in any order, and forgets what is deleted; equal facts are equal values. Reading an object
//! never fails: what cannot be understood becomes a [`Problem`] and allows nothing (S38).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{AttachmentSpec, OnDeny, PrefixListSpec, SecurityGroupSpec};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod as K8sPod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};
use serde_json::Value;

use crate::id;
use crate::model::{GroupRef, GroupRules, NodeName, PodRef, PrefixListRef};
use crate::parse;
use crate::problem::{AttachmentRef, NOT_UNDERSTOOD, ObjectRef, Problem};
use crate::published::MemberSlices;

/// All facts that a program knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Pods: all of them in the operator, its own node's in an agent.
    pub pods: BTreeMap<PodRef, Pod>,
    /// Security groups.
    pub groups: BTreeMap<GroupRef, SecurityGroup>,
    /// Attachments.
    pub attachments: BTreeMap<AttachmentRef, Attachment>,
    /// Prefix lists.
    pub prefix_lists: BTreeMap<PrefixListRef, PrefixList>,
    /// Namespaces that say something: a default group, or their own end.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Where cluster DNS answers, by namespace and name of the EndpointSlice; known only where it is exempt (S36).
    pub dns: BTreeMap<(String, String), BTreeSet<IpAddr>>,
    /// Member slices by namespace and name.
    pub slices: MemberSlices,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its UID: a pod made again under its name is another pod.
    pub uid: String,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// All of `status.podIPs`.
    pub addresses: BTreeSet<IpAddr>,
    /// It shares its node's address (S9).
    pub host_network: bool,
    /// Succeeded or Failed: it has left every group (S8).
    pub finished: bool,
    /// Creation time, Unix seconds; the newest claimant owns an address (S8).
    pub created: i64,
}

/// A security group as read.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityGroup {
    /// Its UID.
    pub uid: String,
    /// Its id `sg-…` (S23).
    pub id: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its rules, canonical, without duplicates.
    pub rules: Arc<GroupRules>,
    /// Where each rule stands: id to `ingress[1].from[0]`, the first place of several.
    pub places: BTreeMap<String, String>,
    /// How denied packets are answered.
    pub on_deny: OnDeny,
    /// What of it is not in force as written.
    pub problems: Vec<Problem>,
    /// Marked for deletion: still in force.
    pub deleting: bool,
}

/// A prefix list as read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrefixList {
    /// Its UID.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its entries, host bits cleared, each once.
    pub entries: Arc<BTreeSet<IpNet>>,
    /// What it weighs in a group's quota (S24).
    pub max_entries: usize,
    /// What of it is not in force as written.
    pub problems: Vec<Problem>,
    /// Marked for deletion: still in force.
    pub deleting: bool,
}

/// An attachment as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// Its UID.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The groups it names, all of its own namespace.
    pub groups: BTreeSet<GroupRef>,
    /// Which pods of its namespace it selects.
    pub target: Target,
    /// What of it is not in force as written.
    pub problems: Vec<Problem>,
    /// Marked for deletion: still in force.
    pub deleting: bool,
}

/// What an attachment selects.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Pods of its namespace.
    Pods(PodSelector),
    /// No pod: it is about nodes, which is not supported yet and refused at admission.
    Nodes,
    /// The selector cannot be understood: every pod of the namespace is guarded, so that none is open that should be closed (S38).
    Unknown,
}

/// Which pods of a namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSelector {
    selector: Selector,
    /// A label that every pod must have that is selected, where there is one: by it the few that concern a pod are found among many.
    needs: Option<(String, String)>,
}

/// What a namespace says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// The group of pods that are in no other (S3).
    pub default_group: Option<String>,
    /// Marked for deletion: everything in it goes.
    pub deleting: bool,
}

/// A piece of a group's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSlice {
    /// The id of the group, which a group of the same name made later does not share.
    pub group_id: String,
    /// Written last when the group was first published: who sees it has seen all.
    pub head: bool,
    /// Members' addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// A fact with its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A pod.
    Pod(PodRef, Pod),
    /// A security group.
    SecurityGroup(GroupRef, SecurityGroup),
    /// An attachment.
    Attachment(AttachmentRef, Attachment),
    /// A prefix list.
    PrefixList(PrefixListRef, PrefixList),
    /// A namespace.
    Namespace(String, Namespace),
    /// A member slice, by namespace and name.
    MemberSlice((String, String), MemberSlice),
    /// Addresses of cluster DNS, by namespace and name of the EndpointSlice.
    Dns((String, String), BTreeSet<IpAddr>),
}

/// The kinds of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Security groups.
    SecurityGroup,
    /// Attachments.
    Attachment,
    /// Prefix lists.
    PrefixList,
    /// Namespaces.
    Namespace,
    /// Member slices.
    MemberSlice,
    /// Addresses of cluster DNS.
    Dns,
}

/// The name of a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A pod.
    Pod(PodRef),
    /// A security group.
    SecurityGroup(GroupRef),
    /// An attachment.
    Attachment(AttachmentRef),
    /// A prefix list.
    PrefixList(PrefixListRef),
    /// A namespace.
    Namespace(String),
    /// A member slice, by namespace and name.
    MemberSlice((String, String)),
    /// Addresses of cluster DNS, by namespace and name of the EndpointSlice.
    Dns((String, String)),
}

impl Key {
    /// What it names.
    pub fn kind(&self) -> Kind {
        match self {
            Key::Pod(_) => Kind::Pod,
            Key::SecurityGroup(_) => Kind::SecurityGroup,
            Key::Attachment(_) => Kind::Attachment,
            Key::PrefixList(_) => Kind::PrefixList,
            Key::Namespace(_) => Kind::Namespace,
            Key::MemberSlice(_) => Kind::MemberSlice,
            Key::Dns(_) => Kind::Dns,
        }
    }
}

impl Object {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Pod(..) => Kind::Pod,
            Object::SecurityGroup(..) => Kind::SecurityGroup,
            Object::Attachment(..) => Kind::Attachment,
            Object::PrefixList(..) => Kind::PrefixList,
            Object::Namespace(..) => Kind::Namespace,
            Object::MemberSlice(..) => Kind::MemberSlice,
            Object::Dns(..) => Kind::Dns,
        }
    }
}

/// Whether the facts differ from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Changed {
    /// Nothing that we look at.
    No,
    /// Something.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Changed::Yes } else { Changed::No }
    }
}

fn insert<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Changed {
    if map.get(&key) == Some(&value) {
        return Changed::No;
    }
    map.insert(key, value);
    Changed::Yes
}

fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, new: BTreeMap<K, V>) -> Changed {
    let changed = *map != new;
    *map = new;
    changed.into()
}

impl Cluster {
    /// Takes an object that is new or has changed.
    pub fn apply(&mut self, object: Object) -> Changed {
        match object {
            Object::Pod(key, value) => insert(&mut self.pods, key, value),
            Object::SecurityGroup(key, value) => insert(&mut self.groups, key, value),
            Object::Attachment(key, value) => insert(&mut self.attachments, key, value),
            Object::PrefixList(key, value) => insert(&mut self.prefix_lists, key, value),
            Object::Namespace(key, value) => insert(&mut self.namespaces, key, value),
            Object::MemberSlice(key, value) => {
                let changed = self.slices.all().get(&key) != Some(&value);
                if changed {
                    self.slices.insert(key, value);
                }
                changed.into()
            }
            Object::Dns(key, value) => insert(&mut self.dns, key, value),
        }
    }

    /// Forgets an object that is gone.
    pub fn delete(&mut self, key: &Key) -> Changed {
        match key {
            Key::Pod(key) => self.pods.remove(key).is_some(),
            Key::SecurityGroup(key) => self.groups.remove(key).is_some(),
            Key::Attachment(key) => self.attachments.remove(key).is_some(),
            Key::PrefixList(key) => self.prefix_lists.remove(key).is_some(),
            Key::Namespace(key) => self.namespaces.remove(key).is_some(),
            Key::MemberSlice(key) => self.slices.remove(key).is_some(),
            Key::Dns(key) => self.dns.remove(key).is_some(),
        }
        .into()
    }

    /// Takes the full list of a kind; what is not in it is gone. Objects of another kind in it are ignored.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) -> Changed {
        let mut listed = Cluster::default();
        for object in objects {
            let _ = listed.apply(object);
        }
        match kind {
            Kind::Pod => replace(&mut self.pods, listed.pods),
            Kind::SecurityGroup => replace(&mut self.groups, listed.groups),
            Kind::Attachment => replace(&mut self.attachments, listed.attachments),
            Kind::PrefixList => replace(&mut self.prefix_lists, listed.prefix_lists),
            Kind::Namespace => replace(&mut self.namespaces, listed.namespaces),
            Kind::MemberSlice => self.slices.replace(listed.slices).into(),
            Kind::Dns => replace(&mut self.dns, listed.dns),
        }
    }
}

/// An address as packets carry it: an IPv4-mapped one is IPv4.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

impl Object {
    /// A pod's facts.
    pub fn pod(pod: &K8sPod) -> Object {
        let (namespace, name) = names(&pod.metadata);
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let listed = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default().iter().map(|ip| ip.ip.as_str());
        let single = status.and_then(|s| s.pod_ip.as_deref());
        let facts = Pod {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()).map(NodeName),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: listed.chain(single).filter_map(address).collect(),
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            finished: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        };
        Object::Pod(PodRef { namespace, name }, facts)
    }

    /// A namespace's facts; its metadata is enough.
    pub fn namespace(metadata: &ObjectMeta) -> Object {
        let default_group = metadata.labels.as_ref().and_then(|labels| labels.get(api::LABEL_DEFAULT_GROUP)).cloned();
        let deleting = metadata.deletion_timestamp.is_some();
        Object::Namespace(metadata.name.clone().unwrap_or_default(), Namespace { default_group, deleting })
    }

    /// A security group's facts, from its metadata and its stored `spec`.
    pub fn security_group(metadata: &ObjectMeta, spec: &Value) -> Object {
        let (namespace, name) = names(metadata);
        let group = GroupRef { namespace, name };
        let uid = metadata.uid.clone().unwrap_or_default();
        let mut facts = SecurityGroup {
            id: id::group(&uid),
            generation: metadata.generation.unwrap_or_default(),
            rules: Arc::default(),
            places: BTreeMap::new(),
            on_deny: OnDeny::Drop,
            problems: Vec::new(),
            deleting: metadata.deletion_timestamp.is_some(),
            uid,
        };
        match api::read::<SecurityGroupSpec>(spec) {
            Ok(spec) => parse::group(&group, &spec, &mut facts),
            Err(error) => facts.problems.push(Problem::whole(
                ObjectRef::SecurityGroup(group.clone()),
                NOT_UNDERSTOOD,
                format!("this version cannot read the spec ({error}); the group allows nothing until it can"),
            )),
        }
        Object::SecurityGroup(group, facts)
    }

    /// An attachment's facts, from its metadata and its stored `spec`.
    pub fn attachment(metadata: &ObjectMeta, spec: &Value) -> Object {
        let (namespace, name) = names(metadata);
        let attachment = AttachmentRef { namespace: namespace.clone(), name };
        let object = ObjectRef::Attachment(attachment.clone());
        let mut problems = Vec::new();
        let (groups, target) = match api::read::<AttachmentSpec>(spec) {
            Ok(spec) => {
                let groups = spec.security_groups.into_iter().map(|name| GroupRef { namespace: namespace.clone(), name }).collect();
                (groups, target(&object, spec.pod_selector, spec.node_selector.is_some(), &mut problems))
            }
            Err(error) => {
                let message = format!("this version cannot read the spec ({error}); every pod of the namespace is guarded until it can");
                problems.push(Problem::whole(object.clone(), NOT_UNDERSTOOD, message));
                (BTreeSet::new(), Target::Unknown)
            }
        };
        let facts = Attachment {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            groups,
            target,
            problems,
            deleting: metadata.deletion_timestamp.is_some(),
        };
        Object::Attachment(attachment, facts)
    }

    /// A prefix list's facts, from its metadata and its stored `spec`.
    pub fn prefix_list(metadata: &ObjectMeta, spec: &Value) -> Object {
        let (namespace, name) = names(metadata);
        let list = PrefixListRef { namespace, name };
        let mut facts = PrefixList {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            ..PrefixList::default()
        };
        match api::read::<PrefixListSpec>(spec) {
            Ok(spec) => parse::prefix_list(&list, &spec, &mut facts),
            Err(error) => facts.problems.push(Problem::whole(
                ObjectRef::PrefixList(list.clone()),
                NOT_UNDERSTOOD,
                format!("this version cannot read the spec ({error}); the list matches nothing until it can"),
            )),
        }
        Object::PrefixList(list, facts)
    }

    /// The addresses that an EndpointSlice of the cluster's DNS lists, ready or not: a server that starts is asked as soon as it is ready.
    pub fn dns(slice: &EndpointSlice) -> Object {
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        Object::Dns(names(&slice.metadata), addresses.filter_map(|text| address(text)).collect())
    }

    /// A member slice's facts.
    pub fn member_slice(slice: &api::MemberSlice) -> Object {
        let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
        let facts = MemberSlice {
            group_id: label(api::LABEL_GROUP_ID),
            head: label(api::LABEL_HEAD) == "true",
            addresses: slice.spec.addresses.iter().filter_map(|text| address(text)).collect(),
        };
        Object::MemberSlice(names(&slice.metadata), facts)
    }
}

fn target(object: &ObjectRef, pods: Option<LabelSelector>, nodes: bool, problems: &mut Vec<Problem>) -> Target {
    let needs = pods
        .as_ref()
        .and_then(|selector| selector.match_labels.as_ref()?.first_key_value())
        .map(|(key, value)| (key.clone(), value.clone()));
    let selector = match (pods, nodes) {
        (Some(selector), false) => Selector::try_from(selector).map_err(|error| error.to_string()),
        (None, true) => {
            problems.push(Problem::whole(object.clone(), "NotSupportedYet", "nodeSelector is not supported yet; use podSelector"));
            return Target::Nodes;
        }
        _ => Err("exactly one of podSelector and nodeSelector is needed".to_string()),
    };
    match selector {
        Ok(selector) => Target::Pods(PodSelector { selector, needs }),
        Err(why) => {
            let message = format!("{why}; every pod of the namespace is guarded until the selector can be understood");
            problems.push(Problem::whole(object.clone(), NOT_UNDERSTOOD, message));
            Target::Unknown
        }
    }
}

impl Target {
    /// Whether a pod of the attachment's namespace with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Target::Pods(PodSelector { selector, .. }) => selector.matches(labels),
            Target::Nodes => false,
            Target::Unknown => true,
        }
    }

    /// A label without which no pod is selected.
    pub fn needs(&self) -> Option<(&str, &str)> {
        match self {
            Target::Pods(PodSelector { needs, .. }) => needs.as_ref().map(|(key, value)| (key.as_str(), value.as_str())),
            Target::Nodes | Target::Unknown => None,
        }
    }
}
