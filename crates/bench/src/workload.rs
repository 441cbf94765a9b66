//! Policies to measure, each with flows that meet its most expensive rule.

use std::net::Ipv4Addr;

use policy::model::{NodePolicy, Transport};
use testkit::Scenario;

use crate::road::{Flows, POD};

/// Groups of a pod at most, as AWS has it.
const GROUPS: usize = 5;
/// The one port, where there is one.
pub const PORT: u16 = 7_777;
/// In no group.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// A pod of this node that everybody lets in, but that may send nothing.
const MUTE: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 99);

/// A policy with the flows that measure it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What to enforce.
    pub policy: NodePolicy,
    /// What to send; it arrives.
    pub flows: Flows,
    /// What must not arrive.
    pub denied: Flows,
}

/// One endpoint in 5 groups that share so many rules, every rule with a peer group of its own; the flows match the last one.
#[derive(Clone, Copy, Debug)]
pub struct Worst {
    /// Of TCP or of UDP.
    pub transport: Transport,
    /// How many.
    pub rules: usize,
    /// All have the same port; otherwise each has its own.
    pub same_port: bool,
    /// As many networks more, on the same ports.
    pub nets: bool,
    /// The senders are pods of this node too, with as many rules for what they may send.
    pub both_ends: bool,
    /// Of each peer group; 1,000 at most.
    pub members: usize,
}

impl Worst {
    /// So many rules of UDP, each with a port of its own.
    pub const fn of(rules: usize) -> Worst {
        Worst { transport: Transport::Udp, rules, same_port: false, nets: false, both_ends: false, members: 40 }
    }

    /// The policy and its flows.
    pub fn workload(self) -> Workload {
        let senders: Vec<Ipv4Addr> = (1..=4).map(|last| Ipv4Addr::new(10, 100, 0, last)).collect();
        let last = self.rules - 1;
        let mut scenario = self.groups(Scenario::new(), "ingress", "from");
        let mut sources = members("ingress", last, self.members);
        let mut strangers = vec![STRANGER];
        if self.both_ends {
            scenario = self.groups(scenario, "egress", "to");
            let outside: Vec<String> = senders.iter().chain([&MUTE]).map(ToString::to_string).collect();
            scenario = scenario.members(&peers("ingress", last), &texts(&outside));
            scenario = scenario.members(&peers("egress", last), &[&POD.to_string()]);
            for sender in &senders {
                scenario = scenario.pod(&format!("shop/{sender}"), &[&sender.to_string()], &texts(&self.names("egress")));
            }
            scenario =
                scenario.group("shop/mute", &["egress udp 1 to 192.0.2.1/32"]).pod("shop/mute", &[&MUTE.to_string()], &["shop/mute"]);
            sources = senders;
            strangers.push(MUTE);
        }
        let policy = scenario.pod("shop/pod", &[&POD.to_string()], &texts(&self.names("ingress"))).policy();
        Workload::new(policy, sources, strangers, self.port(last))
    }

    fn port(self, number: usize) -> u16 {
        let is_last = number + 1 == self.rules;
        if self.same_port || is_last { PORT } else { 1_000 + u16::try_from(number).unwrap_or_default() }
    }

    /// The groups of one direction.
    fn names(self, direction: &str) -> Vec<String> {
        (0..GROUPS.min(self.rules)).map(|group| format!("shop/{direction}{group}")).collect()
    }

    fn groups(self, mut scenario: Scenario, direction: &str, preposition: &str) -> Scenario {
        let names = self.names(direction);
        let numbers: Vec<usize> = (0..self.rules).collect();
        for (name, numbers) in names.iter().zip(numbers.chunks(self.rules.div_ceil(names.len()))) {
            let mut rules = Vec::new();
            for &number in numbers {
                let (port, peers) = (self.port(number), peers(direction, number));
                scenario = scenario
                    .members(&peers, &texts(&members(direction, number, self.members).iter().map(ToString::to_string).collect::<Vec<_>>()));
                rules.push(format!("{direction} {} {port} {preposition} sg/{peers}", self.transport));
                if self.nets {
                    rules.push(format!("{direction} {} {port} {preposition} 172.16.{number}.0/24", self.transport));
                }
            }
            scenario = scenario.group(name, &texts(&rules));
        }
        scenario
    }
}

impl Workload {
    fn new(policy: NodePolicy, sources: Vec<Ipv4Addr>, strangers: Vec<Ipv4Addr>, port: u16) -> Workload {
        Workload { policy, flows: Flows { sources, port }, denied: Flows { sources: strangers, port } }
    }
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The peer group of the rule of this number.
fn peers(direction: &str, number: usize) -> String {
    format!("peers/{direction}{number:04}")
}

/// Who that group has.
fn members(direction: &str, number: usize, members: usize) -> Vec<Ipv4Addr> {
    let net = if direction == "ingress" { 1 } else { 51 };
    let octet = |number: usize| u8::try_from(number).unwrap_or_default();
    let address = |member: usize| {
        Ipv4Addr::new(10, net + octet(number / 250) + octet(10 * (member / 250)), octet(number % 250), octet(1 + member % 250))
    };
    (0..members).map(address).collect()
}

/// So many groups, each of which lets in one peer group of so many members on one port; the measured pod has the last one for itself, the
/// others are spread over pods of 5 groups each.
pub fn many_groups(transport: Transport, groups: usize, members: usize) -> Workload {
    let peers: Vec<Ipv4Addr> =
        (0..members).map(|number| Ipv4Addr::from_bits(0x0a10_0000 + u32::try_from(number).unwrap_or_default())).collect();
    let texts_of_peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let mut scenario = Scenario::new().members("peers/all", &texts(&texts_of_peers));
    let mut names: Vec<String> = (0..groups).map(|number| format!("shop/g{number:04}")).collect();
    for name in &names {
        scenario = scenario.group(name, &[&format!("ingress {transport} {PORT} from sg/peers/all")]);
    }
    let own = names.pop().unwrap_or_default();
    for (number, names) in names.chunks(GROUPS).enumerate() {
        let address = format!("10.200.{}.{}", number / 250, 1 + number % 250);
        scenario = scenario.pod(&format!("shop/p{number:04}"), &[&address], &texts(names));
    }
    let policy = scenario.pod("shop/the-last", &[&POD.to_string()], &[&own]).policy();
    Workload::new(policy, peers.into_iter().take(10).collect(), vec![STRANGER], PORT)
}

#[cfg(test)]
mod tests {
    use policy::model::{ConnState, Packet, Path, Payload, Rule, Verdict};

    use super::*;

    fn verdicts(policy: &NodePolicy, flows: &Flows) -> Vec<Verdict> {
        let payload = Payload::Transport { protocol: Transport::Udp, source: 10_000, destination: flows.port };
        let packet = |source: &Ipv4Addr| Packet {
            source: (*source).into(),
            destination: POD.into(),
            payload,
            state: ConnState::New,
            path: Path::Forward,
        };
        flows.sources.iter().map(|source| policy::verdict(policy, &packet(source))).collect()
    }

    fn all(policy: &NodePolicy, flows: &Flows, verdict: Verdict) -> bool {
        verdicts(policy, flows).iter().all(|found| *found == verdict)
    }

    #[test]
    fn flows_are_allowed_by_the_last_rule_of_the_last_group_and_by_no_other() {
        for bits in 0..8 {
            let worst = Worst { same_port: bits & 1 > 0, nets: bits & 2 > 0, both_ends: bits & 4 > 0, ..Worst::of(250) };
            let Workload { policy, flows, denied } = worst.workload();
            assert!(all(&policy, &flows, Verdict::Allow), "{worst:?}");
            assert!(all(&policy, &denied, Verdict::Drop), "{worst:?}");
            let ends = [("ingress4", true), ("egress4", false)];
            for (name, ingress) in &ends[..if worst.both_ends { 2 } else { 1 }] {
                let mut less = policy.clone();
                let group = policy.groups.keys().find(|group| group.name == *name).expect("the group");
                let rules = less.groups.get_mut(group).map(std::sync::Arc::make_mut);
                let rules = rules.map(|rules| if *ingress { &mut rules.ingress } else { &mut rules.egress });
                let last: Option<Rule> = rules.and_then(std::collections::BTreeSet::pop_last);
                assert!(last.is_some_and(|rule| rule.peer.to_string().ends_with("0249")));
                assert!(all(&less, &flows, Verdict::Drop), "{worst:?} without the last rule of {name}");
            }
        }
    }

    #[test]
    fn every_member_has_an_address_of_its_own() {
        let all: Vec<Ipv4Addr> =
            ["ingress", "egress"].iter().flat_map(|way| (0..250).flat_map(|number| members(way, number, 1_000))).collect();
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 2 * 250 * 1_000);
    }

    #[test]
    fn the_measured_pod_is_the_last_of_many() {
        let Workload { policy, flows, denied } = many_groups(Transport::Udp, 1_000, 10);
        assert_eq!((policy.groups.len(), policy.endpoints.len()), (1_000, 201));
        assert!(policy.endpoints.get_max().is_some_and(|(_, endpoint)| endpoint.addresses.contains(&POD.into())));
        assert!(all(&policy, &flows, Verdict::Allow) && all(&policy, &denied, Verdict::Drop));
    }
}
