//! Who is in which group (S2–S9).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::index::{Attachment, Cluster, Pod};
use crate::model::{GroupRef, NodeName, PodRef};
use crate::problem::{AttachmentRef, ObjectRef, Problem};

/// Memberships of all pods that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Guarded pods that have an address; the rest is not filtered (S3).
    pub endpoints: BTreeMap<PodRef, Membership>,
    /// The endpoints of each group that has one.
    pub members: BTreeMap<GroupRef, BTreeSet<PodRef>>,
    /// The endpoints of each attachment that has one.
    pub attached: BTreeMap<AttachmentRef, BTreeSet<PodRef>>,
    /// hostNetwork pods that an attachment selects but that are not members (S9).
    pub skipped: BTreeMap<AttachmentRef, BTreeSet<PodRef>>,
}

/// One guarded pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Its node.
    pub node: Option<NodeName>,
    /// The addresses that are its own (S8).
    pub addresses: BTreeSet<IpAddr>,
    /// Its groups that exist.
    pub groups: BTreeSet<GroupRef>,
    /// Its groups that do not: they close it, they never open it.
    pub missing: BTreeSet<GroupRef>,
}

impl Resolution {
    /// The addresses of a group's members.
    pub fn addresses(&self, group: &GroupRef) -> BTreeSet<IpAddr> {
        self.members
            .get(group)
            .into_iter()
            .flatten()
            .filter_map(|pod| self.endpoints.get(pod))
            .flat_map(|e| &e.addresses)
            .copied()
            .collect()
    }
}

/// From facts to memberships. What has no pod costs nothing, however much there is of it. What is missing, [`missing_groups`] and
/// [`missing_default_group`] say.
pub fn resolve(cluster: &Cluster) -> Resolution {
    let mut resolution = Resolution::default();
    let owners = owners(cluster);
    let mut attachments = Attachments::default();
    for (name, pod) in cluster.pods.iter().filter(|(_, pod)| !pod.finished) {
        if attachments.namespace != name.namespace {
            attachments = Attachments::of(cluster, &name.namespace);
        }
        let selecting = attachments.selecting(pod);
        if pod.host_network {
            for attachment in selecting {
                resolution.skipped.entry(attachment.clone()).or_default().insert(name.clone());
            }
            continue;
        }
        let mut groups: BTreeSet<GroupRef> =
            selecting.iter().filter_map(|a| cluster.attachments.get(a)).flat_map(|a| a.groups.iter().cloned()).collect();
        if selecting.is_empty() {
            let Some(default) = default_group(cluster, name) else { continue };
            groups.insert(default);
        }
        let addresses: BTreeSet<IpAddr> = pod.addresses.iter().filter(|address| owners.get(address) == Some(&name)).copied().collect();
        if addresses.is_empty() {
            continue;
        }
        let (groups, missing): (BTreeSet<_>, BTreeSet<_>) = groups.into_iter().partition(|group| cluster.groups.contains_key(group));
        for group in &groups {
            resolution.members.entry(group.clone()).or_default().insert(name.clone());
        }
        for attachment in selecting {
            resolution.attached.entry(attachment.clone()).or_default().insert(name.clone());
        }
        resolution.endpoints.insert(name.clone(), Membership { node: pod.node.clone(), addresses, groups, missing });
    }
    resolution
}

/// The attachments of one namespace, so that a pod is not compared with all of them.
#[derive(Default)]
struct Attachments<'a> {
    namespace: &'a str,
    by_label: BTreeMap<(&'a str, &'a str), Vec<(&'a AttachmentRef, &'a Attachment)>>,
    others: Vec<(&'a AttachmentRef, &'a Attachment)>,
}

impl<'a> Attachments<'a> {
    fn of(cluster: &'a Cluster, namespace: &'a str) -> Attachments<'a> {
        let mut all = Attachments { namespace, ..Attachments::default() };
        let first = AttachmentRef { namespace: namespace.into(), name: String::new() };
        for (name, facts) in cluster.attachments.range(first..).take_while(|(name, _)| name.namespace == namespace) {
            match facts.target.needs() {
                Some(label) => all.by_label.entry(label).or_default().push((name, facts)),
                None => all.others.push((name, facts)),
            }
        }
        all
    }

    fn selecting(&self, pod: &Pod) -> Vec<&'a AttachmentRef> {
        let labelled = pod.labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str()))).flatten();
        let all = labelled.chain(&self.others);
        all.filter(|(_, attachment)| attachment.target.matches(&pod.labels)).map(|(name, _)| *name).collect()
    }
}

/// S3: the group that a namespace gives to its pods that are in no other.
fn default_group(cluster: &Cluster, pod: &PodRef) -> Option<GroupRef> {
    let name = cluster.namespaces.get(&pod.namespace)?.default_group.clone()?;
    Some(GroupRef { namespace: pod.namespace.clone(), name })
}

/// S8: the newest pod that is not finished owns an address; among pods of one second, the one with the greater UID.
fn owners(cluster: &Cluster) -> BTreeMap<IpAddr, &PodRef> {
    let mut owners = BTreeMap::new();
    for (name, pod) in cluster.pods.iter().filter(|(_, pod)| !pod.finished && !pod.host_network) {
        for &address in &pod.addresses {
            let rank = (pod.created, pod.uid.as_str(), name);
            let owner = owners.entry(address).or_insert(rank);
            *owner = rank.max(*owner);
        }
    }
    owners.into_iter().map(|(address, (_, _, name))| (address, name)).collect()
}

/// A problem for each group that an attachment names and that does not exist.
pub fn missing_groups(cluster: &Cluster, attachment: &AttachmentRef) -> Vec<Problem> {
    let named = cluster.attachments.get(attachment).into_iter().flat_map(|facts| &facts.groups);
    let problem = |group: &GroupRef| {
        let message =
            format!("SecurityGroup {group} does not exist; pods stay guarded by their other groups, and closed where they have none");
        Problem::whole(ObjectRef::Attachment(attachment.clone()), "GroupNotFound", message)
    };
    named.filter(|group| !cluster.groups.contains_key(group)).map(problem).collect()
}

/// A problem where a namespace names a default group that does not exist (S3).
pub fn missing_default_group(cluster: &Cluster, namespace: &str) -> Option<Problem> {
    let name = cluster.namespaces.get(namespace)?.default_group.clone()?;
    let group = GroupRef { namespace: namespace.into(), name };
    let message = format!("its default group {group} does not exist; pods in no other group are closed");
    let problem = || Problem::whole(ObjectRef::Namespace(namespace.into()), "GroupNotFound", message);
    (!cluster.groups.contains_key(&group)).then(problem)
}
