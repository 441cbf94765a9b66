//! Attachment: which pods are in which groups.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::group::NodeCounts;
use crate::{rules, selector};

/// Puts endpoints into security groups. A pod that is in no group is not filtered; a pod in several groups may do what any of
/// them allows.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "Attachment",
    doc = "Puts pods into security groups of their namespace.",
    plural = "attachments",
    shortname = "sgatt",
    category = "sg-all",
    namespaced,
    status = "AttachmentStatus",
    derive = "PartialEq",
    validation = rules::name_fits_a_label(),
    printcolumn(name = "Groups", type_ = "string", json_path = ".spec.securityGroups", description = "The groups that it names"),
    printcolumn(name = "Endpoints", type_ = "integer", json_path = ".status.endpoints", description = "Endpoints selected and attached"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes.summary", description = "Nodes on which it is in force, of those that have an endpoint"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status", description = "In force on every node that has an endpoint"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].reason", priority = 1),
    printcolumn(name = "Skipped", type_ = "integer", json_path = ".status.skippedCount", priority = 1)
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::one_selector()[0].clone())]
#[x_kube(validation = rules::one_selector()[1].clone())]
#[x_kube(validation = rules::no_node_selector_yet())]
pub struct AttachmentSpec {
    /// 1 to 16 names of groups in this namespace, each once.
    #[schemars(schema_with = "group_names")]
    pub security_groups: Vec<String>,
    /// Which pods of this namespace; `{}` selects all. Exactly one of podSelector and nodeSelector.
    #[serde(default, deserialize_with = "selector::present", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::schema")]
    pub pod_selector: Option<LabelSelector>,
    /// Which nodes (S40). Not supported yet.
    #[serde(default, deserialize_with = "selector::present", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::schema")]
    pub node_selector: Option<LabelSelector>,
}

/// A set: the server refuses a name that is there twice.
fn group_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "x-kubernetes-validations": [rules::names_a_group()],
        "items": { "type": "string", "maxLength": 63, "x-kubernetes-validations": [rules::group_name_is_valid()] },
    })
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
