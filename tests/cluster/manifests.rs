//! Random manifests, such as users write them.

use std::collections::BTreeSet;

use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

/// One object as it is written.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

impl Manifest {
    fn new(kind: &str, namespace: &str, name: &str, spec: Value) -> Manifest {
        let object = json!({
            "apiVersion": "securitygroups.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        Manifest { kind: kind.into(), namespace: namespace.into(), name: name.into(), object }
    }

    /// What no two have in common.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

const GROUPS: [&str; 3] = ["g1", "g2", "g3"];
const LABELS: [&str; 4] = ["a", "b", "c", "d"];

/// Makes them from a seed.
pub struct Maker {
    random: TestRng,
    namespaces: Vec<String>,
}

impl Maker {
    /// The same seed makes the same manifests.
    pub fn new(seed: u64, namespaces: &[&str]) -> Maker {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Maker { random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes), namespaces: namespaces.iter().map(ToString::to_string).collect() }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        use proptest::prelude::Rng;
        usize::try_from(self.random.next_u64() % end as u64).unwrap_or(0)
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// The groups, lists and attachments of all namespaces; lists and groups first.
    pub fn everything(&mut self) -> Vec<Manifest> {
        let mut all = Vec::new();
        for namespace in self.namespaces.clone() {
            for family in ["IPv4", "IPv6"] {
                all.push(self.list(&namespace, family));
            }
            for name in GROUPS {
                all.push(self.group(&namespace, name));
            }
            for label in &LABELS[..3] {
                all.push(self.attachment(&namespace, label));
            }
        }
        all
    }

    /// A change: of one object as a whole, or of a pod's label.
    pub fn edit(&mut self) -> Manifest {
        let namespaces = self.namespaces.clone();
        let i = self.below(namespaces.len());
        let namespace = &namespaces[i];
        match self.below(8) {
            0..=3 => {
                let name = self.one(&GROUPS);
                self.group(namespace, name)
            }
            4 => {
                let family = self.one(&["IPv4", "IPv6"]);
                self.list(namespace, family)
            }
            5 => {
                let label = self.one(&LABELS[..3]);
                self.attachment(namespace, label)
            }
            _ => {
                let pod = format!("p{}", self.below(4) * namespaces.len() + i);
                let label = self.one(&LABELS);
                let object = json!({"metadata": {"labels": {"app": label}}});
                Manifest { kind: "Pod".into(), namespace: namespace.clone(), name: pod, object }
            }
        }
    }

    fn group(&mut self, namespace: &str, name: &str) -> Manifest {
        let mut spec = json!({"ingress": self.rules("from", namespace, name), "onDeny": self.one(&["Drop", "Reject"])});
        match self.below(4) {
            0 => spec["egress"] = Value::Array(self.rules("to", namespace, name)),
            1 => {
                spec["egress"] =
                    json!([{"protocol": "All", "to": [{"cidr": "10.244.0.0/16"}, {"securityGroup": {"name": "g2", "namespace": "r1"}}]}])
            }
            _ => {}
        }
        Manifest::new("SecurityGroup", namespace, name, spec)
    }

    /// Rules without two of the same (S22).
    fn rules(&mut self, side: &str, namespace: &str, own: &str) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let mut rules = Vec::new();
        for _ in 0..self.below(5) + 1 {
            let mut rule = self.traffic();
            let family = match rule["protocol"].as_str() {
                Some("ICMP") => Some(true),
                Some("ICMPv6") => Some(false),
                _ => None,
            };
            let peers: Vec<Value> = (0..self.below(2) + 1)
                .map(|_| self.peer(namespace, own, family))
                .filter(|peer| seen.insert(format!("{rule} {peer}")))
                .collect();
            if !peers.is_empty() {
                rule[side] = Value::Array(peers);
                rules.push(rule);
            }
        }
        rules
    }

    fn traffic(&mut self) -> Value {
        match self.below(7) {
            0 | 1 => json!({"protocol": "TCP", "port": 80}),
            2 => json!({"protocol": "TCP", "port": 79, "endPort": 81}),
            3 => json!({"protocol": "UDP"}),
            4 => json!({"protocol": "ICMP", "icmpType": 8}),
            5 => json!({"protocol": "ICMPv6"}),
            _ => json!({"protocol": "All"}),
        }
    }

    fn peer(&mut self, namespace: &str, own: &str, v4: Option<bool>) -> Value {
        let v4 = v4.unwrap_or_else(|| self.below(2) == 0);
        match self.below(6) {
            0 => json!({"self": true}),
            1 | 2 => {
                let other = self.below(self.namespaces.len());
                let other = self.namespaces[other].clone();
                let name = self.one(&GROUPS);
                // A group's own name and `self` are the same peer.
                if (other.as_str(), name) == (namespace, own) {
                    json!({"self": true})
                } else {
                    json!({"securityGroup": {"name": name, "namespace": other}})
                }
            }
            3 => json!({"prefixList": {"name": if v4 { "ipv4" } else { "ipv6" }}}),
            _ => json!({"cidr": self.network(v4)}),
        }
    }

    /// A pod's, a node's, everybody's, the world's.
    fn network(&mut self, v4: bool) -> String {
        let node = self.below(2) + 1;
        let last = self.below(8) + 2;
        match (v4, self.below(5)) {
            (true, 0) => format!("10.244.{node}.{last}/32"),
            (true, 1) => format!("10.244.{node}.0/29"),
            (true, 2) => format!("10.244.{node}.7/24"),
            (true, 3) => "203.0.113.10/31".into(),
            (true, _) => "0.0.0.0/0".into(),
            (false, 0) => format!("fd00:244:{node}::{last:x}/128"),
            (false, 1) => format!("fd00:244:{node}::/125"),
            (false, 2) => format!("fd00:244:{node}::7/64"),
            (false, 3) => "2001:db8:113::10/127".into(),
            (false, _) => "::/0".into(),
        }
    }

    fn list(&mut self, namespace: &str, family: &str) -> Manifest {
        let networks: BTreeSet<String> = (0..self.below(4)).map(|_| self.network(family == "IPv4")).collect();
        let entries: Vec<Value> = networks.iter().map(|cidr| json!({"cidr": cidr})).collect();
        let spec = json!({"addressFamily": family, "maxEntries": 10, "entries": entries});
        Manifest::new("PrefixList", namespace, &family.to_lowercase(), spec)
    }

    fn attachment(&mut self, namespace: &str, label: &str) -> Manifest {
        let groups: BTreeSet<&str> = (0..self.below(2) + 1).map(|_| self.one(&GROUPS)).collect();
        let spec = json!({"securityGroups": groups, "podSelector": {"matchLabels": {"app": label}}});
        Manifest::new("Attachment", namespace, &format!("app-{label}"), spec)
    }
}
