//! Pods on one bridge: what depends on br_netfilter and what does not (S30).

use anyhow::{Result, ensure};
use policy::model::{ConnState, Packet, Path, Payload, Transport, Verdict};
use testkit::{Scenario, World};

use super::bench::Bench;
use super::topology::Wiring;

fn packet(from: &str, to: &str, path: Path) -> Result<Packet> {
    let payload = Payload::Transport { protocol: Transport::Tcp, source: 40_000, destination: 80 };
    Ok(Packet { source: from.parse()?, destination: to.parse()?, payload, state: ConnState::New, path })
}

/// Without its settings the traffic between pods of one node escapes, and nothing else does: this is why the agent looks at them.
#[test]
fn s30_pods_on_one_bridge_are_filtered_only_if_the_bridge_shows_its_packets() -> Result<()> {
    let mut bench = Bench::new(Wiring::Bridged)?;
    // Pods 0 and 1 may neither send nor receive.
    let closed = Scenario::new().pod("shop/p0", &World::PODS[0], &["shop/closed"]).pod("shop/p1", &World::PODS[1], &["shop/closed"]);
    bench.enforce(&closed.policy())?;
    let packets = [
        packet("10.0.0.1", "10.0.0.2", Path::Forward)?,
        packet("fd00::1", "fd00::2", Path::Forward)?,
        packet("10.0.0.1", "10.0.0.254", Path::Input)?,
        packet("fd00::1", "fd00::fe", Path::Input)?,
        packet("10.0.0.2", "192.0.2.7", Path::Forward)?,
        packet("2001:db8::7", "fd00::2", Path::Forward)?,
    ];
    for (shown, escaping) in [(true, 0), (false, 2), (true, 0)] {
        bench.topology.bridge_calls(shown)?;
        let sent = bench.send(&packets, &[Verdict::Drop; 6])?;
        let escaped: Vec<bool> = sent.iter().map(|sent| sent.seen == Verdict::Allow).collect();
        ensure!(escaped == [escaping > 0, escaping > 1, false, false, false, false], "shown {shown}: {sent:?}");
    }
    Ok(())
}
