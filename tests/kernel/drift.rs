//! Somebody changes our table by hand: found at the next look, put right, and counted (P12, P13).

use agent::enforce::Enforcement;
use agent::plan::Plan;
use anyhow::{Result, anyhow, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use netlink::Nftables;
use policy::model::NodePolicy;
use ruleset::lower;
use testkit::{Scenario, World};

use super::topology::{Topology, Wiring};

fn policy() -> NodePolicy {
    let scenario = Scenario::new()
        .group("shop/web", &["ingress tcp 7 from sg/shop/lb", "ingress tcp 80-90 from 192.0.2.0/24", "egress all to pl/shop/offices"])
        .pod("shop/p0", &World::PODS[0], &["shop/web"])
        .members("shop/lb", &["10.1.0.1", "10.1.0.2", "fd01::1"]);
    let mut policy = scenario.policy();
    let entries = "10.1.0.0/24".parse().into_iter().collect();
    policy.prefix_lists = policy.named_lists().into_iter().map(|list| (list, std::collections::BTreeSet::clone(&entries))).collect();
    policy
}

/// What hands and other programs do: each one `nft` command on our table.
const DAMAGE: [&str; 8] = [
    "delete element inet k8s-sg members4/shop/lb { 10.1.0.1 }",
    "add element inet k8s-sg members4/shop/lb { 10.9.9.9 }",
    "add element inet k8s-sg members6/shop/lb { fd09::9 }",
    "delete element inet k8s-sg prefixes4/shop/offices { 10.1.0.0/24 }",
    "flush set inet k8s-sg members4/shop/lb",
    "flush chain inet k8s-sg in/shop/web",
    "insert rule inet k8s-sg forward-ingress accept",
    "delete element inet k8s-sg in4 { 10.0.0.1 }",
];

struct Agent {
    enforcement: Enforcement<Nftables>,
}

impl Agent {
    fn start(topology: &Topology) -> Result<Agent> {
        Ok(Agent { enforcement: Enforcement::new(topology.node.run(Nftables::open)??) })
    }

    /// A sync: with the look at the table that comes every minute, or without. Whether something was put right.
    fn sync(&mut self, recheck: bool) -> Result<bool> {
        if recheck {
            self.enforcement.recheck().map_err(|failure| anyhow!("{failure}"))?;
        }
        let plan = Plan { ruleset: lower(&policy()), ..Plan::default() };
        Ok(self.enforcement.enforce(plan, || Time(Timestamp::UNIX_EPOCH)).map_err(|failure| anyhow!("{failure}"))?.repaired)
    }
}

fn ours(topology: &Topology) -> Result<String> {
    topology.nft("--stateless list table inet k8s-sg")
}

#[test]
fn p12_what_hands_have_done_to_our_table_is_put_right_and_counted() -> Result<()> {
    let topology = Topology::new(Wiring::Routed)?;
    let mut agent = Agent::start(&topology)?;
    ensure!(!agent.sync(false)? && !agent.sync(true)?, "nobody has touched it");
    let wanted = ours(&topology)?;
    let mut repairs = 0;
    for damage in DAMAGE {
        topology.nft(damage)?;
        ensure!(ours(&topology)? != wanted, "{damage}: no damage");
        repairs += usize::from(agent.sync(true)?);
        ensure!(ours(&topology)? == wanted, "after `{damage}` the table is not byte for byte as it was");
    }
    ensure!(repairs == DAMAGE.len(), "{repairs} of {} repairs were counted", DAMAGE.len());
    ensure!(!agent.sync(true)?, "nothing more to put right");
    // Also all at once, and with the table gone.
    for damage in DAMAGE {
        // Some have nothing left to damage.
        let _ = topology.nft(damage);
    }
    ensure!(agent.sync(true)? && ours(&topology)? == wanted, "after all of it");
    topology.nft("delete table inet k8s-sg")?;
    ensure!(agent.sync(true)? && ours(&topology)? == wanted, "after the table was deleted");
    Ok(())
}

#[test]
fn p13_an_agent_that_starts_again_leaves_no_trace_of_corrupted_sets() -> Result<()> {
    let topology = Topology::new(Wiring::Routed)?;
    Agent::start(&topology)?.sync(false)?;
    let wanted = ours(&topology)?;
    for damage in DAMAGE {
        topology.nft(damage)?;
        Agent::start(&topology)?.sync(false)?;
        ensure!(ours(&topology)? == wanted, "after `{damage}` and a restart the table is not byte for byte as it was");
    }
    Ok(())
}
