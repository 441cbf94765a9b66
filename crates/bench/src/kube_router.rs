//! The same policies as kube-router's iptables mode (version 2) writes them: a NetworkPolicy for each group; IPv4 and forwarded packets only.
//!
//! Names are numbered instead of hashed. Sets may have more members than kube-router's 65,536.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use policy::model::{Direction, Endpoint, GroupRef, GroupRules, NodePolicy, Peer, PodRef, PortRange, Rule, Traffic};

use crate::rival::rules;

/// What the two programs read.
pub struct Text {
    /// For `ipset restore`.
    pub sets: String,
    /// For `iptables-restore`.
    pub rules: String,
}

/// What every node has before its first pod.
const HEAD: &str = "*filter
:FORWARD ACCEPT [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-NWPLCY-COMMON - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
:KUBE-NWPLCY-TAIL - [0:0]
-A FORWARD -m comment --comment \"kube-router netpol\" -j KUBE-ROUTER-FORWARD
-A KUBE-NWPLCY-COMMON -m conntrack --ctstate INVALID -j DROP
-A KUBE-NWPLCY-COMMON -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-NWPLCY-COMMON -p icmp --icmp-type echo-request -j ACCEPT
-A KUBE-NWPLCY-COMMON -p icmp --icmp-type destination-unreachable -j ACCEPT
-A KUBE-NWPLCY-COMMON -p icmp --icmp-type time-exceeded -j ACCEPT
-A KUBE-NWPLCY-DEFAULT -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-TAIL -m mark --mark 0x20000/0x20000 -j ACCEPT
";
/// What it has after its last pod.
const TAIL: &str = "-A KUBE-ROUTER-FORWARD -m mark --mark 0x20000/0x20000 -j ACCEPT
-A KUBE-ROUTER-FORWARD -j KUBE-NWPLCY-TAIL
COMMIT
";

/// The whole of it.
pub fn text(policy: &NodePolicy) -> Text {
    let mut text = Text { sets: String::new(), rules: HEAD.into() };
    for (number, (group, rules)) in policy.groups.iter().enumerate() {
        text.group(policy, number, group, rules);
    }
    for (number, (pod, endpoint)) in policy.endpoints.iter().enumerate() {
        for address in v4(&endpoint.addresses) {
            text.pod(policy, number, pod, endpoint, address);
        }
    }
    text.rules += TAIL;
    text
}

/// What leads from one text to another.
pub struct Steps {
    /// For `ipset restore`, before the rules.
    pub before: String,
    /// For `iptables-restore`: the whole table, where anything in it differs.
    pub rules: Option<String>,
    /// For `ipset restore`, once no rule names them any more.
    pub after: String,
}

/// Sets element by element, rules as a whole, as kube-router does it.
pub fn change(from: &Text, to: &Text) -> Steps {
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (from.sets.lines().collect(), to.sets.lines().collect());
    // Sets are made before they are filled.
    let mut before: String = to.sets.lines().filter(|line| !old.contains(line)).map(|line| format!("{line}\n")).collect();
    let mut after = String::new();
    let destroyed: BTreeSet<&str> = old.difference(&new).filter_map(|line| line.strip_prefix("create ")?.split(' ').next()).collect();
    for line in old.difference(&new) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["create", name, ..] => drop(writeln!(after, "destroy {name}")),
            ["add", name, element, ..] if !destroyed.contains(name) => drop(writeln!(before, "del {name} {element}")),
            _ => {}
        }
    }
    Steps { before, rules: (from.rules != to.rules).then(|| to.rules.clone()), after }
}

impl Text {
    /// A policy: a set of its pods, a set for each rule, and two rules each, of which the second returns what the first has marked.
    fn group(&mut self, policy: &NodePolicy, number: usize, group: &GroupRef, of_group: &GroupRules) {
        let chain = policy_chain(number);
        let _ = writeln!(self.rules, ":{chain} - [0:0]");
        let pods = policy.endpoints.values().filter(|endpoint| endpoint.groups.contains(group)).flat_map(|endpoint| &endpoint.addresses);
        let own = format!("KUBE-PODS-{number:08}");
        self.set(&own, "hash:ip", pods.filter(|address| address.is_ipv4()));
        for direction in [Direction::Ingress, Direction::Egress] {
            for (place, rule) in rules(of_group, direction).iter().enumerate() {
                let far = format!("KUBE-{}-{number:08}-{place:04}", if direction == Direction::Ingress { "SRC" } else { "DST" });
                match &rule.peer {
                    Peer::Group(named) => self.set(&far, "hash:ip", v4(policy.members.get(named).into_iter().flatten())),
                    Peer::Net(net) => self.set(&far, "hash:net", [net]),
                    Peer::PrefixList(_) => continue,
                }
                let (source, destination) = if direction == Direction::Ingress { (&far, &own) } else { (&own, &far) };
                let matches = format!(
                    "-A {chain} -m comment --comment \"{group} {direction}\" -m set --match-set {source} src -m set --match-set {destination} dst{}",
                    traffic(rule)
                );
                let _ = writeln!(self.rules, "{matches} -j MARK --set-xmark 0x10000/0x10000");
                let _ = writeln!(self.rules, "{matches} -m mark --mark 0x10000/0x10000 -j RETURN");
            }
        }
    }

    /// A pod: what leads to its chain, one rule after another for all pods, and the chain, which asks one policy after another.
    fn pod(&mut self, policy: &NodePolicy, number: usize, pod: &PodRef, endpoint: &Endpoint, address: IpAddr) {
        let chain = format!("KUBE-POD-FW-{number:016}");
        let out = &mut self.rules;
        let _ = writeln!(out, ":{chain} - [0:0]");
        for (end, says) in [("-d", "in"), ("-s", "out")] {
            let says = format!("-m comment --comment \"{pod} {says}\"");
            let _ = writeln!(out, "-A KUBE-ROUTER-FORWARD {says} {end} {address} -j {chain}");
            let _ = writeln!(out, "-A KUBE-ROUTER-FORWARD -m physdev --physdev-is-bridged {says} {end} {address} -j {chain}");
        }
        let _ = writeln!(out, "-A {chain} -m comment --comment \"common netpol rules\" -j KUBE-NWPLCY-COMMON");
        let _ = writeln!(out, "-A {chain} -m comment --comment \"from local node\" -m addrtype --src-type LOCAL -d {address} -j ACCEPT");
        let groups = || policy.groups.iter().enumerate().filter(|(_, (group, _))| endpoint.groups.contains(group));
        for (direction, end) in [(Direction::Egress, "-s"), (Direction::Ingress, "-d")] {
            if groups().all(|(_, (_, of_group))| rules(of_group, direction).is_empty()) {
                let _ = writeln!(out, "-A {chain} {end} {address} -j KUBE-NWPLCY-DEFAULT");
            }
        }
        for (number, (group, of_group)) in groups() {
            let end = match (of_group.ingress.is_empty(), of_group.egress.is_empty()) {
                (false, false) => String::new(),
                (true, false) => format!("-s {address}"),
                (_, true) => format!("-d {address}"),
            };
            let _ = writeln!(out, "-A {chain} {end} -m comment --comment \"{group} policy\" -j {}", policy_chain(number));
        }
        let _ = writeln!(
            out,
            "-A {chain} -m mark ! --mark 0x10000/0x10000 -m limit --limit 10/minute --limit-burst 10 -j NFLOG --nflog-group 100"
        );
        let _ = writeln!(out, "-A {chain} -m mark ! --mark 0x10000/0x10000 -j REJECT");
        let _ = writeln!(out, "-A {chain} -j MARK --set-mark 0/0x10000");
        let _ = writeln!(out, "-A {chain} -j MARK --set-mark 0x20000/0x20000");
    }

    fn set(&mut self, name: &str, kind: &str, elements: impl IntoIterator<Item = impl std::fmt::Display>) {
        let _ = writeln!(self.sets, "create {name} {kind} family inet hashsize 1024 maxelem 1048576 timeout 0");
        for element in elements {
            let _ = writeln!(self.sets, "add {name} {element} timeout 0");
        }
    }
}

fn policy_chain(number: usize) -> String {
    format!("KUBE-NWPLCY-{number:016}")
}

fn v4<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> impl Iterator<Item = IpAddr> {
    addresses.into_iter().copied().filter(IpAddr::is_ipv4)
}

fn traffic(rule: &Rule) -> String {
    match rule.traffic {
        Traffic::Transport(transport, Some(PortRange { from, to })) if from == to => format!(" -p {transport} --dport {from}"),
        Traffic::Transport(transport, Some(PortRange { from, to })) => format!(" -p {transport} --dport {from}:{to}"),
        Traffic::Transport(transport, None) => format!(" -p {transport}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use policy::model::Transport;

    use super::*;
    use crate::workload::{Worst, many_groups};

    fn after<'a>(text: &'a str, word: &str) -> BTreeSet<&'a str> {
        let following = |line: &'a str| line.split_once(word).and_then(|(_, rest)| rest.split(' ').next());
        text.lines().filter_map(following).collect()
    }

    #[test]
    fn every_chain_and_set_that_is_named_is_made() {
        let worst = Worst { nets: true, both_ends: true, ..Worst::of(10) };
        for policy in [worst.workload().policy, many_groups(Transport::Tcp, 7, 20).policy] {
            let Text { sets, rules } = text(&policy);
            let chains: BTreeSet<&str> = rules.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
            let jumps: BTreeSet<&str> = after(&rules, " -j ").into_iter().filter(|name| name.starts_with("KUBE-")).collect();
            assert!(jumps.is_subset(&chains), "{:?}", jumps.difference(&chains));
            // A chain's name has 28 letters at most, a set's 31.
            assert!(chains.iter().all(|name| name.len() <= 28));
            let made = after(&sets, "create ");
            let own = after(&rules, "--match-set ");
            assert!(!own.is_empty() && own.is_subset(&made) && made.iter().all(|name| name.len() <= 31));
        }
    }

    #[test]
    fn a_change_is_elements_and_the_whole_of_the_rules() {
        let text = |sets: &str, rules: &str| Text { sets: sets.into(), rules: rules.into() };
        let (one, other) = (text("create a x\nadd a 1 t\n", "r"), text("create a x\nadd a 2 t\ncreate b x\nadd b 3 t\n", "s"));
        let there = change(&one, &other);
        assert_eq!(
            (there.before.as_str(), there.rules.as_deref(), there.after.as_str()),
            ("add a 2 t\ncreate b x\nadd b 3 t\ndel a 1\n", Some("s"), "")
        );
        let back = change(&other, &one);
        assert_eq!((back.before.as_str(), back.rules.as_deref(), back.after.as_str()), ("add a 1 t\ndel a 2\n", Some("r"), "destroy b\n"));
        assert_eq!(change(&one, &one).rules, None);
    }

    #[test]
    fn a_rule_is_two_and_a_policy_judges_its_own_directions() {
        let Text { rules, .. } = text(&Worst { both_ends: true, ..Worst::of(10) }.workload().policy);
        let count = |what: &str| rules.lines().filter(|line| line.contains(what)).count();
        // Ten each way, and one of the pod that may send nothing.
        assert_eq!((count("--match-set KUBE-SRC-"), count("dst -p udp --dport")), (20, 42));
        assert!(rules.lines().rfind(|line| line.contains("KUBE-SRC")).is_some_and(|line| line.contains("KUBE-SRC-00000009-0001 ")));
        // The receiver has no egress policy, four senders and the mute one have no ingress policy.
        assert_eq!((count("-s 10.0.0.1 -j KUBE-NWPLCY-DEFAULT"), count("-j KUBE-NWPLCY-DEFAULT")), (1, 6));
    }
}
