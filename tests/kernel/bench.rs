//! Policies in the kernel of a topology, many packets at once through it, and what became of each.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netlink::Nftables;
use policy::model::{ConnState, NodePolicy, Packet, Path, Payload, Verdict};
use ruleset::{Bounds, Counter, Kernel, Ruleset, Transaction, diff, lower_within};

use super::topology::{Topology, Wiring};
use super::watch::Watch;
use super::wire::{Sighting, bytes, reply};

/// A topology with open sockets everywhere.
pub struct Bench {
    /// The namespaces.
    pub topology: Topology,
    watch: Watch,
    kernel: Nftables,
    held: Option<Ruleset>,
    fault: fn(&mut Ruleset),
    /// How many rules, and peers, stand one after another at most, before they are sorted and merged.
    pub few: usize,
    token: u32,
    /// How long to wait for what should come.
    pub patience: Duration,
}

impl Bench {
    /// A bench whose rulesets are as `lower` makes them.
    pub fn new(wiring: Wiring) -> Result<Bench> {
        Bench::with_fault(wiring, |_| {})
    }

    /// A bench that spoils every ruleset, to see whether that is noticed.
    pub fn with_fault(wiring: Wiring, fault: fn(&mut Ruleset)) -> Result<Bench> {
        let topology = Topology::new(wiring)?;
        topology.quiet()?;
        let watch = Watch::open(topology.hosts(), &topology.node)?;
        let kernel = topology.node.run(Nftables::open)??;
        Ok(Bench { topology, watch, kernel, held: None, fault, few: usize::MAX, token: 0x0100_0000, patience: Duration::from_secs(1) })
    }

    /// Puts a policy in force by the difference from the one before, as the agent does.
    pub fn enforce(&mut self, policy: &NodePolicy) -> Result<()> {
        let wanted = self.wanted(policy);
        let transaction = match &self.held {
            Some(held) => diff(held, &wanted),
            None => Transaction::replace(&wanted),
        };
        self.commit(&transaction, wanted)
    }

    /// Puts a policy in force whatever was before.
    pub fn replace(&mut self, policy: &NodePolicy) -> Result<()> {
        let wanted = self.wanted(policy);
        self.commit(&Transaction::replace(&wanted), wanted)
    }

    fn wanted(&self, policy: &NodePolicy) -> Ruleset {
        let mut wanted = lower_within(policy, Bounds { few: self.few, peers: self.few, ..Bounds::default() });
        (self.fault)(&mut wanted);
        wanted
    }

    fn commit(&mut self, transaction: &Transaction, wanted: Ruleset) -> Result<()> {
        self.held = None;
        self.kernel.commit(transaction)?;
        ensure!(self.kernel.load()?.as_ref() == Some(&wanted), "the kernel has another ruleset than was sent:\n{wanted}");
        self.held = Some(wanted);
        Ok(())
    }

    /// What the table's counters have counted.
    pub fn counters(&mut self) -> Result<BTreeMap<String, Counter>> {
        Ok(self.kernel.counters()?)
    }

    /// Sends packets of which no two belong to one connection, and tells what became of each. `wanted` says only how long to wait.
    pub fn send(&mut self, packets: &[Packet], wanted: &[Verdict]) -> Result<Vec<Sent>> {
        self.topology.node.forget_connections()?;
        self.round(packets, wanted, &[])
    }

    /// Sends the answers to packets that have arrived, each in its connection (S31).
    pub fn answer(&mut self, arrived: &[Sent]) -> Result<Vec<Sent>> {
        let replies: Vec<(Packet, u32)> = arrived.iter().filter_map(|sent| Some((reply(&sent.packet)?, sent.token))).collect();
        let (packets, answers): (Vec<Packet>, Vec<u32>) = replies.into_iter().unzip();
        self.round(&packets, &vec![Verdict::Allow; packets.len()], &answers)
    }

    fn round(&mut self, packets: &[Packet], wanted: &[Verdict], answers: &[u32]) -> Result<Vec<Sent>> {
        let mut seen = HashSet::new();
        let mut tokens = Vec::new();
        for (i, packet) in packets.iter().enumerate() {
            // A reset of what had both SYN and FIN acknowledges two: no token is another's neighbour.
            self.token += 4;
            tokens.push(self.token);
            let bytes = bytes(packet, self.token, answers.get(i).copied().unwrap_or(0))?;
            let from = self.place(packet.source);
            self.watch.send(from, &bytes, packet.destination).with_context(|| format!("{packet:?}"))?;
        }
        let places: Vec<(usize, usize)> = packets.iter().map(|p| (self.place(p.source), self.place(p.destination))).collect();
        let awaited = |i: usize| match wanted[i] {
            Verdict::Allow => Some((places[i].1, Sighting::Arrived(tokens[i]))),
            Verdict::Reject => Some((places[i].0, Sighting::Rejected(tokens[i]))),
            Verdict::Drop => None,
        };
        // What should come, and a little longer for what should not.
        let deadline = Instant::now() + self.patience;
        loop {
            self.watch.look(&mut seen);
            if Instant::now() > deadline || (0..packets.len()).filter_map(awaited).all(|sighting| seen.contains(&sighting)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(10));
        self.watch.look(&mut seen);
        let verdict = |i: usize| match (places[i], tokens[i]) {
            ((_, to), token) if seen.contains(&(to, Sighting::Arrived(token))) => Verdict::Allow,
            // A reset for a packet that arrived is the closed port's own.
            ((from, _), token) if seen.contains(&(from, Sighting::Rejected(token))) => Verdict::Reject,
            _ => Verdict::Drop,
        };
        Ok(packets.iter().enumerate().map(|(i, &packet)| Sent { packet, token: tokens[i], seen: verdict(i) }).collect())
    }

    /// Where the watch has the namespace of an address.
    fn place(&self, address: std::net::IpAddr) -> usize {
        let home = self.topology.home(address).name();
        self.topology.hosts().position(|host| host.name() == home).unwrap_or(self.topology.pods.len() + 1)
    }
}

/// A packet and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// The packet.
    pub packet: Packet,
    /// By what it was known.
    pub token: u32,
    /// What became of it.
    pub seen: Verdict,
}

impl Sent {
    /// Whether it has opened a connection to somebody who says nothing of its own accord, so that it waits for our answer.
    pub fn waits_for_answer(&self) -> bool {
        self.seen == Verdict::Allow && self.packet.state == ConnState::New && matches!(self.packet.path, Path::Forward | Path::Output)
    }

    /// The ends of its connection in either order: two packets with the same belong together.
    pub fn connection(packet: &Packet) -> impl Eq + std::hash::Hash + use<> {
        let (kind, source, destination) = match packet.payload {
            Payload::Transport { protocol, source, destination } => (protocol.number(), source, destination),
            Payload::Protocol(number) => (number, 0, 0),
            // Each has an identifier of its own.
            Payload::Icmp { kind, code } => (1, u16::from(kind) << 8, u16::from(code)),
        };
        let (a, b) = ((packet.source, source), (packet.destination, destination));
        (kind, a.min(b), a.max(b))
    }
}
