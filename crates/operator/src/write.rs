//! The writes themselves.

use std::collections::BTreeMap;

use api::{Attachment, MemberSlice, PrefixList, SecurityGroup};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use policy::ObjectRef;
use policy::index::{MemberSlice as SliceFacts, Object};
use policy::model::GroupRef;
use policy::slices::{SliceKey, SliceOp};
use runtime::client::{Error, in_time};
use runtime::patch;
use serde_json::json;
use tokio::sync::watch;

use crate::due::{Lane, Work, Written};
use crate::finalizer;
use crate::outbox::Ending;

/// Who wrote, in `metadata.managedFields`.
pub const MANAGER: &str = "securitygroups-operator";

/// A write that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its lane.
    pub lane: Lane,
    /// What it did, also when it failed in the end.
    pub written: Vec<Written>,
    /// Why it failed; `None`: it did not.
    pub error: Option<Error>,
}

impl Ended {
    /// How.
    pub fn ending(&self) -> Ending {
        match &self.error {
            None => Ending::Done,
            // 404: gone meanwhile. 409: there already, another version, or another UID.
            Some(error) if error.is_conflict() || error.is_not_found() => Ending::Conflict,
            Some(_) => Ending::Failed,
        }
    }
}

/// Writes what is due in a lane since then, as long as we lead.
pub async fn write(client: Client, leads: watch::Receiver<bool>, lane: Lane, work: Work, since: Timestamp) -> Ended {
    let mut written = Vec::new();
    let error = match (&lane, work) {
        (_, Work::Slices(ops)) => slices(&client, &leads, ops, since, &mut written).await,
        (Lane::Finalizer(object, uid), Work::Finalizer(held)) => {
            hold(client, object, uid, held).await.map(|()| written.push(Written::Finalizer(object.clone(), uid.clone(), held)))
        }
        (Lane::Group(group, uid), Work::Group(status)) => {
            let api = Api::<SecurityGroup>::namespaced(client, &group.namespace);
            patch::status(&api, MANAGER, &group.name, Some(uid), &status)
                .await
                .map(|stored| written.push(Written::Group(group.clone(), uid.clone(), stored.status.unwrap_or_default())))
        }
        (Lane::Attachment(attachment, uid), Work::Attachment(status)) => {
            let api = Api::<Attachment>::namespaced(client, &attachment.namespace);
            patch::status(&api, MANAGER, &attachment.name, Some(uid), &status)
                .await
                .map(|stored| written.push(Written::Attachment(attachment.clone(), uid.clone(), stored.status.unwrap_or_default())))
        }
        (Lane::PrefixList(list, uid), Work::PrefixList(status)) => {
            let api = Api::<PrefixList>::namespaced(client, &list.namespace);
            patch::status(&api, MANAGER, &list.name, Some(uid), &status)
                .await
                .map(|stored| written.push(Written::PrefixList(list.clone(), uid.clone(), stored.status.unwrap_or_default())))
        }
        // `due` never makes such a pair; there is nothing to do in it.
        (Lane::Slices(_) | Lane::Finalizer(..) | Lane::Group(..) | Lane::Attachment(..) | Lane::PrefixList(..), _) => Ok(()),
    }
    .err();
    Ended { lane, written, error }
}

async fn hold(client: Client, object: &ObjectRef, uid: &str, held: bool) -> Result<(), Error> {
    match object {
        ObjectRef::SecurityGroup(group) => {
            finalizer::set(&Api::<SecurityGroup>::namespaced(client, &group.namespace), &group.name, uid, held).await
        }
        ObjectRef::PrefixList(list) => finalizer::set(&Api::<PrefixList>::namespaced(client, &list.namespace), &list.name, uid, held).await,
        // Nothing is ever due for these.
        ObjectRef::Attachment(_) | ObjectRef::Namespace(_) => Ok(()),
    }
}

async fn slices(
    client: &Client,
    leads: &watch::Receiver<bool>,
    ops: Vec<(SliceOp, Option<String>)>,
    since: Timestamp,
    written: &mut Vec<Written>,
) -> Result<(), Error> {
    for (op, version) in ops {
        // A large group takes many writes. What is left of them is the next leader's.
        if !*leads.borrow() {
            break;
        }
        let key = op.key().clone();
        let api = Api::<MemberSlice>::namespaced(client.clone(), &key.0);
        let stored = match op {
            SliceOp::Create { group, group_uid, slice, .. } => {
                let object = object(&key, &group, &group_uid, &slice, since);
                let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
                Some(in_time(api.create(&parameters, &object)).await?)
            }
            SliceOp::Update { slice, .. } => {
                // With the version that the plan was made on: a leader that is one no longer cannot undo its successor's work.
                let metadata = json!({ "resourceVersion": version, "annotations": changed_at(since) });
                let patch = json!({ "metadata": metadata, "addresses": addresses(&slice) });
                let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
                Some(in_time(api.patch(&key.1, &parameters, &Patch::Merge(&patch))).await?)
            }
            SliceOp::Delete { .. } => {
                let preconditions = Some(Preconditions { resource_version: version, uid: None });
                let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
                match in_time(api.delete(&key.1, &parameters)).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => None,
                }
            }
        };
        written.push(Written::Slice(key, stored.as_ref().and_then(facts)));
    }
    Ok(())
}

fn facts(slice: &MemberSlice) -> Option<SliceFacts> {
    match Object::member_slice(slice) {
        Object::MemberSlice(_, facts) => Some(facts),
        _ => None,
    }
}

fn addresses(slice: &SliceFacts) -> Vec<String> {
    slice.addresses.iter().map(ToString::to_string).collect()
}

fn changed_at(since: Timestamp) -> BTreeMap<String, String> {
    // Microseconds: clocks of two nodes do not agree on more.
    [(api::ANNOTATION_CHANGED_AT.to_string(), format!("{since:.6}"))].into()
}

/// A slice as it is stored. Owned by its group, so that it goes with it even when no operator runs.
fn object(key: &SliceKey, group: &GroupRef, group_uid: &str, slice: &SliceFacts, since: Timestamp) -> MemberSlice {
    let mut object = MemberSlice::new(&key.1, Default::default());
    object.spec.addresses = addresses(slice);
    object.metadata.namespace = Some(key.0.clone());
    let mut labels = vec![(api::LABEL_GROUP, group.name.as_str()), (api::LABEL_GROUP_ID, &slice.group_id)];
    if slice.head {
        labels.push((api::LABEL_HEAD, "true"));
    }
    object.metadata.labels = Some(labels.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect());
    object.metadata.annotations = Some(changed_at(since));
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: SecurityGroup::api_version(&()).into_owned(),
        kind: SecurityGroup::kind(&()).into_owned(),
        name: group.name.clone(),
        uid: group_uid.to_string(),
        controller: Some(true),
        // Would need the right to set finalizers of groups, and hold up their deletion.
        block_owner_deletion: Some(false),
    }]);
    object
}
