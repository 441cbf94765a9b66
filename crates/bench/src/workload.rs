//! Policies to measure, each with flows that meet its most expensive rule, and flows that meet none.

use std::net::Ipv4Addr;

use policy::model::NodePolicy;
use testkit::Scenario;

use crate::road::{Flows, POD};

/// Flows of one measurement.
pub const COUNT: usize = 100_000;
/// Members of each peer group.
const MEMBERS: u8 = 40;

/// A policy with the flows that measure it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What to enforce.
    pub policy: NodePolicy,
    /// What to send.
    pub flows: Flows,
}

/// Who the peer group of this number has.
fn members(number: usize) -> Vec<String> {
    (1..=MEMBERS).map(|last| format!("10.{}.{}.{last}", 1 + number / 250, number % 250)).collect()
}

/// One endpoint in 5 groups of 50 rules each, every rule with a peer group of its own; the flows match the last one. Either every rule
/// has a port of its own or all have the same; with `nets` also 50 networks in each group, on that same port.
pub fn many_rules(same_port: bool, nets: bool) -> Workload {
    const GROUPS: usize = 5;
    const RULES: usize = 50;
    let port = |number: usize| if same_port { 7_777 } else { 1_000 + number };
    let mut scenario = Scenario::new();
    for number in 0..GROUPS * RULES {
        let names = members(number);
        scenario = scenario.members(&format!("peers/g{number:03}"), &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let names: Vec<String> = (0..GROUPS).map(|group| format!("shop/g{group}")).collect();
    for (group, name) in names.iter().enumerate() {
        let numbers = group * RULES..(group + 1) * RULES;
        let mut rules: Vec<String> = numbers.clone().map(|n| format!("ingress udp {} from sg/peers/g{n:03}", port(n))).collect();
        if nets {
            rules.extend(numbers.map(|n| format!("ingress udp {} from 172.16.{n}.0/24", port(n))));
        }
        scenario = scenario.group(name, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let last = GROUPS * RULES - 1;
    let sources = members(last).iter().map(|text| text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)).collect();
    let ports = vec![u16::try_from(port(last)).unwrap_or_default()];
    Workload {
        policy: scenario.pod("shop/pod", &[&POD.to_string()], &groups).policy(),
        flows: Flows { sources, ports, count: COUNT, arrive: true },
    }
}

/// So many groups with one pod in each, which lets in one peer group of so many members on one port.
pub fn many_groups(groups: usize, members: usize) -> Workload {
    let mut scenario = Scenario::new();
    let peers: Vec<String> = (0..members).map(|n| format!("10.{}.{}.{}", 16 + (n >> 16), n >> 8 & 255, n & 255)).collect();
    scenario = scenario.members("peers/all", &peers.iter().map(String::as_str).collect::<Vec<_>>());
    for number in 0..groups {
        let name = format!("shop/g{number:04}");
        let address = if number == 0 { POD.to_string() } else { format!("10.200.{}.{}", number / 250, 1 + number % 250) };
        scenario = scenario.group(&name, &["ingress udp 53 from sg/peers/all"]).pod(&format!("shop/p{number:04}"), &[&address], &[&name]);
    }
    let sources = peers.iter().take(10).map(|text| text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)).collect();
    Workload { policy: scenario.policy(), flows: Flows { sources, ports: vec![53], count: COUNT, arrive: true } }
}
