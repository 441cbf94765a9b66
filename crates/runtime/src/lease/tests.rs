use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

fn held_by(holder: &str) -> Option<LeaseSpec> {
    Some(LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..LeaseSpec::default() })
}

#[test]
fn decisions() {
    let now = Instant::now();
    let at = |spec, age: u64| Seen { spec, since: Some(now - Duration::from_secs(age)) };
    assert_eq!(decide("me", &Seen::default(), now), Decision::Create);
    assert_eq!(decide("me", &at(held_by("me"), 100), now), Decision::Renew);
    assert_eq!(decide("me", &at(held_by("you"), 14), now), Decision::Wait);
    assert_eq!(decide("me", &at(held_by("you"), 15), now), Decision::Take);
    assert_eq!(decide("me", &at(held_by(""), 0), now), Decision::Take);
    assert_eq!(decide("me", &at(Some(LeaseSpec::default()), 0), now), Decision::Take);
}

#[test]
fn a_lease_is_as_old_as_our_sight_of_it_whatever_its_clock_says() {
    let start = Instant::now();
    let mut seen = Seen::default();
    seen.note(held_by("you"), start);
    seen.note(held_by("you"), start + Duration::from_secs(20));
    assert_eq!(decide("me", &seen, start + Duration::from_secs(20)), Decision::Take);
    let mut renewed = held_by("you");
    renewed.as_mut().unwrap().renew_time = Some(MicroTime(jiff::Timestamp::UNIX_EPOCH));
    seen.note(renewed, start + Duration::from_secs(20));
    assert_eq!(decide("me", &seen, start + Duration::from_secs(30)), Decision::Wait);
}

#[test]
fn a_renewal_keeps_the_time_of_acquisition_and_a_take_over_counts() {
    let candidate = Candidate::new("ns", "lease", "me");
    let (then, now) = (jiff::Timestamp::from_second(1).unwrap(), jiff::Timestamp::from_second(2).unwrap());
    let mine = wanted(&candidate, Decision::Create, None, then);
    assert_eq!((mine.lease_transitions, mine.acquire_time.clone()), (Some(0), Some(MicroTime(then))));
    let renewed = wanted(&candidate, Decision::Renew, Some(&mine), now);
    assert_eq!((renewed.acquire_time, renewed.renew_time), (Some(MicroTime(then)), Some(MicroTime(now))));
    let taken = wanted(&candidate, Decision::Take, Some(&mine), now);
    assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(1), Some(MicroTime(now))));
}

/// One Lease behind an API that checks resourceVersions, and can go away.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<Value>>>,
    down: Arc<Mutex<bool>>,
}

impl Server {
    fn client(&self) -> Client {
        let (service, mut requests) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = requests.next_request().await {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, answer) = server.answer(method.as_str(), serde_json::from_slice(&body).unwrap_or_default());
                let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap();
                send.send_response(response);
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &str, mut body: Value) -> (StatusCode, Value) {
        let refuse = |code: StatusCode| {
            let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "Other" };
            (code, json!({"kind": "Status", "status": "Failure", "reason": reason, "message": "refused", "code": code.as_u16()}))
        };
        if *self.down.lock().unwrap() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE);
        }
        let mut lease = self.lease.lock().unwrap();
        let version = |lease: &Option<Value>| lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone()).unwrap_or_default();
        match (method, lease.is_some()) {
            ("GET", true) => {}
            ("GET", false) => return refuse(StatusCode::NOT_FOUND),
            ("POST", true) => return refuse(StatusCode::CONFLICT),
            ("PUT", _) if body["metadata"]["resourceVersion"] != version(&lease) => return refuse(StatusCode::CONFLICT),
            _ => {
                let next = version(&lease).as_str().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) + 1;
                body["metadata"]["resourceVersion"] = next.to_string().into();
                *lease = Some(body);
            }
        }
        (StatusCode::OK, lease.clone().unwrap_or_default())
    }

    fn holder(&self) -> Value {
        self.lease.lock().unwrap().as_ref().map(|lease| lease["spec"]["holderIdentity"].clone()).unwrap_or_default()
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_hands_over_when_it_ends() {
    let server = Server::default();
    let (first_ends, second_ends) = (CancellationToken::new(), CancellationToken::new());
    let (first, task) = Candidate::new("ns", "lease", "first").run(server.client(), first_ends.clone());
    settle().await;
    assert!(*first.borrow());
    let (second, _task) = Candidate::new("ns", "lease", "second").run(server.client(), second_ends.clone());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((*first.borrow(), *second.borrow()), (true, false), "a lease that is renewed is not taken");

    first_ends.cancel();
    task.await.unwrap();
    assert_eq!((*first.borrow(), server.holder()), (false, Value::Null), "released, not left to run out");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(*second.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_steps_down_in_time_and_goes_on_trying() {
    let server = Server::default();
    let (leads, _task) = Candidate::new("ns", "lease", "me").run(server.client(), CancellationToken::new());
    settle().await;
    assert!(*leads.borrow());
    *server.down.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(*leads.borrow(), "one failure is no reason");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(!*leads.borrow(), "before another may take over after 15 s");
    *server.down.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(*leads.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_steps_down_at_once() {
    let server = Server::default();
    let (leads, _task) = Candidate::new("ns", "lease", "me").run(server.client(), CancellationToken::new());
    settle().await;
    assert!(*leads.borrow());
    if let Some(lease) = server.lease.lock().unwrap().as_mut() {
        lease["spec"]["holderIdentity"] = "you".into();
        lease["metadata"]["resourceVersion"] = "77".into();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!*leads.borrow());
    assert_eq!(server.holder(), "you");
}
