//! Services, by the real kube-proxy: rules are judged after destination NAT and before source NAT (S33).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Cluster, Proxy, Topology};
use probe::lookup::Lookups;

use super::cases::{Source, differences, hold, tcp, udp};
use super::fixture::{addresses, apply, group, in_force, in_turn, pod, pod_addresses, service_addresses, start_with};

const EVERYBODY: &str = r#"[{ cidr: 0.0.0.0/0 }, { cidr: "::/0" }]"#;
/// NodePorts, by their external traffic policy.
const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;

fn service(name: &str, app: &str, kind: &str, ports: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: svc }}
spec: {{ selector: {{ app: {app} }}, ipFamilyPolicy: RequireDualStack, {kind}, ports: [{ports}] }}
"#
    )
}

/// Servers and clients on both nodes; the server's port 8080 is port 80 of its services.
fn manifests() -> String {
    let clients =
        [("near-friend", "NODE0"), ("far-friend", "NODE1"), ("near-stranger", "NODE0"), ("far-stranger", "NODE1"), ("misled", "NODE0")];
    let clients: String = clients.map(|(name, node)| pod("svc", name, node, "--tcp=1", "")).concat();
    let anyone = format!("ingress: [], egress: [{{ type: AllTraffic, to: {EVERYBODY} }}]");
    // No word of the service's address or port: what a friend may reach is the pod.
    let to_server = "{ protocol: TCP, port: 8080, to: [{ securityGroup: { name: server } }] }";
    let to_dns = "{ type: DNS-UDP, to: [{ securityGroup: { name: dns } }] }";
    // Every service's address, and no pod.
    let to_services = r#"{ type: AllTCP, to: [{ cidr: 10.96.0.0/16 }, { cidr: "fd00:96::/112" }] }"#;
    let web = "port: 80, targetPort: 8080, protocol: TCP";
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: svc }\n".to_owned(),
        clients,
        pod("svc", "server", "NODE0", "--tcp=8080", ""),
        pod("svc", "dns-a", "NODE0", "--udp=53", "").replace("app: dns-a", "app: dns"),
        pod("svc", "dns-b", "NODE1", "--udp=53", "").replace("app: dns-b", "app: dns"),
        pod("svc", "mirror", "NODE0", "--tcp=8080", ""),
        group("svc", "server", &server_spec(&[]), &["server"]),
        group("svc", "friend", &format!("ingress: [], egress: [{to_server}, {to_dns}]"), &["near-friend", "far-friend"]),
        group("svc", "stranger", &anyone, &["near-stranger", "far-stranger"]),
        group("svc", "misled", &format!("ingress: [], egress: [{to_services}]"), &["misled"]),
        group("svc", "dns", "ingress: [{ type: DNS-UDP, from: [{ securityGroup: { name: friend } }] }], egress: []", &["dns"]),
        group("svc", "mirror", "ingress: [], egress: []", &["mirror"]),
        service("server", "server", "type: NodePort, externalTrafficPolicy: Cluster", &format!("{{ {web}, nodePort: {CLUSTER} }}")),
        service("server-local", "server", "type: NodePort, externalTrafficPolicy: Local", &format!("{{ {web}, nodePort: {LOCAL} }}")),
        service("server-headless", "server", "clusterIP: None", "{ port: 8080 }"),
        service("mirror", "mirror", "type: ClusterIP", &format!("{{ {web} }}")),
        service("dns", "dns", "type: ClusterIP", "{ port: 53, protocol: UDP }"),
    ]
    .concat()
}

/// The server lets in its friends, one client outside, these addresses, and the misled one, which only its own egress denies.
fn server_spec(also: &[IpAddr]) -> String {
    let groups = ["friend", "misled"].map(|name| format!("{{ securityGroup: {{ name: {name} }} }}"));
    let addresses = ["203.0.113.10".to_owned(), "2001:db8:113::10".to_owned()].into_iter().chain(also.iter().map(IpAddr::to_string));
    let peers: Vec<String> = groups.into_iter().chain(addresses.map(|address| format!("{{ cidr: \"{address}\" }}"))).collect();
    format!("ingress: [{{ protocol: TCP, port: 8080, from: [{}] }}], egress: []", peers.join(", "))
}

/// kube-proxy takes a moment for a new service: waits until a client that may reach them all does.
fn served(cluster: &Cluster, services: &[(Vec<IpAddr>, u16)], client: Source) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let wanted = services.iter().flat_map(|(to, port)| tcp(client, to, *port, true)).collect();
        let differences = differences(cluster, wanted)?;
        if differences.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a service that does not come: {differences:#?}");
    }
}

fn node(cluster: &Cluster, index: usize) -> Vec<IpAddr> {
    let node = cluster.node(index);
    vec![node.v4().into(), node.v6().into()]
}

/// P50: a client is judged by the pod that it reaches, not by the address that it asked for, whoever translates it.
fn cluster_ips_and_headless(cluster: &Cluster) -> Result<()> {
    let by_service = service_addresses(cluster, "svc", "server")?;
    let direct = pod_addresses(cluster, "svc", "server")?;
    let slices = addresses(
        cluster,
        "svc",
        "endpointslices.discovery.k8s.io",
        "{.items[?(@.metadata.labels.kubernetes\\.io/service-name==\"server-headless\")].endpoints[*].addresses[*]}",
    )?;
    ensure!(slices.len() == 2 && slices.iter().all(|address| direct.contains(address)), "a headless service is its pods: {slices:?}");
    for friend in ["near-friend", "far-friend"] {
        served(cluster, &[(by_service.clone(), 80)], Source::Pod("svc", friend))?;
    }
    let mut cases = Vec::new();
    for (name, reaches) in
        [("near-friend", true), ("far-friend", true), ("near-stranger", false), ("far-stranger", false), ("misled", false)]
    {
        cases.extend(tcp(Source::Pod("svc", name), &by_service, 80, reaches));
        cases.extend(tcp(Source::Pod("svc", name), &slices, 8080, reaches));
    }
    hold(cluster, cases)
}

/// P51: from outside, the address that arrives counts: the client's own where it is kept or where the pod is on the node that
/// translates, the other node's where that has masqueraded it.
fn node_ports(cluster: &Cluster) -> Result<()> {
    let (own, other) = (node(cluster, 0), node(cluster, 1));
    served(cluster, &[(own.clone(), CLUSTER), (own.clone(), LOCAL)], Source::World(0))?;
    let mut cases = Vec::new();
    for port in [CLUSTER, LOCAL] {
        cases.extend(tcp(Source::World(0), &own, port, true));
        cases.extend(tcp(Source::World(1), &own, port, false));
    }
    // The rule for the client does not know who comes by way of the other node. (With the policy Local nobody does.)
    for client in [0, 1] {
        cases.extend(tcp(Source::World(client), &other, CLUSTER, false));
        cases.extend(tcp(Source::World(client), &other, LOCAL, false));
    }
    hold(cluster, cases).context("as it was")?;

    cluster.kubectl_stdin(&["apply", "-f", "-"], &group("svc", "server", &server_spec(&other), &["server"]))?;
    in_force(cluster, "svc")?;
    served(cluster, &[(other.clone(), CLUSTER)], Source::World(0))?;
    let mut cases = Vec::new();
    cases.extend(tcp(Source::World(0), &other, CLUSTER, true));
    cases.extend(tcp(Source::World(1), &other, CLUSTER, true));
    cases.extend(tcp(Source::World(1), &own, CLUSTER, false));
    cases.extend(tcp(Source::World(1), &own, LOCAL, false));
    hold(cluster, cases).context("with a rule for the other node's address")
}

/// S36: a pod that may do nothing reaches itself through its service, and nobody else reaches it.
fn hairpin(cluster: &Cluster) -> Result<()> {
    let mirror = service_addresses(cluster, "svc", "mirror")?;
    served(cluster, &[(mirror.clone(), 80)], Source::Pod("svc", "mirror"))?;
    let others = ["near-friend", "near-stranger", "far-stranger"].map(|name| tcp(Source::Pod("svc", name), &mirror, 80, false));
    hold(cluster, others.into_iter().flatten().collect())
}

/// P49: two questions at the same moment through one socket and a service with two backends, 10,000 times in each family.
fn lookups(cluster: &Cluster) -> Result<()> {
    let dns = service_addresses(cluster, "svc", "dns")?;
    hold(cluster, udp(Source::Pod("svc", "near-stranger"), &dns, 53, false)).context("who may not ask")?;
    for address in dns {
        let lookups = ["/bin/probe", "lookups", &address.to_string(), "53", "--count=10000", "--timeout-ms=5000"];
        let said = cluster.exec("svc", "near-friend", &lookups)?;
        let lookups: Lookups = serde_json::from_str(&said).context("what probe said")?;
        println!("{address}: {lookups:?}");
        ensure!(lookups.lookups == 10_000 && lookups.unanswered == 0 && lookups.slowest_ms < 1000.0, "{address}: {lookups:?}");
    }
    Ok(())
}

fn services(cluster: &Cluster) -> Result<()> {
    apply(cluster, "svc", &manifests())?;
    in_turn(
        cluster,
        &[("ClusterIP and headless", cluster_ips_and_headless), ("NodePort", node_ports), ("hairpin", hairpin), ("lookups", lookups)],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn s33_p49_p50_p51_services_are_judged_by_real_addresses_where_pods_are_routed() -> Result<()> {
    let cluster = start_with(Cluster::builder("services")).await?;
    tokio::task::block_in_place(|| services(&cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn s33_p49_p50_p51_services_are_judged_by_real_addresses_where_pods_are_bridged() -> Result<()> {
    let cluster = start_with(Cluster::builder("services-bridge").topology(Topology::Bridge)).await?;
    tokio::task::block_in_place(|| services(&cluster))
}

/// iptables (Debian's is the one on nf_tables) makes its chains where kube-proxy's of nftables would be, in tables of the old names.
async fn with_iptables(name: &str, topology: Topology) -> Result<()> {
    let cluster = start_with(Cluster::builder(name).topology(topology).proxy(Proxy::Iptables)).await?;
    for node in cluster.nodes() {
        let chains = node.run(&["iptables-save", "--table", "nat"])?;
        ensure!(chains.contains("KUBE-SERVICES"), "kube-proxy of {} does not use iptables:\n{chains}", node.name());
        ensure!(!node.nft("list tables")?.contains("kube-proxy"), "{} has kube-proxy's nftables", node.name());
    }
    tokio::task::block_in_place(|| services(&cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn s33_p49_p50_p51_services_are_judged_by_real_addresses_where_pods_are_routed_and_kube_proxy_uses_iptables() -> Result<()> {
    with_iptables("services-ipt", Topology::Routed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s33_p49_p50_p51_services_are_judged_by_real_addresses_where_pods_are_bridged_and_kube_proxy_uses_iptables() -> Result<()> {
    with_iptables("services-ipt-br", Topology::Bridge).await
}
