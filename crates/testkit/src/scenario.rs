//! A node's policy from a few lines of text.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::OnDeny;
use policy::id;
use policy::model::{Direction, Endpoint, GroupRef, NodePolicy, Peer, PodRef, Rule};
use policy::text::RuleText;

/// Builds a policy; panics on text that does not parse, because that is a fault of the test.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    policy: NodePolicy,
}

fn split(text: &str) -> (String, String) {
    let (namespace, name) = text.split_once('/').unwrap_or_else(|| panic!("`{text}` is not namespace/name"));
    (namespace.into(), name.into())
}

/// `shop/web` as a group.
fn group(text: &str) -> GroupRef {
    let (namespace, name) = split(text);
    GroupRef { namespace, name }
}

impl Scenario {
    /// No endpoint: nothing is filtered.
    pub fn new() -> Scenario {
        Scenario::default()
    }

    /// A group `shop/web` with rules such as `ingress tcp 80 from sg/shop/lb`.
    pub fn group(mut self, name: &str, rules: &[&str]) -> Scenario {
        for text in rules {
            let RuleText { direction, traffic, peer } = text.parse().unwrap_or_else(|error| panic!("{error}"));
            self.add_rule(&group(name), direction, traffic, peer);
        }
        self.policy.groups.entry(group(name)).or_default();
        self
    }

    pub(crate) fn add_rule(&mut self, group: &GroupRef, direction: Direction, traffic: policy::model::Traffic, peer: Peer) {
        if let Peer::Group(named) = &peer {
            self.policy.members.entry(named.clone()).or_default();
        }
        let id = id::rule(&group.to_string(), direction, traffic, &peer);
        let rules = Arc::make_mut(self.policy.groups.entry(group.clone()).or_default());
        let rules = if direction == Direction::Ingress { &mut rules.ingress } else { &mut rules.egress };
        rules.insert(Rule { traffic, peer, id });
    }

    /// A pod of this node with its addresses and groups; it is a member of those groups that a rule names.
    pub fn pod(mut self, name: &str, addresses: &[&str], groups: &[&str]) -> Scenario {
        let (namespace, pod) = split(name);
        let addresses: BTreeSet<_> = addresses.iter().map(|a| a.parse().unwrap_or_else(|_| panic!("`{a}` is no address"))).collect();
        let groups: BTreeSet<GroupRef> = groups.iter().map(|name| group(name)).collect();
        for group in &groups {
            self.policy.groups.entry(group.clone()).or_default();
        }
        let endpoint = Endpoint { addresses, groups, on_deny: OnDeny::Drop, closed: false };
        self.policy.endpoints.insert(PodRef { namespace, name: pod }, endpoint);
        self
    }

    /// All pods so far answer what they are denied (S32).
    pub fn rejecting(self) -> Scenario {
        self.each(|endpoint| Endpoint { on_deny: OnDeny::Reject, ..endpoint })
    }

    /// The kernel takes no chains for the pods so far.
    pub fn closed(self) -> Scenario {
        self.each(|endpoint| Endpoint { closed: true, ..endpoint })
    }

    fn each(mut self, change: impl Fn(Endpoint) -> Endpoint) -> Scenario {
        self.policy.endpoints = self.policy.endpoints.into_iter().map(|(pod, endpoint)| (pod, change(endpoint))).collect();
        self
    }

    /// Members of a group on other nodes.
    pub fn members(mut self, name: &str, addresses: &[&str]) -> Scenario {
        let members = self.policy.members.entry(group(name)).or_default();
        members.extend(addresses.iter().map(|a| a.parse::<std::net::IpAddr>().unwrap_or_else(|_| panic!("`{a}` is no address"))));
        self
    }

    /// The policy; the pods' addresses are in the named groups that they belong to.
    pub fn policy(mut self) -> NodePolicy {
        for endpoint in self.policy.endpoints.values() {
            for group in &endpoint.groups {
                if let Some(members) = self.policy.members.get_mut(group) {
                    members.extend(endpoint.addresses.iter().copied());
                }
            }
        }
        self.policy
    }
}
