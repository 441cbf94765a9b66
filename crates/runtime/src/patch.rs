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
