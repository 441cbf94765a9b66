//! The product as a whole, on a real cluster of two nodes: from an API request to the packet that meets its verdict, and what the programs
//! use. Compare, measured in the same way on two nodes of this kind: Calico Felix in nftables mode 23–34 ms (p90 30–45) at every size,
//! 18 % of a core and 108 MiB; kube-router in iptables mode 160 ms empty and 2.6–3.5 s at 10,000 pods, 58 % and 157–170 MiB.
//!
//! *In:* how thoroughly. *Out:* [`Line`]s. The cluster goes when it is done, also when it is told to end.

mod changes;
mod fill;
mod newcomers;
mod repairs;
mod usage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Cluster, Signals};
use tokio::task::block_in_place;

use crate::table::Line;
use fill::Fill;

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub struct Thoroughness {
    /// Changes of each kind at each size.
    pub changes: usize,
    /// Another's edits of each kind at each size.
    pub edits: usize,
    /// Starts of a new pod.
    pub starts: usize,
    /// How long the programs are watched while nothing happens.
    pub idle: Duration,
    /// How long while labels change.
    pub busy: Duration,
}

impl Thoroughness {
    /// What the figures are made with.
    pub const FULL: Thoroughness =
        Thoroughness { changes: 30, edits: 8, starts: 10, idle: Duration::from_secs(30), busy: Duration::from_secs(60) };
    /// To see whether it works.
    pub const QUICK: Thoroughness =
        Thoroughness { changes: 6, edits: 1, starts: 2, idle: Duration::from_secs(5), busy: Duration::from_secs(10) };
}

/// Groups beside those that are changed.
const GROUPS: usize = 200;

/// All figures.
pub fn measure(how: Thoroughness, tell: &mut impl FnMut(Line)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(on_a_cluster(how, tell))
}

async fn on_a_cluster(how: Thoroughness, tell: &mut impl FnMut(Line)) -> Result<()> {
    let mut signals = Signals::new()?;
    let name = format!("bench-{}", std::process::id());
    let mut starting = Box::pin(Cluster::builder(&name).nodes(2).images([lab::images::product()?]).start());
    let cluster = tokio::select! {
        biased;
        // What has been started goes with the future.
        code = signals.received() => bail!("interrupted ({code})"),
        started = &mut starting => Arc::new(started?),
    };
    let watched = cluster.clone();
    let watching = tokio::spawn(async move {
        let code = signals.received().await;
        watched.take_down();
        std::process::exit(code.into());
    });
    let measured = everything(&cluster, how, tell).await;
    watching.abort();
    let _ = watching.await;
    measured
}

async fn everything(cluster: &Cluster, how: Thoroughness, tell: &mut impl FnMut(Line)) -> Result<()> {
    block_in_place(|| demo::install(cluster))?;
    let stage = changes::Stage::new(cluster)?;
    newcomers::measure(cluster, how.starts, tell)?;
    stage.measure("empty", &[("Calico Felix", 23.0), ("kube-router", 160.0)], how.changes, tell).await?;
    repairs::measure(cluster, "empty", how.edits, tell).await?;
    let mut fill = Fill::new(cluster, GROUPS).await?;
    let sizes: [(usize, &[(&str, f64)]); 2] =
        [(100, &[("Calico Felix", 23.0)]), (10_000, &[("Calico Felix", 23.0), ("kube-router", 2_600.0)])];
    for (pods, others) in sizes {
        let started = Instant::now();
        fill.pods(pods).await?;
        eprintln!("{GROUPS} groups and {pods} pods after {:.0} s", started.elapsed().as_secs_f64());
        usage::at_rest(cluster).await?;
        stage.measure(&format!("{GROUPS} groups, {pods} pods"), others, how.changes, tell).await?;
    }
    usage::measure(cluster, &fill, how, tell).await?;
    repairs::measure(cluster, &format!("{GROUPS} groups, 10,000 pods"), how.edits, tell).await?;
    cluster.check()
}

/// CLOCK_MONOTONIC, as streams note it, in µs.
fn now_us() -> Result<u64> {
    let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_micros()).context("a clock before its end")
}

/// Waits until something is so.
async fn until(what: &str, limit: Duration, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !block_in_place(&mut so)? {
        ensure!(Instant::now() < deadline, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// Manifests, in which NODE0, NODE1 and IMAGE stand for what they are called here; waits until pods, groups and attachments are ready.
fn apply(cluster: &Cluster, namespace: &str, manifests: &str) -> Result<()> {
    let names = [("NODE0", cluster.node(0).name()), ("NODE1", cluster.node(1).name()), ("IMAGE", lab::images::PROBE)];
    let manifests = names.iter().fold(manifests.to_owned(), |text, (name, value)| text.replace(name, value));
    cluster.kubectl_stdin(&["apply", "-f", "-"], &manifests)?;
    let waits = [("Ready", "pod"), ("Ready", "sg,sgatt")];
    for (condition, kinds) in waits {
        let condition = format!("--for=condition={condition}");
        cluster.kubectl(&["wait", &condition, kinds, "--all", "--namespace", namespace, "--timeout=60s"])?;
    }
    Ok(())
}

/// A pod that answers on UDP 7.
fn pod(namespace: &str, name: &str, app: &str, on: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {app} }} }}
spec:
  nodeName: {on}
  terminationGracePeriodSeconds: 1
  containers: [{{ name: c, image: IMAGE, imagePullPolicy: Never, command: [/bin/probe, serve, --udp, "7"] }}]
"#
    )
}

/// A group, and its attachment to the pods with a label.
fn group(namespace: &str, name: &str, spec: &str, label: &str) -> String {
    format!(
        r#"
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ {spec} }}
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ securityGroups: [{name}], podSelector: {{ matchLabels: {{ {label} }} }} }}
"#
    )
}

/// A pod's IPv4 address.
fn address(cluster: &Cluster, namespace: &str, pod: &str) -> Result<std::net::Ipv4Addr> {
    let found = cluster.kubectl(&["get", "pod", pod, "--namespace", namespace, "--output=jsonpath={.status.podIPs[*].ip}"])?;
    found.split_whitespace().find_map(|ip| ip.parse().ok()).with_context(|| format!("{pod} has no IPv4 address: {found}"))
}
