use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

fn stored(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn slice(name: &str, addresses: Value) -> Value {
    json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice",
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "5", "labels": {"securitygroups.dev/group-id": "sg-1"},
            "managedFields": [{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]},
        "addresses": addresses,
    })
}

#[test]
fn an_unknown_spec_is_a_fact_that_allows_nothing() {
    // S38: not readable as a whole, and still a group with a UID and a generation.
    let object = stored(json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "SecurityGroup",
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "generation": 7},
        "spec": {"onDeny": "Explode"},
    }));
    let Object::SecurityGroup(name, facts) = security_group(&object) else { panic!("not a group") };
    assert_eq!((name.to_string().as_str(), facts.generation), ("shop/web", 7));
    assert_eq!((facts.rules.ingress.len(), facts.rules.egress.len(), facts.problems.len()), (0, 0, 1));
}

#[test]
fn a_pod_is_read_without_what_nobody_looks_at() {
    let lean: LeanPod = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web-0", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": "not what a container list looks like"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    }))
    .unwrap();
    let Object::Pod(name, facts) = Object::pod(&Pod::from(lean)) else { panic!("not a pod") };
    assert_eq!(name.to_string(), "shop/web-0");
    assert_eq!(facts.node, Some(NodeName("n1".into())));
    assert_eq!(facts.addresses.len(), 2);
    assert!(!facts.host_network && !facts.finished);
}

#[test]
fn changes_reach_the_index_under_the_right_key() {
    let mut cluster = Cluster::default();
    let namespace = |name: &str| {
        let labels = [(api::LABEL_DEFAULT_GROUP.to_string(), "base".to_string())].into();
        Object::namespace(&ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() })
    };
    let steps = [
        Step::Reset(vec![namespace("a"), namespace("b")]),
        Step::Apply(namespace("c")),
        Step::Delete(Name { name: "a".into(), ..Name::default() }),
    ];
    for step in steps {
        assert_eq!(Change::of(Kind::Namespace, step).apply_to(&mut cluster), Changed::Yes);
    }
    assert_eq!(cluster.namespaces.keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn one_line_a_minute() {
    let start = Instant::now();
    let mut complaint = Complaint::default();
    let said: Vec<_> = [0, 1, 30, 59, 61, 62].into_iter().map(|s| complaint.due(start + Duration::from_secs(s))).collect();
    assert_eq!(said, [Some(0), None, None, None, Some(3), None]);
}

/// Answers requests in order: whole lists, or watches that end at once after some events.
fn server(mut answers: VecDeque<(u16, String)>) -> (Client, Arc<Mutex<Vec<String>>>) {
    server_that(move |_| answers.pop_front())
}

/// Answers requests by what they ask for; `None`: a watch on which nothing happens.
fn server_that(mut answer: impl FnMut(&str) -> Option<(u16, String)> + Send + 'static) -> (Client, Arc<Mutex<Vec<String>>>) {
    let (service, mut requests) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = seen.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some((request, send)) = requests.next_request().await {
            let uri = request.uri().to_string();
            asked.lock().unwrap().push(uri.clone());
            match answer(&uri) {
                Some((code, body)) => send.send_response(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap()),
                None => open.push(send),
            }
        }
    });
    (Client::new(service, "default"), seen)
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_a_server_that_is_away_and_an_object_that_it_cannot_read() {
    let list = json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSliceList", "metadata": {"resourceVersion": "5"},
        "items": [slice("good", json!(["10.0.0.1"])), slice("bad", json!({"not": "a list"}))]});
    let event = |kind: &str, object: Value| format!("{}\n", json!({"type": kind, "object": object}));
    let mut timed = slice("timed", json!(["10.0.0.2"]));
    timed["metadata"]["annotations"] = json!({"securitygroups.dev/changed-at": "2026-01-02T03:04:05.678901Z"});
    let events =
        event("MODIFIED", slice("good", json!("unreadable"))) + &event("DELETED", slice("other", json!([]))) + &event("ADDED", timed);
    let unavailable = json!({"kind": "Status", "status": "Failure", "message": "away", "reason": "ServiceUnavailable", "code": 503});
    let (client, asked) = server([(503, unavailable.to_string()), (200, list.to_string()), (200, events)].into());

    let readiness = Readiness::default();
    let mut registry = Registry::default();
    let (watches, mut messages) = Watches::new(client, readiness.clone(), &mut registry);
    let watch = watches.member_slices_of(&["sg-1".to_string(), "sg-2".to_string()].into(), |change, changed_at| (change, changed_at));
    assert_eq!(readiness.waits().values().collect::<Vec<_>>(), ["not listed yet"]);

    let Some((Change::Reset(Kind::MemberSlice, objects), None)) = messages.recv().await else { panic!("a watch begins with its list") };
    assert_eq!(objects.len(), 1, "the unreadable one is left out, the list is not");
    assert!(readiness.waits().is_empty());
    let key = |name: &str| Key::MemberSlice(("shop".into(), name.into()));
    assert_eq!(messages.recv().await, Some((Change::Delete(key("good")), None)), "what was read before does not stay in force");
    assert_eq!(messages.recv().await, Some((Change::Delete(key("other")), None)));
    let Some((Change::Apply(_), Some(changed_at))) = messages.recv().await else { panic!("a slice that says when it was changed") };
    assert_eq!(changed_at.to_string(), "2026-01-02T03:04:05.678901Z");

    let asked = asked.lock().unwrap().clone();
    assert!(asked[0].contains("labelSelector=securitygroups.dev%2Fgroup-id+in+%28sg-1%2Csg-2%29"), "{}", asked[0]);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("watch_errors_total{watch=\"memberslices\"} 1\n"), "{text}");
    drop(watch);
}

/// An address has no room for ten thousand ids.
#[tokio::test(start_paused = true)]
async fn slices_of_very_many_groups_are_watched_with_all_others() {
    let of = |name: &str, id: &str| {
        let mut slice = slice(name, json!(["10.0.0.1"]));
        slice["metadata"]["labels"][api::LABEL_GROUP_ID] = json!(id);
        slice
    };
    let list = json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSliceList", "metadata": {"resourceVersion": "5"},
        "items": [of("wanted", "sg-00000000000000007"), of("other", "sg-another")]});
    let event = |object: Value| format!("{}\n", json!({"type": "MODIFIED", "object": object}));
    let (client, asked) = server([(200, list.to_string()), (200, event(of("new", "sg-another")))].into());
    let (watches, mut messages) = Watches::new(client, Readiness::default(), &mut Registry::default());
    let ids = (0..10_000).map(|number| format!("sg-{number:017}")).collect();
    let _watch = watches.member_slices_of(&ids, |change, _| change);

    let Some(Change::Reset(Kind::MemberSlice, listed)) = messages.recv().await else { panic!("a watch begins with its list") };
    assert_eq!(listed.len(), 2, "others are sent, too");
    assert!(matches!(messages.recv().await, Some(Change::Apply(Object::MemberSlice(..)))));
    assert!(!asked.lock().unwrap()[0].contains("labelSelector"));
}

#[tokio::test(start_paused = true)]
async fn why_a_watch_has_not_listed_is_told_and_a_closed_one_is_not_waited_for() {
    let refused = json!({"kind": "Status", "status": "Failure", "message": "pods is forbidden", "reason": "Forbidden", "code": 403});
    let (client, asked) = server([(403, refused.to_string())].into());
    let readiness = Readiness::default();
    let (watches, _messages) = Watches::<Change>::new(client.clone(), readiness.clone(), &mut Registry::default());
    let watch = watches.pods_of(client, &NodeName("n1".into()), |change| change);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = readiness.waits();
    assert!(waits.values().any(|why| why.contains("pods is forbidden")), "{waits:?}");
    assert!(asked.lock().unwrap()[0].contains("fieldSelector=spec.nodeName%3Dn1"));
    drop(watch);
    assert!(readiness.waits().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_list_is_asked_ever_more_seldom() {
    // P27: a thousand agents at a server that is coming back.
    let away = json!({"kind": "Status", "status": "Failure", "message": "away", "reason": "ServiceUnavailable", "code": 503});
    let (client, asked) = server(vec![(503, away.to_string()); 1000].into());
    let (watches, _messages) = Watches::<Change>::new(client, Readiness::default(), &mut Registry::default());
    let _watch = watches.namespaces(|change| change);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let asked = asked.lock().unwrap().len();
    assert!((8..30).contains(&asked), "asked {asked} times in five minutes");
}

#[tokio::test(start_paused = true)]
async fn once_the_server_answers_one_watch_all_try_again() {
    let away = json!({"kind": "Status", "status": "Failure", "message": "away", "reason": "ServiceUnavailable", "code": 503}).to_string();
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}).to_string();
    let start = Instant::now();
    let (client, _) = server_that(move |uri| match start.elapsed() < Duration::from_secs(300) {
        true => Some((503, away.clone())),
        false => (!uri.contains("watch=")).then(|| (200, list.clone())),
    });
    let (watches, mut messages) = Watches::<Kind>::new(client, Readiness::default(), &mut Registry::default());
    let kind = |change| if let Change::Reset(kind, _) = change { kind } else { panic!("{change:?}") };
    let _watches = [watches.namespaces(kind), watches.security_groups(kind), watches.attachments(kind), watches.prefix_lists(kind)];
    let mut listed = BTreeSet::from([messages.recv().await.unwrap()]);
    let first = Instant::now();
    while listed.len() < 4 {
        listed.insert(messages.recv().await.unwrap());
    }
    assert!(first.elapsed() < Duration::from_millis(100), "the others took {:?} more", first.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_lists_again_where_the_server_was_away_as_etcd_may_have_been_restored() {
    let list = |version: &str, name: &str| {
        let items = json!([slice(name, json!([]))]);
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}).to_string()
    };
    let away = json!({"kind": "Status", "status": "Failure", "message": "away", "reason": "ServiceUnavailable", "code": 503}).to_string();
    let busy = json!({"kind": "Status", "status": "Failure", "message": "busy", "reason": "TooManyRequests", "code": 429}).to_string();
    let answers = [(200, list("900", "newer")), (200, String::new()), (429, busy), (503, away), (200, list("100", "older"))];
    let (client, asked) = server(answers.into());
    let (watches, mut messages) = Watches::new(client, Readiness::default(), &mut Registry::default());
    let _watch = watches.member_slices_of(&["sg-1".to_string()].into(), |change, _| change);
    for _ in 0..2 {
        let Some(Change::Reset(Kind::MemberSlice, _)) = messages.recv().await else { panic!("a list") };
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let from: Vec<bool> = asked.lock().unwrap().iter().map(|uri| uri.contains("resourceVersion=900")).collect();
    assert_eq!(from, [false, true, true, true, false, false], "resumed after a watch that ended and one that was refused: {asked:?}");
    assert!(asked.lock().unwrap()[5].contains("resourceVersion=100"), "{asked:?}");
}
