//! Every rule counts what it allows, however the ruleset finds it.

use anyhow::Result;
use policy::model::{ConnState, Direction, GroupRef, Packet, Path, Payload, Transport, Verdict};
use ruleset::rule_counter;
use testkit::{Scenario, World};

use super::bench::Bench;
use super::topology::Wiring;

/// How many packets come from the sender of this number.
fn much(number: usize) -> usize {
    1 + number % 3
}

#[test]
fn s10_every_rule_counts_for_itself_also_where_many_are_merged() -> Result<()> {
    let mut bench = Bench::new(Wiring::Routed)?;
    let web = GroupRef { namespace: "shop".into(), name: "web".into() };
    let target = World::addresses(&World::PODS[0]);
    let senders = World::elsewhere();
    // By turns members of a group and networks.
    let far = |number: usize| match number % 4 {
        0 | 1 => format!("sg/peers/g{number}"),
        _ => format!("{}/{}", senders[number], if senders[number].is_ipv4() { 32 } else { 128 }),
    };
    let texts: Vec<String> = (0..senders.len()).map(|number| format!("ingress tcp 80 from {}", far(number))).collect();
    let mut scenario = Scenario::new().group("shop/web", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (number, sender) in senders.iter().enumerate().filter(|(number, _)| number % 4 < 2) {
        scenario = scenario.members(&format!("peers/g{number}"), &[&sender.to_string()]);
    }
    let policy = scenario.pod("shop/web-0", &World::PODS[0], &["shop/web"]).policy();

    let mut packets = Vec::new();
    for (number, source) in senders.iter().enumerate() {
        let Some(destination) = target.iter().find(|to| to.is_ipv4() == source.is_ipv4()) else { continue };
        packets.extend((0..much(number)).map(|copy| {
            let port = 40_000 + u16::try_from(copy).unwrap_or_default();
            let payload = Payload::Transport { protocol: Transport::Tcp, source: port, destination: 80 };
            Packet { source: *source, destination: *destination, payload, state: ConnState::New, path: Path::Forward }
        }));
    }
    for few in [usize::MAX, 0] {
        bench.few = few;
        bench.replace(&policy)?;
        let sent = bench.send(&packets, &vec![Verdict::Allow; packets.len()])?;
        assert!(sent.iter().all(|sent| sent.seen == Verdict::Allow), "{few}: {sent:?}");
        let counted = bench.counters()?;
        for number in 0..senders.len() {
            let rule = policy.groups[&web]
                .ingress
                .iter()
                .find(|rule| format!("sg/{}", rule.peer) == far(number) || rule.peer.to_string() == far(number));
            let id = &rule.expect("the rule").id;
            let packets = counted[&rule_counter(Direction::Ingress, &web, id)].packets;
            assert_eq!(packets, u64::try_from(much(number))?, "{few}: {}", far(number));
        }
    }
    Ok(())
}
