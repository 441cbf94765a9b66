//! MemberSlice: a piece of the membership of one group, written by the operator, read by agents.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Some of the addresses of one group's members. Only groups that a rule names have slices.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "MemberSlice",
    doc = "Some of the addresses of the members of one SecurityGroup. Written by the operator; read it only to look deeper.",
    plural = "memberslices",
    shortname = "sgms",
    category = "sg-all",
    namespaced,
    no_spec,
    derive = "PartialEq",
    printcolumn(
        name = "Group",
        type_ = "string",
        json_path = ".metadata.labels.securitygroups\\.dev/group",
        description = "The group whose members it lists"
    ),
    printcolumn(name = "Group-ID", type_ = "string", json_path = ".metadata.labels.securitygroups\\.dev/group-id", priority = 1),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".addresses", description = "IPv4 and IPv6 addresses of members"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberSliceData {
    /// IPv4 and IPv6 addresses, sorted.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(max = 45)), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<String>,
}
