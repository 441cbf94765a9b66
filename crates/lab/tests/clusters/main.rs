//! Real clusters: what they can do, and that they leave nothing behind. Needs root, the Kubernetes programs and Debian's.
//!
//! One test at a time, whatever cargo was told: they would only slow each other down.

mod belongings;
mod bridged;
mod owners;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};
use lab::Cluster;
use probe::{Failure, Outcome, Probe, Target};
use tokio::sync::Mutex;

use belongings::{assert_gone, belongings};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: web
          image: kube-security-groups/probe:0.1.0
          imagePullPolicy: Never
          command: [probe, serve, --tcp=80, --udp=53, --http=8080, --sctp=36412]
          readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}], ipFamilyPolicy: RequireDualStack}
"#;

/// Both pods of `WEB`, ready, in the order of their nodes.
async fn web(cluster: &Cluster) -> Vec<Pod> {
    cluster.kubectl_stdin(&["apply", "-f", "-"], WEB).unwrap();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).unwrap();
    let mut pods = Api::<Pod>::default_namespaced(cluster.client()).list(&ListParams::default()).await.unwrap().items;
    pods.sort_by_key(|pod| pod.spec.as_ref().unwrap().node_name.clone());
    pods
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap()
}

/// IPv4, then IPv6.
fn addresses(pod: &Pod) -> Vec<std::net::IpAddr> {
    let mut addresses: Vec<_> = pod.status.as_ref().unwrap().pod_ips.as_ref().unwrap().iter().map(|ip| ip.ip.parse().unwrap()).collect();
    addresses.sort();
    addresses
}

fn exec(cluster: &Cluster, pod: &Pod, probes: &[Probe]) -> Vec<Outcome> {
    let text = serde_json::to_string(probes).unwrap();
    let answer = cluster.exec("default", name(pod), &["probe", "many", &text]).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_two_nodes_talk_and_nothing_is_left() {
    let _alone = ONE_AT_A_TIME.lock().await;
    assert_gone("test-talk");
    let start = Instant::now();
    let cluster = Cluster::builder("test-talk").nodes(2).start().await.unwrap();
    println!("two nodes ready after {:?}", start.elapsed());
    let pods = web(&cluster).await;
    println!("a deployment ready after {:?}", start.elapsed());
    assert_eq!(pods.iter().map(|pod| pod.spec.as_ref().unwrap().node_name.as_deref().unwrap()).collect::<Vec<_>>(), ["node1", "node2"]);

    every_protocol_crosses_nodes(&cluster, &pods);
    the_world_reaches_pods(&cluster, &pods);
    service_addresses_work_in_pods_and_on_nodes(&cluster, &pods).await;
    kubelets_are_their_nodes_and_nobody_else(&cluster);
    tokens_name_their_node(&cluster, &pods[1]);
    a_killed_container_starts_again(&cluster, &pods[0]).await;

    let running = belongings("test-talk");
    let kinds: BTreeSet<String> = running.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        kinds,
        ["cgroup", "folder", "mount", "namespace", "process"].map(str::to_owned).into(),
        "the look for leftovers sees a running cluster"
    );
    // Those by which `ip netns` gives a namespace its name, and none of the nodes' own.
    assert!(running.iter().filter(|line| line.starts_with("mount")).all(|line| line.contains("/run/netns/")), "{running:#?}");
    let start = Instant::now();
    drop(cluster);
    println!("down after {:?}", start.elapsed());
    assert_gone("test-talk");
}

fn every_protocol_crosses_nodes(cluster: &Cluster, pods: &[Pod]) {
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for address in addresses(to) {
            let target = Target::new(address);
            let probes = [
                Probe::Tcp { target, port: 80 },
                Probe::Udp { target, port: 53 },
                Probe::Sctp { target, port: 36412 },
                Probe::Ping { target },
                Probe::Tcp { target, port: 81 },
            ];
            let outcomes = exec(cluster, from, &probes);
            for (probe, outcome) in probes.iter().zip(&outcomes).take(4) {
                assert!(outcome.ok, "{probe:?}: {outcome:?}");
            }
            assert_eq!(outcomes[0].reply.as_deref(), Some(name(to)));
            assert_eq!(outcomes[4].error, Some(Failure::Refused));
        }
    }
}

fn the_world_reaches_pods(cluster: &Cluster, pods: &[Pod]) {
    let world = cluster.world();
    for client in world.clients() {
        for (address, source) in addresses(&pods[0]).into_iter().zip(client.both()) {
            let outcome = world.netns().run(|| probe::tcp::connect(&Target::new(address).from(source), 80)).unwrap();
            assert_eq!(outcome.reply.as_deref(), Some(name(&pods[0])), "{source} to {address}: {outcome:?}");
        }
    }
    let node = cluster.nodes().last().unwrap();
    assert!(world.netns().run(|| probe::icmp::ping(&Target::new(node.v6()))).unwrap().ok);
}

async fn service_addresses_work_in_pods_and_on_nodes(cluster: &Cluster, pods: &[Pod]) {
    let service = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIPs[*]}"]).unwrap();
    let probes: Vec<Probe> = service
        .split_whitespace()
        .chain(["10.96.0.1"])
        .map(|address| Probe::Tcp {
            target: Target::new(address.parse::<std::net::IpAddr>().unwrap()),
            port: if address == "10.96.0.1" { 443 } else { 80 },
        })
        .collect();
    assert_eq!(probes.len(), 3);
    // kube-proxy takes a moment for a new service.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(failed) = exec(cluster, &pods[0], &probes).iter().find(|outcome| !outcome.ok) {
        assert!(Instant::now() < deadline, "{failed:?}");
    }

    // What a program on a node's network does with the token and the certificate that pods are given.
    let token = cluster.kubectl(&["create", "token", "default"]).unwrap();
    let ca = Api::<ConfigMap>::default_namespaced(cluster.client()).get("kube-root-ca.crt").await.unwrap().data.unwrap()["ca.crt"].clone();
    let file = cluster.dir().join("root-ca.crt");
    fs::write(&file, ca).unwrap();
    let kubectl = cluster.kubernetes().join("kubectl");
    let said = cluster.node(0).run(&[
        kubectl.to_str().unwrap(),
        "--kubeconfig=/dev/null",
        "--server=https://10.96.0.1",
        &format!("--certificate-authority={}", file.display()),
        &format!("--token={}", token.trim()),
        "get",
        "--raw=/version",
    ]);
    assert!(said.unwrap().contains("v1.36"));
}

fn kubelets_are_their_nodes_and_nobody_else(cluster: &Cluster) {
    let kubectl = cluster.kubernetes().join("kubectl");
    let kubeconfig = format!("--kubeconfig={}", cluster.dir().join("credentials/node1.kubeconfig").display());
    let label = |node: &str| cluster.node(0).output(&[kubectl.to_str().unwrap(), &kubeconfig, "label", "node", node, "seen=yes"]).unwrap();
    assert!(label("node1").status.success());
    let refused = label("node2");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Forbidden"), "{refused:?}");
}

fn tokens_name_their_node(cluster: &Cluster, pod: &Pod) {
    let token =
        cluster.kubectl(&["create", "token", "default", "--bound-object-kind=Pod", &format!("--bound-object-name={}", name(pod))]).unwrap();
    // The administrator's token in the kubeconfig would win over one on the command line.
    let file = cluster.dir().join("pod.kubeconfig");
    let text = fs::read_to_string(cluster.kubeconfig()).unwrap();
    let (before, after) = text.split_once("{token: \"").unwrap();
    fs::write(&file, format!("{before}{{token: \"{}\"{}", token.trim(), &after[after.find('"').unwrap() + 1..])).unwrap();
    let said = cluster.kubectl(&["--kubeconfig", file.to_str().unwrap(), "auth", "whoami", "-o", "json"]).unwrap();
    let who: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(who["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"][0], "node2", "{said}");
}

async fn a_killed_container_starts_again(cluster: &Cluster, pod: &Pod) {
    assert_eq!(cluster.node(0).kill("sleep"), 0);
    // The pod's own process and the one that holds its namespaces.
    assert_eq!(cluster.node(0).kill("probe"), 2);
    let api = Api::<Pod>::default_namespaced(cluster.client());
    let restarted = async {
        loop {
            let found = api.get(name(pod)).await.unwrap().status.unwrap().container_statuses.unwrap();
            if found[0].restart_count > 0 && found[0].ready {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), restarted).await.expect("the container starts again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_alone_keeps_its_data_through_kills() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::builder("test-alone").nodes(0).audit_log().start().await.unwrap();
    assert!(cluster.nodes().is_empty());
    assert_eq!(Api::<Node>::all(cluster.client()).list(&ListParams::default()).await.unwrap().items.len(), 0);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let map = ConfigMap { metadata: kube::api::ObjectMeta { name: Some("kept".to_owned()), ..Default::default() }, ..Default::default() };
    maps.create(&PostParams::default(), &map).await.unwrap();

    cluster.kill_api_server().unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(2), maps.get("kept")).await.map_or(true, |answer| answer.is_err()));
    cluster.start_api_server().await.unwrap();
    maps.get("kept").await.unwrap();

    cluster.restart_etcd().await.unwrap();
    cluster.restart_api_server().await.unwrap();
    maps.get("kept").await.unwrap();
    cluster.check().unwrap();
    let audited = fs::read_to_string(cluster.audit_log()).unwrap();
    let line = audited.lines().find(|line| line.contains("configmaps") && line.contains("\"create\"") && line.contains("kept")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["responseStatus"]["code"], 201);
    drop(cluster);
    assert_gone("test-alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_with_the_same_addresses_run_side_by_side() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let start = |name| Cluster::builder(name).nodes(1).start();
    let (one, two) = tokio::join!(start("test-one"), start("test-two"));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.node(0).v4(), two.node(0).v4());
    one.kubectl(&["create", "namespace", "only-here"]).unwrap();
    assert!(!two.kubectl_output(&["get", "namespace", "only-here"]).unwrap().status.success());
    one.node(0).nft("add table inet only-here").unwrap();
    assert!(one.node(0).nft("list tables").unwrap().contains("only-here"));
    assert!(!two.node(0).nft("list tables").unwrap().contains("only-here"));

    let taken = Cluster::builder("test-one").nodes(0).start().await.unwrap_err().to_string();
    assert!(taken.contains("there is a cluster test-one already"), "{taken}");
    drop(one);
    assert_gone("test-one");
    two.kubectl(&["get", "nodes"]).unwrap();
    two.check().unwrap();
    drop(two);
    assert_gone("test-two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let unreadable = image::Image::new("docker.io/test/none:1", vec!["/nonexistent/program".into()]);
    let error = Cluster::builder("test-fails").nodes(1).images([unreadable]).start().await.unwrap_err();
    assert!(format!("{error:#}").contains("/nonexistent/program"), "{error:#}");
    assert_gone("test-fails");
    let error = Cluster::builder("No Name").start().await.unwrap_err();
    assert!(error.to_string().contains("lower-case"), "{error:#}");
}
