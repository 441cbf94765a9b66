//! A cluster with the product and, for streams of packets, a server that only one outside client may reach.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::Attachment;
use k8s_openapi::api::core::v1::Pod;
use kube::core::{Selector, SelectorExt};
use lab::{Builder, Cluster, Topology, images};
use probe::stream::Kind;
use probe::{Report, Stream, Target};
use serde_json::Value;
use tests::undisturbed;

/// A two-node cluster with the product installed and running. The pods of one node are routed, those of the other bridged: what goes on
/// between two pods meets either way, and both.
pub async fn start(name: &str) -> Result<Cluster> {
    start_with(Cluster::builder(name).topology(Topology::Mixed)).await
}

/// The same of another kind.
pub async fn start_with(builder: Builder) -> Result<Cluster> {
    let cluster = builder.nodes(2).images([images::product()?]).start().await?;
    if Path::new("/proc/sys/net/bridge").exists() {
        // A bridge shows nothing to nftables but what the agent makes it show.
        for node in cluster.nodes() {
            node.netns().set(&[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")])?;
        }
    }
    let started = Instant::now();
    tokio::task::block_in_place(|| demo::install(&cluster))?;
    println!("ready {:.1} s after the first `helm install`", started.elapsed().as_secs_f64());
    // The API server keeps the first object of a new definition waiting for up to two seconds.
    let reported = || Ok(cluster.kubectl(&["get", "nodereports", "--output=name"])?.lines().count() == cluster.nodes().len());
    tokio::task::block_in_place(|| until("every node reports", reported))?;
    Ok(cluster)
}

/// Where an agent serves what it says of itself, on its node.
pub const AGENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9650);

/// What one topic is tried by.
pub type Topic = fn(&Cluster) -> Result<()>;

/// Tries topics one after another on one cluster, and says how long they took.
pub fn in_turn(cluster: &Cluster, topics: &[(&str, Topic)]) -> Result<()> {
    for (name, topic) in topics {
        let start = Instant::now();
        topic(cluster).with_context(|| (*name).to_owned())?;
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Applies manifests, in which NODE0, NODE1 and IMAGE stand for what they are called here, and waits until the namespace's pods are ready
/// and its groups and attachments in force.
pub fn apply(cluster: &Cluster, namespace: &str, manifests: &str) -> Result<()> {
    let manifests =
        manifests.replace("NODE0", cluster.node(0).name()).replace("NODE1", cluster.node(1).name()).replace("IMAGE", images::PROBE);
    cluster.kubectl_stdin(&["apply", "-f", "-"], &manifests)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace", namespace, "--timeout=300s"])?;
    until("every attachment counts the pods that it selects", || counted(cluster, namespace))?;
    in_force(cluster, namespace)
}

/// Whether every attachment of a namespace speaks of all pods that it selects. Until then it may say that it is ready, of what it knew before.
fn counted(cluster: &Cluster, namespace: &str) -> Result<bool> {
    let list = |kind| -> Result<Value> {
        let json = cluster.kubectl(&["get", kind, "--namespace", namespace, "--output=json"])?;
        Ok(serde_json::from_str::<Value>(&json)?["items"].take())
    };
    let pods: Vec<Pod> = serde_json::from_value(list("pods")?)?;
    let attachments: Vec<Attachment> = serde_json::from_value(list("sgatt")?)?;
    let here = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
    let none = BTreeMap::new();
    for attachment in attachments {
        let Some(selector) = attachment.spec.pod_selector else { continue };
        let selector = Selector::try_from(selector)?;
        let selected = |pod: &&Pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none));
        let wanted = pods.iter().filter(here).filter(selected).count();
        let told = attachment.status.map_or(0, |status| status.endpoints + status.skipped_count);
        if usize::try_from(told)? < wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until the namespace's groups and attachments are in force; otherwise what they say of themselves.
pub fn in_force(cluster: &Cluster, namespace: &str) -> Result<()> {
    let waited = cluster.kubectl(&["wait", "--for=condition=Ready", "sg,sgatt", "--all", "--namespace", namespace, "--timeout=300s"]);
    waited.map(drop).or_else(|error| {
        let said = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name}: {.status.conditions}{\"\\n\"}{end}";
        Err(error.context(cluster.kubectl(&["get", "sg,sgatt", "--namespace", namespace, said])?))
    })
}

/// A pod's manifest: `on` is NODE0 or NODE1, `more` is further fields of its spec.
pub fn pod(namespace: &str, name: &str, on: &str, serve: &str, more: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec:
  nodeName: {on}
  terminationGracePeriodSeconds: 1
  {more}
  containers: [{{ name: c, image: IMAGE, imagePullPolicy: Never, command: [/bin/probe, serve, {serve}] }}]
"#
    )
}

/// A group's manifest with its attachment to the pods whose label `app` is one of these.
pub fn group(namespace: &str, name: &str, spec: &str, apps: &[&str]) -> String {
    let apps = apps.join(", ");
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
spec: {{ securityGroups: [{name}], podSelector: {{ matchExpressions: [{{ key: app, operator: In, values: [{apps}] }}] }} }}
"#
    )
}

/// The addresses that kubectl finds with a JSONPath, IPv4 first.
pub fn addresses(cluster: &Cluster, namespace: &str, object: &str, path: &str) -> Result<Vec<IpAddr>> {
    let found = cluster.kubectl(&["get", object, "--namespace", namespace, &format!("--output=jsonpath={path}")])?;
    let parse = |text: &str| text.parse().with_context(|| format!("an address: {text}"));
    let mut addresses = found.split_whitespace().map(parse).collect::<Result<Vec<IpAddr>>>()?;
    addresses.sort();
    Ok(addresses)
}

/// A pod's addresses, IPv4 first.
pub fn pod_addresses(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Vec<IpAddr>> {
    addresses(cluster, namespace, &format!("pod/{pod}"), "{.status.podIPs[*].ip}")
}

/// A service's addresses, IPv4 first.
pub fn service_addresses(cluster: &Cluster, namespace: &str, service: &str) -> Result<Vec<IpAddr>> {
    addresses(cluster, namespace, &format!("service/{service}"), "{.spec.clusterIPs[*]}")
}

/// Waits until something is so, five minutes at most.
pub fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !so()? {
        ensure!(Instant::now() < deadline, "not within five minutes: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Waits until a program runs on a node, or does not.
pub fn running(cluster: &Cluster, node: usize, program: &str, wanted: bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while cluster.node(node).processes(program).is_empty() == wanted {
        ensure!(Instant::now() < deadline, "{program} does not {} on node {node}", if wanted { "return" } else { "end" });
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The status of a node's report.
pub fn report(cluster: &Cluster, node: usize) -> Result<Value> {
    let json = cluster.kubectl(&["get", &format!("nodereport/{}", cluster.node(node).name()), "--output=json"])?;
    Ok(serde_json::from_str::<Value>(&json)?["status"].take())
}

/// The rules in a node's kernel, line by line as `nft` lists them; without whose the table is, which it says behind the name and in a line of
/// flags.
pub fn rules(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let text = cluster.node(node).run(&["nft", "--stateless", "list", "table", "inet", "k8s-sg"])?;
    Ok(text.lines().skip(1).filter(|line| !line.starts_with("\tflags")).map(str::to_owned).collect())
}

/// The same of both nodes.
pub fn both_rules(cluster: &Cluster) -> Result<[Vec<String>; 2]> {
    Ok([rules(cluster, 0)?, rules(cluster, 1)?])
}

/// Fails where a node has a table of ours.
pub fn without_tables(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        ensure!(!node.nft("list tables")?.contains("k8s-sg"), "{} has a table", node.name());
    }
    Ok(())
}

/// Status and reason of a condition.
pub fn condition(status: &Value, type_: &str) -> (String, String) {
    let found = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == type_);
    let text = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// What is served on a node, asked from the node itself.
pub fn page(cluster: &Cluster, node: usize, address: SocketAddr, path: &str) -> Result<String> {
    cluster.node(node).netns().run(|| -> Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        Ok(std::io::read_to_string(stream)?)
    })?
}

/// What the agent of a node counts under a name.
pub fn metric(cluster: &Cluster, node: usize, name: &str) -> Result<String> {
    let page = page(cluster, node, AGENT, "/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {page}"))?;
    Ok(line.trim().to_owned())
}

/// All lines of a metric of the agent of a node: labels and count.
pub fn metrics(cluster: &Cluster, node: usize, name: &str) -> Result<Vec<(String, u64)>> {
    let page = page(cluster, node, AGENT, "/metrics")?;
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    lines.map(|(labels, count)| Ok((labels.to_owned(), count.parse()?))).collect()
}

/// CLOCK_MONOTONIC, as streams note it, in µs.
pub fn now_us() -> Result<u64> {
    let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_micros()).context("a clock before its end")
}

const SERVER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: t }
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: { name: server, namespace: t }
spec:
  ingress: [{ protocol: UDP, port: 7, from: [{ cidr: 203.0.113.10/32 }, { cidr: "2001:db8:113::10/128" }] }]
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: { name: client, namespace: t }
spec: {}
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: { name: server, namespace: t }
spec: { securityGroups: [server], podSelector: { matchLabels: { app: server } } }
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: { name: client, namespace: t }
spec: { securityGroups: [client], podSelector: { matchLabels: { app: client } } }
---
apiVersion: v1
kind: Pod
metadata: { name: server, namespace: t, labels: { app: server } }
spec:
  nodeName: NODE0
  containers:
    - name: c
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/probe, serve, --udp, "7"]
      # A share of the processor, and room for what comes while it has none: what it drops itself is no loss of ours.
      resources: { requests: { cpu: 200m } }
      securityContext: { capabilities: { add: [NET_ADMIN] } }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: t, labels: { app: client } }
spec:
  nodeName: NODE1
  containers: [{ name: c, image: IMAGE, imagePullPolicy: Never, command: [/bin/probe, serve, --udp, "7"] }]
"#;

/// Runs the server on node 1 and a client pod on node 2; the server's addresses, IPv4 first.
pub fn run_server(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    apply(cluster, "t", SERVER)?;
    pod_addresses(cluster, "t", "server")
}

/// Runs another server on node 2, whose pods are connected in another way; the addresses of both, IPv4 first.
pub fn run_servers(cluster: &Cluster) -> Result<[Vec<IpAddr>; 2]> {
    let first = run_server(cluster)?;
    let (_, pods) = SERVER.split_once("kind: Pod").context("the server's pod")?;
    let (pod, _) = pods.split_once("---").context("the client's pod")?;
    let second = format!("apiVersion: v1\nkind: Pod{pod}").replace("name: server,", "name: server-2,").replace("NODE0", "NODE1");
    apply(cluster, "t", &second)?;
    Ok([first, pod_addresses(cluster, "t", "server-2")?])
}

/// New UDP flows, 1,000 a second, until stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<std::io::Result<Report>>>,
}

impl Running {
    /// Starts sending from an outside client (0 is the one that the server's group knows).
    pub fn start(cluster: &Cluster, client: usize, to: IpAddr) -> Result<Running> {
        Running::at(1000, cluster, client, to)
    }

    /// The same with so many flows a second.
    fn at(rate: u32, cluster: &Cluster, client: usize, to: IpAddr) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let own = cluster.world().clients()[client].both().into_iter().find(|own| own.is_ipv4() == to.is_ipv4()).context("a client")?;
        // What has to be answered may take its time on a busy machine.
        let target = Target::new(to).from(own).within_ms(if client == 0 { 5_000 } else { 1_000 });
        let stream = Stream { target, port: 7, kind: Kind::Udp, rate, duration: Duration::from_secs(600) };
        let stopping = stop.clone();
        let thread = cluster.world().netns().spawn(move || stream.run(&stopping))?;
        Ok(Running { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)
    }
}

/// 1,000 flows a second that are allowed and as many that are denied, shared by some servers.
pub struct Streams {
    allowed: Vec<Running>,
    denied: Vec<Running>,
    rate: u32,
    since: Instant,
}

impl Streams {
    /// Starts them.
    pub fn start(cluster: &Cluster, to: &[IpAddr]) -> Result<Streams> {
        let rate = 1000 / u32::try_from(to.len())?;
        let start = |client: usize| to.iter().map(|to| Running::at(rate, cluster, client, *to)).collect::<Result<Vec<Running>>>();
        Ok(Streams { allowed: start(0)?, denied: start(1)?, rate, since: Instant::now() })
    }

    /// Ends them; every one that is allowed has to have been answered by then, and no other.
    pub fn undisturbed(self) -> Result<()> {
        let seconds = self.since.elapsed().as_secs();
        let stop = |streams: Vec<Running>| streams.into_iter().map(Running::stop).collect::<Result<Vec<Report>>>();
        let (allowed, denied) = (stop(self.allowed)?, stop(self.denied)?);
        allowed.iter().zip(&denied).try_for_each(|(allowed, denied)| undisturbed(allowed, denied, seconds * u64::from(self.rate) / 2))
    }
}

/// The same while something is done that takes some seconds.
pub fn under_streams(cluster: &Cluster, to: &[IpAddr], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let streams = Streams::start(cluster, to)?;
    let done = work();
    let undisturbed = streams.undisturbed();
    done?;
    undisturbed
}
