//! `operator uninstall`: what has to happen before the manifests go, so that nothing of the product stays behind.
//!
//! The agents take their tables away and end, then the operator ends, and only then what nobody keeps any more is taken off: finalizers that
//! nobody would take off later, slices and reports that nobody would update. Groups, attachments and prefix lists are the users' and stay.
//! Each step may be done already: it can be run again after it has failed half-way.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, bail};
use api::{MemberSlice, NodeReport, PrefixList, SecurityGroup};
use futures::{TryStreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerState, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use runtime::calls::Calls;
use runtime::client::{self, Error, in_time};
use runtime::health::Registry;
use runtime::logs;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::finalizer;

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Objects changed at the same time.
const AT_ONCE: usize = 16;
/// So long the operator has for saying in every status that nothing is in force any more.
const STATUSES: Duration = Duration::from_secs(15);

/// How `operator uninstall` runs.
#[derive(Clone, Debug, clap::Args)]
pub struct UninstallArgs {
    /// Namespace of the product.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-security-groups")]
    namespace: String,
    /// What becomes of the rules in the nodes' kernels.
    #[arg(long, value_enum, default_value_t = Rules::Remove)]
    rules: Rules,
    /// Seconds that all nodes together have.
    #[arg(long, default_value_t = 240)]
    timeout: u64,
}

/// What becomes of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rules {
    /// No node has a table any more: everything is open.
    Remove,
    /// What is in force stays in force, and follows nothing any more.
    Keep,
}

/// Does it all, or says what is in the way.
pub async fn uninstall(args: UninstallArgs) -> anyhow::Result<()> {
    logs::start(logs::Format::Text, "info").map_err(|error| anyhow::anyhow!(error))?;
    let cluster = Cluster {
        client: client::connect(&Calls::new(&mut Registry::default())).await?,
        namespace: args.namespace,
        deadline: Instant::now() + Duration::from_secs(args.timeout),
    };
    if args.rules == Rules::Remove {
        cluster.remove_rules().await?;
    }
    // An agent that saw slices go would close what they allowed, and an operator would write them again.
    cluster.end::<DaemonSet>("agent").await?;
    cluster.end::<Deployment>("operator").await?;
    cluster.delete::<Lease>("operator").await?;
    let released = cluster.release::<SecurityGroup>().await? + cluster.release::<PrefixList>().await?;
    let slices = cluster.delete_all(|client, slice: &MemberSlice| Api::namespaced(client, &slice.namespace().unwrap_or_default())).await?;
    let reports = cluster.delete_all(|client, _: &NodeReport| Api::all(client)).await?;
    tracing::info!(released, slices, reports, "nothing holds any object any more; groups, attachments and prefix lists are as they were");
    Ok(())
}

struct Cluster {
    client: Client,
    namespace: String,
    deadline: Instant,
}

impl Cluster {
    /// Makes the agents remove their tables, and the statuses say so.
    async fn remove_rules(&self) -> anyhow::Result<()> {
        let agents: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        // Before another set of pods hides who ever ran.
        let bare = self.never_guarded().await?;
        let off = json!({ "spec": {
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%", "maxSurge": null } },
            "template": { "spec": { "containers": [{ "name": "agent", "env": [{ "name": "ENFORCE", "value": "false" }] }] } },
        }});
        match in_time(agents.patch("agent", &PatchParams::default(), &Patch::Strategic(off))).await {
            Err(error) if error.is_not_found() => {
                tracing::warn!(namespace = self.namespace, "there is no DaemonSet agent: what rules nodes have stays there");
                return Ok(());
            }
            patched => patched.context("cannot switch enforcement off in the DaemonSet agent")?,
        };
        tracing::info!("enforcement is switched off; waiting until no node has rules");
        loop {
            let set = in_time(agents.get("agent")).await.context("cannot read the DaemonSet agent")?;
            let generation = set.metadata.generation;
            if set.status.is_some_and(|status| status.observed_generation == generation) {
                let (waiting, away) = self.with_rules(&bare).await?;
                if waiting.is_empty() {
                    if !away.is_empty() {
                        tracing::warn!(nodes = ?away, "these nodes are not ready: should they come back without a reboot, `nft delete table inet k8s-sg` removes their rules");
                    }
                    break;
                }
                if Instant::now() > self.deadline {
                    bail!(
                        "these nodes have not said that their rules are gone: {waiting:?}; see `kubectl logs -n {} -l app.kubernetes.io/component=agent`. To \
                         uninstall and leave the rules there: --rules=keep (uninstall.rules=keep of the chart)",
                        self.namespace
                    );
                }
            }
            sleep(LOOK).await;
        }
        self.statuses().await
    }

    /// Waits until no status says any more that something is in force. Statuses are for people: what is late does not stop anything.
    async fn statuses(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STATUSES;
        loop {
            let groups = self.all::<SecurityGroup>().await?;
            let in_force = |group: &&SecurityGroup| group.status.as_ref().is_some_and(|status| status.nodes.programmed > 0);
            let left = groups.iter().filter(in_force).count();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                tracing::warn!(left, "no operator has changed the status of these groups: they still say that they are in force");
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Nodes whose agent has never started, for want of its image or of a fitting processor: there is nothing to remove.
    async fn never_guarded(&self) -> anyhow::Result<BTreeSet<String>> {
        let reports: BTreeSet<String> = self.all::<NodeReport>().await?.iter().map(ResourceExt::name_any).collect();
        let agents = self.pods("agent").await?;
        let (idle, ran): (Vec<&Pod>, Vec<&Pod>) = agents.iter().partition(|pod| never_started(pod));
        let ran: BTreeSet<String> = ran.into_iter().filter_map(node_of).collect();
        Ok(idle.into_iter().filter_map(node_of).filter(|node| !reports.contains(node) && !ran.contains(node)).collect())
    }

    /// Nodes with an agent, or the report of one, that has not said yet that its table is gone: those that are ready, and those that are not.
    async fn with_rules(&self, bare: &BTreeSet<String>) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
        let agents = self.pods("agent").await?;
        let done: BTreeSet<String> = agents.iter().filter(|pod| is_done(pod)).filter_map(node_of).collect();
        let reports = self.all::<NodeReport>().await?;
        // An agent whose report could not be written yet may have rules as well.
        let known: BTreeSet<String> = reports.iter().map(ResourceExt::name_any).chain(agents.iter().filter_map(node_of)).collect();
        let nodes = self.all::<Node>().await?;
        let waiting = nodes.iter().filter(|node| {
            let name = node.name_any();
            known.contains(&name) && !done.contains(&name) && !bare.contains(&name)
        });
        let (ready, away): (Vec<&Node>, Vec<&Node>) = waiting.partition(|node| is_ready(node));
        let names = |nodes: Vec<&Node>| nodes.into_iter().map(ResourceExt::name_any).collect();
        Ok((names(ready), names(away)))
    }

    /// Deletes an object of the product's namespace.
    async fn delete<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let deleted = in_time(api.delete(name, &DeleteParams::background())).await;
        gone(deleted).with_context(|| format!("cannot delete {} {name}", K::kind(&())))
    }

    /// Deletes a workload, and waits until its pods on nodes that are ready have ended.
    async fn end<K>(&self, component: &str) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.delete::<K>(component).await?;
        loop {
            let nodes = self.all::<Node>().await?;
            let ready: BTreeSet<String> = nodes.iter().filter(|node| is_ready(node)).map(ResourceExt::name_any).collect();
            let left = self.pods(component).await?.iter().filter_map(node_of).filter(|node| ready.contains(node)).count();
            if left == 0 {
                tracing::info!(component, "has ended");
                return Ok(());
            }
            if Instant::now() > self.deadline {
                bail!("{left} pods of {component} do not end; see `kubectl get pods -n {} -o wide`", self.namespace);
            }
            sleep(LOOK).await;
        }
    }

    /// Takes the operator's finalizer off; how many had it.
    async fn release<K>(&self) -> anyhow::Result<usize>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let all = self.all::<K>().await?;
        let held = all.into_iter().filter(|object| object.finalizers().iter().any(|finalizer| finalizer == api::FINALIZER_IN_USE));
        stream::iter(held.map(Ok::<_, anyhow::Error>))
            .map_ok(|object| async move {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
                let released = finalizer::set(&api, &name, &object.uid().unwrap_or_default(), false).await;
                released.with_context(|| format!("cannot take the finalizer off {} {namespace}/{name}", K::kind(&())))
            })
            .try_buffer_unordered(AT_ONCE)
            .try_fold(0, |count, ()| async move { Ok(count + 1) })
            .await
    }

    /// Deletes all objects of a kind that the product alone writes; how many there were.
    async fn delete_all<K>(&self, api: fn(Client, &K) -> Api<K>) -> anyhow::Result<usize>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let all = self.all::<K>().await?;
        stream::iter(all.into_iter().map(Ok::<_, anyhow::Error>))
            .map_ok(|object| async move {
                let name = object.name_any();
                let api = api(self.client.clone(), &object);
                gone(in_time(api.delete(&name, &DeleteParams::default())).await)
                    .with_context(|| format!("cannot delete {} {name}", K::kind(&())))
            })
            .try_buffer_unordered(AT_ONCE)
            .try_fold(0, |count, ()| async move { Ok(count + 1) })
            .await
    }

    /// All objects of a kind; none where the kind is not installed.
    async fn all<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let listed = in_time(Api::<K>::all(self.client.clone()).list(&ListParams::default())).await;
        match listed {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            listed => Ok(listed.with_context(|| format!("cannot list {}", K::plural(&())))?.items),
        }
    }

    async fn pods(&self, component: &str) -> anyhow::Result<Vec<Pod>> {
        let labels = format!("app.kubernetes.io/name=kube-security-groups,app.kubernetes.io/component={component}");
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(in_time(api.list(&ListParams::default().labels(&labels))).await.context("cannot list pods")?.items)
    }
}

/// Deleted, or not there any more.
fn gone<T>(deleted: Result<T, Error>) -> Result<(), Error> {
    match deleted {
        Err(error) if error.is_not_found() => Ok(()),
        deleted => deleted.map(drop),
    }
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// An agent that was started with enforcement switched off, and is ready: then its table is gone, and its report says so.
fn is_done(pod: &Pod) -> bool {
    let mut env = pod.spec.iter().flat_map(|spec| &spec.containers).filter(|it| it.name == "agent").flat_map(|it| it.env.iter().flatten());
    let off = env.any(|it| it.name == "ENFORCE" && it.value.as_deref() == Some("false"));
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    off && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// No container of it runs or has ever run.
fn never_started(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let started =
        |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    !containers.into_iter().flatten().any(|it| it.restart_count > 0 || started(&it.state) || started(&it.last_state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(enforce: &str, ready: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": "agent-x" },
            "spec": { "containers": [{ "name": "agent", "env": [{ "name": "NODE_NAME" }, { "name": "ENFORCE", "value": enforce }] }] },
            "status": { "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": ready }] },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn an_agent_from_before_and_one_that_is_not_ready_may_have_rules() {
        assert!(is_done(&pod("false", "True")), "whoever has switched it off, and when");
        assert!(!is_done(&pod("true", "True")), "it was started with enforcement on");
        assert!(!is_done(&pod("false", "False")), "its table is not gone yet");
        assert!(!is_done(&Pod::default()));
    }

    #[test]
    fn an_agent_that_waits_for_its_image_has_never_started_and_one_that_crashes_has() {
        let pod = |container: serde_json::Value| -> Pod {
            serde_json::from_value(json!({ "metadata": {}, "status": { "containerStatuses": [container] } })).unwrap()
        };
        let container = |restarts: u8, state: serde_json::Value, last: serde_json::Value| json!({ "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state, "lastState": last });
        let (waits, ended) = (json!({ "waiting": { "reason": "ImagePullBackOff" } }), json!({ "terminated": { "exitCode": 1 } }));
        assert!(never_started(&Pod::default()) && never_started(&pod(container(0, waits.clone(), json!({})))));
        assert!(!never_started(&pod(container(0, json!({ "running": {} }), json!({})))));
        assert!(!never_started(&pod(container(0, ended.clone(), json!({})))));
        assert!(!never_started(&pod(container(0, waits.clone(), ended))));
        assert!(!never_started(&pod(container(3, waits, json!({})))));
    }

    #[test]
    fn a_node_that_says_nothing_is_not_ready() {
        let node = |status: &str| {
            serde_json::from_value::<Node>(json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } })).unwrap()
        };
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("Unknown")));
        assert!(!is_ready(&Node::default()));
    }
}
