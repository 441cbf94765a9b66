//! A node without an agent: its pods start, it keeps nobody else from going on, it is named, and the agent that comes guards what it finds.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::Cluster;

use super::cases::{Source, hold, ping, tcp};
use super::fixture::{condition, group, in_force, pod, pod_addresses, running, start, until};

const PODS: usize = 10;
const WANTS_AGENT: &str = "test/wants-agent=yes";

fn names() -> Vec<String> {
    (0..PODS).map(|n| format!("far-{n}")).collect()
}

fn manifests(cluster: &Cluster) -> String {
    let names = names();
    let far: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut manifests = "apiVersion: v1\nkind: Namespace\nmetadata: { name: t }\n".to_owned();
    for name in &far {
        manifests += &pod("t", name, "NODE1", "--tcp=8080", "");
    }
    manifests += &[
        pod("t", "client", "NODE0", "--tcp=1", ""),
        pod("t", "here", "NODE0", "--tcp=8080", ""),
        pod("t", "there", "NODE1", "--tcp=8080", ""),
        group("t", "far", "ingress: []", &far),
        group("t", "both", "ingress: []", &["here", "there"]),
    ]
    .concat();
    manifests.replace("NODE0", cluster.node(0).name()).replace("NODE1", cluster.node(1).name()).replace("IMAGE", lab::images::PROBE)
}

/// Whether a group is programmed, and what is said of it.
fn programmed(cluster: &Cluster, group: &str) -> Result<(bool, String)> {
    let json = cluster.kubectl(&["get", &format!("sg/{group}"), "--namespace=t", "--output=json"])?;
    let status = serde_json::from_str::<serde_json::Value>(&json)?["status"].take();
    let message = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Programmed");
    let message = message.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned();
    Ok((condition(&status, "Programmed").0 == "True", message))
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_p31_p56_a_node_whose_agent_comes_late() -> Result<()> {
    let cluster = start("absent").await?;
    tokio::task::block_in_place(|| {
        // The second node is one where no agent has ever run.
        let [with, without] = [cluster.node(0), cluster.node(1)];
        cluster.kubectl(&["label", "node", with.name(), WANTS_AGENT])?;
        let only = r#"{"spec": {"template": {"spec": {"nodeSelector": {"test/wants-agent": "yes"}}}}}"#;
        cluster.kubectl(&["patch", "daemonset/agent", "--namespace=kube-security-groups", "--patch", only])?;
        cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"])?;
        running(&cluster, 1, "agent", false)?;
        without.nft("delete table inet k8s-sg")?;
        cluster.kubectl(&["delete", "nodereport", without.name()])?;

        // P56: nobody waits for it.
        cluster.kubectl_stdin(&["apply", "-f", "-"], &manifests(&cluster))?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace=t", "--timeout=300s"])?;
        let mut far = Vec::new();
        for name in names() {
            far.extend(pod_addresses(&cluster, "t", &name)?);
        }
        let reached = |answered: bool| {
            let mut cases = tcp(Source::Pod("t", "client"), &far, 8080, answered);
            cases.extend(tcp(Source::World(0), &far, 8080, answered));
            cases.extend(ping(Source::World(1), &far, answered));
            hold(&cluster, cases)
        };
        reached(true)?;

        // P31: it is named as long as a member is there, and not a moment longer.
        until("both groups wait for the node", || {
            let said = [programmed(&cluster, "far")?, programmed(&cluster, "both")?];
            Ok(said.iter().all(|(programmed, message)| !programmed && message.contains(without.name())))
        })?;
        until("the other node is in order", || Ok(!programmed(&cluster, "both")?.1.contains(with.name())))?;
        cluster.kubectl(&["delete", "pod/there", "--namespace=t"])?;
        until("a node without a member does not count", || Ok(programmed(&cluster, "both")?.0))?;
        let here = pod_addresses(&cluster, "t", "here")?;
        hold(&cluster, tcp(Source::World(0), &here, 8080, false))?;
        ensure!(!programmed(&cluster, "far")?.0, "nothing is said to be in force that is not");

        // P04: it comes, and guards the pods that were there before it.
        cluster.kubectl(&["label", "node", without.name(), WANTS_AGENT])?;
        running(&cluster, 1, "agent", true)?;
        let started = Instant::now();
        while !in_maps(&cluster, &far) {
            ensure!(started.elapsed() < Duration::from_secs(60), "the pods are not guarded");
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = started.elapsed();
        reached(false)?;
        println!("{PODS} pods that were there first are guarded {} ms after the agent's start", took.as_millis());
        ensure!(took < Duration::from_secs(2), "guarded only after {took:?}");
        in_force(&cluster, "t")?;
        let path = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let restarts = cluster.kubectl(&["get", "pods", "--namespace=t", path])?;
        ensure!(restarts.split(' ').all(|count| count == "0"), "restarts: {restarts}");
        Ok(())
    })
}

/// Whether packets to all these addresses of the second node meet a pod's rules.
fn in_maps(cluster: &Cluster, addresses: &[IpAddr]) -> bool {
    let maps: Vec<String> =
        ["in4", "in6"].iter().filter_map(|map| cluster.node(1).nft(&format!("list map inet k8s-sg {map}")).ok()).collect();
    let maps = maps.concat();
    addresses.iter().all(|address| maps.contains(&format!(" {address} : ")))
}
