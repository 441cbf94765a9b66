//! What one node has to enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::OnDeny;

use crate::index::Cluster;
use crate::model::{Endpoint, GroupRef, NodeName, NodePolicy};
use crate::problem::{AttachmentRef, ObjectRef, Problem};
use crate::resolve::{Membership, Resolution};

/// A node's policy and what can be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What to enforce.
    pub policy: NodePolicy,
    /// The ids of the groups that its rules name and that exist: whose member slices this node needs.
    pub named: BTreeMap<GroupRef, String>,
    /// Named groups whose membership this node has not seen as a whole yet. A group that names one of them is not in force as
    /// written before it has.
    pub awaited: BTreeSet<GroupRef>,
    /// Attachments that have an endpoint here.
    pub attachments: BTreeSet<AttachmentRef>,
    /// What is not in force as written, of the objects that concern this node.
    pub problems: Vec<Problem>,
}

/// From memberships to the policy of one node: its own endpoints, the rules of their groups, the members and networks these rules name.
/// What is exempt (S36) is as it is by default; no object of the cluster says otherwise.
pub fn compile(cluster: &Cluster, resolution: &Resolution, node: &NodeName) -> Compiled {
    let mut compiled = Compiled::default();
    for (pod, membership) in resolution.endpoints.iter().filter(|(_, m)| m.node.as_ref() == Some(node)) {
        compiled.policy.endpoints.insert(pod.clone(), endpoint(cluster, membership));
        for group in &membership.groups {
            if let Some(facts) = cluster.groups.get(group) {
                compiled.policy.groups.entry(group.clone()).or_insert_with(|| facts.rules.clone());
            }
        }
    }
    compiled.attachments = attachments_here(resolution, &compiled.policy);
    members(cluster, resolution, node, &mut compiled);
    prefix_lists(cluster, &mut compiled);
    compiled.policy.cluster_dns = cluster.dns.values().flatten().copied().collect();
    compiled.problems = problems(cluster, resolution, &compiled);
    compiled
}

fn endpoint(cluster: &Cluster, membership: &Membership) -> Endpoint {
    // S32: Reject only when all groups say so; what is closed because a group is missing is dropped.
    let all_reject = !membership.groups.is_empty()
        && membership.missing.is_empty()
        && membership.groups.iter().all(|group| cluster.groups.get(group).is_some_and(|facts| facts.on_deny == OnDeny::Reject));
    Endpoint {
        addresses: membership.addresses.clone(),
        groups: membership.groups.clone(),
        on_deny: if all_reject { OnDeny::Reject } else { OnDeny::Drop },
    }
}

fn attachments_here(resolution: &Resolution, policy: &NodePolicy) -> BTreeSet<AttachmentRef> {
    let here = |pods: &BTreeSet<_>| pods.iter().any(|pod| policy.endpoints.contains_key(pod));
    resolution.attached.iter().filter(|(_, pods)| here(pods)).map(|(attachment, _)| attachment.clone()).collect()
}

/// The addresses of every named group: from its slices, but for the pods of this node, which the node knows first and best.
fn members(cluster: &Cluster, resolution: &Resolution, node: &NodeName, compiled: &mut Compiled) {
    let local: BTreeSet<IpAddr> = cluster
        .pods
        .values()
        .filter(|pod| pod.node.as_ref() == Some(node) && !pod.finished && !pod.host_network)
        .flat_map(|pod| pod.addresses.iter().copied())
        .collect();
    // A slice speaks for groups of its own namespace only: who may write there decides nothing elsewhere (S7, P58).
    let mut slices: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
    for ((namespace, _), slice) in &cluster.slices {
        slices.entry((namespace, &slice.group_id)).or_default().push(slice);
    }
    for group in compiled.policy.named() {
        // S20: a group that does not exist has no members, whatever slices are left of it.
        let Some(facts) = cluster.groups.get(&group) else { continue };
        let slices = slices.get(&(group.namespace.as_str(), facts.id.as_str())).map(Vec::as_slice).unwrap_or_default();
        if !slices.iter().any(|slice| slice.head) {
            compiled.awaited.insert(group.clone());
        }
        let elsewhere = slices.iter().flat_map(|slice| &slice.addresses).filter(|address| !local.contains(address)).copied();
        let here = resolution.members.get(&group).into_iter().flatten().filter_map(|pod| compiled.policy.endpoints.get(pod));
        let addresses = elsewhere.chain(here.flat_map(|endpoint| endpoint.addresses.iter().copied())).collect();
        compiled.named.insert(group.clone(), facts.id.clone());
        compiled.policy.members.insert(group, addresses);
    }
}

/// The entries of every named list that exists (S20, S21).
fn prefix_lists(cluster: &Cluster, compiled: &mut Compiled) {
    for list in compiled.policy.named_lists() {
        if let Some(facts) = cluster.prefix_lists.get(&list) {
            compiled.policy.prefix_lists.insert(list, facts.entries.clone());
        }
    }
}

/// Problems of the groups and attachments that have an endpoint here, and of the prefix lists that these groups name.
fn problems(cluster: &Cluster, resolution: &Resolution, compiled: &Compiled) -> Vec<Problem> {
    let groups = compiled.policy.groups.keys().filter_map(|group| cluster.groups.get(group)).flat_map(|facts| &facts.problems);
    let attachments = compiled.attachments.iter().filter_map(|a| cluster.attachments.get(a)).flat_map(|facts| &facts.problems);
    let lists = compiled.policy.prefix_lists.keys().filter_map(|list| cluster.prefix_lists.get(list)).flat_map(|facts| &facts.problems);
    let missing = resolution.problems.iter().filter(|problem| match &problem.object {
        ObjectRef::Attachment(attachment) => compiled.attachments.contains(attachment),
        ObjectRef::Namespace(name) => compiled.policy.endpoints.keys().any(|pod| pod.namespace == *name),
        ObjectRef::SecurityGroup(_) | ObjectRef::PrefixList(_) => false,
    });
    groups.chain(attachments).chain(lists).chain(missing).cloned().collect()
}
