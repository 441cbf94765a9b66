//! The agent, the operator and the API server end without a word: no verdict changes, not when they end and not when they return (S41).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Cluster, images};
use tokio::runtime::Handle;

use super::fixture::{both_rules, run_servers, running, start, under_streams, until};

/// Another group is made, attached and in force: whoever was killed works again.
pub(super) fn works_again(cluster: &Cluster, round: &str) -> Result<()> {
    let group = format!(
        "{{apiVersion: securitygroups.dev/v1alpha1, kind: SecurityGroup, metadata: {{name: after-{round}, namespace: t}}, spec: {{}}}}"
    );
    let attachment = format!(
        "{{apiVersion: securitygroups.dev/v1alpha1, kind: Attachment, metadata: {{name: after-{round}, namespace: t}}, spec: {{securityGroups: [after-{round}], podSelector: {{}}}}}}"
    );
    cluster.kubectl_stdin(&["apply", "-f", "-"], &format!("{group}\n---\n{attachment}"))?;
    let waited = cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        &format!("sg/after-{round}"),
        &format!("sgatt/after-{round}"),
        "--namespace=t",
        "--timeout=300s",
    ]);
    waited
        .map(drop)
        .with_context(|| cluster.kubectl(&["get", "sgatt,nodereports", "--all-namespaces", "--output=yaml"]).unwrap_or_default())
}

/// A program that cannot work says why in its container's termination message: an agent without its capability, an operator without a token.
fn last_words(cluster: &Cluster) -> Result<()> {
    let image = format!("--image={}", images::PRODUCT);
    let alone = ["--image-pull-policy=Never", "--restart=Never", r#"--overrides={"spec":{"automountServiceAccountToken":false}}"#];
    for (program, more, words) in [
        ("agent", "--node-name=nowhere", "CAP_NET_ADMIN is missing: run as root with capabilities.add [NET_ADMIN]"),
        ("operator", "run", "no way to the API server"),
    ] {
        let (name, command) = (format!("powerless-{program}"), format!("/bin/{program}"));
        cluster.kubectl(
            &[
                &["run", &name, "--namespace=t", &image][..],
                &alone,
                &["--env=POD_NAME=x", "--env=POD_NAMESPACE=t", "--command", "--", &command, more],
            ]
            .concat(),
        )?;
        let pod = format!("pod/{name}");
        cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", &pod, "--namespace=t", "--timeout=300s"])?;
        let message = "--output=jsonpath={.status.containerStatuses[0].state.terminated.message}";
        let message = cluster.kubectl(&["get", &pod, "--namespace=t", message])?;
        ensure!(message.starts_with(words), "{program}: {message:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn s41_p07_p45_whoever_is_killed_no_verdict_changes() -> Result<()> {
    let cluster = start("killed").await?;
    tokio::task::block_in_place(|| {
        let servers = run_servers(&cluster)?;
        let of_family = |index: usize| servers.each_ref().map(|addresses| addresses[index]);
        let agents =
            || -> BTreeSet<i32> { cluster.nodes().iter().flat_map(|node| node.processes("agent")).map(|process| process.pid).collect() };
        under_streams(&cluster, &of_family(0), || {
            // More than once, so that kubelet makes them wait and they are gone for a while.
            for _ in 0..2 {
                let (before, old) = (both_rules(&cluster)?, agents());
                for node in cluster.nodes() {
                    ensure!(node.kill("agent") == 1, "one agent a node");
                }
                until("they are gone", || Ok(agents().is_disjoint(&old)))?;
                ensure!(both_rules(&cluster)? == before, "the rules are what they were while they are gone");
                for node in 0..2 {
                    running(&cluster, node, "agent", true)?;
                }
                std::thread::sleep(Duration::from_secs(2));
            }
            works_again(&cluster, "agent")
        })?;

        let home = (0..2).find(|&node| !cluster.node(node).processes("operator").is_empty());
        let home = home.ok_or_else(|| anyhow::anyhow!("no operator runs"))?;
        under_streams(&cluster, &of_family(1), || {
            ensure!(cluster.node(home).kill("operator") == 1, "one operator");
            running(&cluster, home, "operator", true)?;
            works_again(&cluster, "operator")
        })?;

        under_streams(&cluster, &of_family(1), || {
            cluster.kill_api_server()?;
            std::thread::sleep(Duration::from_secs(3));
            Handle::current().block_on(cluster.start_api_server())?;
            works_again(&cluster, "api-server")
        })?;
        last_words(&cluster)
    })
}
