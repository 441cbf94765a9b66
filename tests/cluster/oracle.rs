//! What the oracle makes of manifests: the same index, resolution and compilation as the product's, then `verdict` on both nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use imbl::OrdSet;
use k8s_openapi::api::core::v1::Pod;
use lab::Cluster;
use policy::index::Object;
use policy::model::{ConnState, GroupRef, NodeName, NodePolicy, Packet, Path, Payload, Transport, Verdict};
use policy::{compile, resolve, verdict};
use probe::{Probe, Target};

use super::manifests::{Maker, Manifest};

/// One connection to be tried.
#[derive(Clone, Debug)]
pub struct Try {
    /// `namespace/pod`, or `world`.
    pub source: String,
    /// To which pod.
    pub to: String,
    /// How.
    pub probe: Probe,
    /// Whether it should be answered.
    pub allowed: bool,
}

/// Everything that was written.
pub struct Facts {
    /// By [`Manifest::key`].
    pub manifests: BTreeMap<String, Manifest>,
    /// By name.
    pub pods: BTreeMap<String, Pod>,
    world: Vec<IpAddr>,
}

/// Where a connection may begin or end.
struct Place {
    name: String,
    node: Option<NodeName>,
    addresses: Vec<IpAddr>,
}

impl Facts {
    /// Nothing yet.
    pub fn new(cluster: &Cluster) -> Facts {
        let world = cluster.world().clients()[..2].iter().flat_map(|client| client.both()).collect();
        Facts { manifests: BTreeMap::new(), pods: BTreeMap::new(), world }
    }

    /// After an edit.
    pub fn take(&mut self, edit: Manifest) -> Result<()> {
        if edit.kind == "Pod" {
            let pod = self.pods.get_mut(&edit.name).with_context(|| format!("{} is there", edit.name))?;
            pod.metadata.labels = serde_json::from_value(edit.object["metadata"]["labels"].clone())?;
        } else {
            self.manifests.insert(edit.key(), edit);
        }
        Ok(())
    }

    /// What each node should have in force.
    fn policies(&self) -> Result<BTreeMap<NodeName, NodePolicy>> {
        let mut cluster = policy::Cluster::default();
        for pod in self.pods.values() {
            let _ = cluster.apply(Object::pod(pod));
        }
        for manifest in self.manifests.values() {
            let mut metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta =
                serde_json::from_value(manifest.object["metadata"].clone())?;
            // Made up: ids follow from it, and here nothing depends on what they are.
            metadata.uid = Some(manifest.key());
            let spec = &manifest.object["spec"];
            let _ = cluster.apply(match manifest.kind.as_str() {
                "SecurityGroup" => Object::security_group(&metadata, spec),
                "PrefixList" => Object::prefix_list(&metadata, spec),
                _ => Object::attachment(&metadata, spec),
            });
        }
        let resolution = resolve(&cluster);
        let nodes = self.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).map(NodeName);
        Ok(nodes
            .map(|node| {
                let mut policy = compile(&cluster, &resolution, &node).policy;
                // Who is in a group is known here without slices.
                let known = |group: &GroupRef| (group.clone(), resolution.addresses(group).into_iter().collect::<OrdSet<_>>());
                policy.members = policy.members.keys().map(known).collect();
                (node, policy)
            })
            .collect())
    }

    /// Some connections from everywhere, with what should become of them.
    pub fn tries(&self, maker: &mut Maker, count: usize) -> Result<Vec<Try>> {
        let policies = self.policies()?;
        let mut places: Vec<Place> = self.pods.values().filter_map(place).collect();
        places.push(Place { name: "world".into(), node: None, addresses: self.world.clone() });
        let mut tries = Vec::new();
        for from in &places {
            while tries.iter().filter(|one: &&Try| one.source == from.name).count() < count {
                let to = &places[maker.below(places.len() - 1)];
                if to.name == from.name {
                    continue;
                }
                let destination = to.addresses[maker.below(to.addresses.len())];
                let sources: Vec<IpAddr> =
                    from.addresses.iter().copied().filter(|source| source.is_ipv4() == destination.is_ipv4()).collect();
                let source = maker.one(&sources);
                let target = Target::new(destination).from(source).within_ms(500);
                let (probe, payload) = match maker.below(4) {
                    0 => (Probe::Ping { target }, Payload::Icmp { kind: if source.is_ipv4() { 8 } else { 128 }, code: 0 }),
                    1 => (Probe::Udp { target, port: 80 }, transport(Transport::Udp, 80)),
                    n => {
                        let port = [80, 81][n % 2];
                        (Probe::Tcp { target, port }, transport(Transport::Tcp, port))
                    }
                };
                let packet = Packet { source, destination, payload, state: ConnState::New, path: Path::Forward };
                let passes = |node: &Option<NodeName>| {
                    node.as_ref().and_then(|node| policies.get(node)).is_none_or(|policy| verdict(policy, &packet) == Verdict::Allow)
                };
                tries.push(Try { source: from.name.clone(), to: to.name.clone(), probe, allowed: passes(&from.node) && passes(&to.node) });
            }
        }
        Ok(tries)
    }

    /// All of it, to be read.
    pub fn yaml(&self) -> Result<String> {
        let mut text = String::new();
        for manifest in self.manifests.values() {
            text += &format!("---\n{}", serde_saphyr::to_string(&manifest.object)?);
        }
        for pod in self.pods.values() {
            let place = place(pod).map(|place| format!("{}, {:?}, {:?}", place.name, place.node, place.addresses)).unwrap_or_default();
            text += &format!("# {place}, {:?}\n", pod.metadata.labels);
        }
        Ok(text)
    }
}

fn transport(protocol: Transport, destination: u16) -> Payload {
    // Nobody judges by the source port.
    Payload::Transport { protocol, source: 40_000, destination }
}

fn place(pod: &Pod) -> Option<Place> {
    let name = format!("{}/{}", pod.metadata.namespace.as_ref()?, pod.metadata.name.as_ref()?);
    let node = pod.spec.as_ref()?.node_name.clone().map(NodeName);
    let ips = pod.status.as_ref()?.pod_ips.as_ref()?;
    Some(Place { name, node, addresses: ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect() })
}
