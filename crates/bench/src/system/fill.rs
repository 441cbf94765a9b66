//! Groups and pods beside those that are changed: objects in the API, as a large cluster has them, on a node that there is not.
//!
//! The groups name each other, and so are published; groups of a pod on the first node name all of them, so that its agent has every member
//! in its table.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use lab::Cluster;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{group, pod, until};

/// Requests at the same time.
const AT_ONCE: usize = 24;
/// Peers of one group (S35: rules a direction).
const NAMED: usize = 50;
const NODE: &str = "nowhere";
const NAMESPACE: &str = "fill";
/// Where the pods' addresses begin; nothing in the cluster has one of these.
const FIRST: u32 = u32::from_be_bytes([10, 128, 0, 1]);

/// What fills the cluster.
pub(super) struct Fill<'a> {
    cluster: &'a Cluster,
    api: Api<Pod>,
    groups: usize,
    pods: usize,
}

fn app(number: usize) -> String {
    format!("app-{number}")
}

fn name(number: usize) -> String {
    format!("pod-{number}")
}

impl<'a> Fill<'a> {
    /// The groups, each of which names the next one, and who names them all.
    pub(super) async fn new(cluster: &'a Cluster, groups: usize) -> Result<Fill<'a>> {
        let client = cluster.client();
        let mut manifests = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n");
        manifests += &pod(NAMESPACE, "namer", "namer", "NODE0");
        for (number, names) in (0..groups).collect::<Vec<_>>().chunks(NAMED).enumerate() {
            let peers: Vec<String> = names.iter().map(|name| format!("{{ securityGroup: {{ name: {} }} }}", app(*name))).collect();
            let spec = format!("ingress: [{{ protocol: TCP, port: 9000, from: [{}] }}]", peers.join(", "));
            manifests += &group(NAMESPACE, &format!("namer-{number}"), &spec, "app: namer");
        }
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": NODE}}))?).await?;
        let all = (0..groups).map(|number| {
            let next = app((number + 1) % groups);
            let rule = json!({"protocol": "TCP", "port": 8000 + number, "from": [{"securityGroup": {"name": next}}]});
            (object("SecurityGroup", &app(number), json!({"ingress": [rule]})), attachment(number))
        });
        block_in_place(|| cluster.kubectl(&["create", "namespace", NAMESPACE]))?;
        let (sgs, attachments) = (Api::namespaced(client.clone(), NAMESPACE), Api::namespaced(client.clone(), NAMESPACE));
        stream::iter(all)
            .map(anyhow::Ok)
            .try_for_each_concurrent(AT_ONCE, async |(sg, attachment)| {
                let (sg, attachment): (api::SecurityGroup, api::Attachment) =
                    (serde_json::from_value(sg)?, serde_json::from_value(attachment)?);
                sgs.create(&PostParams::default(), &sg).await?;
                attachments.create(&PostParams::default(), &attachment).await?;
                Ok(())
            })
            .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        while accounts.get_opt("default").await?.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        block_in_place(|| {
            let names = manifests.replace("NODE0", cluster.node(0).name()).replace("IMAGE", lab::Image::PRODUCT);
            cluster.kubectl_stdin(&["apply", "-f", "-"], &names)?;
            cluster.kubectl(&["wait", "--for=condition=Ready", "pod/namer", "--namespace", NAMESPACE, "--timeout=60s"])
        })?;
        Ok(Fill { cluster, api: Api::namespaced(client, NAMESPACE), groups, pods: 0 })
    }

    /// As many pods as this; waits until the first node's agent has the address of each.
    pub(super) async fn pods(&mut self, pods: usize) -> Result<()> {
        let new = self.pods..pods;
        stream::iter(new).map(anyhow::Ok).try_for_each_concurrent(AT_ONCE, async |number| self.add(number).await).await?;
        self.pods = pods;
        until(&format!("the first node has {pods} members"), Duration::from_secs(300), || Ok(self.named()?.len() == pods)).await
    }

    async fn add(&self, number: usize) -> Result<()> {
        let pod = json!({
            "metadata": {"name": name(number), "labels": {"app": app(number % self.groups)}},
            "spec": {
                "nodeName": NODE,
                "automountServiceAccountToken": false,
                // A node that there is not is soon found to be away.
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "none"}],
            },
        });
        self.api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let ip = Ipv4Addr::from_bits(FIRST + u32::try_from(number)?);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.api.patch_status(&name(number), &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// The addresses of these pods that stand in the first node's table.
    fn named(&self) -> Result<BTreeSet<Ipv4Addr>> {
        let table = self.cluster.node(0).nft("list table inet k8s-sg")?;
        let addresses = table.split([' ', ',', '\n', '\t']).filter_map(|word| word.parse::<Ipv4Addr>().ok());
        Ok(addresses.filter(|address| address.octets()[..2] == [10, 128]).collect())
    }

    /// Gives a pod the label of the next group: one leaves and one joins. Each pod in its turn.
    pub(super) async fn relabel(&self, turn: usize) -> Result<()> {
        let (number, times) = (turn % self.pods, turn / self.pods + 1);
        let patch = json!({"metadata": {"labels": {"app": app((number + times) % self.groups)}}});
        self.api.patch(&name(number), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

fn attachment(number: usize) -> Value {
    let spec = json!({"securityGroups": [app(number)], "podSelector": {"matchLabels": {"app": app(number)}}});
    object("Attachment", &app(number), spec)
}
