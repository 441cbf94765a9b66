//! What one node has to enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::OnDeny;
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, ordset};

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
    pub named: OrdMap<GroupRef, String>,
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
    compiler.compile(cluster, resolution, None);
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
    /// The named groups of which slices list an address, by address.
    listing: BTreeSet<(IpAddr, Arc<GroupRef>)>,
}

/// Peers that may be others than the last time.
#[derive(Debug, Default)]
struct Touched {
    groups: BTreeSet<GroupRef>,
    prefix_lists: BTreeSet<PrefixListRef>,
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
            listing: BTreeSet::new(),
        }
    }

    /// Who is in which group, by the facts that were followed last.
    pub fn resolution(&self) -> &Resolution {
        self.resolver.resolution()
    }

    /// What is in force by these facts. The first time anything has changed.
    pub fn follow(&mut self, cluster: &Cluster, since: Since) -> &Compiled {
        let mut resolver = std::mem::take(&mut self.resolver);
        match since {
            Since::Slices => self.published(cluster, resolver.resolution()),
            Since::Pods(pods) => {
                let groups = resolver.follow(cluster, pods);
                self.compile(cluster, resolver.resolution(), Some(groups));
            }
            Since::Anything => {
                resolver = Resolver::of(cluster);
                self.compile(cluster, resolver.resolution(), None);
            }
        }
        self.resolver = resolver;
        &self.compiled
    }

    /// Pods and slices have changed and no more, so that these groups have other endpoints; or anything has.
    fn compile(&mut self, cluster: &Cluster, resolution: &Resolution, moved: Option<BTreeSet<GroupRef>>) {
        let Touched { mut groups, mut prefix_lists } = self.endpoints(cluster, resolution);
        let addresses = self.local(cluster);
        match moved {
            Some(moved) => {
                groups.extend(moved);
                groups.extend(self.differ(cluster));
                groups.extend(addresses.iter().flat_map(|address| self.listing(*address)));
            }
            None => {
                self.published = cluster.slices.sums().clone();
                groups.extend(self.named.iter().cloned());
                prefix_lists.extend(self.named_lists.iter().cloned());
            }
        }
        for group in groups {
            self.group(&group, cluster, resolution, &addresses);
        }
        self.prefix_lists(cluster, prefix_lists);
        self.compiled.attachments = attachments_here(resolution, &self.compiled.policy);
        self.compiled.policy.cluster_dns = cluster.dns.values().flatten().copied().collect();
        self.compiled.problems = problems(cluster, &self.compiled);
    }

    /// The endpoints and the rules of their groups; the peers that are named now and were not, or the other way round.
    fn endpoints(&mut self, cluster: &Cluster, resolution: &Resolution) -> Touched {
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
        let mut touched = Touched::default();
        for change in before.diff(&policy.groups) {
            if let DiffItem::Add(_, rules) | DiffItem::Update { new: (_, rules), .. } = change {
                touched.groups.extend(rules.groups().filter(|group| self.named.need(group)).cloned());
                touched.prefix_lists.extend(rules.prefix_lists().filter(|list| self.named_lists.need(list)).cloned());
            }
            if let DiffItem::Remove(_, rules) | DiffItem::Update { old: (_, rules), .. } = change {
                touched.groups.extend(rules.groups().filter(|group| self.named.release(group)).cloned());
                touched.prefix_lists.extend(rules.prefix_lists().filter(|list| self.named_lists.release(list)).cloned());
            }
        }
        touched
    }

    /// Learns the addresses of this node's pods, in groups or not; those that have come or gone.
    fn local(&mut self, cluster: &Cluster) -> BTreeSet<IpAddr> {
        let pods = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&self.node) && !pod.finished && !pod.host_network);
        let local = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
        let before = std::mem::replace(&mut self.local, local);
        &before ^ &self.local
    }

    /// A group that is named, or was.
    fn group(&mut self, group: &GroupRef, cluster: &Cluster, resolution: &Resolution, moved: &BTreeSet<IpAddr>) {
        let id_of = |id: &String| (group.namespace.clone(), id.clone());
        // S20: a group that does not exist has no members, whatever slices are left of it.
        let id = cluster.groups.get(group).filter(|_| self.named.contains(group)).map(|facts| &facts.id);
        let before = self.compiled.named.get(group);
        if before != id {
            if let Some(before) = before.map(id_of).filter(|id| self.ids.get(id) == Some(group)) {
                self.ids.remove(&before);
            }
            match id {
                Some(id) => {
                    self.ids.insert(id_of(id), group.clone());
                    self.compiled.named.insert(group.clone(), id.clone());
                }
                None => {
                    self.compiled.named.remove(group);
                    self.compiled.awaited.remove(group);
                    self.compiled.policy.members.remove(group);
                    for address in self.sources.remove(group).into_iter().flat_map(|source| source.published) {
                        self.listing.remove(&(address, Arc::new(group.clone())));
                    }
                }
            }
        }
        if id.is_some() {
            self.members_of(group, cluster, resolution, moved);
        }
    }

    /// The named groups of which slices say something else than the last time.
    fn differ(&mut self, cluster: &Cluster) -> Vec<GroupRef> {
        let before = std::mem::replace(&mut self.published, cluster.slices.sums().clone());
        before.differ(cluster.slices.sums()).filter_map(|id| self.ids.get(id)).cloned().collect()
    }

    /// The named groups of which slices list this address.
    fn listing(&self, address: IpAddr) -> impl Iterator<Item = GroupRef> {
        let first = GroupRef { namespace: String::new(), name: String::new() };
        let from = self.listing.range((address, Arc::new(first))..);
        from.take_while(move |(other, _)| *other == address).map(|(_, group)| GroupRef::clone(group))
    }

    /// The addresses of the named groups of which slices say something else than the last time.
    fn published(&mut self, cluster: &Cluster, resolution: &Resolution) {
        for group in self.differ(cluster) {
            self.members_of(&group, cluster, resolution, &BTreeSet::new());
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
        let before = self.sources.remove(group).unwrap_or_default();
        let mut doubtful: BTreeSet<IpAddr> = before.here.symmetric_difference(&source.here).chain(moved).copied().collect();
        let named = Arc::new(group.clone());
        let mut listed = Vec::new();
        for item in before.published.diff(&source.published) {
            let (ordset::DiffItem::Add(address) | ordset::DiffItem::Remove(address)) = item;
            match item {
                ordset::DiffItem::Add(_) => self.listing.insert((*address, named.clone())),
                ordset::DiffItem::Remove(_) => self.listing.remove(&(*address, named.clone())),
            };
            listed.push(*address);
        }
        let mut addresses = match policy.members.get(group) {
            Some(addresses) => {
                doubtful.extend(listed);
                addresses.clone()
            }
            // Shared with what slices say, but for this node's pods.
            None => {
                doubtful.extend(&self.local);
                source.published.clone()
            }
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

    /// The entries of these lists, where they are named and exist (S20, S21).
    fn prefix_lists(&mut self, cluster: &Cluster, lists: impl IntoIterator<Item = PrefixListRef>) {
        for list in lists {
            let entries = cluster.prefix_lists.get(&list).filter(|_| self.named_lists.contains(&list)).map(|facts| facts.entries.clone());
            let policy = &mut self.compiled.policy;
            match entries {
                Some(entries) => drop(policy.prefix_lists.insert(list, entries)),
                None => drop(policy.prefix_lists.remove(&list)),
            }
        }
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
        closed: false,
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
