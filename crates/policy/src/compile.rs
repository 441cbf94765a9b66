//! What one node has to enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::OnDeny;
use imbl::OrdSet;
use imbl::ordmap::DiffItem;
use imbl::ordset;

use crate::counted::Counted;
use crate::index::{Cluster, Key, Kind, Object};
use crate::model::{Endpoint, GroupRef, NodeName, NodePolicy, PodRef, PrefixListRef};
use crate::problem::{AttachmentRef, Problem};
use crate::published::{Published, Sums};
use crate::resolve::{Membership, Resolution, Resolver, missing_default_group, missing_groups};

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
    let mut compiler = Compiler::new(node.clone());
    compiler.compile(cluster, resolution);
    compiler.compiled
}

/// What has changed since the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Member slices at most.
    Slices,
    /// And these pods, which have come, changed or gone.
    Pods(BTreeSet<PodRef>),
    /// Whatever there is.
    Anything,
}

impl Since {
    /// An object that is new or has changed, too.
    pub fn applied(&mut self, object: &Object) {
        match object {
            Object::MemberSlice(..) => {}
            Object::Pod(pod, _) => self.pod(pod),
            _ => *self = Since::Anything,
        }
    }

    /// An object that is gone, too.
    pub fn deleted(&mut self, key: &Key) {
        match key {
            Key::MemberSlice(_) => {}
            Key::Pod(pod) => self.pod(pod),
            _ => *self = Since::Anything,
        }
    }

    /// The full list of a kind, too.
    pub fn listed(&mut self, kind: Kind) {
        if kind != Kind::MemberSlice {
            *self = Since::Anything;
        }
    }

    /// Another has changed as well.
    pub fn join(&mut self, other: Since) {
        match other {
            Since::Slices => {}
            Since::Pods(pods) => pods.iter().for_each(|pod| self.pod(pod)),
            Since::Anything => *self = Since::Anything,
        }
    }

    fn pod(&mut self, pod: &PodRef) {
        match self {
            Since::Slices => *self = Since::Pods(BTreeSet::from([pod.clone()])),
            Since::Pods(pods) => drop(pods.insert(pod.clone())),
            Since::Anything => {}
        }
    }
}

/// Compiles again and again for one node, each time at the cost of what has changed since the last.
#[derive(Clone, Debug)]
pub struct Compiler {
    node: NodeName,
    resolver: Resolver,
    compiled: Compiled,
    named: Counted<GroupRef>,
    named_lists: Counted<PrefixListRef>,
    /// The addresses of this node's pods, in groups or not.
    local: BTreeSet<IpAddr>,
    /// The named groups, by namespace and id.
    ids: BTreeMap<(String, String), GroupRef>,
    /// What slices said the last time.
    published: Sums,
    sources: BTreeMap<GroupRef, Source>,
}

/// What the members of a named group were made from.
#[derive(Clone, Debug, Default, PartialEq)]
struct Source {
    published: OrdSet<IpAddr>,
    here: BTreeSet<IpAddr>,
}

impl Source {
    /// Whether an address is a member's.
    fn has(&self, address: IpAddr, local: &BTreeSet<IpAddr>) -> bool {
        self.here.contains(&address) || self.published.contains(&address) && !local.contains(&address)
    }

    /// What one lists and the other does not.
    fn differs(&self, other: &Source) -> BTreeSet<IpAddr> {
        let published = self.published.diff(&other.published).map(|item| match item {
            ordset::DiffItem::Add(address) | ordset::DiffItem::Remove(address) => *address,
        });
        published.chain(self.here.symmetric_difference(&other.here).copied()).collect()
    }
}

impl Compiler {
    /// For this node, of which nothing is known yet.
    pub fn new(node: NodeName) -> Compiler {
        Compiler {
            node,
            resolver: Resolver::default(),
            compiled: Compiled::default(),
            named: Counted::default(),
            named_lists: Counted::default(),
            local: BTreeSet::new(),
            ids: BTreeMap::new(),
            published: Sums::default(),
            sources: BTreeMap::new(),
        }
    }

    /// What is in force by these facts. The first time anything has changed.
    pub fn follow(&mut self, cluster: &Cluster, since: Since) -> &Compiled {
        let mut resolver = std::mem::take(&mut self.resolver);
        match since {
            Since::Slices => self.published(cluster, resolver.resolution()),
            Since::Pods(pods) => {
                resolver.follow(cluster, pods);
                self.compile(cluster, resolver.resolution());
            }
            Since::Anything => {
                resolver = Resolver::of(cluster);
                self.compile(cluster, resolver.resolution());
            }
        }
        self.resolver = resolver;
        &self.compiled
    }

    fn compile(&mut self, cluster: &Cluster, resolution: &Resolution) {
        self.endpoints(cluster, resolution);
        let moved = self.local(cluster);
        self.members(cluster, resolution, &moved);
        self.prefix_lists(cluster);
        self.compiled.attachments = attachments_here(resolution, &self.compiled.policy);
        self.compiled.policy.cluster_dns = cluster.dns.values().flatten().copied().collect();
        self.compiled.problems = problems(cluster, &self.compiled);
    }

    fn endpoints(&mut self, cluster: &Cluster, resolution: &Resolution) {
        let policy = &mut self.compiled.policy;
        let before = std::mem::take(&mut policy.groups);
        policy.endpoints.clear();
        for (pod, membership) in resolution.endpoints.iter().filter(|(_, m)| m.node.as_ref() == Some(&self.node)) {
            policy.endpoints.insert(pod.clone(), endpoint(cluster, membership));
            for group in &membership.groups {
                if let Some(facts) = cluster.groups.get(group) {
                    policy.groups.entry(group.clone()).or_insert_with(|| facts.rules.clone());
                }
            }
        }
        for change in before.diff(&policy.groups) {
            if let DiffItem::Add(_, rules) | DiffItem::Update { new: (_, rules), .. } = change {
                self.named.need_all(rules.groups());
                self.named_lists.need_all(rules.prefix_lists());
            }
            if let DiffItem::Remove(_, rules) | DiffItem::Update { old: (_, rules), .. } = change {
                self.named.release_all(rules.groups());
                self.named_lists.release_all(rules.prefix_lists());
            }
        }
    }

    /// Learns the addresses of this node's pods, in groups or not; those that have come or gone.
    fn local(&mut self, cluster: &Cluster) -> BTreeSet<IpAddr> {
        let pods = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&self.node) && !pod.finished && !pod.host_network);
        let local = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
        let before = std::mem::replace(&mut self.local, local);
        &before ^ &self.local
    }

    /// The addresses of every named group.
    fn members(&mut self, cluster: &Cluster, resolution: &Resolution, moved: &BTreeSet<IpAddr>) {
        let Compiled { policy, named, awaited, .. } = &mut self.compiled;
        // S20: a group that does not exist has no members, whatever slices are left of it.
        let exist = self.named.iter().filter_map(|group| Some((group.clone(), cluster.groups.get(group)?.id.clone())));
        let before = std::mem::replace(named, exist.collect());
        for group in before.keys().filter(|group| !named.contains_key(*group)) {
            awaited.remove(group);
            policy.members.remove(group);
            self.sources.remove(group);
        }
        self.ids = named.iter().map(|(group, id)| ((group.namespace.clone(), id.clone()), group.clone())).collect();
        self.published = cluster.slices.sums().clone();
        for group in self.ids.values().cloned().collect::<Vec<_>>() {
            self.members_of(&group, cluster, resolution, moved);
        }
    }

    /// The addresses of the named groups of which slices say something else than the last time.
    fn published(&mut self, cluster: &Cluster, resolution: &Resolution) {
        let before = std::mem::replace(&mut self.published, cluster.slices.sums().clone());
        for id in before.differ(cluster.slices.sums()) {
            if let Some(group) = self.ids.get(id).cloned() {
                self.members_of(&group, cluster, resolution, &BTreeSet::new());
            }
        }
    }

    /// The addresses of a named group: from its slices, but for the pods of this node, which the node knows first and best.
    fn members_of(&mut self, group: &GroupRef, cluster: &Cluster, resolution: &Resolution, moved: &BTreeSet<IpAddr>) {
        let Compiled { policy, named, awaited, .. } = &mut self.compiled;
        let published = named.get(group).and_then(|id| cluster.slices.of(&group.namespace, id));
        match published.is_some_and(Published::has_head) {
            true => drop(awaited.remove(group)),
            false => drop(awaited.insert(group.clone())),
        }
        let here = resolution.members.get(group).into_iter().flatten().filter_map(|pod| policy.endpoints.get(pod));
        let source = Source {
            published: published.map(|published| published.addresses().clone()).unwrap_or_default(),
            here: here.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect(),
        };
        let (mut addresses, doubtful) = match (self.sources.get(group), policy.members.get(group)) {
            (Some(before), Some(addresses)) => (addresses.clone(), &before.differs(&source) | moved),
            _ => (source.published.clone(), &self.local | &source.here),
        };
        for address in doubtful {
            // What stays as it is stays shared.
            match (source.has(address, &self.local), addresses.contains(&address)) {
                (true, false) => drop(addresses.insert(address)),
                (false, true) => drop(addresses.remove(&address)),
                _ => {}
            }
        }
        if !policy.members.get(group).is_some_and(|before| before.ptr_eq(&addresses)) {
            policy.members.insert(group.clone(), addresses);
        }
        self.sources.insert(group.clone(), source);
    }

    /// The entries of every named list that exists (S20, S21).
    fn prefix_lists(&mut self, cluster: &Cluster) {
        let entries = |list: &PrefixListRef| Some((list.clone(), cluster.prefix_lists.get(list)?.entries.clone()));
        self.compiled.policy.prefix_lists = self.named_lists.iter().filter_map(entries).collect();
    }
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

/// Problems of the groups and attachments that have an endpoint here, and of the prefix lists that these groups name.
fn problems(cluster: &Cluster, compiled: &Compiled) -> Vec<Problem> {
    let groups = compiled.policy.groups.keys().filter_map(|group| cluster.groups.get(group)).flat_map(|facts| &facts.problems);
    let attachments = compiled.attachments.iter().filter_map(|a| cluster.attachments.get(a)).flat_map(|facts| &facts.problems);
    let lists = compiled.policy.prefix_lists.keys().filter_map(|list| cluster.prefix_lists.get(list)).flat_map(|facts| &facts.problems);
    let missing = compiled.attachments.iter().flat_map(|attachment| missing_groups(cluster, attachment));
    let namespaces: BTreeSet<&str> = compiled.policy.endpoints.keys().map(|pod| pod.namespace.as_str()).collect();
    let missing = missing.chain(namespaces.into_iter().filter_map(|namespace| missing_default_group(cluster, namespace)));
    groups.chain(attachments).chain(lists).cloned().chain(missing).collect()
}
