//! Events: what `kubectl describe` and `kubectl get events` say when a status turns.
//!
//! They are told once, after the status has been written, and never held up for: what cannot be delivered is lost, and the status is there all
//! the same. How many there are is bounded for each object and in all.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::condition::{ACCEPTED, DELETABLE, PROGRAMMED, STALE_RULES, WITHIN_QUOTA};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use policy::model::NodeName;
use policy::{Cluster, Problem, missing_default_group};
use runtime::client::in_time;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::due::{Lane, Work};
use crate::facts::{Facts, Said};
use crate::write::MANAGER;

/// Events of one object that may follow each other at once: an edit turns Programmed twice.
const BURST: u32 = 10;
/// Then one in this time.
const EACH: Duration = Duration::from_secs(60);
/// Events that wait to be written; more are lost.
const QUEUE: usize = 256;
/// Between two writes, of whatever objects.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that the API server takes of a note.
const NOTE: usize = 1024;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object it is about.
    pub about: ObjectReference,
    /// Somebody should look.
    pub warning: bool,
    /// One CamelCase word, the condition's reason.
    pub reason: String,
    /// The condition's type.
    pub action: Cow<'static, str>,
    /// The condition's message.
    pub note: String,
    /// When it turned, where the same may be told by another run or leader too: under the same name, so that the server takes one of them.
    pub turned: Option<Timestamp>,
}

/// What writing a status turns, from what it says now.
pub fn turns(facts: &Facts, lane: &Lane, work: &Work) -> Vec<Notice> {
    match (lane, work) {
        (Lane::Group(group, uid), Work::Group(wanted)) => {
            let present = facts.group_statuses.get(group).map_or(&[][..], |status| &status.conditions);
            between(&about::<api::SecurityGroup>(&group.namespace, &group.name, uid), present, &wanted.conditions)
        }
        (Lane::Attachment(attachment, uid), Work::Attachment(wanted)) => {
            let present = facts.attachment_statuses.get(attachment).map_or(&[][..], |status| &status.conditions);
            between(&about::<api::Attachment>(&attachment.namespace, &attachment.name, uid), present, &wanted.conditions)
        }
        (Lane::PrefixList(list, uid), Work::PrefixList(wanted)) => {
            let present = facts.prefix_list_statuses.get(list).map_or(&[][..], |status| &status.conditions);
            between(&about::<api::PrefixList>(&list.namespace, &list.name, uid), present, &wanted.conditions)
        }
        _ => Vec::new(),
    }
}

fn about<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: Some(namespace.to_string()),
        name: Some(name.to_string()),
        uid: Some(uid.to_string()),
        ..ObjectReference::default()
    }
}

/// The status of each condition that is no news on a new object, and the one that somebody should look at.
const TOLD: [(&str, Option<&str>, Option<&str>); 5] = [
    (ACCEPTED, Some("True"), Some("False")),
    // While nodes put it in force it is False: that is no failure, and on a new object no news.
    (PROGRAMMED, Some("False"), None),
    (WITHIN_QUOTA, Some("True"), Some("False")),
    (STALE_RULES, Some("False"), Some("True")),
    (DELETABLE, None, Some("False")),
];

fn between(about: &ObjectReference, present: &[Condition], wanted: &[Condition]) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (type_, on_a_new_one, warns) in TOLD {
        let of = |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == type_).cloned();
        let Some(now) = of(wanted) else { continue };
        let before = of(present).map(|before| before.status);
        if before.as_deref().or(on_a_new_one) != Some(now.status.as_str()) {
            let warning = warns == Some(now.status.as_str());
            notices.push(Notice {
                about: about.clone(),
                warning,
                reason: now.reason,
                action: type_.into(),
                note: now.message,
                turned: None,
            });
        }
    }
    notices
}

/// What has been told of objects whose status is not ours to write.
#[derive(Debug, Default)]
pub struct Told {
    /// Of namespaces: a default group that does not exist (S3).
    namespaces: BTreeSet<(String, String)>,
    /// Of nodes' reports: how each condition stood, by the report's UID.
    reports: BTreeMap<(NodeName, String), (String, String)>,
}

impl Told {
    /// What was not told before. It is told again after it was right meanwhile.
    pub fn news(&mut self, cluster: &Cluster, reports: &BTreeMap<NodeName, Said>) -> Vec<Notice> {
        let mut news = self.of_namespaces(cluster);
        news.extend(self.of_reports(reports));
        news
    }

    /// What keeps a node from enforcing, and that it is over; of repairs of its table the first, and that there was none for a while: those
    /// between are in the report's message.
    fn of_reports(&mut self, reports: &BTreeMap<NodeName, Said>) -> Vec<Notice> {
        let mut now = BTreeMap::new();
        let mut news = Vec::new();
        let said = reports.iter().flat_map(|(node, said)| said.conditions.iter().map(move |condition| (node, &said.uid, condition)));
        // What a node does not know is no news.
        for (node, uid, condition) in said.filter(|(.., condition)| condition.status != "Unknown") {
            let key = (node.clone(), condition.type_.clone());
            let before = self.reports.get(&key).filter(|(before, _)| before == uid).map_or("True", |(_, status)| status);
            if before != condition.status {
                news.push(Notice {
                    about: ObjectReference { namespace: None, ..about::<api::NodeReport>("", &node.0, uid) },
                    warning: condition.status == "False",
                    reason: condition.reason.clone(),
                    action: condition.type_.clone().into(),
                    note: condition.message.clone(),
                    turned: Some(condition.last_transition_time.0),
                });
            }
            now.insert(key, (uid.clone(), condition.status.clone()));
        }
        self.reports = now;
        news
    }

    fn of_namespaces(&mut self, cluster: &Cluster) -> Vec<Notice> {
        let mut now = BTreeSet::new();
        let mut news = Vec::new();
        for name in cluster.namespaces.keys() {
            let Some(Problem { reason, message, .. }) = missing_default_group(cluster, name) else { continue };
            let what = (name.clone(), message.clone());
            if !self.namespaces.contains(&what) {
                // In the namespace itself, where its users look.
                let about = ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Namespace".into()),
                    namespace: Some(name.clone()),
                    name: Some(name.clone()),
                    ..ObjectReference::default()
                };
                let (reason, note) = (reason.into(), message.clone());
                news.push(Notice { about, warning: true, reason, action: "DefaultGroup".into(), note, turned: None });
            }
            now.insert(what);
        }
        self.namespaces = now;
        news
    }
}

/// How many events each object may still have.
#[derive(Debug, Default)]
struct Throttle(BTreeMap<String, (u32, Instant)>);

impl Throttle {
    fn takes(&mut self, notice: &Notice, now: Instant) -> bool {
        // Whoever has its whole burst again is forgotten.
        let regained = |since: Instant| u32::try_from(now.duration_since(since).as_secs() / EACH.as_secs()).unwrap_or(u32::MAX);
        self.0.retain(|_, (used, since)| regained(*since) < *used);
        let about = &notice.about;
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = [name(&about.kind), name(&about.namespace), name(&about.name), name(&about.uid)].join("/");
        let (used, since) = self.0.entry(key).or_insert((0, now));
        let back = regained(*since);
        *used -= back;
        *since += EACH * back;
        if *used == BURST {
            return false;
        }
        *used += 1;
        true
    }
}

/// Where events go.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Sender<Notice>,
    throttle: Throttle,
}

impl Events {
    /// The way to a writer of events, which ends with it.
    pub fn new(client: Client, leads: watch::Receiver<bool>) -> Events {
        let (queue, notices) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, leads, notices));
        Events { queue, throttle: Throttle::default() }
    }

    /// Tells what may be told; never waits. How many there were, and how many of them were lost.
    pub fn tell(&mut self, notices: Vec<Notice>) -> (u64, u64) {
        let (mut told, mut lost) = (0, 0);
        for notice in notices {
            let taken = self.throttle.takes(&notice, Instant::now()) && self.queue.try_send(notice).is_ok();
            told += 1;
            lost += u64::from(!taken);
        }
        (told, lost)
    }
}

async fn write(client: Client, leads: watch::Receiver<bool>, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        // What another leader may have told meanwhile.
        if !*leads.borrow() {
            continue;
        }
        let event = event(notice, Timestamp::now());
        let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
        if let Err(error) = in_time(api.create(&PostParams::default(), &event)).await {
            tracing::debug!(event = event.metadata.name, %error, "an event is lost");
        }
        sleep(PAUSE).await;
    }
}

fn event(notice: Notice, now: Timestamp) -> Event {
    let mut note = notice.note;
    if note.len() > NOTE {
        let end = (0..=NOTE - '…'.len_utf8()).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    let about = notice.about.name.as_deref().unwrap_or_default();
    let name = match notice.turned {
        // Several conditions may turn in one second.
        Some(turned) => format!("{about}.{}.{:x}", notice.action.to_ascii_lowercase(), turned.as_nanosecond()),
        None => format!("{about}.{:x}", now.as_nanosecond()),
    };
    // Where the server wants those of objects without a namespace.
    let namespace = notice.about.namespace.clone().unwrap_or_else(|| "default".into());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        action: Some(notice.action.into_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(notice.reason),
        regarding: Some(notice.about),
        reporting_controller: Some(api::API_GROUP.into()),
        reporting_instance: Some(MANAGER.into()),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests;
