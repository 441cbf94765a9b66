//! What happens to clusters: what is in force stays in force, status tells the truth afterwards, and nothing needs a hand (S41).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Cluster;
use tokio::runtime::Handle;

use super::cases::{Source, hold, udp};
use super::fixture::{apply, in_force, in_turn, pod, pod_addresses, rules, run_server, start, under_streams, until};

/// How long the API server is away, in seconds.
const AWAY: &str = "AWAY_SECONDS";

/// Another pod of the server's group, started now, is guarded as it should be: whoever was disturbed works again.
fn follows(cluster: &Cluster, name: &str) -> Result<()> {
    apply(cluster, "t", &pod("t", name, "NODE0", "--udp=7", "").replace(&format!("app: {name}"), "app: server"))?;
    let to = pod_addresses(cluster, "t", name)?;
    // In force is what was attached before as well: that of a pod comes a moment later.
    until("a new pod is guarded, and answers whom it should", || {
        let mut cases = udp(Source::World(0), &to, 7, true);
        cases.extend(udp(Source::World(1), &to, 7, false));
        Ok(hold(cluster, cases).is_ok())
    })?;
    in_force(cluster, "t")
}

/// The server's address in one family.
fn server(cluster: &Cluster, index: usize) -> Result<std::net::IpAddr> {
    pod_addresses(cluster, "t", "server")?.get(index).copied().context("a dual-stack pod")
}

fn api_server_away(cluster: &Cluster) -> Result<()> {
    let away = std::env::var(AWAY).map_or(Ok(20), |text| text.parse()).context(AWAY)?;
    let (rules_before, agents) = (rules(cluster, 0)?, cluster.node(0).processes("agent"));
    // A stream sends for five minutes at most.
    ensure!((1..=290).contains(&away), "{AWAY}: 1 to 290");
    under_streams(cluster, server(cluster, 0)?, || {
        cluster.kill_api_server()?;
        std::thread::sleep(Duration::from_secs(away));
        ensure!(rules(cluster, 0)? == rules_before, "the rules are what they were");
        ensure!(agents.len() == 1 && cluster.node(0).processes("agent") == agents, "the agent stays up");
        Handle::current().block_on(cluster.start_api_server())
    })?;
    follows(cluster, "after-away")
}

#[tokio::test(flavor = "multi_thread")]
async fn s41_p27_whatever_happens_to_the_cluster_rules_stay_and_status_is_true_again() -> Result<()> {
    let cluster = start("adverse").await?;
    tokio::task::block_in_place(|| {
        run_server(&cluster)?;
        in_turn(&cluster, &[("API server away", api_server_away)])
    })
}
