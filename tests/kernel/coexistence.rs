//! Other people's tables and ours leave each other alone (S42, P41).

use anyhow::{Result, ensure};
use testkit::Scenario;

use super::topology::{Topology, Wiring};

const FOREIGN: &str = "table inet foreign {\n\tset blocked {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { 192.0.2.0/24 }\n\t}\n\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip saddr @blocked limit rate 5/second counter packets 0 bytes 0 drop\n\t}\n}\n";

#[test]
fn p41_foreign_tables_stay_as_they_are_and_their_end_leaves_ours() -> Result<()> {
    let topology = Topology::new(Wiring::Routed)?;
    let file = std::env::temp_dir().join(format!("{}.nft", topology.node.name()));
    std::fs::write(&file, FOREIGN)?;
    topology.nft(&format!("-f {}", file.display()))?;
    std::fs::remove_file(&file)?;
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
