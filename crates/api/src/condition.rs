//! Names of conditions.

/// The one-word answer, as kstatus, Argo CD, Flux and `helm --wait` read it.
pub const READY: &str = "Ready";
/// Understood as a whole.
pub const ACCEPTED: &str = "Accepted";
/// Every node with a member has this generation in its kernel.
pub const PROGRAMMED: &str = "Programmed";
/// Some peers match nothing (S20).
pub const STALE_RULES: &str = "StaleRules";
/// Packets of a node's guarded pods pass its forwarding path, where the rules are; Unknown where that cannot be told. While it is not True
/// nothing is said to be in force there. Of a NodeReport.
pub const TRAFFIC_FILTERED: &str = "TrafficFiltered";
/// What a node's guarded pods send each other over a Linux bridge meets the rules (S30). Of a NodeReport.
pub const BRIDGE_TRAFFIC_FILTERED: &str = "BridgeTrafficFiltered";
/// Nobody but the agent has changed the node's table of late; False for some minutes after it was put right. Of a NodeReport.
pub const RULESET_INTACT: &str = "RulesetIntact";
/// The node's kernel takes everything that rules consist of; while it is False nothing is in force there. Of a NodeReport.
pub const KERNEL_SUPPORTED: &str = "KernelSupported";
/// Not over a limit (S24).
pub const WITHIN_QUOTA: &str = "WithinQuota";
/// False while the object is marked for deletion and something still names it; absent otherwise.
pub const DELETABLE: &str = "Deletable";
