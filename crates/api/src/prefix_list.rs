//! PrefixList: networks under one name, for many rules.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::group::NodeCounts;
use crate::rules;
use crate::stored::{Stored, present};

/// Networks of one family under one name. A rule that names the list matches its current entries (S21).
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "PrefixList",
    doc = "Networks under one name, for rules of security groups to name as a peer.",
    plural = "prefixlists",
    shortname = "sgpl",
    category = "sg-all",
    namespaced,
    status = "PrefixListStatus",
    derive = "PartialEq",
    validation = rules::name_fits_a_label(),
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.addressFamily", description = "The family of its entries"),
    printcolumn(name = "Entries", type_ = "integer", json_path = ".status.entries", description = "Networks in the list"),
    printcolumn(name = "Max-Entries", type_ = "integer", json_path = ".spec.maxEntries", description = "What it weighs in a group's quota"),
    printcolumn(name = "Referenced-By", type_ = "integer", json_path = ".status.referencedBy", description = "Groups whose rules name it"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes.summary", description = "Nodes whose kernel has this generation, of those whose rules name it"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status", description = "In force on every node whose rules name it"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::entries_fit())]
pub struct PrefixListSpec {
    /// IPv4 or IPv6. Cannot be changed.
    #[x_kube(validation = rules::family_stays())]
    pub address_family: AddressFamily,
    /// How many entries it may have, 1 to 1,000: what a rule that names it weighs in its group's quota (S24).
    #[schemars(range(min = 1, max = 1000))]
    pub max_entries: i32,
    /// The networks; left out: none. At most `maxEntries`, each once.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub entries: Option<Vec<Stored<PrefixListEntry>>>,
}

/// One network of a list.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixListEntry {
    /// An address or a network of the list's family; host bits are cleared (S16).
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::cidr_is_valid())]
    #[x_kube(validation = rules::zero_prefix_is_meant())]
    pub cidr: String,
    /// What this entry is for. At most 255 characters.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub description: Option<String>,
}

/// The family of a list's entries.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4 networks.
    IPv4,
    /// IPv6 networks.
    IPv6,
}

/// What is in force of a PrefixList.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PrefixListStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Networks in the list, each counted once.
    #[serde(default)]
    pub entries: i64,
    /// Groups whose rules name it.
    #[serde(default)]
    pub referenced_by: i64,
    /// Nodes whose rules name it.
    #[serde(default)]
    pub nodes: NodeCounts,
    /// Ready, Accepted, Programmed; Deletable while it is being deleted.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
