//! Networks that overlap, contain each other or touch, in rules and in prefix lists, coming and going in any order (S16, S21, P53).

use anyhow::{Result, bail};
use ipnet::IpNet;
use policy::model::{ConnState, Direction, Packet, Path, Payload, Peer, PrefixListRef, Traffic, Transport, Verdict};
use policy::text::RuleText;
use policy::verdict;
use proptest::strategy::{Just, Strategy};
use testkit::{Draft, Guard, World};

use super::bench::Bench;
use super::difference::shrink;
use super::oracle::Dice;
use super::topology::Wiring;

const ROUNDS: usize = 15;
const ENTRIES: usize = 10;

/// Everybody knocks at pod 0.
fn knocks() -> Vec<Packet> {
    let target = World::addresses(&World::PODS[0]);
    let pairs = World::pods().into_iter().chain(World::elsewhere()).filter(|from| !target.contains(from));
    let payload = Payload::Transport { protocol: Transport::Tcp, source: 40_000, destination: 80 };
    let packet = |source: std::net::IpAddr| {
        let destination = *target.iter().find(|to| to.is_ipv4() == source.is_ipv4())?;
        Some(Packet { source, destination, payload, state: ConnState::New, path: Path::Forward })
    };
    pairs.filter_map(packet).collect()
}

#[test]
fn p53_overlapping_networks_come_and_go_in_any_order() -> Result<()> {
    let mut bench = Bench::new(Wiring::Routed)?;
    let mut dice = Dice::new();
    let group = policy::model::GroupRef { namespace: "shop".into(), name: "web".into() };
    let list = PrefixListRef { namespace: "shop".into(), name: "offices".into() };
    let from = |peer| (group.clone(), RuleText { direction: Direction::Ingress, traffic: Traffic::All, peer });
    let (knocks, mut allowed, mut steps) = (knocks(), 0, 0);
    for round in 0..ROUNDS {
        let entries = dice.roll(proptest::collection::vec(testkit::entry(), ENTRIES))?;
        let mut draft = Draft { rules: vec![from(Peer::PrefixList(list.clone()))], ..Draft::default() };
        draft.guards.insert(0, Guard { groups: [group.clone()].into(), ..Guard::default() });
        draft.lists.insert(list.clone(), Vec::new());
        // By turns in the list, in rules, or half of it in each.
        let in_list = |i: usize| round % 3 == 0 || round % 3 == 2 && i.is_multiple_of(2);
        let order = |dice: &mut Dice| dice.roll(Just((0..ENTRIES).collect::<Vec<_>>()).prop_shuffle());
        let coming = order(&mut dice)?.into_iter().map(|i| (i, true));
        for (i, comes) in coming.chain(order(&mut dice)?.into_iter().map(|i| (i, false))) {
            let before = draft.clone();
            match (in_list(i), comes) {
                (true, true) => draft.lists.entry(list.clone()).or_default().push(entries[i]),
                // Of an entry that is there twice, one stays.
                (true, false) => take(draft.lists.entry(list.clone()).or_default(), &entries[i]),
                (false, true) => draft.rules.push(from(Peer::Net(entries[i].trunc()))),
                (false, false) => take(&mut draft.rules, &from(Peer::Net(entries[i].trunc()))),
            }
            let policy = draft.policy();
            bench.enforce(&policy)?;
            let wanted: Vec<Verdict> = knocks.iter().map(|packet| verdict(&policy, packet)).collect();
            for (sent, wanted) in bench.send(&knocks, &wanted)?.into_iter().zip(wanted) {
                if sent.seen != wanted {
                    let difference = shrink(&mut bench, Some(before), draft, sent.packet, (wanted, sent.seen))?;
                    bail!("{difference}");
                }
                allowed += usize::from(wanted == Verdict::Allow);
            }
            steps += 1;
        }
    }
    let cases = steps * knocks.len();
    println!("{steps} changes, {cases} packets, {allowed} allowed");
    anyhow::ensure!(cases / 10 < allowed && allowed < cases * 9 / 10, "{allowed} of {cases} prove little");
    Ok(())
}

/// Takes one of them out.
fn take<T: PartialEq>(all: &mut Vec<T>, one: &T) {
    if let Some(at) = all.iter().position(|other| other == one) {
        all.remove(at);
    }
}

/// A test of the test: the networks do overlap, contain each other and touch.
#[test]
fn p53_the_random_networks_overlap() -> Result<()> {
    let mut dice = Dice::seeded(7);
    let (mut within, mut same, mut touching, mut host_bits) = (0, 0, 0, 0);
    for _ in 0..ROUNDS {
        let entries: Vec<IpNet> = dice.roll(proptest::collection::vec(testkit::entry(), ENTRIES))?;
        for (i, a) in entries.iter().enumerate() {
            host_bits += usize::from(a.trunc() != *a);
            for b in &entries[i + 1..] {
                let (a, b) = (a.trunc(), b.trunc());
                same += usize::from(a == b);
                within += usize::from(a != b && (a.contains(&b) || b.contains(&a)));
                touching += usize::from(a.supernet() == b.supernet() && a.prefix_len() > 0 && a != b);
            }
        }
    }
    anyhow::ensure!(within > 50 && same > 5 && touching > 1 && host_bits > 20, "{within} {same} {touching} {host_bits}");
    Ok(())
}
