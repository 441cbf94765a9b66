//! Other people's tables and ours leave each other alone (S42, P41).

use anyhow::{Result, ensure};
use testkit::{Scenario, World};

use super::connections::{connect, on_each};
use super::topology::{Topology, Wiring};

const FOREIGN: &str = "table inet foreign {\n\tset blocked {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { 192.0.2.0/24 }\n\t}\n\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip saddr @blocked limit rate 5/second counter packets 0 bytes 0 drop\n\t}\n}\n";

#[test]
fn p41_foreign_tables_stay_as_they_are_and_their_end_leaves_ours() -> Result<()> {
    let topology = Topology::new(Wiring::Routed)?;
    load(&topology, FOREIGN)?;
    let foreign = topology.nft("list table inet foreign")?;

    let pod = |rules: &[&str]| Scenario::new().group("shop/web", rules).pod("shop/p", &["10.0.0.1", "fd00::1"], &["shop/web"]).policy();
    for rules in [&["ingress tcp 80 from sg/shop/lb"][..], &["ingress all from 10.0.0.0/8"], &[]] {
        topology.enforce(&pod(rules))?;
        ensure!(topology.nft("list table inet foreign")? == foreign, "the foreign table has changed");
    }
    let ours = topology.nft("list table inet k8s-sg")?;
    topology.nft("flush table inet foreign")?;
    topology.nft("delete table inet foreign")?;
    ensure!(topology.nft("list table inet k8s-sg")? == ours, "our table has changed");
    Ok(())
}

/// A layer of network policies as the usual implementations build it: what it accepts, it accepts in its own chain only; then it drops
/// what else is for the pod.
fn network_policy(priority: &str, allowed: &str) -> String {
    format!(
        "table inet netpol {{\n chain forward {{\n type filter hook forward priority {priority}; policy accept;\n \
         ct state established,related accept\n ip daddr 10.0.0.1 ip saddr {allowed} accept\n ip daddr 10.0.0.1 drop\n }}\n}}\n"
    )
}

fn load(topology: &Topology, ruleset: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{}.nft", topology.node.name()));
    std::fs::write(&file, ruleset)?;
    let loaded = topology.nft(&format!("-f {}", file.display()));
    std::fs::remove_file(&file)?;
    loaded.map(drop)
}

#[test]
fn s39_what_network_policy_and_groups_do_not_both_allow_does_not_pass() -> Result<()> {
    let (by_both, by_groups, by_policy, by_none) = ("10.0.0.2", "10.0.0.3", "192.0.2.7", "10.0.0.4");
    on_each(|topology| {
        let rules = ["ingress tcp 7 from 10.0.0.2/31"];
        topology.enforce(&Scenario::new().group("shop/web", &rules).pod("shop/p0", &World::PODS[0], &["shop/web"]).policy())?;
        // Asked before our chains and after them.
        for priority in ["-20", "0"] {
            load(topology, &network_policy(priority, &format!("{{ {by_both}, {by_policy} }}")))?;
            for (from, passes) in [(by_both, true), (by_groups, false), (by_policy, false), (by_none, false)] {
                let outcome = connect(topology, from, "10.0.0.1")?;
                ensure!(outcome.ok == passes, "network policy at priority {priority}, from {from}: {outcome:?}");
            }
            // Each alone allows what the other did not: it was the other layer that denied.
            topology.nft("flush table inet netpol")?;
            topology.nft("delete table inet netpol")?;
            ensure!(connect(topology, by_groups, "10.0.0.1")?.ok, "groups alone");
        }
        load(topology, &network_policy("0", by_policy))?;
        topology.nft("delete table inet k8s-sg")?;
        ensure!(connect(topology, by_policy, "10.0.0.1")?.ok, "network policy alone");
        Ok(())
    })
}
