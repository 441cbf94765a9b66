//! Groups and pods beside those that are changed: objects in the API, as a large cluster has them, on a node that there is not.
//!
//! The groups name each other, and so are published; groups of a pod on the first node name all of them, so that its agent has every member
//! in its table.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Labels that have been changed.
    turns: Cell<usize>,
}

fn app(number: usize) -> String {
    format!("app-{number}")
}

fn name(number: usize) -> String {
    format!("pod-{number}")
}

fn address(number: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from_bits(FIRST + u32::try_from(number)?))
}

/// The addresses in each group that has any.
type Members = BTreeMap<String, BTreeSet<Ipv4Addr>>;

/// The filling groups' sets of a table that nft has printed.
fn members(table: &str) -> Members {
    let mut members = Members::new();
    let mut set = None;
    let mut words = table.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word {
            "set" => set = words.next().and_then(|name| name.trim_matches('"').strip_prefix("members4/fill/")),
            "map" | "chain" => set = None,
            word => {
                if let (Some(set), Ok(address)) = (set, word.parse()) {
                    members.entry(set.to_owned()).or_default().insert(address);
                }
            }
        }
    }
    members
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
            let names = manifests.replace("NODE0", cluster.node(0).name()).replace("IMAGE", lab::images::PROBE);
            cluster.kubectl_stdin(&["apply", "-f", "-"], &names)?;
            cluster.kubectl(&["wait", "--for=condition=Ready", "pod/namer", "--namespace", NAMESPACE, "--timeout=60s"])
        })?;
        Ok(Fill { cluster, api: Api::namespaced(client, NAMESPACE), groups, pods: 0, turns: Cell::new(0) })
    }

    /// As many pods as this; waits until the first node's agent has the address of each.
    pub(super) async fn pods(&mut self, pods: usize) -> Result<()> {
        let new = self.pods..pods;
        stream::iter(new).map(anyhow::Ok).try_for_each_concurrent(AT_ONCE, async |number| self.add(number).await).await?;
        self.pods = pods;
        self.settled().await
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
        let ip = address(number)?;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.api.patch_status(&name(number), &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Waits until the first node's agent has every pod in its group and in no other.
    pub(super) async fn settled(&self) -> Result<()> {
        let mut wanted = Members::new();
        for number in 0..self.pods {
            wanted.entry(self.app_of(number)).or_default().insert(address(number)?);
        }
        let what = format!("the first node has {} members where they belong", self.pods);
        until(&what, Duration::from_secs(300), || Ok(members(&self.cluster.node(0).nft("list table inet k8s-sg")?) == wanted)).await
    }

    /// The label of a pod, which has got another once for each time that its turn has come.
    fn app_of(&self, number: usize) -> String {
        let turns = (self.turns.get() + self.pods - 1 - number) / self.pods;
        app((number + turns) % self.groups)
    }

    /// Gives a pod the label of the next group: one leaves and one joins. Each pod in its turn.
    pub(super) async fn relabel(&self) -> Result<()> {
        let number = self.turns.get() % self.pods;
        self.turns.set(self.turns.get() + 1);
        let patch = json!({"metadata": {"labels": {"app": self.app_of(number)}}});
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_from_what_nft_prints() {
        let table = "table inet k8s-sg {\n\tset members4/fill/app-1 {\n\t\ttype ipv4_addr\n\t\telements = { 10.128.0.1, 10.128.0.2,\n\t\t\t     10.128.0.3 }\n\t}\n\tset members4/t/client {\n\t\telements = { 10.244.2.2 }\n\t}\n\tchain c {\n\t\tip saddr 10.0.0.1 drop\n\t}\n}\n";
        let wanted = ["10.128.0.1", "10.128.0.2", "10.128.0.3"].map(|ip| ip.parse().expect("an address"));
        assert_eq!(members(table), [("app-1".to_owned(), wanted.into())].into());
    }
}
