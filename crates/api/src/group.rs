//! SecurityGroup: rules that say who may talk to the group's members, and to whom they may talk.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::node_report::PacketCounts;
use crate::preset::Preset;
use crate::rules;
use crate::stored::{Stored, present};

/// A security group: stateful rules that only allow. Its members (see Attachment) accept and open exactly what some rule of some
/// of their groups allows; replies always pass.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "securitygroups.dev",
    version = "v1alpha1",
    kind = "SecurityGroup",
    doc = "A security group: stateful rules that only allow, as in AWS. Who is in it, an Attachment says.",
    plural = "securitygroups",
    shortname = "sg",
    category = "sg-all",
    namespaced,
    status = "SecurityGroupStatus",
    derive = "PartialEq",
    validation = rules::name_fits_a_label(),
    printcolumn(name = "Ingress", type_ = "integer", json_path = ".status.rules.ingress", description = "Inbound (rule, peer) pairs"),
    printcolumn(name = "Egress", type_ = "integer", json_path = ".status.rules.egress", description = "Outbound (rule, peer) pairs"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members", description = "Endpoints in the group, in the whole cluster"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes.summary", description = "Nodes whose kernel has this generation, of those that have a member"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status", description = "In force on every node that has a member"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Ingress-Denied", type_ = "integer", json_path = ".status.packets.ingressDenied", description = "Packets to members that no group allowed; some minutes old", priority = 1),
    printcolumn(name = "Egress-Denied", type_ = "integer", json_path = ".status.packets.egressDenied", description = "Packets from members that no group allowed; some minutes old", priority = 1),
    printcolumn(name = "Group-ID", type_ = "string", json_path = ".status.groupId", priority = 1),
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description", priority = 1)
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityGroupSpec {
    /// What the group is for. At most 255 characters.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub description: Option<String>,
    /// What may come in. Left out or empty: nothing (S4).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "atomic"))]
    pub ingress: Option<Vec<Stored<IngressRule>>>,
    /// What may go out. Left out: everything; `[]`: nothing (S5).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "atomic"))]
    pub egress: Option<Vec<Stored<EgressRule>>>,
    /// What becomes of a connection that is open when its rule goes (S34). Left out: Preserve.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::no_revoke_yet())]
    pub connections: Option<Connections>,
    /// How a denied packet is answered (S32). Left out: Drop.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub on_deny: Option<OnDeny>,
}

/// Both directions' rules have the same fields but for the name of the list of peers.
macro_rules! rule {
    ($(#[$doc:meta])* $name:ident, $(#[$peers_doc:meta])* $peers:ident) => {
        $(#[$doc])*
        #[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[x_kube(validation = rules::says_which_traffic())]
        #[x_kube(validation = rules::preset_stands_alone())]
        #[x_kube(validation = rules::protocol_is_known())]
        #[x_kube(validation = rules::ports_fit_the_protocol())]
        #[x_kube(validation = rules::end_port_needs_port())]
        #[x_kube(validation = rules::end_port_not_below_port())]
        #[x_kube(validation = rules::icmp_fields_fit_the_protocol())]
        #[x_kube(validation = rules::icmp_code_needs_type())]
        #[x_kube(validation = rules::icmp_is_for_ipv4(stringify!($peers)))]
        #[x_kube(validation = rules::icmpv6_is_for_ipv6(stringify!($peers)))]
        pub struct $name {
            /// What the rule is for. At most 255 characters.
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = 255))]
            pub description: Option<String>,
            /// A named kind of traffic (SSH, HTTP, PostgreSQL, AllICMP, AllTraffic, …) in place of protocol and port (S15).
            #[serde(default, rename = "type", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(extend("enum" = Preset::names()))]
            pub preset: Option<String>,
            /// TCP, UDP, SCTP, ICMP, ICMPv6, All, or an IANA protocol number 0 to 255 (S11).
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            pub protocol: Option<ProtocolField>,
            /// Destination port, 1 to 65535; the first one where `endPort` is given. Left out: every port (S12).
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 65535))]
            pub port: Option<i32>,
            /// Last port of the range, inclusive, not below `port`.
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 65535))]
            pub end_port: Option<i32>,
            /// ICMP or ICMPv6 type, 0 to 255. Left out: every type (S13).
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = 255))]
            pub icmp_type: Option<i32>,
            /// ICMP or ICMPv6 code, 0 to 255; needs `icmpType`. Left out: every code.
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = 255))]
            pub icmp_code: Option<i32>,
            $(#[$peers_doc])*
            #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "atomic"))]
            #[x_kube(validation = rules::names_a_peer())]
            pub $peers: Vec<Peer>,
        }
    };
}

rule!(
    /// Traffic that may come in.
    IngressRule,
    /// Who may send it: 1 to 200 peers.
    from
);
rule!(
    /// Traffic that may go out.
    EgressRule,
    /// Who may receive it: 1 to 200 peers.
    to
);

/// The far end of a rule: exactly one of `cidr`, `securityGroup`, `prefixList` and `self`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::one_kind_of_peer())]
pub struct Peer {
    /// What this entry is for. At most 255 characters.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub description: Option<String>,
    /// An address or a network (`10.0.0.0/16`, `2001:db8::/32`, `203.0.113.7`); host bits are cleared (S16).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::cidr_is_valid())]
    #[x_kube(validation = rules::zero_prefix_is_meant())]
    pub cidr: Option<String>,
    /// The members of another group, by their own addresses (S17).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub security_group: Option<ObjectPeer>,
    /// The current entries of a prefix list (S21).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub prefix_list: Option<ObjectPeer>,
    /// This group's own members (S18); only `true`.
    #[serde(default, rename = "self", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::self_is_true())]
    pub self_: Option<bool>,
}

/// Another object, by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectPeer {
    /// Its name.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::object_name_is_valid())]
    pub name: String,
    /// Its namespace. Left out: the namespace of the group that holds the rule (S19).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::namespace_is_valid())]
    pub namespace: Option<String>,
}

/// A protocol as written: a name, or an IANA number.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub enum ProtocolField {
    /// 0 to 255.
    Number(i32),
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or All, exactly so written.
    Name(String),
}

impl JsonSchema for ProtocolField {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "ProtocolField".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Without a bound on its length the server reckons with strings of megabytes and refuses the rules about it as too costly.
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": 32 })
    }
}

/// What becomes of a connection that no rule allows any more (S34).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// It goes on until it ends or idles out, as in AWS.
    #[default]
    Preserve,
    /// It is cut. Not supported yet.
    Revoke,
}

/// How a denied packet is answered (S32).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnDeny {
    /// Not at all: the sender waits until its own time-out.
    #[default]
    Drop,
    /// A TCP reset, or ICMP "administratively prohibited". Only when all groups of the endpoint say so.
    Reject,
}

/// What is in force of a SecurityGroup.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The group's id, `sg-` and 17 hex digits (S23).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Endpoints in the group, in the whole cluster.
    #[serde(default)]
    pub members: i64,
    /// (rule, peer) pairs.
    #[serde(default)]
    pub rules: RuleCounts,
    /// Nodes that have a member.
    #[serde(default)]
    pub nodes: NodeCounts,
    /// What its rules have allowed and denied, on all nodes together. Three minutes old at most; older where there are more than 1,200 groups,
    /// by a minute for each 1,200.
    #[serde(default)]
    pub packets: PacketCounts,
    /// Ready, Accepted, Programmed, StaleRules, WithinQuota; Deletable while it is being deleted.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// (rule, peer) pairs of a group.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RuleCounts {
    /// Inbound pairs.
    #[serde(default)]
    pub ingress: i64,
    /// Outbound pairs.
    #[serde(default)]
    pub egress: i64,
    /// Pairs whose peer, a group or a prefix list, does not exist, and which match nothing (S20).
    #[serde(default)]
    pub stale: i64,
}

/// How many nodes should have an object in force, and how many do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that have an endpoint of it.
    #[serde(default)]
    pub desired: i64,
    /// Those of them whose kernel has this generation.
    #[serde(default)]
    pub programmed: i64,
    /// `programmed/desired`, for the column.
    #[serde(default)]
    pub summary: String,
}
