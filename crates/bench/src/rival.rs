//! The same policies as others would write them, as nftables text; of IPv4 and forwarded packets only, and a direction only where a group
//! has rules for it, which favours them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use policy::model::{Direction, Endpoint, GroupRef, GroupRules, NodePolicy, Peer, PortRange, Rule, Traffic};

/// The table that everybody pays for who filters by connection.
pub const CONNTRACK: &str = "table inet rival {
 chain forward { type filter hook forward priority -5; policy accept; ct state established,related accept; }
}
";

/// Rules one after another, as written: a set for each peer group, a chain for each group, a look-up of the pod.
pub fn one_rule_a_peer(policy: &NodePolicy) -> String {
    let mut out = sets(policy);
    for direction in directions(policy) {
        for (group, of_group) in &policy.groups {
            let _ = writeln!(out, " chain {} {{", chain(group, direction));
            for rule in rules(of_group, direction) {
                let _ = writeln!(out, "  {} {} counter accept", traffic(rule.traffic), peer(&rule.peer, direction));
            }
            let _ = writeln!(out, " }}");
        }
        dispatch(policy, direction, &mut out);
    }
    out + "}\n"
}

/// The same without look-up of the pod: every packet is compared with every pod, every rule is a rule of the pod.
pub fn one_list(policy: &NodePolicy) -> String {
    let mut out = sets(policy);
    for direction in directions(policy) {
        base(direction, &mut out);
        for endpoint in judged(policy, direction) {
            for address in endpoint.addresses.iter().filter(|address| address.is_ipv4()) {
                let pod = format!("ip {} {address}", near(direction));
                for rule in endpoint.groups.iter().filter_map(|group| policy.groups.get(group)).flat_map(|group| rules(group, direction)) {
                    let _ = writeln!(out, "  {pod} {} {} counter accept", traffic(rule.traffic), peer(&rule.peer, direction));
                }
                let _ = writeln!(out, "  {pod} counter drop");
            }
        }
        out += " }\n";
    }
    out + "}\n"
}

/// Ingress only. Per group: a map from the peer's address to the chain of what that peer may do.
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
        let name = chain(group, Direction::Ingress);
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
            let _ = writeln!(out, "  {} {} counter accept", traffic(rule.traffic), peer(&rule.peer, Direction::Ingress));
        }
        let _ = writeln!(out, " }}");
    }
    dispatch(policy, Direction::Ingress, &mut out);
    out + "}\n"
}

/// Ingress only. Per group: a map from the port to the chain of the peers that may use it, one rule each.
pub fn port_first(policy: &NodePolicy, flags: &str) -> String {
    let mut out = sets(policy);
    for (group, rules) in &policy.groups {
        let name = chain(group, Direction::Ingress);
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
                let _ = writeln!(out, "  {} counter accept", peer(far, Direction::Ingress));
            }
            let _ = writeln!(out, " }}");
        }
        let elements: Vec<String> = ports.keys().map(|port| format!("{port} : jump {name}-{port}")).collect();
        let _ = writeln!(out, " map {name}-ports {{ type inet_service : verdict; {flags} elements = {{ {} }}; }}", elements.join(", "));
        let _ = writeln!(out, " chain {name} {{ th dport vmap @{name}-ports; }}");
    }
    dispatch(policy, Direction::Ingress, &mut out);
    out + "}\n"
}

/// What leads from one of these texts to another: elements alone, rules appended, and chains anew where they change otherwise.
pub fn change(before: &str, after: &str) -> String {
    let (old, new) = (blocks(before), blocks(after));
    let (mut less, mut more, mut gone) = (String::new(), String::new(), String::new());
    for Block { kind, name, body } in &new {
        let was = old.iter().find(|block| (block.kind, block.name) == (*kind, *name)).map(|block| block.body.as_slice());
        match was {
            None => {
                let _ = writeln!(more, "table inet rival {{\n{}\n}}", body.join("\n"));
            }
            Some(was) if was == body => {}
            Some(was) if *kind == "chain" => {
                let added = body.strip_suffix(&[" }"]).zip(was.strip_suffix(&[" }"])).and_then(|(body, was)| body.strip_prefix(was));
                match added {
                    Some(rules) => more.extend(rules.iter().map(|rule| format!("add rule inet rival {name} {}\n", rule.trim()))),
                    None => more += &format!("flush chain inet rival {name}\ntable inet rival {{\n{}\n}}\n", body.join("\n")),
                }
            }
            Some(was) => {
                let (was, is) = (elements(was), elements(body));
                for element in was.difference(&is) {
                    let key = element.split(" : ").next().unwrap_or(element);
                    let _ = writeln!(less, "delete element inet rival {name} {{ {key} }}");
                }
                for element in is.difference(&was) {
                    let _ = writeln!(more, "add element inet rival {name} {{ {element} }}");
                }
            }
        }
    }
    for Block { kind, name, .. } in old.iter().filter(|block| !new.iter().any(|new| (new.kind, new.name) == (block.kind, block.name))) {
        let _ = writeln!(gone, "delete {kind} inet rival {name}");
    }
    less + &more + &gone
}

/// A set, a map or a chain, in the lines that these texts have for it.
struct Block<'a> {
    kind: &'a str,
    name: &'a str,
    body: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with(' ')) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(kind @ ("set" | "map" | "chain")), Some(name)) if !line.starts_with("  ") => {
                blocks.push(Block { kind, name, body: vec![line] })
            }
            _ => blocks.last_mut().into_iter().for_each(|block| block.body.push(line)),
        }
    }
    blocks
}

fn elements<'a>(body: &[&'a str]) -> BTreeSet<&'a str> {
    let list = body.first().and_then(|line| line.split_once("elements = { ")?.1.split_once(" }")).map_or("", |(list, _)| list);
    list.split(", ").filter(|element| !element.is_empty()).collect()
}

/// The rules of a group in one direction.
pub fn rules(group: &GroupRules, direction: Direction) -> &BTreeSet<Rule> {
    match direction {
        Direction::Ingress => &group.ingress,
        Direction::Egress => &group.egress,
    }
}

/// Those in which anything is judged.
fn directions(policy: &NodePolicy) -> impl Iterator<Item = Direction> {
    [Direction::Egress, Direction::Ingress].into_iter().filter(|direction| judged(policy, *direction).next().is_some())
}

/// The pods with rules in a direction.
fn judged(policy: &NodePolicy, direction: Direction) -> impl Iterator<Item = &Endpoint> {
    let has = move |group: &GroupRef| policy.groups.get(group).is_some_and(|group| !rules(group, direction).is_empty());
    policy.endpoints.values().filter(move |endpoint| endpoint.groups.iter().any(has))
}

/// A look-up of the pod, which leads to its groups' chains.
fn dispatch(policy: &NodePolicy, direction: Direction, out: &mut String) {
    let mut elements = Vec::new();
    for (number, endpoint) in judged(policy, direction).enumerate() {
        let _ = writeln!(out, " chain {direction}-{number} {{");
        for group in &endpoint.groups {
            let _ = writeln!(out, "  jump {}", chain(group, direction));
        }
        let _ = writeln!(out, "  counter drop\n }}");
        let addresses = endpoint.addresses.iter().filter(|address| address.is_ipv4());
        elements.extend(addresses.map(|address| format!("{address} : goto {direction}-{number}")));
    }
    let _ = writeln!(out, " map {direction} {{ type ipv4_addr : verdict; elements = {{ {} }}; }}", elements.join(", "));
    base(direction, out);
    let _ = writeln!(out, "  ip {} vmap @{direction}\n }}", near(direction));
}

/// The head of the chain at the hook.
fn base(direction: Direction, out: &mut String) {
    let priority = if direction == Direction::Egress { -6 } else { -5 };
    let _ = writeln!(
        out,
        " chain forward-{direction} {{ type filter hook forward priority {priority}; policy accept; ct state established,related accept;"
    );
}

fn sets(policy: &NodePolicy) -> String {
    let mut out = "table inet rival {\n".to_owned();
    for (group, addresses) in &policy.members {
        let elements: Vec<String> = addresses.iter().filter(|address| address.is_ipv4()).map(ToString::to_string).collect();
        let _ = writeln!(out, " set {} {{ type ipv4_addr; elements = {{ {} }}; }}", set(group), elements.join(", "));
    }
    out
}

fn chain(group: &GroupRef, direction: Direction) -> String {
    format!("{direction}-{}-{}", group.namespace, group.name)
}

fn set(group: &GroupRef) -> String {
    format!("m-{}-{}", group.namespace, group.name)
}

fn traffic(traffic: Traffic) -> String {
    match traffic {
        Traffic::Transport(transport, Some(PortRange { from, to })) if from == to => format!("{transport} dport {from}"),
        Traffic::Transport(transport, Some(PortRange { from, to })) => format!("{transport} dport {from}-{to}"),
        Traffic::Transport(transport, None) => format!("meta l4proto {transport}"),
        _ => String::new(),
    }
}

/// Where the pod's own address stands.
fn near(direction: Direction) -> &'static str {
    if direction == Direction::Ingress { "daddr" } else { "saddr" }
}

fn peer(peer: &Peer, direction: Direction) -> String {
    let far = if direction == Direction::Ingress { "saddr" } else { "daddr" };
    match peer {
        Peer::Group(group) => format!("ip {far} @{}", set(group)),
        Peer::Net(net) => format!("ip {far} {net}"),
        Peer::PrefixList(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Worst;

    #[test]
    fn a_change_is_what_differs() {
        let text = |elements: &str, rules: &str, chains: &str| {
            format!("table inet rival {{\n set s {{ type ipv4_addr; elements = {{ {elements} }}; }}\n chain c {{\n{rules} }}\n{chains}}}\n")
        };
        let base = text("10.0.0.1", "  counter accept\n", "");
        assert_eq!(change(&base, &base), "");
        let other = text("10.0.0.2", "  counter accept\n  counter drop\n", " chain d {\n  counter drop\n }\n");
        let there = "delete element inet rival s { 10.0.0.1 }\nadd element inet rival s { 10.0.0.2 }\nadd rule inet rival c counter drop\n\
                     table inet rival {\n chain d {\n  counter drop\n }\n}\n";
        assert_eq!(change(&base, &other), there);
        let back = "delete element inet rival s { 10.0.0.2 }\nadd element inet rival s { 10.0.0.1 }\nflush chain inet rival c\n\
                    table inet rival {\n chain c {\n  counter accept\n }\n}\ndelete chain inet rival d\n";
        assert_eq!(change(&other, &base), back);
    }

    #[test]
    fn the_rule_that_is_met_is_the_last_of_those_of_its_pod() {
        for bits in 0..8 {
            let worst = Worst { same_port: bits & 1 > 0, nets: bits & 2 > 0, both_ends: bits & 4 > 0, ..Worst::of(250) };
            let policy = worst.workload().policy;
            for text in [one_list(&policy), one_rule_a_peer(&policy)] {
                for (direction, judged) in [("ingress", true), ("egress", worst.both_ends)] {
                    let last = text.lines().rfind(|line| line.ends_with("accept") && line.contains(&format!("@m-peers-{direction}")));
                    assert_eq!(last.is_some_and(|line| line.contains(&format!("@m-peers-{direction}0249 "))), judged, "{worst:?}");
                }
            }
        }
    }
}
