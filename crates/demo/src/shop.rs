//! The shop's pods, and probes from wherever one may stand.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use lab::Cluster;
use probe::{Outcome, Probe, Target};

/// The tiers, as the sample names them.
pub const TIERS: [&str; 4] = ["web", "app", "db", "bastion"];
/// The ports that every pod of the shop listens on.
pub const PORTS: [u16; 5] = [22, 80, 443, 5432, 8080];

/// One pod of the shop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopPod {
    /// Its name.
    pub name: String,
    /// Its tier, by the label `app`, which stays when `tier` is changed.
    pub tier: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The shop in a cluster.
pub struct Shop<'a> {
    /// Where it runs.
    pub cluster: &'a Cluster,
    /// Its pods that have addresses, sorted by tier and node.
    pub pods: Vec<ShopPod>,
}

impl<'a> Shop<'a> {
    /// Looks at the pods as they are now.
    pub fn look(cluster: &'a Cluster) -> Result<Shop<'a>> {
        let listed: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "--namespace=shop", "-o", "json"])?)?;
        let mut pods = Vec::new();
        for item in listed["items"].as_array().context("a list of pods")? {
            let pod: Pod = serde_json::from_value(item.clone())?;
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let status = pod.status.unwrap_or_default();
            let addresses: Vec<IpAddr> = status.pod_ips.unwrap_or_default().iter().filter_map(|ip| ip.ip.parse().ok()).collect();
            pods.push(ShopPod {
                name: pod.metadata.name.unwrap_or_default(),
                tier: pod.metadata.labels.unwrap_or_default().get("app").cloned().unwrap_or_default(),
                node: pod.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
                addresses,
            });
        }
        pods.retain(|pod| !pod.addresses.is_empty());
        pods.sort_by(|a, b| (&a.tier, &a.node, &a.name).cmp(&(&b.tier, &b.node, &b.name)));
        Ok(Shop { cluster, pods })
    }

    /// The pods of a tier.
    pub fn tier(&self, tier: &str) -> impl Iterator<Item = &ShopPod> {
        self.pods.iter().filter(move |pod| pod.tier == tier)
    }

    /// The first pod of a tier.
    pub fn first(&self, tier: &str) -> Result<&ShopPod> {
        self.pods.iter().find(|pod| pod.tier == tier).with_context(|| format!("no pod of {tier}"))
    }

    /// Probes from inside a pod.
    pub fn probe_from(&self, pod: &ShopPod, probes: &[Probe]) -> Result<Vec<Outcome>> {
        let answer = self.cluster.exec("shop", &pod.name, &["/bin/probe", "many", &serde_json::to_string(probes)?])?;
        serde_json::from_str(&answer).with_context(|| format!("what probe said: {answer}"))
    }

    /// Whether a pod gets a TCP answer from an address and port.
    pub fn reaches(&self, from: &ShopPod, to: IpAddr, port: u16) -> Result<bool> {
        let probe = Probe::Tcp { target: Target::new(to).within_ms(500), port };
        Ok(self.probe_from(from, &[probe])?.iter().all(|outcome| outcome.ok))
    }

    /// Probes from outside the cluster; each names its source.
    pub fn probe_from_world(&self, probes: &[Probe]) -> Result<Vec<Outcome>> {
        self.cluster.world().netns().run(|| probe::run_all(probes))
    }

    /// An outside client's addresses: the first is the office that the sample knows.
    pub fn client(&self, index: usize) -> Result<Vec<IpAddr>> {
        let clients = self.cluster.world().clients();
        Ok(clients.get(index).context("the world has fewer clients")?.both().to_vec())
    }
}

impl ShopPod {
    /// Its address of one family.
    pub fn address(&self, v4: bool) -> Result<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == v4).with_context(|| format!("{} has no address of that family", self.name))
    }
}
