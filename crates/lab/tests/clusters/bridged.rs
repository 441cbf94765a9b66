//! Pods on one bridge.

use lab::{Cluster, Topology};
use probe::{Probe, Target};

use crate::belongings::assert_gone;
use crate::{ONE_AT_A_TIME, addresses, exec, service_addresses_work_in_pods_and_on_nodes, the_world_reaches_pods, web};

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_one_bridge_talk_and_rules_see_it_or_not() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::builder("test-bridge").nodes(1).topology(Topology::Bridge).ipv6_first().start().await.unwrap();
    let pods = web(&cluster).await;
    let found = pods[0].status.as_ref().unwrap().pod_ips.as_ref().unwrap();
    assert!(found[0].ip.contains(':') && found[1].ip.contains('.'), "IPv6 first: {found:?}");
    let ports = cluster.node(0).run(&["ip", "-o", "link", "show", "master", "cni0"]).unwrap();
    assert_eq!(ports.lines().count(), 2, "{ports}");
    service_addresses_work_in_pods_and_on_nodes(&cluster, &pods).await;

    let probes: Vec<Probe> =
        addresses(&pods[1]).into_iter().map(|to| Probe::Tcp { target: Target::new(to).within_ms(500), port: 80 }).collect();
    assert_eq!(probes.len(), 2);
    let reached = || exec(&cluster, &pods[0], &probes).iter().map(|outcome| outcome.ok).collect::<Vec<_>>();
    assert_eq!(reached(), [true, true]);
    cluster.node(0).nft("table inet t { chain c { type filter hook forward priority 0; tcp dport 80 drop; }; }").unwrap();
    for (value, passes) in [("0", true), ("1", false)] {
        cluster.node(0).netns().set(&[("bridge/bridge-nf-call-iptables", value), ("bridge/bridge-nf-call-ip6tables", value)]).unwrap();
        assert_eq!(reached(), [passes, passes], "bridge-nf-call-*: {value}");
    }
    cluster.node(0).nft("delete table inet t").unwrap();
    the_world_reaches_pods(&cluster, &pods);
    drop(cluster);
    assert_gone("test-bridge");
}
