//! Attachment: which pods are in which groups.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::group::NodeCounts;
use crate::stored::present;

/// Puts endpoints into security groups. A pod that is in no group is not filtered; a pod in several groups may do what any of
/// them allows.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "Attachment",
    plural = "attachments",
    shortname = "sgatt",
    category = "sg-all",
    namespaced,
    status = "AttachmentStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttachmentSpec {
    /// 1 to 16 names of groups in this namespace, each once.
    pub security_groups: Vec<String>,
    /// Which pods of this namespace; `{}` selects all. Exactly one of podSelector and nodeSelector.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Which nodes (S40). Not supported yet.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// What is in force of an Attachment.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Endpoints selected and attached.
    #[serde(default)]
    pub endpoints: i64,
    /// Selected but not attached, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// How many are skipped in all.
    #[serde(default)]
    pub skipped_count: i64,
    /// Nodes that have an endpoint of it.
    #[serde(default)]
    pub nodes: NodeCounts,
    /// Ready, Accepted, Programmed.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A pod that an Attachment selects but that is not a member.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// The pod's name.
    pub name: String,
    /// Why: HostNetwork.
    pub reason: String,
}
