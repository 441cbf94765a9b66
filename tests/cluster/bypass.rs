//! Nodes that cannot enforce: pods past the node's network, and kernels without nftables, without conntrack, or without what came later. The
//! product finds out, says so everywhere, claims nothing, and goes on when it is over.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::Cluster;
use serde_json::Value;

use super::emulated;
use super::fixture::{AGENT, apply, condition, group, in_force, metric, page, pod, pod_addresses, report, start, until};

const ENFORCING: &str = "securitygroups_agent_enforcing ";

fn status(cluster: &Cluster, object: &str) -> Result<Value> {
    let json = cluster.kubectl(&["get", object, "--namespace=b", "--output=json"])?;
    Ok(serde_json::from_str::<Value>(&json)?["status"].take())
}

fn message(status: &Value, type_: &str) -> String {
    let found = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == type_);
    found.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned()
}

/// The node's report, the group, the attachment and the metric say it, with this condition and reason.
fn told(cluster: &Cluster, type_: &str, reason: &str) -> Result<()> {
    until(&format!("{type_} is False, {reason}"), || Ok(condition(&report(cluster, 0)?, type_) == ("False".into(), reason.into())))?;
    let said = report(cluster, 0)?;
    ensure!(condition(&said, "Ready") == ("False".into(), reason.into()) && said["groups"] == serde_json::json!([]), "{said}");
    until("the group and the attachment say so", || {
        let all = [status(cluster, "sg/closed")?, status(cluster, "sgatt/closed")?];
        Ok(all.iter().all(|status| {
            let why = message(status, "Programmed");
            condition(status, "Programmed") == ("False".into(), "CannotEnforce".into()) && why.contains("node1") && why.contains(reason)
        }))
    })?;
    ensure!(metric(cluster, 0, ENFORCING)? == "0", "the metric says so");
    Ok(())
}

fn over(cluster: &Cluster, type_: &str) -> Result<()> {
    until(&format!("{type_} is True again"), || Ok(condition(&report(cluster, 0)?, type_).0 == "True"))?;
    in_force(cluster, "b")?;
    until("the metric says so", || Ok(metric(cluster, 0, ENFORCING)? == "1"))
}

/// Pods on macvlan reach each other whatever the rules say.
fn past_the_node(cluster: &Cluster) -> Result<()> {
    let pods = [pod("b", "macvlan-a", "NODE0", "--tcp=80", ""), pod("b", "macvlan-b", "NODE0", "--tcp=80", "")].concat();
    cluster.kubectl_stdin(&["apply", "-f", "-"], &pods.replace("NODE0", cluster.node(0).name()).replace("IMAGE", lab::images::PROBE))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace=b", "--timeout=300s"])?;
    told(cluster, "TrafficFiltered", "NotForwardedHere")?;
    let said = report(cluster, 0)?;
    let problems: Vec<&str> = said["problems"].as_array().into_iter().flatten().filter_map(|problem| problem["object"].as_str()).collect();
    ensure!(problems == ["Pod b/macvlan-a", "Pod b/macvlan-b"], "{said}");
    ensure!(message(&said, "TrafficFiltered").contains("leave this node by eth0"), "{said}");
    for address in pod_addresses(cluster, "b", "macvlan-b")? {
        let answer = cluster.exec("b", "macvlan-a", &["/bin/probe", "tcp", &address.to_string(), "80"]);
        ensure!(answer.is_ok(), "and so it is, packets do pass: {answer:?}");
    }
    logged(cluster, "macvlan-a")?;
    cluster.kubectl(&["delete", "pod", "macvlan-a", "macvlan-b", "--namespace=b"])?;
    over(cluster, "TrafficFiltered")
}

/// One line of JSON names the pod.
fn logged(cluster: &Cluster, name: &str) -> Result<()> {
    let agents = agents(cluster)?;
    let agent = agents.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("an agent")?;
    let log = cluster.kubectl(&["logs", agent, "--namespace=kube-security-groups"])?;
    let lines = log.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let about: Vec<&Value> = lines.iter().filter(|line| line["name"] == name).collect();
    ensure!(about.len() == 1, "once: {about:?}");
    let fields = ["level", "kind", "namespace", "reason"].map(|field| about[0][field].as_str().unwrap_or_default());
    ensure!(fields == ["WARN", "Pod", "b", "NotForwardedHere"], "{}", about[0]);
    Ok(())
}

/// What a kernel without nfnetlink answers.
const NO_NFNETLINK: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 93,
  "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 12, "op": "SCMP_CMP_EQ"}]}]}"#;

fn agents(cluster: &Cluster) -> Result<Vec<Value>> {
    let selector = "--selector=app.kubernetes.io/component=agent";
    let json = cluster.kubectl(&["get", "pods", "--namespace=kube-security-groups", selector, "--output=json"])?;
    let mut pods: Value = serde_json::from_str(&json)?;
    let here = |pod: &Value| pod["spec"]["nodeName"] == cluster.node(0).name();
    Ok(pods["items"].as_array_mut().context("a list")?.iter().filter(|pod| here(pod)).cloned().collect())
}

/// The agent stays, and what was in force stays in the kernel, though nobody can say so.
fn without_nftables(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let kubelet = node.processes("kubelet").first().context("a kubelet")?.pid;
        let profiles = format!("/proc/{kubelet}/root/var/lib/kubelet/seccomp");
        fs::create_dir_all(&profiles)?;
        fs::write(format!("{profiles}/no-nfnetlink.json"), NO_NFNETLINK)?;
    }
    let patch = |profile: &str| {
        let patch = format!(
            r#"[{{"op": "replace", "path": "/spec/template/spec/securityContext/seccompProfile", "value": {profile}}},
            {{"op": "replace", "path": "/spec/updateStrategy/rollingUpdate/maxUnavailable", "value": "100%"}}]"#
        );
        cluster.kubectl(&["patch", "daemonset/agent", "--namespace=kube-security-groups", "--type=json", "--patch", &patch])
    };
    let rules = || cluster.node(0).nft("list table inet k8s-sg");
    let before = rules()?;
    patch(r#"{"type": "Localhost", "localhostProfile": "no-nfnetlink.json"}"#)?;
    told(cluster, "KernelSupported", "KernelFeatureMissing")?;
    let said = report(cluster, 0)?;
    ensure!(message(&said, "KernelSupported").contains("the kernel module nfnetlink"), "{said}");
    ensure!(said["kernel"]["unsupported"].as_array().is_some_and(|lacking| lacking.len() == 1), "{said}");
    let readyz = page(cluster, 0, AGENT, "/readyz")?;
    ensure!(readyz.contains(" 503 ") && readyz.contains("the kernel module nfnetlink"), "{readyz}");
    // Longer than a program that ends at once would take to be started three times.
    std::thread::sleep(std::time::Duration::from_secs(15));
    let agents = agents(cluster)?;
    let stays = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        container["restartCount"] == 0 && container["state"]["running"].is_object()
    };
    ensure!(agents.len() == 1 && stays(&agents[0]), "it stays: {agents:?}");
    ensure!(before.lines().count() <= rules()?.lines().count(), "what was in force stays in the kernel");
    patch(r#"{"type": "RuntimeDefault"}"#)?;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"])?;
    over(cluster, "KernelSupported")?;
    // Where there are no tables, there is none to wait for.
    patch(r#"{"type": "Localhost", "localhostProfile": "no-nfnetlink.json"}"#)?;
    told(cluster, "KernelSupported", "KernelFeatureMissing")?;
    cluster.helm(&["uninstall", "kube-security-groups", "--namespace=kube-security-groups", "--wait", "--timeout=300s"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn s30_p30_a_node_that_cannot_enforce_says_so_and_claims_nothing() -> Result<()> {
    let cluster = start("bypass").await?;
    tokio::task::block_in_place(|| {
        let groups = group("b", "closed", "ingress: []", &["forwarded", "macvlan-a", "macvlan-b"]);
        let first =
            ["apiVersion: v1\nkind: Namespace\nmetadata: { name: b }\n".into(), pod("b", "forwarded", "NODE0", "--tcp=80", ""), groups];
        apply(&cluster, "b", &first.concat())?;
        ensure!(condition(&report(&cluster, 0)?, "TrafficFiltered") == ("True".into(), "Filtered".into()), "{}", report(&cluster, 0)?);
        ensure!(metric(&cluster, 0, ENFORCING)? == "1", "it enforces");
        past_the_node(&cluster)?;
        emulated::nodes_that_lack_something(&cluster)?;
        without_nftables(&cluster)
    })
}
