//! A policy in pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::OnDeny;
use ipnet::IpNet;
use policy::model::{Exemption, GroupRef, NodePolicy, PodRef, PrefixListRef};
use policy::text::RuleText;

use crate::World;
use crate::scenario::Scenario;

/// A policy for the pods of [`World`] in pieces that can be added and taken away one by one: what a random policy is made of, and what a
/// failing one is shrunk by. Written as lines of text, one a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The rules of all groups.
    pub rules: Vec<(GroupRef, RuleText)>,
    /// What guards each pod of [`World::PODS`]; none: nothing.
    pub guards: BTreeMap<usize, Guard>,
    /// Members on other nodes.
    pub members: Vec<(GroupRef, IpAddr)>,
    /// Groups that do not exist where no pod here is in them (S20).
    pub absent: BTreeSet<GroupRef>,
    /// The entries of the prefix lists that exist, as written: they may overlap, repeat themselves and have host bits.
    pub lists: BTreeMap<PrefixListRef, Vec<IpNet>>,
    /// What always passes.
    pub exempt: BTreeSet<Exemption>,
    /// Where cluster DNS answers.
    pub dns: BTreeSet<IpAddr>,
}

impl Default for Draft {
    fn default() -> Self {
        let NodePolicy { exempt, .. } = NodePolicy::default();
        Draft {
            rules: Vec::new(),
            guards: BTreeMap::new(),
            members: Vec::new(),
            absent: BTreeSet::new(),
            lists: BTreeMap::new(),
            exempt,
            dns: BTreeSet::new(),
        }
    }
}

/// The groups of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Those that exist; none: closed.
    pub groups: BTreeSet<GroupRef>,
    /// What happens to what is denied.
    pub on_deny: OnDeny,
}

impl Draft {
    /// The policy as `compile` would leave it: only groups that an endpoint is in, only members and lists that a rule names.
    pub fn policy(&self) -> NodePolicy {
        let mut scenario = Scenario::new();
        for (group, rule) in &self.rules {
            scenario.add_rule(group, rule.direction, rule.traffic, rule.peer.clone());
        }
        for (i, guard) in &self.guards {
            let groups: Vec<String> = guard.groups.iter().map(ToString::to_string).collect();
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            scenario = scenario.pod(&format!("shop/pod-{i}"), &World::PODS[*i], &groups);
        }
        for (group, address) in &self.members {
            scenario = scenario.members(&group.to_string(), &[&address.to_string()]);
        }
        let mut policy = scenario.policy();
        for (i, guard) in &self.guards {
            if let Some(endpoint) = policy.endpoints.get_mut(&pod(*i)) {
                endpoint.on_deny = guard.on_deny;
            }
        }
        let used: BTreeSet<GroupRef> = policy.endpoints.values().flat_map(|endpoint| endpoint.groups.iter().cloned()).collect();
        policy.groups = policy.groups.into_iter().filter(|(group, _)| used.contains(group)).collect();
        let named = policy.named();
        let exists = |group: &GroupRef| named.contains(group) && (used.contains(group) || !self.absent.contains(group));
        policy.members = policy.members.into_iter().filter(|(group, _)| exists(group)).collect();
        let entries = |list| Some((list, self.lists.get(list)?.iter().map(IpNet::trunc).collect::<BTreeSet<_>>()));
        let lists = policy.named_lists();
        policy.prefix_lists = lists.iter().filter_map(entries).map(|(list, entries)| (list.clone(), Arc::new(entries))).collect();
        policy.exempt = self.exempt.clone();
        policy.cluster_dns = self.dns.clone();
        policy
    }

    /// Everything that can be taken away.
    pub fn pieces(&self) -> Vec<Piece> {
        let rules = self.rules.iter().map(|(group, rule)| Piece::Rule(group.clone(), rule.clone()));
        let guards = self.guards.iter().flat_map(|(&i, guard)| {
            let groups = guard.groups.iter().map(move |group| Piece::InGroup(i, group.clone()));
            let rejects = (guard.on_deny == OnDeny::Reject).then_some(Piece::Rejects(i));
            std::iter::once(Piece::Guarded(i)).chain(groups).chain(rejects)
        });
        let members = self.members.iter().map(|(group, address)| Piece::Member(group.clone(), *address));
        let absent = self.absent.iter().cloned().map(Piece::Absent);
        let lists = self.lists.iter().flat_map(|(list, entries)| {
            let entries = entries.iter().map(|entry| Piece::Entry(list.clone(), *entry));
            std::iter::once(Piece::List(list.clone())).chain(entries)
        });
        let switched =
            Exemption::ALL.into_iter().filter(|e| self.exempt.contains(e) != Exemption::DEFAULT.contains(e)).map(Piece::Switched);
        let dns = self.dns.iter().copied().map(Piece::Dns);
        rules.chain(guards).chain(members).chain(absent).chain(lists).chain(switched).chain(dns).collect()
    }

    /// The draft without a piece, if it has it.
    pub fn without(&self, piece: &Piece) -> Draft {
        let mut draft = self.clone();
        match piece {
            Piece::Rule(group, rule) => draft.rules.retain(|(g, r)| (g, r) != (group, rule)),
            Piece::Guarded(i) => drop(draft.guards.remove(i)),
            Piece::InGroup(i, group) => drop(draft.guards.get_mut(i).map(|guard| guard.groups.remove(group))),
            Piece::Rejects(i) => draft.guards.get_mut(i).into_iter().for_each(|guard| guard.on_deny = OnDeny::Drop),
            Piece::Member(group, address) => draft.members.retain(|(g, a)| (g, a) != (group, address)),
            Piece::Absent(group) => drop(draft.absent.remove(group)),
            Piece::List(list) => drop(draft.lists.remove(list)),
            Piece::Entry(list, entry) => draft.lists.get_mut(list).into_iter().for_each(|entries| entries.retain(|e| e != entry)),
            Piece::Switched(exemption) if Exemption::DEFAULT.contains(exemption) => drop(draft.exempt.insert(*exemption)),
            Piece::Switched(exemption) => drop(draft.exempt.remove(exemption)),
            Piece::Dns(address) => drop(draft.dns.remove(address)),
        }
        draft
    }
}

/// What a draft can be without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A rule of a group.
    Rule(GroupRef, RuleText),
    /// That a pod is guarded at all.
    Guarded(usize),
    /// That a pod is in a group.
    InGroup(usize, GroupRef),
    /// That a pod answers what it is denied.
    Rejects(usize),
    /// A member elsewhere.
    Member(GroupRef, IpAddr),
    /// That a group does not exist.
    Absent(GroupRef),
    /// That a prefix list exists.
    List(PrefixListRef),
    /// An entry of a prefix list.
    Entry(PrefixListRef, IpNet),
    /// An exemption that is not as it is by default.
    Switched(Exemption),
    /// Where cluster DNS answers.
    Dns(IpAddr),
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pod = |i: &usize| World::PODS[*i].join(" ");
        match self {
            Piece::Rule(group, rule) => write!(f, "sg/{group}: {rule}"),
            Piece::Guarded(i) => write!(f, "pod {} is guarded", pod(i)),
            Piece::InGroup(i, group) => write!(f, "pod {} is in sg/{group}", pod(i)),
            Piece::Rejects(i) => write!(f, "pod {} answers what it is denied", pod(i)),
            Piece::Member(group, address) => write!(f, "{address} is in sg/{group}"),
            Piece::Absent(group) => write!(f, "sg/{group} does not exist"),
            Piece::List(list) => write!(f, "pl/{list} exists"),
            Piece::Entry(list, entry) => write!(f, "pl/{list}: {entry}"),
            Piece::Switched(exemption) if Exemption::DEFAULT.contains(exemption) => write!(f, "{exemption} is not exempt"),
            Piece::Switched(exemption) => write!(f, "{exemption} is exempt"),
            Piece::Dns(address) => write!(f, "cluster DNS answers at {address}"),
        }
    }
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().iter().try_for_each(|piece| writeln!(f, "{piece}"))
    }
}

fn pod(i: usize) -> PodRef {
    PodRef { namespace: "shop".into(), name: format!("pod-{i}") }
}
