//! Updates of every kind that change no verdict of either stream.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::model::{NodePolicy, PrefixListRef};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use testkit::Scenario;

use super::streams::{MEMBERS, PODS, sender};

/// What an update changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Update {
    /// A rule beside the stream's own comes or goes.
    Rule,
    /// Many do, so that the class is found by traffic from now on, or is a list again (S42 holds across layouts).
    ManyRules,
    /// The ports of the rule that allows the stream.
    Ports,
    /// By what that rule knows the members: group, networks or prefix lists.
    Peer,
    /// Another member joins or leaves the group that the rule names.
    Member,
    /// Which of many peers on one port has the members, so that every one of them is another rule's from then on.
    Holder,
    /// Another pod comes or goes, with or without groups.
    Pod,
    /// The pod that is sent to gets or loses a group.
    Group,
    /// The entries of a prefix list.
    Entry,
    /// What happens to what is denied.
    OnDeny,
    /// Nothing: the agent ends, and another takes the table over.
    Restart,
    /// Somebody has put something into the table, which goes.
    Repair,
    /// The table is made anew as a whole.
    Replacement,
}

impl Update {
    /// Every kind.
    pub const ALL: &'static [Update] = &[
        Update::Rule,
        Update::ManyRules,
        Update::Ports,
        Update::Peer,
        Update::Member,
        Update::Holder,
        Update::Pod,
        Update::Group,
        Update::Entry,
        Update::OnDeny,
        Update::Restart,
        Update::Repair,
        Update::Replacement,
    ];
    /// Those that change a table step by step: all but the last.
    pub const CHANGES: &'static [Update] = match Update::ALL.split_last() {
        Some((_, changes)) => changes,
        None => &[],
    };
}

/// How the ports of the stream's own rule may be written: with 7, without 9.
const PORTS: [&str; 5] = ["7", "1-7", "5-8", "7-8", "2-8"];
/// How many rules there are to come and go.
const RULES: usize = 40;
/// Entries of the prefix lists beside the members' networks; they overlap, and no stranger is in them.
const ENTRIES: [&str; 10] = [
    "10.1.0.0/16",
    "10.1.0.0/25",
    "10.1.0.128/25",
    "192.0.2.0/24",
    "198.51.100.0/25",
    "10.3.0.0/16",
    "fd01::/48",
    "fd01::/65",
    "fd01::8000:0:0:0/65",
    "2001:db8::/32",
];

/// How the rule knows the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Group,
    Networks,
    Lists,
    /// One of so many groups that they are merged.
    ManyGroups,
    /// One of as many lists.
    ManyLists,
}

impl Peer {
    const ALL: [Peer; 5] = [Peer::Group, Peer::Networks, Peer::Lists, Peer::ManyGroups, Peer::ManyLists];
}

/// Peers on one port that are merged.
const MANY: usize = 9;

/// What the updates have made of the policy so far.
pub(super) struct State {
    random: TestRng,
    kinds: &'static [Update],
    rules: BTreeSet<usize>,
    ports: usize,
    peer: Peer,
    members: BTreeSet<u8>,
    holder: usize,
    pods: BTreeSet<u8>,
    more: bool,
    closed: bool,
    entries: BTreeSet<usize>,
    rejects: bool,
}

/// Takes out what is in and puts in what is not.
fn turn<T: Ord>(set: &mut BTreeSet<T>, item: T) {
    if !set.remove(&item) {
        set.insert(item);
    }
}

impl State {
    /// The same seed makes the same updates.
    pub(super) fn new(seed: u64, kinds: &'static [Update]) -> State {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        State {
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            kinds,
            rules: BTreeSet::new(),
            ports: 0,
            peer: Peer::Group,
            members: BTreeSet::new(),
            holder: 0,
            pods: BTreeSet::new(),
            more: false,
            closed: true,
            entries: BTreeSet::new(),
            rejects: false,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.next_u64() % end as u64).unwrap_or_default()
    }

    fn byte(&mut self, end: usize) -> u8 {
        u8::try_from(self.below(end)).unwrap_or_default()
    }

    /// The next one: the policy has changed, but with a restart.
    pub(super) fn change(&mut self) -> Update {
        let update = self.kinds[self.below(self.kinds.len())];
        match update {
            Update::Rule => {
                let rule = self.below(RULES);
                turn(&mut self.rules, rule);
            }
            Update::ManyRules if self.rules.len() > 6 => self.rules.clear(),
            Update::ManyRules => self.rules.extend((0..RULES).step_by(2)),
            Update::Ports => self.ports = (self.ports + 1 + self.below(PORTS.len() - 1)) % PORTS.len(),
            Update::Peer => {
                let others: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| *peer != self.peer).collect();
                self.peer = others[self.below(others.len())];
            }
            Update::Member => {
                let member = self.byte(100);
                turn(&mut self.members, member);
            }
            Update::Holder => self.holder = (self.holder + 1 + self.below(MANY - 1)) % MANY,
            Update::Pod => {
                let pod = self.byte(20);
                turn(&mut self.pods, pod);
            }
            Update::Group if self.below(2) == 0 => self.closed = !self.closed,
            Update::Group => self.more = !self.more,
            Update::Entry => {
                let entry = self.below(ENTRIES.len());
                turn(&mut self.entries, entry);
                // Not every entry changes what a list has as a whole: this one does.
                turn(&mut self.entries, ENTRIES.len());
            }
            Update::OnDeny => self.rejects = !self.rejects,
            Update::Restart | Update::Repair | Update::Replacement => {}
        }
        update
    }

    /// What is to be in force now.
    pub(super) fn policy(&self) -> NodePolicy {
        let ports = PORTS[self.ports];
        let mut open: Vec<String> = match self.peer {
            Peer::Group => vec![format!("ingress udp {ports} from sg/shop/clients")],
            Peer::Networks => ["10.1.0.0/24", "fd01::/64"].map(|net| format!("ingress udp {ports} from {net}")).into(),
            Peer::ManyGroups => (0..MANY).map(|number| format!("ingress udp {ports} from sg/shop/many{number}")).collect(),
            Peer::ManyLists => {
                let lists = (0..MANY).flat_map(|number| ["4", "6"].map(|family| format!("many{number}-{family}")));
                lists.map(|list| format!("ingress udp {ports} from pl/shop/{list}")).collect()
            }
            Peer::Lists => ["offices4", "offices6"].map(|list| format!("ingress udp {ports} from pl/shop/{list}")).into(),
        };
        // Every set is there all the time, for members and entries to come and go.
        open.extend(["sg/shop/clients", "pl/shop/offices4", "pl/shop/offices6"].map(|peer| format!("ingress tcp 443 from {peer}")));
        open.extend(self.rules.iter().map(|rule| other_rule(*rule)));
        let clients: Vec<String> = clients(&self.members).map(|address| address.to_string()).collect();
        let mut scenario = Scenario::new()
            .group("shop/open", &open.iter().map(String::as_str).collect::<Vec<_>>())
            .group("shop/more", &["ingress udp 8 from 0.0.0.0/0", "ingress tcp 1-100 from ::/0", "egress all to 10.0.0.0/8"])
            .group("shop/closed", &["ingress udp 10-20 from sg/shop/clients", "ingress tcp 7 from 0.0.0.0/0"])
            .members("shop/clients", &clients.iter().map(String::as_str).collect::<Vec<_>>())
            .members("shop/others", &["10.4.0.1", "fd04::1"])
            .pod("shop/p0", &PODS[0], if self.more { &["shop/open", "shop/more"] } else { &["shop/open"] })
            .pod("shop/p1", &PODS[1], if self.closed { &["shop/closed"] } else { &[] });
        for number in 0..MANY {
            let own: Vec<&str> = clients.iter().filter(|_| number == self.holder).map(String::as_str).collect();
            scenario = scenario.members(&format!("shop/many{number}"), &own);
        }
        for pod in &self.pods {
            let addresses = [format!("10.0.0.{}", 10 + pod), format!("fd00::a:{pod:x}")];
            let groups: &[&str] = match pod % 4 {
                0 => &[],
                1 => &["shop/clients"],
                2 => &["shop/open", "shop/closed"],
                _ => &["shop/closed", "shop/more"],
            };
            scenario = scenario.pod(&format!("shop/q{pod}"), &[&addresses[0], &addresses[1]], groups);
        }
        let mut policy = if self.rejects { scenario.rejecting() } else { scenario }.policy();
        policy.prefix_lists = policy.named_lists().into_iter().map(|list| (list.clone(), self.list(&list))).collect();
        policy
    }

    /// The members' own network, and what has come beside it.
    fn list(&self, list: &PrefixListRef) -> BTreeSet<IpNet> {
        let v4 = list.name.ends_with('4');
        if let Some(number) = list.name.strip_prefix("many") {
            let own = if v4 { ["192.0.2.1/32", "10.1.0.0/24"] } else { ["2001:db8::1/128", "fd01::/64"] };
            let holds = number.starts_with(&self.holder.to_string());
            return own.into_iter().take(if holds { 2 } else { 1 }).filter_map(|entry| entry.parse().ok()).collect();
        }
        let extra = self.entries.contains(&ENTRIES.len()).then_some(if v4 { "203.0.113.0/24" } else { "2001:db8:113::/48" });
        let more = self.entries.iter().filter_map(|entry| ENTRIES.get(*entry)).copied().chain(extra);
        let own = ["10.1.0.0/24", "fd01::/64"].into_iter().chain(more);
        own.filter_map(|entry| entry.parse::<IpNet>().ok()).filter(|entry| entry.addr().is_ipv4() == v4).collect()
    }
}

/// The senders that are allowed, and others.
fn clients(others: &BTreeSet<u8>) -> impl Iterator<Item = IpAddr> {
    let numbers = (1..=MEMBERS).chain(others.iter().map(|other| 100 + other));
    numbers.flat_map(|number| [true, false].map(|v4| sender(1, number, v4)))
}

/// A rule that allows neither stream: other protocols, other ports, or other peers. Neighbouring ports and shared peers are what makes the
/// class's maps and lists change.
fn other_rule(number: usize) -> String {
    let port = 10 + number * 3;
    match number % 8 {
        0 => format!("ingress tcp {port} from sg/shop/clients"),
        1 => format!("ingress udp {port}-{} from sg/shop/clients", port + 4),
        2 => format!("ingress udp 7 from 192.0.2.{number}/32"),
        3 => format!("ingress udp {}-8 from sg/shop/others", 4 + number / 8),
        4 => format!("ingress udp 8 from 10.2.{number}.0/24"),
        5 => format!("ingress sctp 1-{port} from pl/shop/offices4"),
        6 => format!("egress udp {port} to sg/shop/others"),
        _ => format!("ingress icmp {} from 0.0.0.0/0", number),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use policy::model::{ConnState, Packet, Path, Payload, Transport, Verdict};
    use policy::verdict;

    use super::*;

    fn judged(policy: &NodePolicy, network: u8, v4: bool, pod: usize, port: u16) -> Verdict {
        let destination = PODS[pod][usize::from(!v4)].parse().expect("an address");
        let payload = Payload::Transport { protocol: Transport::Udp, source: 10_000, destination: port };
        let packet = Packet { source: sender(network, 3, v4), destination, payload, state: ConnState::New, path: Path::Forward };
        verdict(policy, &packet)
    }

    #[test]
    fn a_thousand_updates_are_of_every_kind_and_change_no_verdict_of_the_streams() {
        let mut state = State::new(1, Update::ALL);
        let mut kinds: BTreeMap<Update, usize> = BTreeMap::new();
        let mut before = state.policy();
        for number in 0..1_000 {
            let update = state.change();
            *kinds.entry(update).or_default() += 1;
            let policy = state.policy();
            let changed = !matches!(update, Update::Restart | Update::Repair | Update::Replacement);
            assert_eq!(policy != before, changed, "{number}: {update:?}");
            for v4 in [true, false] {
                let met = [(1, 0, 7), (2, 0, 7), (1, 0, 9), (1, 1, 7)].map(|(net, pod, port)| judged(&policy, net, v4, pod, port));
                assert_eq!(met[0], Verdict::Allow, "{number}: {update:?}");
                assert!(met[1..].iter().all(|verdict| *verdict != Verdict::Allow), "{number}: {update:?}: {met:?}");
            }
            before = policy;
        }
        assert!(kinds.len() == Update::ALL.len() && kinds.values().all(|count| *count > 50), "{kinds:?}");
    }

    #[test]
    fn the_same_seed_makes_the_same_updates() {
        let run = |seed| {
            let mut state = State::new(seed, Update::ALL);
            (0..50).map(|_| (state.change(), state.policy())).collect::<Vec<_>>()
        };
        assert!(run(4) == run(4) && run(4) != run(5));
    }
}
