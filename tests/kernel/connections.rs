//! Connections over time: replies (S31), open connections after a change (S34), and updates that no packet notices (S41, S42).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use netlink::Nftables;
use policy::model::NodePolicy;
use probe::stream::Kind;
use probe::{Failure, Outcome, Report, Stream, Target, serve, tcp, udp};
use ruleset::{Kernel, Transaction, lower};
use testkit::{Scenario, World};

use super::topology::{Topology, Wiring};

/// Both topologies, with every host answering on TCP and UDP 7.
pub fn on_each(test: impl Fn(&Topology) -> Result<()>) -> Result<()> {
    Wiring::each(|topology| {
        for host in topology.hosts().chain([&topology.node]) {
            host.run(|| serve::start(&serve::Ports { tcp: vec![7], udp: vec![7], ..Default::default() }))??;
        }
        test(&topology)
    })
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no address"))
}

/// A connection to port 7.
pub fn connect(topology: &Topology, from: &str, to: &str) -> Result<Outcome> {
    let target = Target::new(address(to)).from(address(from)).within_ms(400);
    topology.home(address(from)).run(|| tcp::connect(&target, 7))
}

#[test]
fn s31_replies_pass_where_only_one_direction_is_allowed() -> Result<()> {
    on_each(|topology| {
        // Pod 0 may only send, pod 1 may only receive; both over both families.
        topology.enforce(
            &Scenario::new()
                .group("shop/sends", &["egress tcp 7 to 0.0.0.0/0", "egress tcp 7 to ::/0"])
                .group("shop/receives", &["ingress tcp 7 from 0.0.0.0/0", "ingress tcp 7 from ::/0"])
                .pod("shop/p0", &World::PODS[0], &["shop/sends"])
                .pod("shop/p1", &World::PODS[1], &["shop/receives"])
                .policy(),
        )?;
        for (from, to, wanted) in [
            ("10.0.0.1", "192.0.2.7", true),
            ("fd00::1", "2001:db8::7", true),
            ("192.0.2.7", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.2", true),
            ("fd00::1", "fd00::2", true),
            ("10.0.0.2", "10.0.0.1", false),
            ("192.0.2.7", "10.0.0.2", true),
            ("10.0.0.2", "192.0.2.7", false),
            // S30: to its own node, by egress; S36: from the node, always.
            ("10.0.0.1", "10.0.0.254", true),
            ("10.0.0.2", "10.0.0.254", false),
            ("10.0.0.254", "10.0.0.1", true),
            ("fd00::fe", "fd00::2", true),
        ] {
            let outcome = connect(topology, from, to)?;
            ensure!(outcome.ok == wanted, "{from} to {to}: {outcome:?}");
            ensure!(wanted || outcome.error == Some(Failure::Timeout), "S32: what is denied meets silence, not {outcome:?}");
        }
        Ok(())
    })
}

#[test]
fn s31_an_icmp_error_of_an_allowed_connection_passes() -> Result<()> {
    on_each(|topology| {
        let sends = Scenario::new().group("shop/sends", &["egress udp to 0.0.0.0/0", "egress udp to ::/0"]);
        topology.enforce(&sends.pod("shop/p0", &World::PODS[0], &["shop/sends"]).policy())?;
        for to in ["192.0.2.7", "2001:db8::7"] {
            // Nobody listens on 9: "port unreachable" comes back although nothing may come in.
            let outcome = topology.pods[0].run(|| udp::echo(&Target::new(address(to)).within_ms(400), 9))?;
            ensure!(outcome.error == Some(Failure::Refused), "{to}: {outcome:?}");
        }
        Ok(())
    })
}

#[test]
fn s32_reject_is_answered_at_once() -> Result<()> {
    on_each(|topology| {
        topology.enforce(&Scenario::new().pod("shop/p0", &World::PODS[0], &["shop/closed"]).rejecting().policy())?;
        for (from, to) in [("192.0.2.7", "10.0.0.1"), ("2001:db8::7", "fd00::1"), ("10.0.0.1", "192.0.2.7"), ("fd00::1", "fd00::fe")] {
            let outcome = connect(topology, from, to)?;
            ensure!(outcome.error == Some(Failure::Refused), "{from} to {to}: {outcome:?}");
        }
        Ok(())
    })
}

/// While the kernel takes no chains for a pod, new connections meet silence, and open ones go on.
#[test]
fn a_closed_pod_is_silent_until_it_is_open_again() -> Result<()> {
    on_each(|topology| {
        let rules = ["ingress tcp 7 from 0.0.0.0/0", "ingress tcp 7 from ::/0", "egress tcp 7 to 0.0.0.0/0", "egress tcp 7 to ::/0"];
        let open = || Scenario::new().group("shop/web", &rules).pod("shop/p0", &World::PODS[0], &["shop/web"]);
        topology.enforce(&open().policy())?;
        let target = Target::new(address("10.0.0.1")).within_ms(400);
        let held = topology.elsewhere.spawn(move || tcp::hold(&target, 7, Duration::from_secs(4), Duration::from_millis(50)))?;
        std::thread::sleep(Duration::from_millis(500));
        let ways = [("192.0.2.7", "10.0.0.1"), ("2001:db8::7", "fd00::1"), ("10.0.0.1", "192.0.2.7"), ("fd00::1", "fd00::fe")];
        topology.enforce(&open().rejecting().closed().policy())?;
        for (from, to) in ways {
            let outcome = connect(topology, from, to)?;
            ensure!(outcome.error == Some(Failure::Timeout), "{from} to {to}: {outcome:?}");
        }
        topology.enforce(&open().policy())?;
        for (from, to) in ways {
            let outcome = connect(topology, from, to)?;
            ensure!(outcome.ok, "{from} to {to}: {outcome:?}");
        }
        let held = held.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(held.ok && held.exchanged > 20, "S34: {held:?}");
        Ok(())
    })
}

#[test]
fn s34_an_open_connection_goes_on_when_its_rule_goes() -> Result<()> {
    on_each(|topology| {
        let pod = |rules: &[&str]| Scenario::new().group("shop/web", rules).pod("shop/p0", &World::PODS[0], &["shop/web"]).policy();
        topology.enforce(&pod(&["ingress tcp 7 from 0.0.0.0/0"]))?;
        let target = Target::new(address("10.0.0.1")).within_ms(400);
        let open = topology.elsewhere.spawn(move || tcp::hold(&target, 7, Duration::from_secs(2), Duration::from_millis(50)))?;
        std::thread::sleep(Duration::from_millis(500));
        topology.enforce(&pod(&[]))?;
        ensure!(!connect(topology, "192.0.2.7", "10.0.0.1")?.ok, "a new one is denied");
        let held = open.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(held.ok && held.exchanged > 20, "{held:?}");
        Ok(())
    })
}

/// Policies that all allow UDP 7 to pod 0 and deny it to pod 1, and differ in everything else.
pub fn updates(round: usize) -> NodePolicy {
    let extra = format!("ingress tcp {}-{} from 10.1.0.{}/32", 1 + round % 50, 60 + round % 70, 1 + round % 3);
    let mut scenario = Scenario::new()
        .group("shop/open", &["ingress udp 7 from sg/shop/clients", "ingress udp 7 from 192.0.2.0/24", &extra])
        .group("shop/closed", &["ingress udp 9 from 0.0.0.0/0", &extra])
        .pod("shop/p0", &World::PODS[0], if round.is_multiple_of(3) { &["shop/open"] } else { &["shop/open", "shop/closed"] })
        .pod("shop/p1", &World::PODS[1], if round.is_multiple_of(4) { &[] } else { &["shop/closed"] })
        .members("shop/clients", &["10.1.0.1", "fd01::1", "10.0.0.4"]);
    if round.is_multiple_of(2) {
        scenario = scenario.pod("shop/p2", &World::PODS[2], &["shop/closed"]).members("shop/clients", &["10.1.0.2"]);
    }
    scenario.policy()
}

/// New flows, until it is stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<std::io::Result<Report>>>,
}

/// Starts a stream of UDP flows to port 7.
pub fn stream(topology: &Topology, from: &str, to: &str, rate: u32) -> Result<Running> {
    let target = Target::new(address(to)).from(address(from)).within_ms(1000);
    let stream = Stream { target, port: 7, kind: Kind::Udp, rate, duration: Duration::from_secs(60) };
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let thread = topology.home(address(from)).spawn(move || stream.run(&stopping))?;
    Ok(Running { stop, thread })
}

impl Running {
    /// Ends it; what became of its flows.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)
    }
}

/// The whole table replaced in one transaction by another program (S41): another process would open another socket; ours does too.
pub fn replace(topology: &Topology, policy: &NodePolicy) -> Result<()> {
    let replacement = Transaction::replace(&lower(policy));
    topology.node.run(|| -> Result<()> { Ok(Nftables::open()?.commit(&replacement)?) })?
}

/// S42: 300 updates of every kind, every tenth of them the whole table replaced as a starting agent may do it, under 1,000 allowed and
/// 1,000 denied new flows a second: none lost, none leaked. The full size of this is a benchmark.
#[test]
fn s42_no_packet_notices_an_update() -> Result<()> {
    on_each(|topology| {
        topology.enforce(&updates(0))?;
        let allowed = stream(topology, "10.1.0.1", "10.0.0.1", 1000)?;
        let denied = stream(topology, "10.1.0.1", "10.0.0.2", 1000)?;
        for round in 0..300 {
            if round % 10 == 9 {
                replace(topology, &updates(round))?
            } else {
                topology.enforce(&updates(round))?
            };
            std::thread::sleep(Duration::from_millis(5));
        }
        tests::undisturbed(&allowed.stop()?, &denied.stop()?, 1000)
    })
}
