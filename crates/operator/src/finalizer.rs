//! Holding an object that is in use, and letting it go.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use runtime::client::{Error, in_time};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::write::MANAGER;

/// How often another writer may be faster; then it is a conflict, and worked out anew.
const TRIES: usize = 3;

/// Adds our finalizer or takes it off. Others' finalizers stay, whoever writes at the same time: the list is written only on the version that
/// was read. Nothing happens to an object that has been made again under its name, nor to one that is gone.
pub async fn set<K>(api: &Api<K>, name: &str, uid: &str, held: bool) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    for tries in 1.. {
        let metadata = match in_time(api.get_metadata(name)).await {
            Err(error) if error.is_not_found() => return Ok(()),
            object => object?.metadata,
        };
        let present = metadata.finalizers.unwrap_or_default();
        let mut wanted: Vec<String> = present.iter().filter(|finalizer| *finalizer != api::FINALIZER_IN_USE).cloned().collect();
        let new_one_is_refused = metadata.deletion_timestamp.is_some() && wanted.len() == present.len();
        if held && !new_one_is_refused {
            wanted.push(api::FINALIZER_IN_USE.to_string());
        }
        if metadata.uid.as_deref() != Some(uid) || wanted == present {
            return Ok(());
        }
        let patch = json!({ "metadata": { "resourceVersion": metadata.resource_version, "finalizers": wanted } });
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match in_time(api.patch_metadata(name, &parameters, &Patch::Merge(&patch))).await {
            Err(error) if error.is_conflict() && tries < TRIES => {}
            // Without finalizers it is gone, and the answer is the object as it was last.
            Err(error) if error.is_not_found() => return Ok(()),
            written => return written.map(|_| ()),
        }
    }
    Ok(())
}
