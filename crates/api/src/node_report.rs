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
    /// The node's kernel, and what it lacks. Found out when the agent starts, by trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelReport>,
    /// Ready, KernelSupported, TrafficFiltered, BridgeTrafficFiltered, RulesetIntact.
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
    /// What its rules have allowed and denied on this node. Refreshed once a minute at most; left out where nothing has been counted.
    #[serde(default, skip_serializing_if = "PacketCounts::is_none")]
    pub packets: PacketCounts,
}

/// Packets that a group's rules have allowed and denied, as its members see them. Counted where they are in force: what has been counted goes
/// with a rule that is changed or removed, with a node, and with the last member on a node, so that a number may also fall.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct PacketCounts {
    /// First packets of inbound connections that a rule of the group allowed, and each packet of ICMP and of UDP without an answer. What rules
    /// of several groups of a pod allow counts for one of them.
    #[serde(default)]
    pub ingress_allowed: i64,
    /// Packets to members that none of the pod's groups allowed.
    #[serde(default)]
    pub ingress_denied: i64,
    /// The same as `ingressAllowed` of what members send.
    #[serde(default)]
    pub egress_allowed: i64,
    /// Packets from members that none of the pod's groups allowed.
    #[serde(default)]
    pub egress_denied: i64,
}

impl PacketCounts {
    /// Nothing has been counted.
    pub fn is_none(&self) -> bool {
        *self == PacketCounts::default()
    }
}

impl std::iter::Sum for PacketCounts {
    fn sum<I: Iterator<Item = PacketCounts>>(counts: I) -> PacketCounts {
        counts.fold(PacketCounts::default(), |sum, more| PacketCounts {
            ingress_allowed: sum.ingress_allowed.saturating_add(more.ingress_allowed),
            ingress_denied: sum.ingress_denied.saturating_add(more.ingress_denied),
            egress_allowed: sum.egress_allowed.saturating_add(more.egress_allowed),
            egress_denied: sum.egress_denied.saturating_add(more.egress_denied),
        })
    }
}

/// What a node's kernel is, and what it lacks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KernelReport {
    /// Its release, as `uname -r` says it.
    pub version: String,
    /// What rules consist of and this kernel does not take; empty where it takes everything. While there is any, nothing is in force here.
    #[serde(default)]
    pub unsupported: Vec<UnsupportedFeature>,
    /// Whether it can give a table to one program, so that no other changes it (Linux 6.9). Where it cannot, changes are put right.
    #[serde(default)]
    pub table_owner_supported: bool,
}

/// Something that this kernel does not take.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnsupportedFeature {
    /// What it is.
    pub feature: String,
    /// What the kernel said.
    pub error: String,
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
