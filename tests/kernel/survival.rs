//! What is open stays open, and what flows goes on flowing, whatever changes beside it (S31, S34, S41, S42).

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use policy::model::NodePolicy;
use probe::{Target, tcp};
use testkit::{Scenario, World};

use super::connections::{address, on_each, replace, stream, updates};
use super::topology::Topology;

/// Pod 0 is open to one sender, with a rule beside it that comes and goes.
fn open_to(from: &[&str], unrelated: &[&str]) -> NodePolicy {
    let rules: Vec<String> = from.iter().map(|from| format!("ingress tcp 7 from {from}")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).chain(unrelated.iter().copied()).collect();
    Scenario::new().group("shop/web", &rules).pod("shop/p0", &World::PODS[0], &["shop/web"]).policy()
}

/// P17: new flows at 5,000 a second, each a packet and its answer, while the ruleset changes a hundred times.
#[test]
fn p17_ten_thousand_packets_a_second_and_a_hundred_updates_lose_none() -> Result<()> {
    on_each(|topology| {
        topology.enforce(&updates(0))?;
        let from = "10.0.0.4";
        let started = Instant::now();
        let allowed = stream(topology, from, "10.0.0.1", 5000)?;
        let denied = stream(topology, from, "10.0.0.2", 500)?;
        for round in 0..100 {
            if round % 10 == 9 {
                replace(topology, &updates(round))?
            } else {
                topology.enforce(&updates(round))?
            };
            std::thread::sleep(Duration::from_millis(20));
        }
        let seconds = started.elapsed().as_secs_f64();
        let (allowed, denied) = (allowed.stop()?, denied.stop()?);
        println!("{:?}: {:.0} flows a second for {seconds:.1} s", topology.wiring, allowed.sent as f64 / seconds);
        // A machine that has other things to do sends fewer; it must be a crowd all the same.
        tests::undisturbed(&allowed, &denied, 200)?;
        ensure!(allowed.sent > 5000, "only {} flows, each of two packets, in {seconds:.1} s", allowed.sent);
        Ok(())
    })
}

/// P18: the questions of a resolver, 200 a second, from a guarded pod to a guarded server; nothing of ours ever expires them.
#[test]
fn p18_questions_to_a_dns_server_are_all_answered_while_rules_change() -> Result<()> {
    on_each(|topology| {
        let policy = |round: usize| {
            let extra = format!("egress tcp {} to 192.0.2.0/24", 1 + round);
            Scenario::new()
                .group("shop/client", &["egress udp 7 to sg/kube-system/dns", &extra])
                .group("kube-system/dns", &["ingress udp 7 from 10.0.0.0/8", "ingress udp 7 from fd00::/8"])
                .pod("shop/p0", &World::PODS[0], &["shop/client"])
                .pod("kube-system/dns-0", &World::PODS[1], &["kube-system/dns"])
                .policy()
        };
        topology.enforce(&policy(0))?;
        let questions = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")].map(|(from, to)| stream(topology, from, to, 200));
        for round in 0..80 {
            topology.enforce(&policy(round))?;
            std::thread::sleep(Duration::from_millis(50));
        }
        for question in questions {
            let report = question?.stop()?;
            ensure!(report.sent > 400 && report.answered == report.sent, "{} of {}: {:?}", report.answered, report.sent, report.ranges);
        }
        Ok(())
    })
}

/// Connections that nobody says anything on.
fn idle(topology: &Topology, count: usize) -> Result<Vec<BufReader<TcpStream>>> {
    let to = SocketAddr::new(address("10.0.0.1"), 7);
    topology.elsewhere.run(|| {
        let connect = |_| {
            let mut stream = BufReader::new(TcpStream::connect_timeout(&to, Duration::from_secs(5))?);
            stream.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
            // The other side greets with its name.
            stream.read_line(&mut String::new())?;
            Ok(stream)
        };
        (0..count).map(connect).collect()
    })?
}

#[test]
fn p16_a_thousand_idle_connections_survive_unrelated_changes() -> Result<()> {
    const FLOWS: usize = 1000;
    // Both ends of each are in this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    ensure!(most > 8000, "a thousand connections need more open files: ulimit -Hn 20000");
    on_each(|topology| {
        let own = ["10.1.0.0/24", "192.0.2.7/32"];
        topology.enforce(&open_to(&own, &[]))?;
        let mut flows = idle(topology, FLOWS)?;
        topology.enforce(&open_to(&own, &["ingress tcp 80 from 10.1.0.1/32", "egress udp to ::/0"]))?;
        topology.enforce(&open_to(&own, &[]))?;
        // S41: an agent that starts and finds a table of which it knows nothing replaces it.
        replace(topology, &open_to(&own, &["ingress udp 80 from 10.1.0.1/32"]))?;
        // Their own rule is written in another way.
        topology.enforce(&open_to(&["0.0.0.0/0"], &[]))?;
        let mut cut = 0;
        for (i, flow) in flows.iter_mut().enumerate() {
            let line = format!("{i}\n");
            let mut answer = String::new();
            let answered = flow.get_mut().write_all(line.as_bytes()).and_then(|()| flow.read_line(&mut answer));
            cut += usize::from(answered.is_err() || answer != line);
        }
        ensure!(cut == 0, "{cut} of {FLOWS} connections were cut");
        Ok(())
    })
}

/// The rules of another program that looks at connections, as kube-proxy's do: from then on conntrack is at work.
const TRACKING: &str = "add table inet other; add chain inet other forward { type filter hook forward priority 0; }; add rule inet other forward ct state established counter";

/// P02: what was open before the agent came is judged by its own direction, not by that of the first packet that comes by.
#[test]
fn p02_a_connection_from_before_the_first_programming_survives_it() -> Result<()> {
    on_each(|topology| {
        topology.nft(TRACKING)?;
        let from = address("10.1.0.1");
        let target = Target::new(address("10.0.0.1")).from(from).within_ms(400);
        let held = topology.elsewhere.spawn(move || tcp::hold(&target, 7, Duration::from_millis(1500), Duration::from_millis(20)))?;
        // A server that speaks first, long after the client has said anything: by direction of the packet alone this is egress, and denied.
        let mut pushing = pushed_to(topology)?;
        std::thread::sleep(Duration::from_millis(300));
        topology.enforce(&open_to(&["10.1.0.1/32"], &[]))?;
        let pushed = pushing.push()?;
        let held = held.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(held.ok && held.exchanged > 40, "{held:?}");
        ensure!(pushed == "late\n", "what the server said of its own accord: {pushed:?}");
        Ok(())
    })
}

/// Both ends of one connection from elsewhere to pod 0.
struct Pushing {
    server: TcpStream,
    client: BufReader<TcpStream>,
}

fn pushed_to(topology: &Topology) -> Result<Pushing> {
    let listener = topology.pods[0].run(|| TcpListener::bind("10.0.0.1:8"))??;
    let client =
        topology.elsewhere.run(|| TcpStream::connect_timeout(&SocketAddr::new(address("10.0.0.1"), 8), Duration::from_secs(2)))??;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(Pushing { server: listener.accept()?.0, client: BufReader::new(client) })
}

impl Pushing {
    fn push(&mut self) -> Result<String> {
        self.server.write_all(b"late\n")?;
        let mut line = String::new();
        self.client.read_line(&mut line)?;
        Ok(line)
    }
}
