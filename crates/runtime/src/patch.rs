//! Writing status.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Error, in_time};

/// Writes a status as a whole by server-side apply: fields that this manager wrote before and that are not in it now go. With a `uid` the
/// server refuses with a conflict when the object has been made again under its name. Refused with 404 where there is no such object.
pub async fn status<K>(api: &Api<K>, manager: &str, name: &str, uid: Option<&str>, status: &impl Serialize) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut metadata = json!({ "name": name });
    if let Some(uid) = uid {
        metadata["uid"] = uid.into();
    }
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": serde_json::to_value(status)?,
    });
    in_time(api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(&body))).await
}

/// Whether two statuses say the same, whenever they say it: fields named `lastTransitionTime` and `lastCommit` are not compared.
pub fn same<T: Serialize>(one: &T, other: &T) -> bool {
    match (serde_json::to_value(one), serde_json::to_value(other)) {
        (Ok(one), Ok(other)) => timeless(one) == timeless(other),
        _ => false,
    }
}

fn timeless(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| name != "lastTransitionTime" && name != "lastCommit")
            .map(|(name, value)| (name, timeless(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        other => other,
    }
}

/// The present time as Kubernetes writes it.
pub fn now() -> Time {
    Time(jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::NodeReport;
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;

    use super::*;

    #[test]
    fn times_alone_are_no_difference() {
        let one = json!({"conditions": [{"type": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "lastCommit": "a", "members": 1});
        let later =
            json!({"conditions": [{"type": "Ready", "lastTransitionTime": "2027-01-01T00:00:00Z"}], "lastCommit": "b", "members": 1});
        let other =
            json!({"conditions": [{"type": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "lastCommit": "a", "members": 2});
        assert!(same(&one, &later));
        assert!(!same(&one, &other));
    }

    #[tokio::test]
    async fn a_status_is_applied_by_force_under_the_managers_name() {
        let (service, mut server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let api = Api::<NodeReport>::all(Client::new(service, "default"));
        let status = json!({"rulesetHash": "ab"});
        let call = status_of_node(&api, &status);
        let answer = async {
            let (request, send) = server.next_request().await.unwrap();
            assert_eq!(request.method(), "PATCH");
            assert_eq!(
                request.uri().to_string(),
                "/apis/securitygroups.dev/v1alpha1/nodereports/n1/status?&force=true&fieldManager=tester"
            );
            let body: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
            assert_eq!(body["status"]["rulesetHash"], "ab");
            assert_eq!(body["metadata"], json!({"name": "n1", "uid": "u1"}));
            send.send_response(Response::new(Body::from(serde_json::to_vec(&body_with_spec(body)).unwrap())));
        };
        let (written, ()) = tokio::join!(call, answer);
        assert_eq!(written.unwrap().status.unwrap().ruleset_hash, "ab");
    }

    async fn status_of_node(api: &Api<NodeReport>, value: &Value) -> Result<NodeReport, Error> {
        status(api, "tester", "n1", Some("u1"), value).await
    }

    fn body_with_spec(mut body: Value) -> Value {
        body["spec"] = json!({});
        body
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_costs_five_seconds() {
        let (service, _server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let api = Api::<NodeReport>::all(Client::new(service, "default"));
        let begun = tokio::time::Instant::now();
        let error = status_of_node(&api, &json!({})).await.unwrap_err();
        assert!(matches!(error, Error::Timeout), "{error}");
        assert_eq!(begun.elapsed().as_millis() / 10, Duration::from_secs(5).as_millis() / 10);
    }
}
