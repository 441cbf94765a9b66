//! A version before this one: the same programs under another number, or those of another revision (`tests/versions REVISION`).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::images::{self, Image};
use lab::{Cluster, programs};

use super::fixture::{under_streams, until};
use super::killed::works_again;
use super::lifecycle::{NAMESPACE, helm, package, servers};

/// The tag of the image that the chart before this one installs.
const IMAGE: &str = "docker.io/kube-security-groups/kube-security-groups:0.0.1";
const VERSION: &str = "0.0.1";

/// Where its programs and its chart are, if they are others.
fn folder() -> Option<PathBuf> {
    std::env::var_os("KSG_BEFORE").map(PathBuf::from)
}

/// Its image.
pub fn image() -> Result<Image> {
    let names = ["operator", "agent"];
    let programs = match folder() {
        Some(folder) => names.map(|name| folder.join(name)).into(),
        None => programs::ours(&names)?,
    };
    Ok(images::product_of(IMAGE, programs))
}

/// Its chart as a package.
pub fn chart(cluster: &Cluster) -> Result<String> {
    let chart = folder().map_or_else(demo::chart, |folder| folder.join("chart").display().to_string());
    package(cluster, &chart, VERSION)
}

/// As a chart's upgrade would, but for one part of it.
fn apply(cluster: &Cluster, chart: &str, what: impl Fn(&str) -> bool) -> Result<()> {
    let version: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["version", "--output=json"])?)?;
    let version = format!("--kube-version={}", version["serverVersion"]["gitVersion"].as_str().context("the server's version")?);
    let rendered = cluster.helm(&["template", "kube-security-groups", chart, NAMESPACE, &version])?;
    let documents: Vec<&str> = rendered.split("\n---\n").filter(|text| !text.contains("helm.sh/hook") && what(text)).collect();
    ensure!(!documents.is_empty(), "nothing of {chart} is to be applied");
    cluster
        .kubectl_stdin(&["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", "-"], &documents.join("\n---\n"))?;
    for workload in ["deployment/operator", "daemonset/agent"] {
        cluster.kubectl(&["rollout", "status", workload, NAMESPACE, "--timeout=300s"])?;
    }
    Ok(())
}

/// Waits until these versions run, and no other.
fn run(cluster: &Cluster, operator: &str, agent: &str) -> Result<()> {
    until(&format!("operators {operator} and agents {agent}"), || {
        let of_component = |component: &str| {
            let of = format!("--selector=app.kubernetes.io/component={component}");
            cluster.kubectl(&["get", "pods", NAMESPACE, &of, "--output=jsonpath={.items[*].spec.containers[*].image}"])
        };
        let all = |images: String, version: &str| images.split(' ').all(|image| image.ends_with(&format!(":{version}")));
        Ok(all(of_component("operator")?, operator) && all(of_component("agent")?, agent))
    })
}

/// With agents of the version before, this operator; and with these agents, the operator of the version before. In either state no verdict
/// changes, and what is new comes into force.
pub fn one_apart(cluster: &Cluster, this: &str) -> Result<()> {
    let [before, now] = [chart(cluster)?, this.to_owned()];
    let is_agent = |text: &str| text.contains("\nkind: DaemonSet");
    let is_operator = |text: &str| text.contains("\nkind: Deployment");
    let ours = env!("CARGO_PKG_VERSION");
    under_streams(cluster, &servers(cluster)?.map(|[v4, _]| v4), || {
        apply(cluster, &now, |text| !is_agent(text)).context("an operator of this version")?;
        run(cluster, ours, VERSION)?;
        works_again(cluster, "operator-first")
    })?;
    under_streams(cluster, &servers(cluster)?.map(|[_, v6]| v6), || {
        helm(cluster, "upgrade", &[&now])?;
        apply(cluster, &before, is_operator).context("an operator of the version before")?;
        run(cluster, VERSION, ours)?;
        works_again(cluster, "agents-first")?;
        // As it was, to be upgraded as a whole.
        helm(cluster, "upgrade", &[&before])?;
        cluster.kubectl(&["delete", "sg,sgatt", "after-operator-first", "after-agents-first", "--namespace=t"]).map(drop)
    })
}
