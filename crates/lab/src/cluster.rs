//! A whole cluster: started, used, taken down.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image::Image;
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::addresses::{Dual, WORLD_CLIENTS, pods, world};
use crate::control_plane::ControlPlane;
use crate::credentials::Credentials;
use crate::images;
use crate::kubectl::Running;
use crate::netns::Namespace;
use crate::network::Network;
use crate::node::{Joining, Node};
use crate::node_config::{Proxy, Topology};
use crate::process::Tree;
use crate::programs;
use crate::state::{self, Claim, Trees};

/// What a cluster shall be like.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    nodes: u8,
    topology: Topology,
    proxy: Proxy,
    ipv6_first: bool,
    images: Vec<Image>,
    audit_log: bool,
    keep: bool,
}

impl Builder {
    /// How many nodes: 2 unless said otherwise, 0 for a control plane alone, 20 at most.
    pub fn nodes(mut self, nodes: u8) -> Builder {
        self.nodes = nodes;
        self
    }

    /// How the pods of a node are connected: routed unless said otherwise.
    pub fn topology(mut self, topology: Topology) -> Builder {
        self.topology = topology;
        self
    }

    /// How kube-proxy makes Services: by nftables unless said otherwise.
    pub fn proxy(mut self, proxy: Proxy) -> Builder {
        self.proxy = proxy;
        self
    }

    /// Makes IPv6 the first family of nodes and pods, the one that kubelet probes.
    pub fn ipv6_first(mut self) -> Builder {
        self.ipv6_first = true;
        self
    }

    /// Images that the nodes shall have, beside the probe's.
    pub fn images(mut self, images: impl IntoIterator<Item = Image>) -> Builder {
        self.images.extend(images);
        self
    }

    /// Makes the API server note every request: [`Cluster::audit_log`].
    pub fn audit_log(mut self) -> Builder {
        self.audit_log = true;
        self
    }

    /// Leaves the cluster running once it has started.
    pub fn keep(mut self) -> Builder {
        self.keep = true;
        self
    }

    /// Starts it, and waits until its nodes are ready. Nothing is left behind when that fails, or when the future is dropped before its end
    /// (then once its runtime has ended too, which waits for what the future began).
    ///
    /// First removes what clusters left whose owners have died.
    pub async fn start(self) -> Result<Cluster> {
        if self.nodes > 20 {
            bail!("{} nodes are more than one machine should have", self.nodes);
        }
        programs::check_debian()?;
        self.topology.check()?;
        self.proxy.check()?;
        let probe = programs::ours(&["probe"])?.remove(0);
        let kubernetes = programs::kubernetes()?;
        let claim = Claim::new(&self.name, self.nodes)?;
        let dir = claim.dir();
        // Made here, in the host's network namespace, where it stays when a process in another accepts from it.
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening on 127.0.0.1")?;
        let credentials = Credentials::create(&dir, self.nodes, listener.local_addr()?.port())?;
        let network = Network::create(&self.name, self.nodes)?;
        let control_plane = ControlPlane::create(&dir, &network.control_plane, &kubernetes, self.audit_log)?;
        claim.trees().add(control_plane.tree.init())?;
        control_plane.start_etcd()?;
        control_plane.start_api_server()?;
        control_plane.forward(&probe, listener)?;

        let mut images = self.images;
        if self.nodes > 0 {
            images.push(images::probe()?);
        }
        let preparing = prepare_nodes(&dir, claim.trees(), network.nodes, self.topology, images);
        let kubeconfig = credentials.path("admin.kubeconfig");
        let client = client(&kubeconfig).await?;
        let (nodes, ready) = tokio::join!(preparing, wait_ready(&client, &control_plane));
        let nodes = nodes?;
        ready?;
        control_plane.start_controllers()?;
        let joining = Joining { kubernetes, credentials, ipv6_first: self.ipv6_first, proxy: self.proxy };
        for node in &nodes {
            node.join(&joining)?;
        }
        let world = World { namespace: network.world };
        let mut cluster = Cluster {
            client,
            kubeconfig,
            joining,
            control_plane,
            nodes,
            world,
            namespace: network.control_plane,
            running: Running::none(),
            claim: Some(claim),
            dir,
        };
        cluster.wait_settled().await?;
        if self.keep {
            cluster.keep()?;
        }
        Ok(cluster)
    }
}

/// Starts all nodes' trees and gives them their images, all at the same time.
async fn prepare_nodes(dir: &Path, trees: Trees, namespaces: Vec<Namespace>, topology: Topology, images: Vec<Image>) -> Result<Vec<Node>> {
    let dir = dir.to_owned();
    let work = move || {
        let nodes = namespaces.into_iter().zip(0..).map(|(namespace, index)| Node::create(&dir, index, namespace, topology, &trees));
        let nodes = nodes.collect::<Result<Vec<Node>>>()?;
        let mut archives = Vec::new();
        for (image, number) in images.iter().zip(0..) {
            let file = dir.join(format!("image{number}.tar"));
            image.write(&file)?;
            archives.push(file);
        }
        std::thread::scope(|scope| {
            let imports: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.import(&archives))).collect();
            imports.into_iter().try_for_each(|import| import.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        archives.iter().try_for_each(std::fs::remove_file)?;
        Ok(nodes)
    };
    tokio::task::spawn_blocking(work).await?
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    // A refusal is a result; waiting for it to go away, for many minutes, is not what a test wants.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Waits until the API server says that it is ready.
async fn wait_ready(client: &Client, control_plane: &ControlPlane) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        control_plane.check()?;
        let request = http::Request::get("/readyz").body(Vec::new())?;
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("kube-apiserver is not ready after 60 s; {}", control_plane.explain("kube-apiserver"));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// A namespace outside the cluster, one hop from the nodes, routed to nodes and pods in both families.
#[derive(Debug)]
pub struct World {
    namespace: Namespace,
}

impl World {
    /// The network namespace.
    pub fn netns(&self) -> &Namespace {
        &self.namespace
    }

    /// Its addresses, each good for one client.
    pub fn clients(&self) -> Vec<Dual> {
        (0..WORLD_CLIENTS).map(world).collect()
    }
}

/// A running cluster, taken down when dropped, unless it was kept or attached to.
///
/// Its client belongs to the tokio runtime that started it.
pub struct Cluster {
    kubeconfig: PathBuf,
    joining: Joining,
    dir: PathBuf,
    client: Client,
    // The order of these is the order in which they end: programs, namespaces, and then all that is left.
    control_plane: ControlPlane,
    nodes: Vec<Node>,
    world: World,
    /// The control plane's.
    namespace: Namespace,
    pub(crate) running: Running,
    claim: Option<Claim>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Cluster").field("dir", &self.dir).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster to be; the name tells it from others on this machine.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            nodes: 2,
            topology: Topology::default(),
            proxy: Proxy::default(),
            ipv6_first: false,
            images: Vec::new(),
            audit_log: false,
            keep: false,
        }
    }

    /// Waits until every node takes pods, and the default namespace has what a pod needs.
    async fn wait_settled(&self) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.check()?;
            let found = nodes.list(&ListParams::default()).await?.items;
            let open = found.iter().filter(|node| takes_pods(node)).count();
            if open == self.nodes.len() && accounts.get_opt("default").await?.is_some() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{open} of {} nodes are ready after 60 s; logs are in {}", self.nodes.len(), self.dir.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (node, index) in self.nodes.iter().zip(0..) {
            let (v4, v6) = pods(index);
            let patch = Patch::Merge(json!({ "spec": { "podCIDR": v4.to_string(), "podCIDRs": [v4.to_string(), v6.to_string()] } }));
            nodes.patch(node.name(), &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Fails, with the end of its log, if a program of the cluster has ended that nobody asked to.
    pub fn check(&self) -> Result<()> {
        self.control_plane.check()?;
        self.nodes.iter().try_for_each(Node::check)
    }

    /// A client with every right.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig with every right, which works in the host's network namespace.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of kubectl and the other programs.
    pub fn kubernetes(&self) -> &Path {
        &self.joining.kubernetes
    }

    /// Where the cluster keeps its files; every program has a log there, those of a node in a folder of its name.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where every request is noted, one JSON object a line, if the builder was told so.
    pub fn audit_log(&self) -> PathBuf {
        self.control_plane.audit_log()
    }

    /// Node `index`, from 0.
    ///
    /// # Panics
    /// If the cluster has fewer nodes.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace outside the cluster.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Reboots node `index`: everything on it ends at once and starts again, its disk as it was, its kernel without rules, connections and
    /// pods' interfaces. Returns when its kubelet has been started. Needs the cluster that was started here.
    pub fn reboot(&mut self, index: usize) -> Result<()> {
        let trees = self.claim.as_ref().context("a cluster that was attached to is not rebooted")?.trees();
        self.nodes[index].reboot(&trees, &self.joining)
    }

    /// Ends kube-apiserver with SIGKILL.
    pub fn kill_api_server(&self) -> Result<()> {
        self.control_plane.kill("kube-apiserver")
    }

    /// Starts kube-apiserver after it was killed, and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        self.control_plane.start_api_server()?;
        wait_ready(&self.client, &self.control_plane).await
    }

    /// Kills kube-apiserver and starts it again.
    pub async fn restart_api_server(&self) -> Result<()> {
        self.kill_api_server()?;
        self.start_api_server().await
    }

    /// Kills etcd and starts it again, with its data.
    pub async fn restart_etcd(&self) -> Result<()> {
        self.control_plane.kill("etcd")?;
        self.control_plane.start_etcd()?;
        wait_ready(&self.client, &self.control_plane).await
    }

    /// Stops etcd, copies its data, and starts it again: what [`Cluster::restore_etcd`] goes back to.
    pub async fn snapshot_etcd(&self) -> Result<()> {
        self.control_plane.kill("etcd")?;
        self.control_plane.save_etcd()?;
        self.control_plane.start_etcd()?;
        wait_ready(&self.client, &self.control_plane).await
    }

    /// Puts etcd's data back as it was at [`Cluster::snapshot_etcd`], as etcd's manual says: with everything stopped that remembers what was
    /// later, of Kubernetes that is. Resource versions go back too.
    pub async fn restore_etcd(&self) -> Result<()> {
        for program in ["kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"] {
            self.control_plane.kill(program)?;
        }
        self.control_plane.put_back_etcd()?;
        self.control_plane.start_etcd()?;
        self.start_api_server().await?;
        self.control_plane.start_controllers()?;
        self.nodes.iter().try_for_each(|node| node.rejoin(&self.joining))
    }

    /// Makes etcd what it is when its space is used up, or again what it was: it answers whoever reads, and takes nothing.
    pub fn etcd_full(&self, full: bool) -> Result<()> {
        self.namespace.run(|| ControlPlane::alarm_etcd(full))?
    }

    /// Leaves the cluster running after this process; `lab down` or [`crate::state::remove`] takes it down.
    pub fn keep(&mut self) -> Result<()> {
        self.control_plane.tree.stay()?;
        self.nodes.iter_mut().try_for_each(Node::stay)?;
        self.world.namespace.disown();
        self.namespace.disown();
        self.claim.as_ref().map_or(Ok(()), Claim::keep)
    }

    /// Takes it down under whoever still uses it, whose kubectl then fails: for a program that was told to end. Returns when all is gone.
    ///
    /// One that was attached to goes on.
    pub fn take_down(&self) {
        self.running.end();
        if let Some(claim) = &self.claim {
            claim.remove();
        }
    }
}

/// A cluster that was kept, or that another process owns. It goes on when this value is dropped.
pub async fn attach(name: &str) -> Result<Cluster> {
    let found = state::find(name)?;
    if !found.is_alive() {
        bail!("cluster {name} does not run");
    }
    let dir = found.dir();
    let kubernetes = programs::kubernetes()?;
    let network = Network::attach(name, found.nodes)?;
    let mut trees = found.trees.iter().copied().map(Tree::attach);
    let control_plane = ControlPlane::with_tree(&dir, &kubernetes, trees.next().context("a cluster without a control plane")??);
    let nodes = network.nodes.into_iter().zip(trees).zip(0..);
    let nodes = nodes.map(|((namespace, tree), index)| Ok(Node::attach(&dir, index, namespace, tree?))).collect::<Result<_>>()?;
    let kubeconfig = Credentials::at(&dir).path("admin.kubeconfig");
    Ok(Cluster {
        client: client(&kubeconfig).await?,
        kubeconfig,
        // What it is not known to be started with, nodes that are only attached to do not need.
        joining: Joining { kubernetes, credentials: Credentials::at(&dir), ipv6_first: false, proxy: Proxy::default() },
        control_plane,
        nodes,
        world: World { namespace: network.world },
        namespace: network.control_plane,
        running: Running::none(),
        claim: None,
        dir,
    })
}

fn takes_pods(node: &NodeObject) -> bool {
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.effect == "NoSchedule");
    ready && !tainted
}
