//! The administrator's limits (S24): the keys of a ConfigMap, which is the parameter of the admission policy `quotas.securitygroups.dev`
//! and is watched by the operator.

/// The ConfigMap's name, in the product's own namespace.
pub const CONFIG_MAP: &str = "quotas";

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its key in the ConfigMap. The value is a whole number of at most [`DIGITS`] digits.
    pub key: &'static str,
    /// What holds where the key is missing: what AWS gives.
    pub default: usize,
}

/// Digits that a limit has at most.
pub const DIGITS: usize = 6;
/// (rule, peer) pairs of a group, in each direction.
pub const RULES_PER_DIRECTION: Limit = Limit { key: "rulesPerDirection", default: 50 };
/// Groups that an endpoint is in, and that an Attachment names.
pub const GROUPS_PER_ENDPOINT: Limit = Limit { key: "groupsPerEndpoint", default: 5 };
/// Groups of a namespace.
pub const GROUPS_PER_NAMESPACE: Limit = Limit { key: "groupsPerNamespace", default: 500 };
