//! What passes between a node and its pods, and what must never be part of a group: probes, the node itself, neighbours, gateways, sizes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Cluster, Topology};
use probe::Outcome;

use super::cases::{Source, hold, ping, tcp, udp};
use super::fixture::{apply, group, in_force, in_turn, pod, pod_addresses, start_with};

/// Where NodeLocal DNSCache listens on every node.
const NODE_LOCAL_DNS: &str = "169.254.20.10";
const EVERYBODY: &str = r#"[{ cidr: 0.0.0.0/0 }, { cidr: "::/0" }]"#;

/// A pod that kubelet asks every second in each way that it knows; one failure restarts a container.
const PROBED: &str = r#"
---
apiVersion: v1
kind: Pod
metadata: { name: probed, namespace: nt, labels: { app: probed } }
spec:
  nodeName: NODE0
  terminationGracePeriodSeconds: 1
  containers:
    - name: tcp
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/probe, serve, --tcp=8080]
      readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }
      livenessProbe: { tcpSocket: { port: 8080 }, initialDelaySeconds: 2, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 1 }
    - name: http
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/probe, serve, --http=8081]
      readinessProbe: { httpGet: { port: 8081 }, periodSeconds: 1 }
      livenessProbe: { httpGet: { port: 8081 }, initialDelaySeconds: 2, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 1 }
    - name: exec
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/probe, pause]
      readinessProbe: { exec: { command: [/bin/probe, tcp, 127.0.0.1, "8080"] }, periodSeconds: 1 }
      livenessProbe: { exec: { command: [/bin/probe, tcp, 127.0.0.1, "8080"] }, initialDelaySeconds: 2, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 1 }
"#;

fn manifests() -> String {
    let host = "hostNetwork: true";
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: nt }\n".to_owned(),
        PROBED.to_owned(),
        // In no group.
        pod("nt", "near", "NODE0", "--tcp=1", ""),
        pod("nt", "far", "NODE1", "--tcp=8080", ""),
        pod("nt", "node-dns", "NODE0", "--udp=53", host),
        pod("nt", "asker", "NODE0", "--tcp=1", ""),
        pod("nt", "only4", "NODE0", "--tcp=8080", ""),
        pod("nt", "only6", "NODE0", "--tcp=8080", ""),
        pod("nt", "open", "NODE0", "--tcp=8080", ""),
        pod("nt", "caller", "NODE0", "--tcp=1", ""),
        group("nt", "closed", "ingress: [], egress: []", &["probed"]),
        group("nt", "asker", "ingress: [], egress: [{ type: DNS-UDP, to: [{ cidr: 10.96.0.10/32 }] }]", &["asker"]),
        group("nt", "only4", "ingress: [{ protocol: TCP, port: 8080, from: [{ cidr: 0.0.0.0/0 }] }], egress: []", &["only4"]),
        group("nt", "only6", "ingress: [{ protocol: TCP, port: 8080, from: [{ cidr: \"::/0\" }] }], egress: []", &["only6"]),
        group("nt", "open", &format!("ingress: [{{ type: AllTraffic, from: {EVERYBODY} }}]"), &["open"]),
        group("nt", "caller", "ingress: []", &["caller"]),
    ]
    .concat()
}

/// P46: a pod that may neither send nor receive is asked by kubelet all the same, and never restarted. Kubelet asks at a pod's first
/// address, which is IPv6 in one of the clusters.
fn probes(cluster: &Cluster) -> Result<()> {
    std::thread::sleep(Duration::from_secs(3));
    let probed = pod_addresses(cluster, "nt", "probed")?;
    let mut cases = tcp(Source::Node(0), &probed, 8080, true);
    cases.extend(tcp(Source::Node(0), &probed, 8081, true));
    cases.extend(ping(Source::Node(0), &probed, true));
    for other in [Source::Pod("nt", "near"), Source::Pod("nt", "far"), Source::Node(1), Source::World(0)] {
        cases.extend(tcp(other, &probed, 8080, false));
    }
    hold(cluster, cases).context("whom probes reach")?;
    let path = "--output=jsonpath={range .status.containerStatuses[*]}{.restartCount}{.ready} {end}";
    let restarts = cluster.kubectl(&["get", "pod/probed", "--namespace=nt", path])?;
    ensure!(restarts.trim() == "0true 0true 0true", "restarts and readiness: {restarts}");
    Ok(())
}

/// P47: a selector that finds pods on their node's own network leaves the node alone and says which pods those are.
fn host_network(cluster: &Cluster) -> Result<()> {
    let all = r#"
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: { name: locked, namespace: kube-system }
spec: { ingress: [], egress: [] }
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: { name: locked, namespace: kube-system }
spec: { securityGroups: [locked], podSelector: {} }
"#;
    let manifests = [
        pod("kube-system", "on-node", "NODE1", "--tcp=9099", "hostNetwork: true"),
        pod("kube-system", "plain", "NODE1", "--tcp=9099", ""),
        all.to_owned(),
    ];
    apply(cluster, "kube-system", &manifests.concat())?;
    let node = [IpAddr::from(cluster.node(1).v4()), cluster.node(1).v6().into()];
    let plain = pod_addresses(cluster, "kube-system", "plain")?;
    let mut cases = Vec::new();
    for from in [Source::Pod("nt", "near"), Source::Pod("nt", "far"), Source::Node(0), Source::World(0)] {
        cases.extend(tcp(from, &node, 9099, true));
        cases.extend(ping(from, &node, true));
        cases.extend(tcp(from, &plain, 9099, false));
    }
    // The node itself still sends: to the other node's pods, and to the API server.
    cases.extend(tcp(Source::Node(1), &pod_addresses(cluster, "nt", "open")?, 8080, true));
    cases.extend(tcp(Source::Node(1), &["10.96.0.1".parse()?], 443, true));
    hold(cluster, cases).context("the node and the pod beside it")?;
    let json = cluster.kubectl(&["get", "sgatt/locked", "--namespace=kube-system", "--output=json"])?;
    let status = &serde_json::from_str::<serde_json::Value>(&json)?["status"];
    let skipped = &status["skipped"];
    ensure!(skipped.as_array().is_some_and(|skipped| skipped.len() == 1), "{status}");
    ensure!(skipped[0]["name"] == "on-node" && skipped[0]["reason"] == "HostNetwork" && status["endpoints"] == 1, "{status}");
    Ok(())
}

/// P48: a listener on the node at a link-local address is reached when a rule names it, and only then.
fn node_local_dns(cluster: &Cluster) -> Result<()> {
    let dns = [NODE_LOCAL_DNS.parse()?];
    cluster.node(0).netns().ip(&format!("addr add {NODE_LOCAL_DNS}/32 dev lo\n"))?;
    let mut cases = udp(Source::Pod("nt", "near"), &dns, 53, true);
    cases.extend(udp(Source::Pod("nt", "asker"), &dns, 53, false));
    hold(cluster, cases).context("without a rule")?;
    let rule = format!("ingress: [], egress: [{{ type: DNS-UDP, to: [{{ cidr: {NODE_LOCAL_DNS}/32 }}] }}]");
    cluster.kubectl_stdin(&["apply", "-f", "-"], &group("nt", "asker", &rule, &["asker"]))?;
    in_force(cluster, "nt")?;
    hold(cluster, udp(Source::Pod("nt", "asker"), &dns, 53, true)).context("with a rule")
}

/// P52: each address of a pod is judged; pings are denied in both families, and yet neighbours are found.
fn both_families(cluster: &Cluster) -> Result<()> {
    let (only4, only6) = (pod_addresses(cluster, "nt", "only4")?, pod_addresses(cluster, "nt", "only6")?);
    for node in cluster.nodes() {
        node.run(&["ip", "-6", "neigh", "flush", "all"])?;
    }
    let mut cases = Vec::new();
    for from in [Source::Pod("nt", "near"), Source::Pod("nt", "far"), Source::World(0)] {
        cases.extend(tcp(from, &only4[..1], 8080, true));
        cases.extend(tcp(from, &only4[1..], 8080, false));
        cases.extend(tcp(from, &only6[..1], 8080, false));
        cases.extend(tcp(from, &only6[1..], 8080, true));
        cases.extend(ping(from, &[&only4[..], &only6[..]].concat(), false));
    }
    hold(cluster, cases)
}

/// P55: who may do everything reaches its gateway too, and learns what size the way takes though nothing may come in.
fn gateways_and_sizes(cluster: &Cluster) -> Result<()> {
    let (v4, v6) = cluster.node(0).pod_cidrs();
    let gateway = [v4.hosts().next().map(IpAddr::from), v6.hosts().nth(1).map(IpAddr::from)].into_iter().flatten().collect::<Vec<_>>();
    ensure!(gateway.len() == 2, "a gateway in each family");
    let open = pod_addresses(cluster, "nt", "open")?;
    let mut cases = ping(Source::Pod("nt", "open"), &gateway, true);
    cases.extend(ping(Source::World(1), &open, true));
    cases.extend(ping(Source::Node(1), &open, true));
    hold(cluster, cases).context("pings")?;

    let node = cluster.node(1);
    for address in pod_addresses(cluster, "nt", "far")? {
        let (family, prefix, counter) = if address.is_ipv4() { ("-4", 32, "IpFragFails") } else { ("-6", 128, "Ip6FragFails") };
        let found = node.run(&["ip", "-o", "route", "get", &address.to_string()])?;
        let device = found.split_whitespace().skip_while(|word| *word != "dev").nth(1).context("the way to a pod")?.to_owned();
        node.run(&["ip", family, "route", "replace", &format!("{address}/{prefix}"), "dev", &device, "mtu", "lock", "1300"])?;
        let too_big = || -> Result<u64> {
            let said = node.run(&["nstat", "-asz", counter])?;
            let line = said.lines().find(|line| line.starts_with(counter)).context("a counter")?;
            line.split_whitespace().nth(1).context("a number")?.parse().context("a number")
        };
        let before = too_big()?;
        let said =
            cluster.exec("nt", "caller", &["/bin/probe", "tcp", &address.to_string(), "8080", "--bytes=100000", "--timeout-ms=5000"])?;
        let outcome: Outcome = serde_json::from_str(&said)?;
        ensure!(outcome.ok, "100,000 bytes to {address}: {outcome:?}");
        ensure!(too_big()? > before, "nothing was too big on the way to {address}");
    }
    Ok(())
}

fn node_traffic(cluster: &Cluster) -> Result<()> {
    apply(cluster, "nt", &manifests())?;
    in_turn(
        cluster,
        &[
            ("P48", node_local_dns),
            ("P47", host_network),
            ("P52", both_families),
            ("P55", gateways_and_sizes),
            // Last, so that kubelet has asked some times.
            ("P46", probes),
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_s36_p46_p47_p48_p52_p55_nodes_and_neighbours_where_pods_are_routed() -> Result<()> {
    let cluster = start_with(Cluster::builder("nodes")).await?;
    tokio::task::block_in_place(|| node_traffic(&cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_s36_p46_p47_p48_p52_p55_nodes_and_neighbours_where_pods_are_bridged() -> Result<()> {
    let cluster = start_with(Cluster::builder("nodes-bridge").topology(Topology::Bridge).ipv6_first()).await?;
    tokio::task::block_in_place(|| node_traffic(&cluster))
}
