//! Installing the product and the sample, as a user would.

use anyhow::{Context, Result};
use lab::Cluster;

use crate::root;

/// The chart of this checkout.
pub fn chart() -> String {
    root().join("charts/kube-security-groups").display().to_string()
}

/// `helm install`, which waits until the operator and an agent on every node are ready.
pub fn install(cluster: &Cluster) -> Result<()> {
    install_chart(cluster, &chart(), &[])
}

/// The same from a chart's folder or package, with more arguments.
pub fn install_chart(cluster: &Cluster, chart: &str, more: &[&str]) -> Result<()> {
    let arguments =
        ["install", "kube-security-groups", chart, "--namespace=kube-security-groups", "--create-namespace", "--wait", "--timeout=300s"];
    cluster.helm(&[&arguments[..], more].concat()).with_context(|| described(cluster))?;
    Ok(())
}

/// What the product's pods say when they do not come up.
fn described(cluster: &Cluster) -> String {
    let say = |arguments: &[&str]| cluster.kubectl(arguments).unwrap_or_else(|error| error.to_string());
    let namespace = ["--namespace", "kube-security-groups"];
    let pods = say(&[&["get", "pods", "-o", "wide"][..], &namespace].concat());
    let events = say(&[&["get", "events"][..], &namespace].concat());
    let logs =
        say(&[&["logs", "--selector=app.kubernetes.io/name=kube-security-groups", "--prefix", "--tail=20"][..], &namespace].concat());
    format!("the product does not come up:\n{pods}\n{events}\n{logs}")
}

fn sample() -> Result<String> {
    let file = root().join("deploy/samples/three-tier.yaml");
    std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

/// The sample without its groups and attachments: pods that nothing guards. Waits until all are ready.
pub fn apply_workloads(cluster: &Cluster) -> Result<()> {
    let open = |document: &&str| document.contains("kind: Namespace") || document.contains("kind: Deployment");
    let sample = sample()?;
    let workloads: Vec<&str> = sample.split("\n---\n").filter(open).collect();
    cluster.kubectl_stdin(&["apply", "-f", "-"], &workloads.join("\n---\n"))?;
    for tier in crate::TIERS {
        cluster.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--namespace=shop", "--timeout=300s"])?;
    }
    Ok(())
}

/// The whole sample, groups and attachments with it.
pub fn apply_sample(cluster: &Cluster) -> Result<()> {
    cluster.kubectl_stdin(&["apply", "-f", "-"], &sample()?)?;
    // A group that was made before its attachment was ready without members, and says so until it is looked at again.
    cluster.kubectl(&["wait", "--for=jsonpath={.status.members}=2", "sg", "--all", "--namespace=shop", "--timeout=300s"])?;
    wait_in_force(cluster)
}

/// Waits until every group and attachment of the shop says that it is in force.
pub fn wait_in_force(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["wait", "--for=condition=Ready", "sg,sgatt", "--all", "--namespace=shop", "--timeout=300s"])?;
    Ok(())
}
