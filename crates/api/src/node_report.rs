//! NodeReport: what one node's kernel has in force, written by that node's agent alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the kernel of one node has in force. Named after the node and owned by it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "NodeReport",
    doc = "What the kernel of one node has in force. Written by the agent of that node; read it only to look deeper.",
    plural = "nodereports",
    shortname = "sgnr",
    category = "sg-all",
    status = "NodeReportStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "This node's kernel has what it should have"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(
        name = "Last-Commit",
        type_ = "date",
        json_path = ".status.lastCommit",
        description = "When the kernel's ruleset last changed"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Ruleset", type_ = "string", json_path = ".status.rulesetHash", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportSpec {}

/// The report itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportStatus {
    /// Groups with an endpoint on this node, sorted by namespace and name.
    #[serde(default)]
    pub groups: Vec<AppliedGroup>,
    /// Attachments with an endpoint on this node, sorted by namespace and name.
    #[serde(default)]
    pub attachments: Vec<AppliedObject>,
    /// Prefix lists that a rule in force on this node names, sorted by namespace and name.
    #[serde(default)]
    pub prefix_lists: Vec<AppliedObject>,
    /// What is always allowed on this node (S36), each with its switch.
    #[serde(default)]
    pub exemptions: Vec<Exempted>,
    /// What this agent could not understand or enforce.
    #[serde(default)]
    pub problems: Vec<ReportedProblem>,
    /// Hash of the ruleset in the kernel, hexadecimal.
    #[serde(default)]
    pub ruleset_hash: String,
    /// When the kernel's ruleset last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Time>,
    /// Ready, BridgeTrafficFiltered, RulesetIntact.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One group as it is in force on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct AppliedGroup {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a group that is deleted and made again under its name starts over at generation 1.
    pub uid: String,
    /// The generation whose rules are in the kernel.
    pub generation: i64,
    /// Endpoints of this node in the group.
    pub endpoints: i64,
}

/// One attachment or prefix list as it is in force on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct AppliedObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The generation in force.
    pub generation: i64,
}

/// An exemption (S36) and its switch on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Exempted {
    /// Its name, as the agent's option `--exempt` has it.
    pub name: String,
    /// Whether such traffic passes whatever the rules say.
    pub exempt: bool,
    /// The counter in the node's table that counts it.
    pub counter: String,
}

/// Something that is not in force as written.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ReportedProblem {
    /// The object: `SecurityGroup shop/web`.
    pub object: String,
    /// The rule within it, `ingress[2]`; empty where it is the object as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}
