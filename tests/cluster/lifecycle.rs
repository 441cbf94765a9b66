//! From `helm install` to `helm uninstall`: what an administrator does to the product, and what packets notice of it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab::{Cluster, Topology};

use super::cases::{Source, hold, udp};
use super::fixture::{
    Running, Streams, both_rules, in_force, in_turn, page, pod_addresses, report, run_servers, start_with, under_streams, until,
    without_tables,
};
use super::three_tiers::article;
use super::versions;

pub(super) const NAMESPACE: &str = "--namespace=kube-security-groups";
const RELEASE: &str = "kube-security-groups";
/// A chart as a package, under a version.
pub(super) fn package(cluster: &Cluster, chart: &str, version: &str) -> Result<String> {
    let folder = cluster.dir().join("charts");
    let destination = format!("--destination={}", folder.display());
    cluster.helm(&["package", chart, &destination, &format!("--version={version}"), &format!("--app-version={version}")])?;
    let file = folder.join(format!("{RELEASE}-{version}.tgz"));
    ensure!(file.is_file(), "{} is not there", file.display());
    Ok(file.display().to_string())
}

pub(super) fn helm(cluster: &Cluster, command: &str, more: &[&str]) -> Result<String> {
    cluster.helm(&[&[command, RELEASE][..], more, &[NAMESPACE, "--wait", "--timeout=300s"]].concat())
}

/// What of the product is still there, in the API and in the nodes' kernels.
fn left(cluster: &Cluster) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let ours = "app.kubernetes.io/name=kube-security-groups";
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"])?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !["events", "events.events.k8s.io"].contains(kind)).collect();
    // Namespaces and definitions are kept, as is what users wrote; and what keeps an API server finding ConfigMaps (admission/watched.yaml).
    let kept = ["namespace/", "customresourcedefinition", "apiservice.", "securitygroup.", "attachment.", "prefixlist."];
    let watched = "admissionregistration.k8s.io/watched.securitygroups.dev";
    let found = cluster.kubectl(&["get", &kinds.join(","), "--all-namespaces", "--ignore-not-found", "--output=name"])?;
    let is_ours = |name: &&str| {
        ["kube-security-groups", "securitygroups.dev", "/agent", "/operator", "/uninstall"].iter().any(|word| name.contains(word))
            && !kept.iter().any(|word| name.starts_with(word))
            && !name.ends_with(watched)
    };
    left.extend(found.lines().filter(is_ours).map(str::to_owned));
    left.extend(
        cluster
            .kubectl(&["get", &kinds.join(","), "-A", "--ignore-not-found", "-l", ours, "-o", "name"])?
            .lines()
            .filter(is_ours)
            .map(str::to_owned),
    );
    let finalizers = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.finalizers}{\"\\n\"}{end}";
    let finalizers = cluster.kubectl(&["get", "sg,sgpl,sgatt", "--all-namespaces", finalizers])?;
    left.extend(finalizers.lines().filter(|line| line.contains("securitygroups.dev")).map(str::to_owned));
    for node in cluster.nodes() {
        let tables = node.nft("list tables")?;
        left.extend(tables.lines().filter(|table| table.contains("k8s-sg")).map(|table| format!("{}: {table}", node.name())));
    }
    Ok(left)
}

/// Pods of one node are routed, those of the other are on a bridge.
#[tokio::test(flavor = "multi_thread")]
async fn s41_p39_p40_p41_p42_p43_installed_upgraded_switched_off_and_removed_by_helm() -> Result<()> {
    let builder = Cluster::builder("lifecycle").topology(Topology::Mixed).images([versions::image()?]);
    let cluster = start_with(builder).await?;
    tokio::task::block_in_place(|| {
        run_servers(&cluster)?;
        in_turn(
            &cluster,
            &[
                ("uninstalled", |cluster| {
                    helm(cluster, "uninstall", &[])?;
                    removed(cluster)
                }),
                ("installed from a package of a version before this one", |cluster| {
                    demo::install_chart(cluster, &versions::chart(cluster)?, &[])?;
                    in_force(cluster, "t")?;
                    served(cluster)?;
                    article(cluster)
                }),
                ("restarted", restarted),
                ("one version apart", |cluster| versions::one_apart(cluster, &this(cluster)?)),
                ("upgraded", upgraded),
                ("metrics opened", metrics_opened),
                ("switched off and on", switched_off),
                ("uninstalled, rules kept, and installed again", kept),
                ("uninstalled again, and the rules that are kept removed by hand", |cluster| {
                    helm(cluster, "upgrade", &[&demo::chart(), "--set=uninstall.rules=keep"])?;
                    helm(cluster, "uninstall", &[])?;
                    served(cluster)?;
                    for node in cluster.nodes() {
                        node.nft("delete table inet k8s-sg")?;
                    }
                    open(cluster)
                }),
                ("installed again", |cluster| {
                    let started = Instant::now();
                    demo::install(cluster)?;
                    println!("ready {:.1} s after `helm install`: {}", started.elapsed().as_secs_f64(), memory(cluster)?);
                    in_force(cluster, "t")?;
                    served(cluster)
                }),
                ("uninstalled with all that was written", |cluster| {
                    helm(cluster, "upgrade", &[&demo::chart(), "--set=crds.keep=false"])?;
                    helm(cluster, "uninstall", &[])?;
                    let kinds = "crd,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings";
                    let left = cluster.kubectl(&["get", kinds, "--output=name"])?;
                    let is_ours = |name: &&str| name.contains("securitygroups.dev") || name.contains("kube-security-groups");
                    let left: Vec<&str> = left.lines().filter(is_ours).collect();
                    ensure!(left.is_empty(), "left behind: {left:#?}");
                    without_tables(cluster)
                }),
            ],
        )
    })
}

/// The chart of this version.
fn this(cluster: &Cluster) -> Result<String> {
    package(cluster, &demo::chart(), env!("CARGO_PKG_VERSION"))
}

/// The addresses of a server, IPv4 first.
fn server(cluster: &Cluster, name: &str) -> Result<[IpAddr; 2]> {
    let addresses = pod_addresses(cluster, "t", name)?;
    addresses.try_into().map_err(|addresses| anyhow::anyhow!("a dual-stack pod: {addresses:?}"))
}

/// Those of the server on each node.
pub(super) fn servers(cluster: &Cluster) -> Result<[[IpAddr; 2]; 2]> {
    Ok([server(cluster, "server")?, server(cluster, "server-2")?])
}

fn restarted(cluster: &Cluster) -> Result<()> {
    under_streams(cluster, &servers(cluster)?.map(|[v4, _]| v4), || {
        for workload in ["daemonset/agent", "deployment/operator"] {
            cluster.kubectl(&["rollout", "restart", workload, NAMESPACE])?;
            cluster.kubectl(&["rollout", "status", workload, NAMESPACE, "--timeout=300s"])?;
        }
        in_force(cluster, "t")
    })
}

fn upgraded(cluster: &Cluster) -> Result<()> {
    under_streams(cluster, &servers(cluster)?.map(|[_, v6]| v6), || {
        helm(cluster, "upgrade", &[&this(cluster)?])?;
        in_force(cluster, "t")
    })?;
    let images = cluster.kubectl(&["get", "pods", NAMESPACE, "--output=jsonpath={.items[*].spec.containers[*].image}"])?;
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    ensure!(images.split(' ').all(|image| image.ends_with(&version)), "{images}");
    Ok(())
}

/// Metrics alone are to be had at the node's addresses, if so wished, and tell of what a container can see of its node.
fn metrics_opened(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0);
    let open = [node.v4().into(), node.v6().into()].map(|address: IpAddr| SocketAddr::new(address, 9651));
    ensure!(page(cluster, 0, open[0], "/metrics").is_err(), "they are open though nobody asked");
    helm(cluster, "upgrade", &[&demo::chart(), "--set=metrics.exposeAgents=true"])?;
    in_force(cluster, "t")?;
    for address in open {
        let text = page(cluster, 0, address, "/metrics")?;
        let value = |name: &str| -> Result<u64> {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).with_context(|| format!("{name} in {text}"))?;
            Ok(line.parse()?)
        };
        let (entries, limit) = (value("securitygroups_agent_conntrack_entries")?, value("securitygroups_agent_conntrack_limit")?);
        ensure!(0 < entries && entries < limit, "{entries} connections of {limit}");
        ensure!(value("securitygroups_agent_enforcing")? == 1, "{text}");
        ensure!(page(cluster, 0, address, "/readyz")?.starts_with("HTTP/1.0 404"), "health is nobody else's");
    }
    Ok(())
}

/// What the product's processes hold on all nodes together.
fn memory(cluster: &Cluster) -> Result<String> {
    let mut said = Vec::new();
    for program in ["operator", "agent"] {
        let processes = cluster.nodes().iter().flat_map(|node| node.processes(program));
        let held = processes.map(|process| resident(process.pid)).collect::<Result<Vec<u64>>>()?;
        let total: u64 = held.iter().sum();
        said.push(format!("{} {program}s {:.1} MiB", held.len(), total as f64 / 1024.0));
    }
    Ok(said.join(", "))
}

/// KiB of memory that a process has to itself or shares with others.
fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The one outside client that the servers' group knows is answered, another is not.
fn served(cluster: &Cluster) -> Result<()> {
    let servers = servers(cluster)?.concat();
    let mut cases = udp(Source::World(0), &servers, 7, true);
    cases.extend(udp(Source::World(1), &servers, 7, false));
    hold(cluster, cases)
}

/// Nothing is left, and everything is open.
fn open(cluster: &Cluster) -> Result<()> {
    let left = left(cluster)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    hold(cluster, udp(Source::World(1), &servers(cluster)?.concat(), 7, true))
}

/// The same, and what users wrote is as it was and claims nothing.
fn removed(cluster: &Cluster) -> Result<()> {
    open(cluster)?;
    let programmed = cluster.kubectl(&["get", "sg", "server", "--namespace=t", "--output=jsonpath={.status.nodes.programmed}"])?;
    ensure!(programmed == "0", "it says that it is in force on {programmed} nodes");
    Ok(())
}

/// P39: switched off, rules are gone, agents are well and say so; switched on, everything is as before.
fn switched_off(cluster: &Cluster) -> Result<()> {
    let chart = demo::chart();
    helm(cluster, "upgrade", &[&chart, "--set=enforce=false,metrics.exposeAgents=true"])?;
    for (number, node) in cluster.nodes().iter().enumerate() {
        let open = page(cluster, number, SocketAddr::new(node.v4().into(), 9651), "/metrics")?;
        ensure!(open.contains("\nsecuritygroups_agent_enforcing 0\n"), "{open}");
        let said = report(cluster, number)?["conditions"].to_string();
        ensure!(said.contains("EnforcementOff"), "{said}");
    }
    without_tables(cluster)?;
    hold(cluster, udp(Source::World(1), &servers(cluster)?.concat(), 7, true))?;
    until("the group says that it is in force nowhere", || {
        let said = cluster.kubectl(&["get", "sg", "server", "--namespace=t", "--output=jsonpath={.status.nodes.summary}"])?;
        Ok(said == "0/2")
    })?;
    helm(cluster, "upgrade", &[&chart, "--reset-values"])?;
    in_force(cluster, "t")?;
    served(cluster)
}

/// `uninstall.rules=keep`: rules stay in force, nothing else stays, and installing again takes them over.
fn kept(cluster: &Cluster) -> Result<()> {
    helm(cluster, "upgrade", &[&demo::chart(), "--set=uninstall.rules=keep"])?;
    in_force(cluster, "t")?;
    let before = both_rules(cluster)?;
    under_streams(cluster, &servers(cluster)?.map(|[_, v6]| v6), || {
        helm(cluster, "uninstall", &[])?;
        let left = left(cluster)?;
        ensure!(left.iter().all(|what| what.contains("k8s-sg")), "left behind: {left:#?}");
        ensure!(both_rules(cluster)? == before, "the rules are what they were");
        demo::install(cluster)?;
        in_force(cluster, "t")
    })?;
    served(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_p45_a_node_that_reboots() -> Result<()> {
    reboot("reboot", Topology::Routed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_p45_a_node_of_bridged_pods_that_reboots() -> Result<()> {
    reboot("reboot-bridge", Topology::Bridge).await
}

/// A node reboots: what it lets through between its start and its agent's first commit is measured, and then everything is as before. On the
/// other node nothing is lost or let through meanwhile.
async fn reboot(name: &str, topology: Topology) -> Result<()> {
    let mut cluster = start_with(Cluster::builder(name).topology(topology)).await?;
    let [_, elsewhere] = tokio::task::block_in_place(|| run_servers(&cluster))?;
    // Its disk forgets who had which address: the server gets one of the first.
    let first: Vec<IpAddr> = cluster.node(0).pod_cidrs().0.hosts().skip(1).take(5).map(IpAddr::from).collect();
    let streams = Streams::start(&cluster, &elsewhere[..1])?;
    let denied = first.iter().map(|address| Running::start(&cluster, 1, *address)).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    tokio::task::block_in_place(|| cluster.reboot(0))?;
    tokio::task::block_in_place(|| {
        until("kubelet has started the server again", || {
            let count = "--output=jsonpath={.status.containerStatuses[*].restartCount}";
            Ok(cluster.kubectl(&["get", "pod/server", "--namespace=t", count])? == "1")
        })?;
        until("the server is guarded again, and answers whom it should", || Ok(served(&cluster).is_ok()))?;
        in_force(&cluster, "t")?;
        println!("as it was {:.1} s after the reboot", started.elapsed().as_secs_f64());
        streams.undisturbed().context("on the other node")?;
        let now = server(&cluster, "server")?[0];
        ensure!(first.contains(&now), "the server has {now}, none of {first:?}: nothing was measured");
        let (mut sent, mut answered) = (0, Vec::new());
        for denied in denied {
            let denied = denied.stop()?;
            sent += denied.sent;
            answered.push(denied.answered);
        }
        println!(
            "of {sent} packets that are not allowed, to five addresses, these were answered before the agent's first commit: {answered:?}"
        );
        ensure!(sent >= 5_000, "too few to prove anything");
        served(&cluster)
    })
}
