//! From watches to changes of the index.
//!
//! Every watch is a task that sends to one channel; the program's loop owns the facts and needs no locks. Lists are consistent reads, not
//! `resourceVersion=0`: since Kubernetes 1.31 they come from the API server's cache as well, and a list from a cache that lags behind would
//! take the rules in force back in time (S38, S41).
//!
//! Once the server answers one watch again, all others of the program try at once: none waits for the end of its own backoff.
//!
//! A watch that cannot be resumed because the server is away starts over with its list: etcd may be restored meanwhile from an older
//! snapshot. To resume from a version that is no more is not refused, but says nothing until versions have come so far again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use policy::AttachmentRef;
use policy::index::{Changed, Cluster, Key, Kind, Object};
use policy::model::{GroupRef, NodeName, PodRef, PrefixListRef};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use kube::runtime::watcher::Config;

use crate::client::with_causes;
use crate::health::Readiness;
use crate::lean::LeanPod;

/// An object's name; the namespace is empty where the kind has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl From<&ObjectMeta> for Name {
    fn from(metadata: &ObjectMeta) -> Self {
        Name { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() }
    }
}

/// Groups that one request can ask for by their ids, with an address of 12 KiB; 64 KiB is the most that there can be. Who wants more is sent
/// all slices.
const MOST_SELECTED: usize = 500;

/// What a watch of one kind says.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    /// The full list; what is not in it is gone. The first thing that a watch says, and again whenever it had to start over.
    Reset(Vec<T>),
    /// New or changed.
    Apply(T),
    /// Gone, or no longer readable.
    Delete(Name),
}

/// A change of the facts.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The full list of a kind.
    Reset(Kind, Vec<Object>),
    /// New or changed.
    Apply(Object),
    /// Gone.
    Delete(Key),
}

impl Change {
    /// A step of a watch of facts of this kind.
    pub fn of(kind: Kind, step: Step<Object>) -> Change {
        match step {
            Step::Reset(objects) => Change::Reset(kind, objects),
            Step::Apply(object) => Change::Apply(object),
            Step::Delete(name) => Change::Delete(key(kind, name)),
        }
    }

    /// Makes the change.
    pub fn apply_to(self, cluster: &mut Cluster) -> Changed {
        match self {
            Change::Reset(kind, objects) => cluster.reset(kind, objects),
            Change::Apply(object) => cluster.apply(object),
            Change::Delete(key) => cluster.delete(&key),
        }
    }
}

fn key(kind: Kind, Name { namespace, name }: Name) -> Key {
    match kind {
        Kind::Pod => Key::Pod(PodRef { namespace, name }),
        Kind::SecurityGroup => Key::SecurityGroup(GroupRef { namespace, name }),
        Kind::Attachment => Key::Attachment(AttachmentRef { namespace, name }),
        Kind::PrefixList => Key::PrefixList(PrefixListRef { namespace, name }),
        Kind::Namespace => Key::Namespace(name),
        Kind::MemberSlice => Key::MemberSlice((namespace, name)),
        Kind::Dns => Key::Dns((namespace, name)),
    }
}

/// An open watch; dropping it closes it.
#[derive(Debug)]
#[must_use = "dropping a watch closes it"]
pub struct Watch {
    task: JoinHandle<()>,
    waits_as: String,
    readiness: Readiness,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        self.readiness.done(&self.waits_as);
    }
}

/// Opens watches that send messages `M`, the program's own, to one channel. A watch that has not listed yet keeps the program not ready.
pub struct Watches<M> {
    client: Client,
    messages: mpsc::Sender<M>,
    readiness: Readiness,
    errors: Family<Vec<(String, String)>, Counter>,
    opened: AtomicU64,
    answers: Arc<Notify>,
}

impl<M: Send + 'static> Watches<M> {
    /// No watch yet.
    pub fn new(client: Client, readiness: Readiness, registry: &mut Registry) -> (Watches<M>, mpsc::Receiver<M>) {
        let errors = Family::default();
        registry.register("watch_errors", "Errors of watches, each followed by another try", errors.clone());
        let (messages, receiver) = mpsc::channel(1024);
        (Watches { client, messages, readiness, errors, opened: AtomicU64::new(0), answers: Arc::default() }, receiver)
    }

    /// All pods as facts.
    pub fn pods(&self, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        self.pods_as(self.client.clone(), Config::default(), wrap)
    }

    /// Those that are bound to one node, read by a client of their own.
    pub fn pods_of(&self, client: Client, node: &NodeName, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        self.pods_as(client, Config::default().fields(&format!("spec.nodeName={node}")), wrap)
    }

    fn pods_as(&self, client: Client, config: Config, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let read = |pod: LeanPod| Ok(Object::pod(&Pod::from(pod)));
        self.open("pods", Api::all(client), config, read, move |step| wrap(Change::of(Kind::Pod, step)))
    }

    /// Namespaces as facts, by their metadata.
    pub fn namespaces(&self, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let api = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let read = |namespace: PartialObjectMeta<Namespace>| Ok(Object::namespace(&namespace.metadata));
        self.open("namespaces", api, Config::default(), read, move |step| wrap(Change::of(Kind::Namespace, step)))
    }

    /// Security groups as facts.
    pub fn security_groups(&self, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let read = |object: DynamicObject| Ok(security_group(&object));
        self.open("securitygroups", self.stored::<api::SecurityGroup>(), Config::default(), read, move |step| {
            wrap(Change::of(Kind::SecurityGroup, step))
        })
    }

    /// Attachments as facts.
    pub fn attachments(&self, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let read = |object: DynamicObject| Ok(attachment(&object));
        self.open("attachments", self.stored::<api::Attachment>(), Config::default(), read, move |step| {
            wrap(Change::of(Kind::Attachment, step))
        })
    }

    /// Prefix lists as facts.
    pub fn prefix_lists(&self, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let read = |object: DynamicObject| Ok(prefix_list(&object));
        self.open("prefixlists", self.stored::<api::PrefixList>(), Config::default(), read, move |step| {
            wrap(Change::of(Kind::PrefixList, step))
        })
    }

    /// The addresses behind a Service of cluster DNS, as facts.
    pub fn dns(&self, namespace: &str, service: &str, wrap: impl Fn(Change) -> M + Send + 'static) -> Watch {
        let config = Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let read = |slice: EndpointSlice| Ok(Object::dns(&slice));
        let api = Api::namespaced(self.client.clone(), namespace);
        self.open("endpointslices", api, config, read, move |step| wrap(Change::of(Kind::Dns, step)))
    }

    /// The member slices of these groups, by their ids (`sg-…`), as facts; of one that is new or changed also when the operator saw what
    /// made it write. At least one id; with very many, the slices of other groups come as well.
    pub fn member_slices_of(&self, ids: &BTreeSet<String>, wrap: impl Fn(Change, Option<Timestamp>) -> M + Send + 'static) -> Watch {
        let config = match ids.len() <= MOST_SELECTED {
            true => {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                Config::default().labels(&format!("{} in ({})", api::LABEL_GROUP_ID, ids.join(",")))
            }
            false => Config::default(),
        };
        let read = |object: DynamicObject| {
            let changed_at = changed_at(&object.metadata);
            typed::<api::MemberSlice>(object).map(|slice| (Object::member_slice(&slice), changed_at))
        };
        self.open("memberslices", self.stored::<api::MemberSlice>(), config, read, move |step| {
            let (step, changed_at) = match step {
                Step::Reset(listed) => (Step::Reset(listed.into_iter().map(|(object, _)| object).collect()), None),
                Step::Apply((object, changed_at)) => (Step::Apply(object), changed_at),
                Step::Delete(name) => (Step::Delete(name), None),
            };
            wrap(Change::of(Kind::MemberSlice, step), changed_at)
        })
    }

    /// All objects of one of our kinds as they are; one that this version cannot read is as if it were not there.
    pub fn typed<K>(&self, wrap: impl Fn(Step<K>) -> M + Send + 'static) -> Watch
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Send + 'static,
    {
        let name = K::plural(&()).into_owned();
        self.open(&name, self.stored::<K>(), Config::default(), typed::<K>, wrap)
    }

    /// Objects of one of our kinds as they are stored: metadata and JSON. A newer schema never makes them unreadable (S38).
    pub fn stored<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()))
    }

    /// Any other watch. `K` should be a type that hardly anything fails to be (for our own kinds [`DynamicObject`]), since a list with one
    /// object that is not `K` fails as a whole, for ever. `read` is the place to refuse: that costs a line in the log, and the object counts
    /// as gone.
    pub fn open<K, T>(
        &self,
        name: &str,
        api: Api<K>,
        config: Config,
        read: impl Fn(K) -> Result<T, String> + Send + 'static,
        wrap: impl Fn(Step<T>) -> M + Send + 'static,
    ) -> Watch
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send + 'static,
    {
        let waits_as = format!("watch {} of {name}", self.opened.fetch_add(1, Ordering::Relaxed) + 1);
        self.readiness.wait(&waits_as, "not listed yet");
        let errors = self.errors.get_or_create_owned(&vec![("watch".to_string(), name.to_string())]);
        let (readiness, answers) = (self.readiness.clone(), self.answers.clone());
        let watching = Watching { name: name.to_string(), waits_as: waits_as.clone(), readiness, errors, answers };
        let task = tokio::spawn(watching.run(anew(api, config), self.messages.clone(), read, wrap));
        Watch { task, waits_as, readiness: self.readiness.clone() }
    }
}

/// A watch that starts over whenever the server was away.
fn anew<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let start = move || watcher(api.clone(), config.clone()).boxed();
    futures::stream::unfold((start(), start), |(mut events, start)| async move {
        let event = events.next().await?;
        if event.as_ref().is_err_and(away) {
            events = start();
        }
        Some((event, (events, start)))
    })
}

/// Whether a watch was not resumed, and not because the server that we know refuses it.
fn away(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code >= 500,
        watcher::Error::WatchStartFailed(_) => true,
        _ => false,
    }
}

/// When the operator saw what made it write this version.
fn changed_at(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.annotations.as_ref()?.get(api::ANNOTATION_CHANGED_AT)?.parse().ok()
}

/// The facts of a stored security group.
pub fn security_group(object: &DynamicObject) -> Object {
    Object::security_group(&object.metadata, object.data.get("spec").unwrap_or(&Value::Null))
}

/// The facts of a stored attachment.
pub fn attachment(object: &DynamicObject) -> Object {
    Object::attachment(&object.metadata, object.data.get("spec").unwrap_or(&Value::Null))
}

/// The facts of a stored prefix list.
pub fn prefix_list(object: &DynamicObject) -> Object {
    Object::prefix_list(&object.metadata, object.data.get("spec").unwrap_or(&Value::Null))
}

/// A stored object as one of our kinds, or why it is none.
pub fn typed<K: Resource + DeserializeOwned>(object: DynamicObject) -> Result<K, String> {
    let mut fields = match object.data {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    fields.insert("metadata".into(), serde_json::to_value(&object.metadata).map_err(|error| error.to_string())?);
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

struct Watching {
    name: String,
    waits_as: String,
    readiness: Readiness,
    errors: Counter,
    /// Told when the server answers a watch that had failed.
    answers: Arc<Notify>,
}

impl Watching {
    async fn run<K, T, M>(
        self,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
        messages: mpsc::Sender<M>,
        read: impl Fn(K) -> Result<T, String>,
        wrap: impl Fn(Step<T>) -> M,
    ) where
        K: Resource,
    {
        let mut events = std::pin::pin!(events);
        let mut listing = Vec::new();
        let mut complaint = Complaint::default();
        let mut backoff = watcher::DefaultBackoff::default();
        let mut failing = false;
        while let Some(event) = events.next().await {
            if !matches!(event, Err(_) | Ok(watcher::Event::Init)) {
                backoff.reset();
                if std::mem::take(&mut failing) {
                    self.answers.notify_waiters();
                }
            }
            let step = match event {
                // Comes before every try to list, and is no answer: a server that cannot list would be asked about once a second for ever.
                Ok(watcher::Event::Init) => continue,
                Ok(watcher::Event::InitApply(object)) => {
                    if let Step::Apply(item) = self.step(object, &read) {
                        listing.push(item);
                    }
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    self.readiness.done(&self.waits_as);
                    Step::Reset(std::mem::take(&mut listing))
                }
                Ok(watcher::Event::Apply(object)) => self.step(object, &read),
                Ok(watcher::Event::Delete(object)) => Step::Delete(Name::from(object.meta())),
                Err(error) => {
                    // The next list starts over.
                    listing.clear();
                    self.failed(&error, &mut complaint);
                    failing = true;
                    let wait = backoff.next().unwrap_or_default();
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.answers.notified() => {}
                    }
                    continue;
                }
            };
            if messages.send(wrap(step)).await.is_err() {
                return;
            }
        }
    }

    fn step<K: Resource, T>(&self, mut object: K, read: impl Fn(K) -> Result<T, String>) -> Step<T> {
        object.meta_mut().managed_fields = None;
        let name = Name::from(object.meta());
        read(object).map_or_else(
            |error| {
                tracing::warn!(
                    watch = self.name,
                    namespace = name.namespace,
                    name = name.name,
                    error,
                    "cannot read an object: it counts as gone"
                );
                Step::Delete(name.clone())
            },
            Step::Apply,
        )
    }

    fn failed(&self, error: &watcher::Error, complaint: &mut Complaint) {
        self.errors.inc();
        let error = with_causes(error);
        // Only a watch that has not listed yet keeps the program waiting; later it goes on with what it knows.
        if self.readiness.waits().contains_key(&self.waits_as) {
            self.readiness.wait(&self.waits_as, error.clone());
        }
        if let Some(unsaid) = complaint.due(Instant::now()) {
            tracing::warn!(watch = self.name, error, unsaid, "watch failed; trying again for ever");
        }
    }
}

/// Lets one line a minute through.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaint {
    const EVERY: Duration = Duration::from_secs(60);

    /// Whether to speak now; then how often it did not since it last spoke.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < Self::EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests;
