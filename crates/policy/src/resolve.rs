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
    Resolver::of(cluster).resolution
}

/// Resolves again and again, each time at the cost of the pods that may have moved: the same as [`resolve`].
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    resolution: Resolution,
    /// The addresses that each pod claims.
    claims: BTreeMap<PodRef, BTreeSet<IpAddr>>,
    claimants: BTreeMap<IpAddr, BTreeSet<PodRef>>,
    /// The attachments that select each pod.
    selected: BTreeMap<PodRef, BTreeSet<AttachmentRef>>,
}

impl Resolver {
    /// Has followed these facts from nothing.
    pub fn of(cluster: &Cluster) -> Resolver {
        let mut resolver = Resolver::default();
        resolver.follow(cluster, cluster.pods.keys().cloned().collect());
        resolver
    }

    /// Who is in which group, by the facts that were followed last.
    pub fn resolution(&self) -> &Resolution {
        &self.resolution
    }

    /// Takes the facts of these pods as they are now: all that have come, changed or gone, or whose groups, attachments or default group
    /// have. The groups whose members differ from before.
    pub fn follow(&mut self, cluster: &Cluster, mut pods: BTreeSet<PodRef>) -> BTreeSet<GroupRef> {
        let moved: Vec<_> = pods.iter().flat_map(|pod| self.claim(cluster, pod)).collect();
        // An address that is claimed, or no longer, may have another owner now.
        pods.extend(moved.iter().filter_map(|address| self.claimants.get(address)).flatten().cloned());
        let mut touched = BTreeSet::new();
        let mut attachments = Attachments::default();
        for name in &pods {
            if attachments.namespace != name.namespace {
                attachments = Attachments::of(cluster, &name.namespace);
            }
            let pod = cluster.pods.get(name).filter(|pod| !pod.finished);
            let selected = pod.map(|pod| attachments.selecting(pod)).unwrap_or_default();
            let endpoint = pod.filter(|pod| !pod.host_network).and_then(|pod| self.endpoint(cluster, name, pod, &selected));
            self.place(name.clone(), selected, endpoint, pod.is_some_and(|pod| pod.host_network), &mut touched);
        }
        touched
    }

    /// Notes what a pod claims now; the addresses that it has begun or ceased to claim, or claims as another pod than before.
    fn claim(&mut self, cluster: &Cluster, name: &PodRef) -> BTreeSet<IpAddr> {
        let pod = cluster.pods.get(name).filter(|pod| !pod.finished && !pod.host_network);
        let now = pod.map(|pod| pod.addresses.clone()).unwrap_or_default();
        let before = self.claims.remove(name).unwrap_or_default();
        for address in before.difference(&now) {
            if let Some(claimants) = self.claimants.get_mut(address) {
                claimants.remove(name);
                if claimants.is_empty() {
                    self.claimants.remove(address);
                }
            }
        }
        for address in now.difference(&before) {
            self.claimants.entry(*address).or_default().insert(name.clone());
        }
        let either = &before | &now;
        if !now.is_empty() {
            self.claims.insert(name.clone(), now);
        }
        either
    }

    /// S8: the newest pod that is not finished owns an address; among pods of one second, the one with the greater UID.
    fn owns(&self, cluster: &Cluster, name: &PodRef, address: &IpAddr) -> bool {
        let claimants = self.claimants.get(address).into_iter().flatten();
        let rank = |name| cluster.pods.get(name).map(|pod: &Pod| (pod.created, pod.uid.as_str(), name));
        claimants.filter_map(rank).max().is_some_and(|(_, _, owner)| owner == name)
    }

    fn endpoint(&self, cluster: &Cluster, name: &PodRef, pod: &Pod, selected: &BTreeSet<AttachmentRef>) -> Option<Membership> {
        let mut groups: BTreeSet<GroupRef> =
            selected.iter().filter_map(|a| cluster.attachments.get(a)).flat_map(|a| a.groups.iter().cloned()).collect();
        if selected.is_empty() {
            groups.insert(default_group(cluster, name)?);
        }
        let addresses: BTreeSet<IpAddr> = pod.addresses.iter().filter(|address| self.owns(cluster, name, address)).copied().collect();
        if addresses.is_empty() {
            return None;
        }
        let (groups, missing) = groups.into_iter().partition(|group| cluster.groups.contains_key(group));
        Some(Membership { node: pod.node.clone(), addresses, groups, missing })
    }

    /// Puts a pod where it belongs, in place of where it was.
    fn place(
        &mut self,
        name: PodRef,
        selected: BTreeSet<AttachmentRef>,
        endpoint: Option<Membership>,
        host_network: bool,
        touched: &mut BTreeSet<GroupRef>,
    ) {
        let Resolution { endpoints, members, attached, skipped } = &mut self.resolution;
        let before = endpoints.get(&name);
        if before != endpoint.as_ref() {
            for group in before.iter().flat_map(|before| &before.groups) {
                take_out(members, group, &name);
                touched.insert(group.clone());
            }
            for group in endpoint.iter().flat_map(|endpoint| &endpoint.groups) {
                members.entry(group.clone()).or_default().insert(name.clone());
                touched.insert(group.clone());
            }
        }
        for attachment in self.selected.get(&name).into_iter().flatten() {
            take_out(attached, attachment, &name);
            take_out(skipped, attachment, &name);
        }
        let list = if host_network { Some(skipped) } else { endpoint.is_some().then_some(attached) };
        if let Some(list) = list {
            for attachment in &selected {
                list.entry(attachment.clone()).or_default().insert(name.clone());
            }
        }
        match endpoint {
            Some(endpoint) => drop(endpoints.insert(name.clone(), endpoint)),
            None => drop(endpoints.remove(&name)),
        }
        match selected.is_empty() {
            true => drop(self.selected.remove(&name)),
            false => drop(self.selected.insert(name, selected)),
        }
    }
}

fn take_out<K: Ord>(lists: &mut BTreeMap<K, BTreeSet<PodRef>>, of: &K, name: &PodRef) {
    if let Some(list) = lists.get_mut(of) {
        list.remove(name);
        if list.is_empty() {
            lists.remove(of);
        }
    }
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

    fn selecting(&self, pod: &Pod) -> BTreeSet<AttachmentRef> {
        let labelled = pod.labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str()))).flatten();
        let all = labelled.chain(&self.others);
        all.filter(|(_, attachment)| attachment.target.matches(&pod.labels)).map(|(name, _)| (*name).clone()).collect()
    }
}

/// S3: the group that a namespace gives to its pods that are in no other.
fn default_group(cluster: &Cluster, pod: &PodRef) -> Option<GroupRef> {
    let name = cluster.namespaces.get(&pod.namespace)?.default_group.clone()?;
    Some(GroupRef { namespace: pod.namespace.clone(), name })
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
