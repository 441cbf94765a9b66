//! Random policies in the real kernel, judged by real packets, against the oracle (S1–S36): 1,000 pairs of TCP, UDP, SCTP and ICMP
//! packets that open a connection. What is established, related or invalid the fake kernel's 10,000 pairs cover.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use policy::model::{ConnState, Family, NodePolicy, Packet, Path, Payload, Verdict};
use policy::verdict;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::topology::Topology;
use super::wire::{Sighting, Watch, bytes, send};

const POLICIES: usize = 125;
const PACKETS: usize = 8;

/// A packet as it can be sent: new, with a token for a source port or a ping's identifier, of a kind that conntrack takes for new.
fn sendable(packet: Packet, token: u16) -> Option<Packet> {
    let payload = match packet.payload {
        Payload::Transport { protocol, destination, .. } => Payload::Transport { protocol, source: token, destination },
        Payload::Icmp { kind, code } => {
            let kinds = testkit::icmp_kinds(Family::of(packet.source));
            Payload::Icmp { kind: if kinds.contains(&kind) { kind } else { kinds[0] }, code }
        }
        Payload::Protocol(_) => return None,
    };
    // What a pod sends to itself never leaves it.
    (packet.source != packet.destination).then_some(Packet { payload, state: ConnState::New, ..packet })
}

#[test]
fn the_kernel_says_what_the_oracle_says() -> Result<()> {
    let seed = std::env::var("KSG_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed: KSG_SEED={seed}");
    let mut bytes_of_seed = [0; 32];
    bytes_of_seed[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes_of_seed));

    let topology = Topology::new()?;
    let watch = Watch::start(topology.hosts(), &topology.node)?;
    let mut token = 20_000;
    let mut verdicts = [0; 3];
    for round in 0..POLICIES {
        let policy = sample(&mut runner, testkit::node_policy())?;
        topology.enforce(&policy)?;
        let mut sent = Vec::new();
        while sent.len() < PACKETS {
            let Some(packet) = sendable(sample(&mut runner, testkit::packet())?, token) else { continue };
            send(topology.home(packet.source), &bytes(&packet, token)?, packet.destination).with_context(|| format!("{packet:?}"))?;
            sent.push((packet, token, verdict(&policy, &packet)));
            token += 1;
        }
        check(&topology, &watch, &policy, &sent).map_err(|error| error.context(format!("round {round}, KSG_SEED={seed}")))?;
        for (.., verdict) in sent {
            verdicts[verdict as usize] += 1;
        }
    }
    println!("allow, drop, reject: {verdicts:?}");
    ensure!(verdicts.iter().all(|&count| count > 20), "too few of one verdict to prove anything: {verdicts:?}");
    Ok(())
}

fn sample<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> Result<T> {
    Ok(strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current())
}

/// Waits for what should arrive, and a little longer for what should not.
fn check(topology: &Topology, watch: &Watch, policy: &NodePolicy, sent: &[(Packet, u16, Verdict)]) -> Result<()> {
    let wanted = |packet: &Packet, token: u16, verdict: Verdict| match verdict {
        Verdict::Allow => Some((topology.home(packet.destination), Sighting::Arrived(token))),
        Verdict::Reject => Some((topology.home(packet.source), Sighting::Rejected(token))),
        Verdict::Drop => None,
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline
        && sent
            .iter()
            .filter_map(|&(packet, token, verdict)| wanted(&packet, token, verdict))
            .any(|(at, sighting)| !watch.saw(at, sighting))
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    for &(packet, token, verdict) in sent {
        let arrived = watch.saw(topology.home(packet.destination), Sighting::Arrived(token));
        // A reset for a packet that arrived is the closed port's own.
        let rejected = !arrived && packet.path != Path::Output && watch.saw(topology.home(packet.source), Sighting::Rejected(token));
        let seen = match (arrived, rejected) {
            (true, _) => Verdict::Allow,
            (false, true) => Verdict::Reject,
            (false, false) => Verdict::Drop,
        };
        ensure!(seen == verdict, "the oracle says {verdict:?}, the kernel {seen:?}\n{packet:?}\n{}", ruleset::lower(policy));
    }
    Ok(())
}
