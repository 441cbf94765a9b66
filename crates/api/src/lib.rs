//! What users write and what they read: the custom resources of `securitygroups.dev/v1alpha1`.
//!
//! *In:* nothing. *Out:* Rust types, their CRDs (schema and CEL), presets, condition names. This is the only crate that knows YAML names.
//!
//! Invariants
//! 1. No client, no runtime: types only.
//! 2. Reading never widens. A field with nothing behind it (`null`) is an error, never "left out"; a rule that cannot be read is kept as
//!    [`Stored::NotUnderstood`] and allows nothing, the rest of its group stays in force (S38).
//! 3. What is not supported yet is refused at admission with these words.

// Every printer column says its type; clippy takes the second one for a repeated attribute.
#![allow(clippy::duplicated_attributes)]

mod attachment;
mod crds;
mod group;
mod member_slice;
mod node_report;
mod prefix_list;
mod preset;
mod rules;
mod selector;
mod stored;

pub mod condition;
pub mod quota;

pub use attachment::{Attachment, AttachmentSpec, AttachmentStatus, Skipped};
pub use crds::{crds, crds_yaml};
pub use group::{
    Connections, EgressRule, IngressRule, NodeCounts, ObjectPeer, OnDeny, Peer, ProtocolField, RuleCounts, SecurityGroup,
    SecurityGroupSpec, SecurityGroupStatus,
};
pub use member_slice::MemberSlice;
pub use node_report::{
    AppliedGroup, AppliedObject, Exempted, KernelReport, NodeReport, NodeReportSpec, NodeReportStatus, PacketCounts, ReportedProblem,
    UnsupportedFeature,
};
pub use prefix_list::{AddressFamily, PrefixList, PrefixListEntry, PrefixListSpec, PrefixListStatus};
pub use preset::{Preset, PresetTraffic};
pub use stored::{Stored, read};

/// The API group of every kind here.
pub const API_GROUP: &str = "securitygroups.dev";
/// The only version so far.
pub const API_VERSION: &str = "v1alpha1";
/// Finalizer of what is in use: the object stays, and stays in force, while something names it.
pub const FINALIZER_IN_USE: &str = "securitygroups.dev/in-use";
/// Namespace label: the group that pods in no other group are members of (S3).
pub const LABEL_DEFAULT_GROUP: &str = "securitygroups.dev/default-group";
/// MemberSlice label: the name of the group whose members it lists.
pub const LABEL_GROUP: &str = "securitygroups.dev/group";
/// MemberSlice label: the id (`sg-…`, S23) of the group whose members it lists; agents select slices by it.
pub const LABEL_GROUP_ID: &str = "securitygroups.dev/group-id";
/// MemberSlice label, `"true"` on exactly one slice of a group: written after all others when the group is published for the first
/// time, so that whoever sees it has seen the whole membership.
pub const LABEL_HEAD: &str = "securitygroups.dev/head";
/// MemberSlice annotation: when the operator saw the first of the changes that this version of the slice answers, in RFC 3339. From it
/// agents measure how long a change takes to the kernel.
pub const ANNOTATION_CHANGED_AT: &str = "securitygroups.dev/changed-at";
