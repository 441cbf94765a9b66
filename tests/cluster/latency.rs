//! What the agents' latency metric says agrees with what packets find: it starts its clock at the change itself (P35), and it bounds how
//! long a new pod waits for its rules (P03).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{Patch, PatchParams};
use lab::Cluster;
use probe::{Report, tcp};
use serde_json::json;

use super::fixture::{Running, metric, now_us, pod, pod_addresses, run_server, start};

/// Changes of each kind.
const CHANGES: usize = 30;
/// Between two changes: each gets a sync of its own.
const APART: Duration = Duration::from_millis(150);

const COUNT: &str = "securitygroups_agent_programming_seconds_count ";
const SUM: &str = "securitygroups_agent_programming_seconds_sum ";

/// How many changes the server's node has programmed, and how many seconds they took together.
fn programmed(cluster: &Cluster) -> Result<(f64, f64)> {
    Ok((metric(cluster, 0, COUNT)?.parse()?, metric(cluster, 0, SUM)?.parse()?))
}

/// Makes changes that turn the verdict of a stream by turns, beginning with "allowed"; when each was asked for.
async fn changes(change: impl AsyncFn(bool) -> Result<()>) -> Result<Vec<u64>> {
    let mut asked = Vec::new();
    for round in 0..CHANGES {
        asked.push(now_us()?);
        change(round % 2 == 0).await?;
        tokio::time::sleep(APART).await;
    }
    Ok(asked)
}

/// The mean time from a request to the first flow with the new verdict, in seconds.
fn seen_by_packets(report: &Report, asked: &[u64]) -> Result<f64> {
    let mut sum = 0;
    for (round, asked) in asked.iter().enumerate() {
        let allowed = round % 2 == 0;
        let range = report.ranges.iter().find(|range| range.error.is_none() == allowed && range.first_monotonic_us >= *asked);
        sum += range.with_context(|| format!("no flow saw change {round}"))?.first_monotonic_us - asked;
    }
    Ok(sum as f64 / 1e6 / asked.len() as f64)
}

/// The metric's own mean since `before`, held against the packets'.
fn agree(what: &str, cluster: &Cluster, before: (f64, f64), packets: f64) -> Result<()> {
    let (count, sum) = programmed(cluster)?;
    let (count, sum) = (count - before.0, sum - before.1);
    let metric = sum / count;
    println!("{what}: {count} programmed, metric {:.1} ms, packets {:.1} ms from the request", metric * 1e3, packets * 1e3);
    ensure!(count >= CHANGES as f64, "{what}: {count} of {CHANGES} changes were counted");
    ensure!((packets - metric).abs() < 0.1, "{what}: the metric says {metric} s and packets say {packets} s");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_p35_the_latency_metric_says_what_packets_find() -> Result<()> {
    let cluster = start("latency").await?;
    let server = tokio::task::block_in_place(|| run_server(&cluster))?[0];
    let groups: Api<api::SecurityGroup> = Api::namespaced(cluster.client(), "t");
    let rules = async |from: serde_json::Value| -> Result<()> {
        let patch = json!({"spec": {"ingress": [{"protocol": "UDP", "port": 7, "from": [from]}]}});
        groups.patch("server", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    };

    // A rule: from the agent's own watch.
    rules(json!({"cidr": "192.0.2.1/32"})).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = programmed(&cluster)?;
    let stream = Running::start(&cluster, 0, server)?;
    let asked = changes(async |allowed| rules(json!({"cidr": if allowed { "203.0.113.10/32" } else { "192.0.2.1/32" }})).await).await?;
    agree("a rule", &cluster, before, seen_by_packets(&stream.stop()?, &asked)?)?;

    // A member on the other node: by way of the operator and a slice. The agent's part of it alone would be a few milliseconds.
    rules(json!({"securityGroup": {"name": "client"}})).await?;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(cluster.client(), "t");
    let member = async |member: bool| -> Result<()> {
        let patch = json!({"metadata": {"labels": {"app": if member { "client" } else { "nobody" }}}});
        pods.patch("client", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    };
    member(false).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = programmed(&cluster)?;
    let stream = ["exec", "--namespace=t", "client", "--", "/bin/probe", "stream", &server.to_string(), "7", "--seconds", "15"];
    let child = cluster.kubectl_command().args(stream).stdout(std::process::Stdio::piped()).spawn()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = changes(member).await?;
    let output = tokio::task::block_in_place(|| child.wait_with_output())?;
    let report: Report = serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    agree("a member of the other node", &cluster, before, seen_by_packets(&report, &asked)?)?;

    tokio::task::block_in_place(|| new_pods(&cluster))
}

/// P03: pods that are new are guarded, and what their groups allow reaches them, within a second of having an address.
fn new_pods(cluster: &Cluster) -> Result<()> {
    const PODS: usize = 10;
    let names: Vec<String> = (0..PODS).map(|n| format!("new-{n}")).collect();
    let manifests: String = names
        .iter()
        .map(|name| pod("t", name, "NODE0", "--tcp=80", "").replace(&format!("app: {name}"), "app: server"))
        .collect::<String>()
        .replace("NODE0", cluster.node(0).name())
        .replace("IMAGE", lab::images::PROBE);
    let before = within_a_second(cluster)?;
    cluster.kubectl_stdin(&["apply", "-f", "-"], &manifests)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace=t", "--timeout=300s"])?;
    let after = within_a_second(cluster)?;
    ensure!(after.0 > before.0, "new pods were programmed");
    ensure!(after.0 - before.0 == after.1 - before.1, "within a second: {} of {}", after.1 - before.1, after.0 - before.0);
    let started = Instant::now();
    for name in &names {
        for address in pod_addresses(cluster, "t", name)? {
            let target = probe::Target::new(address).within_ms(300);
            let outcome = cluster.world().netns().run(|| tcp::connect(&target, 80))?;
            ensure!(!outcome.ok, "{name} is open {} ms after it was ready", started.elapsed().as_millis());
        }
    }
    Ok(())
}

/// How many changes the server's node has programmed, and how many of them within about a second.
fn within_a_second(cluster: &Cluster) -> Result<(u64, u64)> {
    let bucket = metric(cluster, 0, "securitygroups_agent_programming_seconds_bucket{le=\"1.024\"} ")?;
    Ok((metric(cluster, 0, COUNT)?.parse()?, bucket.parse()?))
}
