//! The agent, the operator and the API server end without a word: no verdict changes, not when they end and not when they return (S41).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::Cluster;

use tests::undisturbed;

use super::fixture::{Running, rules, run_server, running, start, under_streams, until};

/// Another group is made, attached and in force: whoever was killed works again.
fn works_again(cluster: &Cluster, round: &str) -> Result<()> {
    let group = format!(
        "{{apiVersion: securitygroups.dev/v1alpha1, kind: SecurityGroup, metadata: {{name: after-{round}, namespace: t}}, spec: {{}}}}"
    );
    let attachment = format!(
        "{{apiVersion: securitygroups.dev/v1alpha1, kind: Attachment, metadata: {{name: after-{round}, namespace: t}}, spec: {{securityGroups: [after-{round}], podSelector: {{}}}}}}"
    );
    cluster.kubectl_stdin(&["apply", "-f", "-"], &format!("{group}\n---\n{attachment}"))?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        &format!("sg/after-{round}"),
        &format!("sgatt/after-{round}"),
        "--namespace=t",
        "--timeout=300s",
    ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn s41_p07_p45_whoever_is_killed_no_verdict_changes() -> Result<()> {
    let cluster = start("killed").await?;
    let addresses = tokio::task::block_in_place(|| run_server(&cluster))?;
    let [v4, v6] = addresses[..] else { anyhow::bail!("a dual-stack pod: {addresses:?}") };
    let ruleset = || rules(&cluster, 0);
    let agents = || -> BTreeSet<i32> { cluster.node(0).processes("agent").iter().map(|process| process.pid).collect() };

    tokio::task::block_in_place(|| {
        under_streams(&cluster, v4, || {
            // More than once, so that kubelet makes it wait and it is gone for a while.
            for _ in 0..2 {
                let (before, old) = (ruleset()?, agents());
                ensure!(cluster.node(0).kill("agent") == 1, "one agent a node");
                until("it is gone", || Ok(agents().is_disjoint(&old)))?;
                ensure!(ruleset()? == before, "the rules are what they were while it is gone");
                running(&cluster, 0, "agent", true)?;
                std::thread::sleep(Duration::from_secs(2));
            }
            works_again(&cluster, "agent")
        })?;

        let home = (0..2).find(|&node| !cluster.node(node).processes("operator").is_empty());
        let home = home.ok_or_else(|| anyhow::anyhow!("no operator runs"))?;
        under_streams(&cluster, v6, || {
            ensure!(cluster.node(home).kill("operator") == 1, "one operator");
            running(&cluster, home, "operator", true)?;
            works_again(&cluster, "operator")
        })
    })?;

    let (allowed, denied) = (Running::start(&cluster, 0, v6)?, Running::start(&cluster, 1, v6)?);
    let start = Instant::now();
    cluster.kill_api_server()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.start_api_server().await?;
    let again = tokio::task::block_in_place(|| works_again(&cluster, "api-server"));
    let (allowed, denied) = (allowed.stop()?, denied.stop()?);
    again?;
    undisturbed(&allowed, &denied, start.elapsed().as_secs() * 500)
}
