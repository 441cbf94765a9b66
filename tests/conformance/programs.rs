//! What the API server, the operator and each node's agent would hold, without any of them running.
//!
//! Objects come as they are stored and as events; an agent sees its own node's pods, and of the member slices those that its rules name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod as K8sPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::index::{self, Key, Object};
use policy::model::{Family, GroupRef, NodeName, PodRef, PrefixListRef};
use policy::{AttachmentRef, Cluster, Compiled, compile, resolve, slices};
use serde_json::{Value, json};

use super::data::{Kind, ObjectName, Probe, Step, World};

/// The facts of all programs.
#[derive(Debug)]
pub struct Programs {
    world: World,
    stored: BTreeMap<ObjectName, Stored>,
    made: i64,
    operator: Cluster,
    /// Each node's agent.
    pub nodes: BTreeMap<NodeName, Node>,
}

/// An object as the API server keeps it.
#[derive(Clone, Debug)]
struct Stored {
    uid: String,
    made: i64,
    generation: i64,
    value: Value,
}

/// One node's agent.
#[derive(Debug, Default)]
pub struct Node {
    facts: Cluster,
    /// What it has to enforce now.
    pub compiled: Compiled,
}

/// One thing that is tried.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The sender, `x/a`.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// The traffic.
    pub probe: Probe,
    /// Over IPv4 or IPv6.
    pub family: Family,
    /// The sender's address.
    pub source: IpAddr,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The sender's node and the receiver's, once where they are one.
    pub nodes: BTreeSet<NodeName>,
    /// What the scenario says.
    pub allowed: bool,
}

impl Programs {
    /// An empty cluster.
    pub fn new(world: &World) -> Programs {
        let nodes = world.nodes.iter().map(|node| (NodeName(node.clone()), Node::default())).collect();
        Programs { world: world.clone(), stored: BTreeMap::new(), made: 0, operator: Cluster::default(), nodes }
    }

    /// Applies a step as `kubectl` would, and lets every program see it and act upon it.
    pub fn take(&mut self, step: &Step) -> Result<()> {
        for name in &step.delete {
            // With a namespace goes all that is in it.
            let of = |other: &ObjectName| other == name || name.kind == Kind::Namespace && other.namespace == name.namespace;
            let gone: Vec<ObjectName> = self.stored.keys().filter(|other| of(other)).cloned().collect();
            ensure!(!gone.is_empty(), "{name} is not there to be deleted");
            for name in gone {
                self.delete(&name);
            }
        }
        for (name, value) in &step.apply {
            self.apply(name, value).with_context(|| name.to_string())?;
        }
        self.publish()?;
        self.plan()
    }

    fn apply(&mut self, name: &ObjectName, value: &Value) -> Result<()> {
        self.made += 1;
        let made = self.made;
        let stored = self.stored.entry(name.clone()).or_insert_with(|| {
            let uid = format!("00000000-0000-4000-8000-{made:012}");
            Stored { uid, made, generation: 0, value: Value::Null }
        });
        ensure!(stored.value != *value, "it is there already, just so");
        stored.value = value.clone();
        stored.generation += 1;
        let stored = stored.clone();
        self.see(self.object(name, &stored)?);
        Ok(())
    }

    fn delete(&mut self, name: &ObjectName) {
        self.stored.remove(name);
        let (namespace, plain) = (name.namespace.clone(), name.name.clone());
        let key = match name.kind {
            Kind::Namespace => Key::Namespace(plain),
            Kind::Pod => Key::Pod(PodRef { namespace, name: plain }),
            Kind::PrefixList => Key::PrefixList(PrefixListRef { namespace, name: plain }),
            Kind::SecurityGroup => Key::SecurityGroup(GroupRef { namespace, name: plain }),
            Kind::Attachment => Key::Attachment(AttachmentRef { namespace, name: plain }),
        };
        for facts in self.all() {
            let _ = facts.delete(&key);
        }
    }

    /// Exactly as the programs read what is stored.
    fn object(&self, name: &ObjectName, stored: &Stored) -> Result<Object> {
        let metadata = json!({
            "name": name.name, "namespace": name.namespace, "uid": stored.uid, "generation": stored.generation,
            "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", stored.made / 60 % 60, stored.made % 60),
        });
        let mut meta: ObjectMeta = serde_json::from_value(metadata.clone())?;
        let object = match name.kind {
            Kind::Namespace => {
                meta.labels = serde_json::from_value(stored.value.clone())?;
                Object::namespace(&meta)
            }
            Kind::Pod => Object::pod(&self.pod(name, &stored.value, metadata)?),
            Kind::PrefixList => Object::prefix_list(&meta, &stored.value),
            Kind::SecurityGroup => Object::security_group(&meta, &stored.value),
            Kind::Attachment => Object::attachment(&meta, &stored.value),
        };
        let problems = match &object {
            Object::PrefixList(_, list) => list.problems.as_slice(),
            Object::SecurityGroup(_, group) => &group.problems,
            Object::Attachment(_, attachment) => &attachment.problems,
            _ => &[],
        };
        ensure!(problems.is_empty(), "it is not understood as written: {problems:?}");
        Ok(object)
    }

    /// A pod with the labels `pod: a`, the node and the addresses of the world, unless it says otherwise.
    fn pod(&self, name: &ObjectName, value: &Value, mut metadata: Value) -> Result<K8sPod> {
        let place = self.world.pods.get(&format!("{}/{}", name.namespace, name.name)).context("the world has no such pod")?;
        for field in value.as_object().context("a pod is an object")?.keys() {
            ensure!(field == "labels", "a pod here has no `{field}`");
        }
        metadata["labels"] = value.get("labels").cloned().unwrap_or_else(|| json!({ "pod": name.name }));
        let addresses: Vec<Value> = place.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        Ok(serde_json::from_value(json!({
            "metadata": metadata,
            "spec": { "nodeName": place.node, "containers": [] },
            "status": { "phase": "Running", "podIPs": addresses },
        }))?)
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Cluster> {
        std::iter::once(&mut self.operator).chain(self.nodes.values_mut().map(|node| &mut node.facts))
    }

    fn see(&mut self, object: Object) {
        for (name, node) in &mut self.nodes {
            if !matches!(&object, Object::Pod(_, pod) if pod.node.as_ref() != Some(name)) {
                let _ = node.facts.apply(object.clone());
            }
        }
        let _ = self.operator.apply(object);
    }

    /// The operator's part.
    fn publish(&mut self) -> Result<()> {
        let resolution = resolve(&self.operator);
        for op in slices::plan(&self.operator, &resolution) {
            let _ = match op.outcome() {
                Some(slice) => self.operator.apply(Object::MemberSlice(op.key().clone(), slice.clone())),
                None => self.operator.delete(&Key::MemberSlice(op.key().clone())),
            };
        }
        let more = slices::plan(&self.operator, &resolution);
        ensure!(more.is_empty(), "the operator is never done: {more:?}");
        Ok(())
    }

    /// The agents' part.
    fn plan(&mut self) -> Result<()> {
        for (name, node) in &mut self.nodes {
            let named: BTreeSet<String> = compile(&node.facts, &resolve(&node.facts), name).named.values().cloned().collect();
            let listed = self.operator.slices.all().iter().filter(|(_, slice)| named.contains(&slice.group_id));
            let listed = listed.map(|(key, slice)| Object::MemberSlice(key.clone(), slice.clone())).collect();
            let _ = node.facts.reset(index::Kind::MemberSlice, listed);
            node.compiled = compile(&node.facts, &resolve(&node.facts), name);
            let Compiled { awaited, problems, .. } = &node.compiled;
            ensure!(awaited.is_empty() && problems.is_empty(), "node {} awaits {awaited:?} and says {problems:?}", name.0);
        }
        Ok(())
    }

    /// Everything that is to be tried after a step: between any two pods that run, over both families.
    pub fn cells(&self, step: &Step) -> Result<Vec<Cell>> {
        let running: Vec<(String, &index::Pod)> = self.operator.pods.iter().map(|(name, pod)| (name.to_string(), pod)).collect();
        let mut cells = Vec::new();
        let mut silent: Vec<&str> = step.expect.iter().map(|line| line.text.as_str()).collect();
        for ((from, sender), (to, receiver)) in running.iter().flat_map(|from| running.iter().map(move |to| (from, to))) {
            // What a pod sends to itself never leaves it.
            if from == to {
                continue;
            }
            let nodes: BTreeSet<NodeName> = sender.node.iter().chain(&receiver.node).cloned().collect();
            for &probe in &step.probes {
                let lines = step.expect.iter().filter(|line| line.speaks_of(from, to, probe));
                let allowed = lines.clone().next_back().is_none_or(|line| line.allows);
                lines.for_each(|line| silent.retain(|text| *text != line.text));
                for (&source, &destination) in sender.addresses.iter().flat_map(|a| receiver.addresses.iter().map(move |b| (a, b))) {
                    let family = Family::of(source);
                    if family == Family::of(destination) {
                        let (from, to, nodes) = (from.clone(), to.clone(), nodes.clone());
                        cells.push(Cell { from, to, probe, family, source, destination, nodes, allowed });
                    }
                }
            }
        }
        ensure!(silent.is_empty(), "these lines speak of nothing that is tried: {silent:?}");
        Ok(cells)
    }
}
