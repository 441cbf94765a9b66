//! Pods of one node on one Linux bridge: filtered like all others, and where they are not, the product says so.

use anyhow::{Context, Result, ensure};
use demo::Shop;
use lab::{Cluster, Topology};
use serde_json::Value;

use super::fixture::{condition, metric, report, start_with, until};
use super::three_tiers::article;

const ESCAPING: &str = "securitygroups_agent_bridges_escaping ";

/// Whether the first app pod gets an answer from the SSH port of the database on its own node, which no group allows.
fn passes_beside_the_rules(cluster: &Cluster) -> Result<Vec<bool>> {
    let shop = Shop::look(cluster)?;
    let app = shop.first("app")?;
    let db = shop.tier("db").find(|db| db.node == app.node).context("a database on the same node")?;
    db.addresses.iter().map(|address| shop.reaches(app, *address, 22)).collect()
}

fn is_set(cluster: &Cluster, node: usize) -> Result<bool> {
    let bridge = cluster.node(node).run(&["ip", "-d", "link", "show", "cni0"])?;
    Ok(bridge.contains("nf_call_iptables 1 nf_call_ip6tables 1"))
}

/// The agent may not set it: what then?
fn forbidden(cluster: &Cluster) -> Result<()> {
    let arguments = r#"[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--set-bridge-netfilter=false"}]"#;
    let rolled_out = || cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"]);
    cluster.kubectl(&["patch", "daemonset/agent", "--namespace=kube-security-groups", "--type=json", "--patch", arguments])?;
    rolled_out()?;
    // Nobody is left now who may set it; those who come look at once.
    for node in cluster.nodes() {
        node.run(&["ip", "link", "set", "cni0", "type", "bridge", "nf_call_iptables", "0", "nf_call_ip6tables", "0"])?;
    }
    cluster.kubectl(&["rollout", "restart", "daemonset/agent", "--namespace=kube-security-groups"])?;
    rolled_out()?;

    until("both nodes report it", || {
        let said = [report(cluster, 0)?, report(cluster, 1)?].map(|status| condition(&status, "BridgeTrafficFiltered"));
        Ok(said.iter().all(|(status, reason)| status == "False" && reason == "BridgeNetfilterOff"))
    })?;
    ensure!(metric(cluster, 0, ESCAPING)? == "1", "the metric counts the bridge");
    let status = report(cluster, 0)?;
    ensure!(condition(&status, "Ready") == ("False".into(), "BridgeNetfilterOff".into()), "{status}");
    let problem = status["problems"].as_array().into_iter().flatten().find(|problem| problem["object"] == "Bridge cni0");
    let message = problem.and_then(|problem| problem["message"].as_str()).unwrap_or_default();
    ensure!(message.contains("net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"), "it says what to do: {status}");
    until("groups are not said to be in force", || {
        let status =
            serde_json::from_str::<Value>(&cluster.kubectl(&["get", "sg/db", "--namespace=shop", "--output=json"])?)?["status"].take();
        Ok(condition(&status, "Programmed").0 != "True" && condition(&status, "Ready").0 != "True")
    })?;
    ensure!(passes_beside_the_rules(cluster)? == [true, true], "and so it is: packets do pass");

    // What the message says, done by hand; the next new pod makes the agent look again.
    for node in cluster.nodes() {
        node.netns().set(&[("bridge/bridge-nf-call-iptables", "1"), ("bridge/bridge-nf-call-ip6tables", "1")])?;
    }
    cluster.kubectl(&["scale", "deployment/db", "--namespace=shop", "--replicas=4"])?;
    cluster.kubectl(&["rollout", "status", "deployment/db", "--namespace=shop", "--timeout=300s"])?;
    demo::wait_in_force(cluster)?;
    for node in 0..2 {
        let status = report(cluster, node)?;
        ensure!(condition(&status, "BridgeTrafficFiltered") == ("True".into(), "Filtered".into()), "{status}");
        ensure!(metric(cluster, node, ESCAPING)? == "0", "the metric counts none any more");
        ensure!(!is_set(cluster, node)?, "the bridge's own switch is left alone");
    }
    ensure!(passes_beside_the_rules(cluster)? == [false, false], "and so it is: packets do not pass");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn s30_p30_pods_on_one_bridge_are_filtered_or_it_is_said_that_they_are_not() -> Result<()> {
    let cluster = start_with(Cluster::builder("bridge").topology(Topology::Bridge)).await?;
    tokio::task::block_in_place(|| {
        until("a report of a node that has nothing to guard", || {
            // There is none before the agent's first.
            Ok(report(&cluster, 0).is_ok_and(|status| condition(&status, "BridgeTrafficFiltered").1 == "NoBridge"))
        })?;
        article(&cluster)?;
        for node in 0..2 {
            ensure!(is_set(&cluster, node)?, "the agent has set what nobody else had");
            let status = report(&cluster, node)?;
            ensure!(condition(&status, "BridgeTrafficFiltered") == ("True".into(), "Filtered".into()), "{status}");
        }
        forbidden(&cluster)
    })
}
