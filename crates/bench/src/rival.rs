//! The same policies as others would write them, as nftables text; ingress of IPv4 only, which favours them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use policy::model::{GroupRef, NodePolicy, Peer, PortRange, Rule, Traffic};

/// The table that everybody pays for who filters by connection.
pub const CONNTRACK: &str = "table inet rival {
 chain forward { type filter hook forward priority -5; policy accept; ct state established,related accept; }
}
";

/// Rules one after another, as written: a set for each peer group, a chain for each group, a look-up of the pod.
pub fn one_rule_a_peer(policy: &NodePolicy) -> String {
    let mut out = sets(policy);
    for (group, rules) in &policy.groups {
        let _ = writeln!(out, " chain {} {{", chain(group));
        for rule in &rules.ingress {
            let _ = writeln!(out, "  {} {} counter accept", traffic(rule.traffic), peer(&rule.peer));
        }
        let _ = writeln!(out, " }}");
    }
    dispatch(policy, out, |group| format!("jump {}", chain(group)))
}

/// The same without look-up of the pod: every packet is compared with every pod, every rule is a rule of the pod.
pub fn one_list(policy: &NodePolicy) -> String {
    let mut out = sets(policy);
    out += " chain forward { type filter hook forward priority -5; policy accept; ct state established,related accept;\n";
    for endpoint in policy.endpoints.values() {
        for address in endpoint.addresses.iter().filter(|address| address.is_ipv4()) {
            for rule in endpoint.groups.iter().filter_map(|group| policy.groups.get(group)).flat_map(|rules| &rules.ingress) {
                let _ = writeln!(out, "  ip daddr {address} {} {} counter accept", traffic(rule.traffic), peer(&rule.peer));
            }
            let _ = writeln!(out, "  ip daddr {address} counter drop");
        }
    }
    out + " }\n}\n"
}

/// Per group: a map from the peer's address to the chain of what that peer may do.
pub fn peer_first(policy: &NodePolicy) -> String {
    let mut out = sets(policy);
    for (group, rules) in &policy.groups {
        let mut by_peer: BTreeMap<IpAddr, Vec<&Rule>> = BTreeMap::new();
        for rule in &rules.ingress {
            if let Peer::Group(named) = &rule.peer {
                for address in policy.members.get(named).into_iter().flatten().filter(|address| address.is_ipv4()) {
                    by_peer.entry(*address).or_default().push(rule);
                }
            }
        }
        let mut chains: BTreeMap<Vec<&Rule>, usize> = BTreeMap::new();
        for rules in by_peer.values() {
            let next = chains.len();
            chains.entry(rules.clone()).or_insert(next);
        }
        let name = chain(group);
        for (rules, number) in &chains {
            let _ = writeln!(out, " chain {name}-{number} {{");
            for rule in rules {
                let _ = writeln!(out, "  {} counter accept", traffic(rule.traffic));
            }
            let _ = writeln!(out, " }}");
        }
        let elements: Vec<String> =
            by_peer.iter().filter_map(|(address, rules)| Some(format!("{address} : jump {name}-{}", chains.get(rules)?))).collect();
        let _ = writeln!(out, " map {name}-peers {{ type ipv4_addr : verdict; elements = {{ {} }}; }}", elements.join(", "));
        let _ = writeln!(out, " chain {name} {{ ip saddr vmap @{name}-peers");
        for rule in rules.ingress.iter().filter(|rule| matches!(rule.peer, Peer::Net(_))) {
            let _ = writeln!(out, "  {} {} counter accept", traffic(rule.traffic), peer(&rule.peer));
        }
        let _ = writeln!(out, " }}");
    }
    dispatch(policy, out, |group| format!("jump {}", chain(group)))
}

/// Per group: a map from the port to the chain of the peers that may use it, one rule each.
pub fn port_first(policy: &NodePolicy, flags: &str) -> String {
    let mut out = sets(policy);
    for (group, rules) in &policy.groups {
        let name = chain(group);
        let mut ports: BTreeMap<u16, Vec<&Peer>> = BTreeMap::new();
        for rule in &rules.ingress {
            if let Traffic::Transport(_, Some(PortRange { from, to })) = rule.traffic
                && from == to
            {
                ports.entry(from).or_default().push(&rule.peer);
            }
        }
        for (port, peers) in &ports {
            let _ = writeln!(out, " chain {name}-{port} {{");
            for far in peers {
                let _ = writeln!(out, "  {} counter accept", peer(far));
            }
            let _ = writeln!(out, " }}");
        }
        let elements: Vec<String> = ports.keys().map(|port| format!("{port} : jump {name}-{port}")).collect();
        let _ = writeln!(out, " map {name}-ports {{ type inet_service : verdict; {flags} elements = {{ {} }}; }}", elements.join(", "));
        let _ = writeln!(out, " chain {name} {{ udp dport vmap @{name}-ports; }}");
    }
    dispatch(policy, out, |group| format!("jump {}", chain(group)))
}

fn dispatch(policy: &NodePolicy, mut out: String, to: impl Fn(&GroupRef) -> String) -> String {
    let mut elements = Vec::new();
    for (number, endpoint) in policy.endpoints.values().enumerate() {
        let _ = writeln!(out, " chain pod-{number} {{");
        for group in &endpoint.groups {
            let _ = writeln!(out, "  {}", to(group));
        }
        let _ = writeln!(out, "  counter drop\n }}");
        elements
            .extend(endpoint.addresses.iter().filter(|address| address.is_ipv4()).map(|address| format!("{address} : goto pod-{number}")));
    }
    let _ = writeln!(out, " map pods {{ type ipv4_addr : verdict; elements = {{ {} }}; }}", elements.join(", "));
    out + " chain forward { type filter hook forward priority -5; policy accept; ct state established,related accept; ip daddr vmap @pods; }\n}\n"
}

fn sets(policy: &NodePolicy) -> String {
    let mut out = "table inet rival {\n".to_owned();
    for (group, addresses) in &policy.members {
        let elements: Vec<String> = addresses.iter().filter(|address| address.is_ipv4()).map(ToString::to_string).collect();
        let _ = writeln!(out, " set {} {{ type ipv4_addr; elements = {{ {} }}; }}", set(group), elements.join(", "));
    }
    out
}

fn chain(group: &GroupRef) -> String {
    format!("in-{}-{}", group.namespace, group.name)
}

fn set(group: &GroupRef) -> String {
    format!("m-{}-{}", group.namespace, group.name)
}

fn traffic(traffic: Traffic) -> String {
    match traffic {
        Traffic::Transport(_, Some(PortRange { from, to })) if from == to => format!("udp dport {from}"),
        Traffic::Transport(_, Some(PortRange { from, to })) => format!("udp dport {from}-{to}"),
        _ => "meta l4proto udp".into(),
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Group(group) => format!("ip saddr @{}", set(group)),
        Peer::Net(net) => format!("ip saddr {net}"),
        Peer::PrefixList(_) => String::new(),
    }
}
