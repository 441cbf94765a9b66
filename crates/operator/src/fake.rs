//! An API server of a few lines for tests: keeps what is written, refuses what the real one refuses, and tells the operator by messages as
//! the watches would.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::Client;
use kube::api::DynamicObject;
use kube::client::Body;
use policy::index::{Cluster, Kind, Object};
use runtime::watch::{Change, Name, Step, security_group, typed};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::facts::{Message, With, limits};

/// The server; clones are the same one.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

struct State {
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    requests: Vec<Seen>,
    faults: VecDeque<u16>,
    down: bool,
    no_finalizers: bool,
    /// How long after a write the watch shows it.
    echo: Duration,
    latency: Duration,
    messages: Option<mpsc::Sender<Message>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub plural: String,
    pub name: String,
    pub body: Value,
    pub code: u16,
}

impl FakeApi {
    pub fn new() -> FakeApi {
        let state = State {
            objects: BTreeMap::new(),
            version: 100,
            requests: Vec::new(),
            faults: VecDeque::new(),
            down: false,
            no_finalizers: false,
            echo: Duration::from_millis(1),
            latency: Duration::from_millis(2),
            messages: None,
        };
        FakeApi { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    /// A client of it. The server lives as long as the runtime.
    pub fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, answer)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a body");
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (server, latency) = (server.clone(), server.state().latency);
                tokio::spawn(async move {
                    tokio::time::sleep(latency).await;
                    let (code, value) = server.answer(&parts.method, parts.uri.path(), body);
                    let response = Response::builder().status(code).body(Body::from(value.to_string().into_bytes()));
                    answer.send_response(response.expect("a response"));
                });
            }
        });
        Client::new(service, "default")
    }

    /// From now on tells of changes here; what there is already, in full lists.
    pub async fn watched_by(&self, messages: &mpsc::Sender<Message>) {
        self.state().messages = Some(messages.clone());
        for list in self.lists() {
            messages.send(list).await.expect("the operator listens");
        }
    }

    /// The first lists.
    pub fn lists(&self) -> Vec<Message> {
        fn list<T>(objects: &[Value], read: impl Fn(&Value) -> T) -> Step<T> {
            Step::Reset(objects.iter().map(read).collect())
        }
        let of = |plural: &str| self.stored(plural);
        vec![
            Message::Fact(Change::of(Kind::Pod, list(&of("pods"), pod))),
            Message::Fact(Change::of(Kind::Namespace, list(&of("namespaces"), namespace))),
            Message::Group(list(&of("securitygroups"), group)),
            Message::Attachment(list(&of("attachments"), attachment)),
            Message::PrefixList(list(&of("prefixlists"), prefix_list)),
            Message::Slice(list(&of("memberslices"), slice)),
            Message::Report(list(&of("nodereports"), read)),
            Message::Limits(list(&of("configmaps"), |map| limits(&read(map)))),
        ]
    }

    /// Somebody writes an object; its version is set here, the rest is as given.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        object["metadata"]["namespace"] = "shop".into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
        state.objects.insert((plural.into(), "shop".into(), name), object.clone());
        state.tell(plural, object, false);
    }

    /// Somebody deletes an object.
    pub fn remove(&self, plural: &str, name: &str) {
        let mut state = self.state();
        if let Some(object) = state.objects.remove(&(plural.into(), "shop".into(), name.into())) {
            state.tell(plural, object, true);
        }
    }

    /// Somebody deletes an object as the server does it: what has finalizers is marked.
    pub fn delete(&self, plural: &str, name: &str) {
        let Some(mut object) = self.get(plural, name) else { return };
        if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            return self.remove(plural, name);
        }
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        self.put(plural, object);
    }

    /// The namespace, with these labels.
    pub fn namespace(&self, labels: Value, deleting: bool) {
        let mut metadata = json!({"name": "shop", "labels": labels});
        if deleting {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        self.put("namespaces", json!({"metadata": metadata}));
    }

    /// The administrator's limits.
    pub fn limits(&self, data: Value) {
        self.put("configmaps", json!({"metadata": {"name": "quotas"}, "data": data}));
    }

    /// What finalizers an object has.
    pub fn finalizers(&self, plural: &str, name: &str) -> Vec<String> {
        let object = self.get(plural, name).unwrap_or_default();
        object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(|f| f.as_str().map(str::to_string)).collect()
    }

    /// The events written so far: `Warning GroupNotFound shop/web: its words`.
    pub fn events(&self) -> Vec<String> {
        let objects = &self.state().objects;
        let of = |object: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_string();
            let about = &object["regarding"];
            let [type_, reason, kind, name, note] =
                [&object["type"], &object["reason"], &about["kind"], &about["name"], &object["note"]].map(text);
            (text(&object["eventTime"]), format!("{type_} {reason} {kind} {name}: {note}"))
        };
        let mut events: Vec<_> = objects.iter().filter(|((plural, ..), _)| plural == "events").map(|(_, object)| of(object)).collect();
        events.sort();
        events.into_iter().map(|(_, text)| text).collect()
    }

    /// An empty prefix list that may grow to so many entries.
    pub fn prefix_list(&self, name: &str, max_entries: u32) {
        let metadata = json!({"name": name, "uid": format!("uid-{name}"), "generation": 1});
        let spec = json!({"addressFamily": "IPv4", "maxEntries": max_entries});
        self.put(
            "prefixlists",
            json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "PrefixList", "metadata": metadata, "spec": spec}),
        );
    }

    /// A group whose only rule names these groups.
    pub fn group(&self, name: &str, uid: &str, generation: i64, peers: &[&str]) {
        let from: Vec<Value> = peers.iter().map(|peer| json!({"securityGroup": {"name": peer}})).collect();
        let ingress = if from.is_empty() { json!([]) } else { json!([{"type": "SSH", "from": from}]) };
        let mut metadata = json!({"name": name, "uid": uid, "generation": generation});
        // An edit takes no finalizer off.
        if let Some(present) = self.get("securitygroups", name).filter(|present| present["metadata"]["uid"] == uid) {
            metadata["finalizers"] = present["metadata"]["finalizers"].clone();
        }
        self.put("securitygroups", json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "SecurityGroup", "metadata": metadata, "spec": {"ingress": ingress}}));
    }

    /// An attachment of the pods labelled with the group's name.
    pub fn attach(&self, group: &str) {
        let spec = json!({"securityGroups": [group], "podSelector": {"matchLabels": {"app": group}}});
        let metadata = json!({"name": group, "uid": format!("attachment-{group}"), "generation": 1});
        self.put(
            "attachments",
            json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "Attachment", "metadata": metadata, "spec": spec}),
        );
    }

    /// The `n`th pod, on node n1.
    pub fn pod(&self, n: u16, app: &str) {
        self.pod_on(n, app, "n1");
    }

    /// The `n`th pod.
    pub fn pod_on(&self, n: u16, app: &str, node: &str) {
        let [high, low] = n.to_be_bytes();
        self.put(
            "pods",
            json!({
                "metadata": {"name": format!("p{n}"), "uid": format!("p{n}"), "labels": {"app": app}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"podIPs": [{"ip": format!("10.244.{high}.{low}")}, {"ip": format!("fd00:10:244::{n:x}")}]}
            }),
        );
    }

    /// The `n`th pod before it has an address.
    pub fn pod_without_address(&self, n: u16, app: &str) {
        let metadata = json!({"name": format!("p{n}"), "uid": format!("p{n}"), "labels": {"app": app}});
        self.put("pods", json!({"metadata": metadata, "spec": {"nodeName": "n1", "containers": []}, "status": {}}));
    }

    /// Node n1 reports that it has this of a group in force.
    pub fn report(&self, group: &str, uid: &str, generation: i64) {
        self.report_of("n1", group, uid, generation);
    }

    /// A node reports it.
    pub fn report_of(&self, node: &str, group: &str, uid: &str, generation: i64) {
        let groups = json!([{"namespace": "shop", "name": group, "uid": uid, "generation": generation, "endpoints": 1}]);
        let metadata = json!({"name": node});
        self.put("nodereports", json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": metadata, "spec": {}, "status": {"groups": groups}}));
    }

    /// A node reports what a group's rules have counted there: inbound, allowed and denied.
    pub fn report_packets(&self, node: &str, group: &str, uid: &str, allowed: u64, denied: u64) {
        let packets = json!({"ingressAllowed": allowed, "ingressDenied": denied});
        let groups = json!([{"namespace": "shop", "name": group, "uid": uid, "generation": 1, "endpoints": 1, "packets": packets}]);
        let metadata = json!({"name": node});
        self.put("nodereports", json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": metadata, "spec": {}, "status": {"groups": groups}}));
    }

    /// A node reports what became of its table, since a second of 1970.
    pub fn report_intact(&self, node: &str, status: &str, message: &str, since: i64) {
        let reason = if status == "True" { "Intact" } else { "RulesetRepaired" };
        self.report_conditions(node, &[("RulesetIntact", status, reason, message)], since);
    }

    /// A node reports conditions: type, status, reason, message.
    pub fn report_conditions(&self, node: &str, conditions: &[(&str, &str, &str, &str)], since: i64) {
        let since = k8s_openapi::jiff::Timestamp::from_second(since).expect("a time").to_string();
        let condition = |(type_, status, reason, message): &(&str, &str, &str, &str)| json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        let metadata = json!({"name": node, "uid": format!("uid-{node}")});
        self.put("nodereports", json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": metadata, "spec": {}, "status": {"conditions": conditions}}));
    }

    /// A node reports that nothing is in force there because packets pass beside the rules.
    pub fn report_unable(&self, node: &str, reason: &str) {
        let condition = |kind: &str| json!({"type": kind, "status": "False", "reason": reason, "message": "why", "lastTransitionTime": "1970-01-01T00:00:00Z"});
        let conditions = ["Ready", "TrafficFiltered"].map(condition);
        let status = json!({"conditions": conditions});
        let report = json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": node}, "spec": {}, "status": status});
        self.put("nodereports", report);
    }

    /// The next requests are refused with these codes (0: go through).
    pub fn faults(&self, codes: impl IntoIterator<Item = u16>) {
        self.state().faults = codes.into_iter().collect();
    }

    /// Every request is refused with 503 while it is down.
    pub fn down(&self, down: bool) {
        self.state().down = down;
    }

    /// Whether it refuses to read and write finalizers.
    pub fn refuse_finalizers(&self, refuse: bool) {
        self.state().no_finalizers = refuse;
    }

    /// How long after a write the watch shows it.
    pub fn echo(&self, after: Duration) {
        self.state().echo = after;
    }

    /// The requests since this was last asked.
    pub fn requests(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().requests)
    }

    /// Waits for so many requests; not for ever, there may be nothing more to ask.
    pub async fn until_requests(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(1);
        while self.state().requests.len() < count && Instant::now() < until {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }

    /// How long a request takes.
    pub fn latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// A stored object.
    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(plural.into(), "shop".into(), name.into())).cloned()
    }

    /// All stored objects of a kind.
    pub fn stored(&self, plural: &str) -> Vec<Value> {
        self.state().objects.iter().filter(|((kind, ..), _)| kind == plural).map(|(_, object)| object.clone()).collect()
    }

    /// A condition of a stored group: `True Programmed`.
    pub fn condition(&self, group: &str, type_: &str) -> String {
        let object = self.get("securitygroups", group).unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == type_);
        found.map_or("none".into(), |c| format!("{} {}", c["status"].as_str().unwrap_or("?"), c["reason"].as_str().unwrap_or("?")))
    }

    /// What is stored, as facts.
    pub fn cluster(&self) -> Cluster {
        let mut facts = crate::facts::Facts::default();
        for list in self.lists() {
            let _ = facts.apply(list);
        }
        facts.cluster
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        // /apis/securitygroups.dev/v1alpha1/namespaces/shop/PLURAL[/NAME[/status]]
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (plural, name) = (parts[5].to_string(), parts.get(6).map(|name| (*name).to_string()));
        let mut state = self.state();
        let is_status = parts.get(7) == Some(&"status");
        let fault = match () {
            () if state.down => 503,
            () if state.no_finalizers && plural == "securitygroups" && !is_status => 403,
            () => state.faults.pop_front().unwrap_or(0),
        };
        let result = match fault {
            0 => state.write(method, &plural, name.as_deref(), is_status, &body),
            code => Err(code),
        };
        let name = name.or_else(|| body["metadata"]["name"].as_str().map(str::to_string)).unwrap_or_default();
        let code = result.as_ref().err().copied().unwrap_or(200);
        state.requests.push(Seen { at: Instant::now(), plural, name, body, code });
        match result {
            Ok(object) => (200, object),
            Err(code) => {
                (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "", "code": code}))
            }
        }
    }
}

impl State {
    fn write(&mut self, method: &Method, plural: &str, name: Option<&str>, status: bool, body: &Value) -> Result<Value, u16> {
        let name = name.or(body["metadata"]["name"].as_str()).unwrap_or_default();
        let key = (plural.to_string(), "shop".to_string(), name.to_string());
        let present = self.objects.get(&key).cloned();
        let version = |wanted: &Value, present: &Value| wanted.is_null() || *wanted == present["metadata"]["resourceVersion"];
        self.version += 1;
        let mut object = match (method, present) {
            (&Method::POST, None) => body.clone(),
            (&Method::POST, Some(_)) => return Err(409),
            (&Method::GET, Some(present)) => return Ok(present),
            (_, None) => return Err(404),
            (&Method::DELETE, Some(present)) => {
                if !version(&body["preconditions"]["resourceVersion"], &present) {
                    return Err(409);
                }
                self.objects.remove(&key);
                self.tell(plural, present.clone(), true);
                return Ok(present);
            }
            (&Method::PATCH, Some(mut present)) if status => {
                if body["metadata"]["uid"] != present["metadata"]["uid"] {
                    return Err(409);
                }
                present["status"] = body["status"].clone();
                present
            }
            (&Method::PATCH, Some(mut present)) => {
                if !version(&body["metadata"]["resourceVersion"], &present) {
                    return Err(409);
                }
                if let Some(finalizers) = body["metadata"].get("finalizers") {
                    present["metadata"]["finalizers"] = finalizers.clone();
                    if present["metadata"]["deletionTimestamp"].is_string() && finalizers == &json!([]) {
                        self.objects.remove(&key);
                        self.tell(plural, present.clone(), true);
                        return Ok(present);
                    }
                } else {
                    present["addresses"] = body["addresses"].clone();
                }
                present
            }
            _ => return Err(405),
        };
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key, object.clone());
        self.tell(plural, object.clone(), false);
        Ok(object)
    }

    fn tell(&mut self, plural: &str, object: Value, deleted: bool) {
        let Some(messages) = self.messages.clone().filter(|_| plural != "events") else { return };
        let (plural, echo) = (plural.to_string(), self.echo);
        tokio::spawn(async move {
            tokio::time::sleep(echo).await;
            // The operator that listened may have ended.
            let _ = messages.send(message(&plural, &object, deleted)).await;
        });
    }
}

fn message(plural: &str, object: &Value, deleted: bool) -> Message {
    fn step<T>(object: &Value, deleted: bool, read: impl Fn(&Value) -> T) -> Step<T> {
        if deleted { Step::Delete(Name::from(&read_metadata(object))) } else { Step::Apply(read(object)) }
    }
    match plural {
        "pods" => Message::Fact(Change::of(Kind::Pod, step(object, deleted, pod))),
        "securitygroups" => Message::Group(step(object, deleted, group)),
        "attachments" => Message::Attachment(step(object, deleted, attachment)),
        "prefixlists" => Message::PrefixList(step(object, deleted, prefix_list)),
        "memberslices" => Message::Slice(step(object, deleted, slice)),
        "nodereports" => Message::Report(step(object, deleted, read)),
        "namespaces" => Message::Fact(Change::of(Kind::Namespace, step(object, deleted, namespace))),
        "configmaps" => Message::Limits(step(object, deleted, |map| limits(&read(map)))),
        other => panic!("no {other} here"),
    }
}

fn read<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).expect("a readable object")
}

fn read_metadata(object: &Value) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    read(&object["metadata"])
}

fn pod(object: &Value) -> Object {
    Object::pod(&read(object))
}

fn namespace(object: &Value) -> Object {
    Object::namespace(&read_metadata(object))
}

fn group(object: &Value) -> With<api::SecurityGroupStatus> {
    let object: DynamicObject = read(object);
    With::status(&object, security_group(&object))
}

fn attachment(object: &Value) -> With<api::AttachmentStatus> {
    let object: DynamicObject = read(object);
    With::status(&object, runtime::watch::attachment(&object))
}

fn prefix_list(object: &Value) -> With<api::PrefixListStatus> {
    let object: DynamicObject = read(object);
    With::status(&object, runtime::watch::prefix_list(&object))
}

fn slice(object: &Value) -> With<String> {
    With::version(&typed(read::<DynamicObject>(object)).expect("a slice"))
}
