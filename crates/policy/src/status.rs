//! What users read: the status of groups and attachments, from the facts and from what nodes report.
//!
//! `Programmed` is only ever said of what nodes have reported: a group made again under its name, a rule that a node has not got yet,
//! a node that has never reported all keep it from being True.

use std::collections::{BTreeMap, BTreeSet};

use api::condition::{
    ACCEPTED, BRIDGE_TRAFFIC_FILTERED, DELETABLE, KERNEL_SUPPORTED, PROGRAMMED, READY, STALE_RULES, TRAFFIC_FILTERED, WITHIN_QUOTA,
};
use api::{AttachmentStatus, NodeCounts, NodeReportStatus, PacketCounts, PrefixListStatus, RuleCounts, SecurityGroupStatus, Skipped};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::index::{Attachment, Cluster, SecurityGroup};
use crate::model::{GroupRef, NodeName, Peer, PodRef, PrefixListRef, Rule};
use crate::parse::{DUPLICATE, DUPLICATE_ENTRIES};
use crate::problem::{AttachmentRef, ObjectRef, Problem};
use crate::protection::Blockers;
use crate::quota::Limits;
use crate::resolve::Resolution;

/// How many skipped pods a status names.
const SKIPPED_NAMED: usize = 20;
/// How many things of a kind a message names.
const NAMED: usize = 3;
/// Characters a message has at most: a spec that cannot be read may say anything.
const MESSAGE: usize = 1024;

const OVER_PAIRS: &str = "RulesPerSecurityGroupLimitExceeded";
const OVER_GROUPS: &str = "SecurityGroupsPerInterfaceLimitExceeded";
const OVER_NAMESPACE: &str = "SecurityGroupLimitExceeded";

/// Everything that statuses are made from.
#[derive(Debug)]
pub struct View<'a> {
    cluster: &'a Cluster,
    resolution: &'a Resolution,
    limits: Limits,
    blockers: &'a BTreeMap<ObjectRef, Blockers>,
    groups_of_namespace: BTreeMap<&'a str, usize>,
    groups: BTreeMap<(&'a str, &'a str), Applied<'a>>,
    attachments: BTreeMap<(&'a str, &'a str), Applied<'a>>,
    prefix_lists: BTreeMap<(&'a str, &'a str), Applied<'a>>,
    /// The nodes on which nothing is in force, and why.
    unable: BTreeMap<&'a NodeName, &'a Condition>,
    /// The groups whose rules name each list.
    naming: BTreeMap<&'a PrefixListRef, BTreeSet<&'a GroupRef>>,
}

/// Which UID and generation of an object each node has in force.
type Applied<'a> = BTreeMap<&'a NodeName, (&'a str, i64)>;

impl<'a> View<'a> {
    /// Puts the reports in order by object. AWS's limits hold, and nothing blocks anything, until it is said otherwise.
    pub fn new(cluster: &'a Cluster, resolution: &'a Resolution, reports: &'a BTreeMap<NodeName, NodeReportStatus>) -> View<'a> {
        static NONE: BTreeMap<ObjectRef, Blockers> = BTreeMap::new();
        let mut view = View {
            cluster,
            resolution,
            limits: Limits::default(),
            blockers: &NONE,
            groups_of_namespace: BTreeMap::new(),
            groups: BTreeMap::new(),
            attachments: BTreeMap::new(),
            prefix_lists: BTreeMap::new(),
            unable: BTreeMap::new(),
            naming: BTreeMap::new(),
        };
        for (group, facts) in &cluster.groups {
            *view.groups_of_namespace.entry(&group.namespace).or_default() += 1;
            for list in facts.rules.prefix_lists() {
                view.naming.entry(list).or_default().insert(group);
            }
        }
        for (node, report) in reports {
            view.unable.extend(unable(report).map(|[_, why]| (node, why)));
            for group in &report.groups {
                let applied = view.groups.entry((&group.namespace, &group.name)).or_default();
                applied.insert(node, (&group.uid, group.generation));
            }
            for attachment in &report.attachments {
                let applied = view.attachments.entry((&attachment.namespace, &attachment.name)).or_default();
                applied.insert(node, (&attachment.uid, attachment.generation));
            }
            for list in &report.prefix_lists {
                let applied = view.prefix_lists.entry((&list.namespace, &list.name)).or_default();
                applied.insert(node, (&list.uid, list.generation));
            }
        }
        view
    }

    /// The administrator's limits.
    pub fn limited_by(self, limits: Limits) -> View<'a> {
        View { limits, ..self }
    }

    /// What is not removed while it is named, as [`blockers`](crate::protection::blockers) found it.
    pub fn protected_by(self, blockers: &'a BTreeMap<ObjectRef, Blockers>) -> View<'a> {
        View { blockers, ..self }
    }

    /// The status of a group; `None` where there is no such group. Its conditions carry no time yet, see [`stamp`].
    pub fn group(&self, group: &GroupRef) -> Option<SecurityGroupStatus> {
        let facts = self.cluster.groups.get(group)?;
        let members = self.resolution.members.get(group);
        let object = Object {
            uid: &facts.uid,
            generation: facts.generation,
            applied: self.groups.get(&(group.namespace.as_str(), group.name.as_str())),
            unable: &self.unable,
        };
        let stale = self.stale(facts);
        let (nodes, programmed) = object.programmed(&self.nodes(members), "NoMembers", "No endpoint is in this group.");
        let accepted = accepted(&facts.problems, "All rules are understood.");
        let conditions =
            vec![ready(&accepted, &programmed), accepted, programmed, stale_rules(&stale), self.within_quota(group, facts, members)];
        let held = self.held(facts.deleting, || ObjectRef::SecurityGroup(group.clone()));
        Some(SecurityGroupStatus {
            observed_generation: Some(facts.generation),
            group_id: Some(facts.id.clone()),
            members: count(members.map_or(0, BTreeSet::len)),
            rules: RuleCounts {
                ingress: count(facts.rules.ingress.len()),
                egress: count(facts.rules.egress.len()),
                stale: count(stale.len()),
            },
            nodes,
            // Filled in by who sums them up: see [`packets`].
            packets: PacketCounts::default(),
            conditions: conditions.into_iter().chain(held).map(|said| said.of(facts.generation)).collect(),
        })
    }

    /// The status of an attachment; `None` where there is no such attachment. Its conditions carry no time yet, see [`stamp`].
    pub fn attachment(&self, attachment: &AttachmentRef) -> Option<AttachmentStatus> {
        let facts = self.cluster.attachments.get(attachment)?;
        let endpoints = self.resolution.attached.get(attachment);
        let applied = self.attachments.get(&(attachment.namespace.as_str(), attachment.name.as_str()));
        let object = Object { uid: &facts.uid, generation: facts.generation, applied, unable: &self.unable };
        let (nodes, programmed) = object.programmed(&self.nodes(endpoints), "NoEndpoints", "It selects no pod that has an address.");
        let accepted = self.attachment_accepted(facts, endpoints);
        let skipped = self.resolution.skipped.get(attachment);
        let name = |pod: &PodRef| Skipped { name: pod.name.clone(), reason: "HostNetwork".into() };
        Some(AttachmentStatus {
            observed_generation: Some(facts.generation),
            endpoints: count(endpoints.map_or(0, BTreeSet::len)),
            skipped: skipped.into_iter().flatten().take(SKIPPED_NAMED).map(name).collect(),
            skipped_count: count(skipped.map_or(0, BTreeSet::len)),
            nodes,
            conditions: [ready(&accepted, &programmed), accepted, programmed].into_iter().map(|said| said.of(facts.generation)).collect(),
        })
    }

    /// The status of a prefix list; `None` where there is no such list. Its conditions carry no time yet, see [`stamp`].
    pub fn prefix_list(&self, list: &PrefixListRef) -> Option<PrefixListStatus> {
        let facts = self.cluster.prefix_lists.get(list)?;
        let naming = self.naming.get(list);
        let nodes = naming.into_iter().flatten().flat_map(|group| self.nodes(self.resolution.members.get(group))).collect();
        let applied = self.prefix_lists.get(&(list.namespace.as_str(), list.name.as_str()));
        let object = Object { uid: &facts.uid, generation: facts.generation, applied, unable: &self.unable };
        let (nodes, programmed) = object.programmed(&nodes, "NotNamed", "No group that has an endpoint names this list.");
        let accepted = accepted(&facts.problems, "All entries are understood.");
        let held = self.held(facts.deleting, || ObjectRef::PrefixList(list.clone()));
        let conditions = [ready(&accepted, &programmed), accepted, programmed].into_iter().chain(held);
        Some(PrefixListStatus {
            observed_generation: Some(facts.generation),
            entries: count(facts.entries.len()),
            referenced_by: count(naming.map_or(0, BTreeSet::len)),
            nodes,
            conditions: conditions.map(|said| said.of(facts.generation)).collect(),
        })
    }

    /// What keeps an object that is being deleted.
    fn held(&self, deleting: bool, object: impl FnOnce() -> ObjectRef) -> Option<Said> {
        deleting.then(object).and_then(|object| self.blockers.get(&object)).map(not_deletable)
    }

    fn nodes(&self, pods: Option<&BTreeSet<PodRef>>) -> BTreeSet<&'a NodeName> {
        let endpoints = pods.into_iter().flatten().filter_map(|pod| self.resolution.endpoints.get(pod));
        endpoints.filter_map(|endpoint| endpoint.node.as_ref()).collect()
    }

    /// S20: the pairs whose peer does not exist: where they stand, and the peer.
    fn stale(&self, facts: &'a SecurityGroup) -> Vec<(&'a str, String)> {
        let missing = |rule: &Rule| match &rule.peer {
            Peer::Group(peer) if !self.cluster.groups.contains_key(peer) => Some(format!("SecurityGroup {peer}")),
            Peer::PrefixList(peer) if !self.cluster.prefix_lists.contains_key(peer) => Some(format!("PrefixList {peer}")),
            _ => None,
        };
        let place = |rule: &Rule| facts.places.get(&rule.id).map_or("", String::as_str);
        let mut stale: Vec<_> = facts.rules.all().filter_map(|rule| Some((place(rule), missing(rule)?))).collect();
        stale.sort();
        stale
    }

    /// S24: what is over quota is in force all the same, and said.
    fn within_quota(&self, group: &GroupRef, facts: &SecurityGroup, members: Option<&BTreeSet<PodRef>>) -> Said {
        let directions = [(self.weight(&facts.rules.ingress), "ingress"), (self.weight(&facts.rules.egress), "egress")];
        let limit = self.limits.rules_per_direction;
        if let Some((weight, direction)) = directions.into_iter().find(|(weight, _)| *weight > limit) {
            let message = format!(
                "the {direction} (rule, peer) pairs weigh {weight} (a prefix list weighs its maxEntries), the limit is {limit}; all are in force"
            );
            return Said::new(WITHIN_QUOTA, FALSE, OVER_PAIRS, message);
        }
        if let Some(message) = self.over_groups(members) {
            return Said::new(WITHIN_QUOTA, FALSE, OVER_GROUPS, message);
        }
        match self.over_namespace(&group.namespace) {
            Some(message) => Said::new(WITHIN_QUOTA, FALSE, OVER_NAMESPACE, message),
            None => Said::new(WITHIN_QUOTA, TRUE, "WithinQuota", "No limit is exceeded."),
        }
    }

    /// A group or a network weighs 1, a prefix list what it may grow to.
    fn weight(&self, rules: &BTreeSet<Rule>) -> usize {
        let weight = |rule: &Rule| match &rule.peer {
            Peer::Net(_) | Peer::Group(_) => 1,
            Peer::PrefixList(list) => self.cluster.prefix_lists.get(list).map_or(1, |facts| facts.max_entries.max(1)),
        };
        rules.iter().map(weight).fold(0, usize::saturating_add)
    }

    fn over_groups(&self, pods: Option<&BTreeSet<PodRef>>) -> Option<String> {
        let over = |pod: &&PodRef| self.group_count(pod) > self.limits.groups_per_endpoint;
        let mut pods = pods.into_iter().flatten().filter(over);
        let first = pods.next()?;
        let others = match pods.count() {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        let (groups, limit) = (self.group_count(first), self.limits.groups_per_endpoint);
        Some(format!("Pod {first}{others} is in {groups} groups, the limit is {limit}; all are in force"))
    }

    /// Which of the groups are too many cannot be said: all of them say so, and not how many they are, or one more would change them all.
    fn over_namespace(&self, namespace: &str) -> Option<String> {
        let limit = self.limits.groups_per_namespace;
        let over = self.groups_of_namespace.get(namespace).is_some_and(|groups| *groups > limit);
        over.then(|| format!("Namespace {namespace} has more SecurityGroups than the limit of {limit}; all are in force"))
    }

    /// An attachment that could not be written today, whether it selects anybody or not.
    fn over_names(&self, facts: &Attachment) -> Option<String> {
        let (names, limit) = (facts.groups.len(), self.limits.groups_per_endpoint);
        (names > limit).then(|| format!("securityGroups names {names} groups, the limit is {limit}; all are in force"))
    }

    fn group_count(&self, pod: &PodRef) -> usize {
        self.resolution.endpoints.get(pod).map_or(0, |endpoint| endpoint.groups.len() + endpoint.missing.len())
    }

    fn attachment_accepted(&self, facts: &Attachment, endpoints: Option<&BTreeSet<PodRef>>) -> Said {
        let missing: Vec<&str> = facts.groups.iter().filter(|g| !self.cluster.groups.contains_key(g)).map(|g| g.name.as_str()).collect();
        if !facts.problems.is_empty() || missing.is_empty() {
            let accepted = accepted(&facts.problems, "All groups exist.");
            return match self.over_groups(endpoints).or_else(|| self.over_names(facts)) {
                Some(message) if accepted.status == TRUE => Said::new(ACCEPTED, FALSE, OVER_GROUPS, message),
                _ => accepted,
            };
        }
        let which = match missing.as_slice() {
            [one] => format!("SecurityGroup {one} does not exist in this namespace; create it or take it out of securityGroups"),
            _ => format!(
                "SecurityGroups {} do not exist in this namespace; create them or take them out of securityGroups",
                list(&missing, ", ")
            ),
        };
        let message = format!("{which}. Until then pods stay guarded by their other groups, and closed where they have none");
        Said::new(ACCEPTED, FALSE, "GroupNotFound", message)
    }
}

/// Why nothing is in force on a node: its `Ready` condition, which says so, and the one that is the cause. None where rules are in force, or
/// where they are only late.
pub fn unable(report: &NodeReportStatus) -> Option<[&Condition; 2]> {
    let is = |condition: &&Condition, types: &[&str]| types.contains(&condition.type_.as_str()) && condition.status != TRUE;
    let ready = report.conditions.iter().find(|condition| is(condition, &[READY]))?;
    let causes = [KERNEL_SUPPORTED, TRAFFIC_FILTERED, BRIDGE_TRAFFIC_FILTERED];
    let cause = report.conditions.iter().find(|condition| is(condition, &causes) && condition.reason == ready.reason)?;
    Some([ready, cause])
}

/// What a group's rules have allowed and denied on all nodes that have it in force. Not part of [`View::group`], because it changes all the
/// time and with nothing else.
pub fn packets(group: &GroupRef, uid: &str, reports: &BTreeMap<NodeName, NodeReportStatus>) -> PacketCounts {
    let name = (group.namespace.as_str(), group.name.as_str());
    let on = |report: &NodeReportStatus| {
        let at = report.groups.binary_search_by(|applied| (applied.namespace.as_str(), applied.name.as_str()).cmp(&name)).ok()?;
        report.groups.get(at).filter(|applied| applied.uid == uid).map(|applied| applied.packets)
    };
    reports.values().filter_map(on).sum()
}

/// Gives each condition the time of its last transition: the one it had, where its status is as it was, otherwise `now`.
pub fn stamp(conditions: &mut [Condition], present: &[Condition], now: Timestamp) {
    for condition in conditions {
        let old = present.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_transition_time = old.map_or(Time(now), |old| old.last_transition_time.clone());
    }
}

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";
const PROGRAMMING: &str = "Programming";
const CANNOT_ENFORCE: &str = "CannotEnforce";

/// What a condition says.
#[derive(Clone)]
struct Said {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Said {
    fn new(type_: &'static str, status: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
        Said { type_, status, reason, message: message.into() }
    }

    fn of(self, generation: i64) -> Condition {
        let message = match self.message.char_indices().nth(MESSAGE) {
            Some((end, _)) => format!("{}…", &self.message[..end]),
            None => self.message,
        };
        Condition {
            type_: self.type_.into(),
            status: self.status.into(),
            reason: self.reason.into(),
            message,
            observed_generation: Some(generation),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }
}

/// An object that nodes put in force.
struct Object<'a> {
    uid: &'a str,
    generation: i64,
    applied: Option<&'a Applied<'a>>,
    unable: &'a BTreeMap<&'a NodeName, &'a Condition>,
}

impl Object<'_> {
    fn programmed(&self, desired: &BTreeSet<&NodeName>, none: &'static str, none_message: &str) -> (NodeCounts, Said) {
        // A report of a node that has no endpoint of it proves nothing, and one of another UID is of another object of this name.
        let on = |node: &&NodeName| self.applied.and_then(|applied| applied.get(*node)).copied().filter(|(uid, _)| *uid == self.uid);
        let has_it = |node: &&NodeName| on(node).is_some_and(|(_, generation)| generation == self.generation);
        let lagging: Vec<String> = desired
            .iter()
            .filter(|node| !has_it(node))
            .map(|node| match (on(node), self.unable.get(*node)) {
                (Some((_, generation)), _) => format!("{node} has generation {generation}"),
                (None, Some(why)) => format!("{node} cannot enforce it ({}: {})", why.reason, why.message),
                (None, None) => format!("{node} has not reported it"),
            })
            .collect();
        let (total, programmed) = (desired.len(), desired.len() - lagging.len());
        let said = if desired.is_empty() {
            Said::new(PROGRAMMED, TRUE, none, none_message)
        } else if lagging.is_empty() {
            Said::new(PROGRAMMED, TRUE, PROGRAMMED, format!("Generation {} is in force on {total} of {total} nodes.", self.generation))
        } else {
            let message = format!("Generation {} is in force on {programmed} of {total} nodes: {}", self.generation, list(&lagging, ", "));
            let unable = desired.iter().any(|node| on(node).is_none() && self.unable.contains_key(*node));
            Said::new(PROGRAMMED, FALSE, if unable { CANNOT_ENFORCE } else { PROGRAMMING }, message)
        };
        (NodeCounts { desired: count(total), programmed: count(programmed), summary: format!("{programmed}/{total}") }, said)
    }
}

/// Every problem of an object but duplicates, which change no verdict (S22), keeps it from being accepted (S38).
fn accepted(problems: &[Problem], all_well: &str) -> Said {
    let (duplicates, serious): (Vec<&Problem>, Vec<&Problem>) =
        problems.iter().partition(|problem| [DUPLICATE, DUPLICATE_ENTRIES].contains(&problem.reason));
    if let Some(first) = serious.first() {
        let lines: Vec<String> =
            serious.iter().map(|p| if p.rule.is_empty() { p.message.clone() } else { format!("{}: {}", p.rule, p.message) }).collect();
        return Said::new(ACCEPTED, FALSE, first.reason, list(&lines, "; "));
    }
    if let Some(first) = duplicates.first() {
        let lines: Vec<String> = duplicates.iter().map(|p| format!("{} {}", p.rule, p.message)).collect();
        return Said::new(ACCEPTED, TRUE, first.reason, list(&lines, "; "));
    }
    Said::new(ACCEPTED, TRUE, ACCEPTED, all_well)
}

fn ready(accepted: &Said, programmed: &Said) -> Said {
    if accepted.status != TRUE {
        return Said { type_: READY, ..accepted.clone() };
    }
    if programmed.status != TRUE {
        return Said { type_: READY, status: UNKNOWN, ..programmed.clone() };
    }
    Said::new(READY, TRUE, READY, programmed.message.clone())
}

fn not_deletable(blockers: &Blockers) -> Said {
    let mut names: Vec<String> = blockers.named.iter().map(ToString::to_string).collect();
    let more = blockers.count.saturating_sub(names.len());
    names.extend((more > 0).then(|| format!("and {more} more")));
    let (count, names) = (blockers.count, names.join(", "));
    Said::new(DELETABLE, FALSE, "DependencyViolation", format!("It is named by {count}, and stays in force until it is by none: {names}"))
}

fn stale_rules(stale: &[(&str, String)]) -> Said {
    if stale.is_empty() {
        return Said::new(STALE_RULES, FALSE, "AllPeersExist", "Every peer exists.");
    }
    let lines: Vec<String> = stale.iter().map(|(place, peer)| format!("{place}: {peer} does not exist")).collect();
    let message = format!("{}. They match nothing until these are created; or take them out", list(&lines, "; "));
    Said::new(STALE_RULES, TRUE, "PeerNotFound", message)
}

fn list(items: &[impl AsRef<str>], separator: &str) -> String {
    let mut text = items.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(separator);
    if items.len() > NAMED {
        text.push_str(&format!(" and {} more", items.len() - NAMED));
    }
    text
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
