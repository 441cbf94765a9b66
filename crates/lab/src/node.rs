//! A node: containerd, kubelet and kube-proxy in one tree of processes, with a network namespace and a cgroup of its own.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::addresses;
use crate::cgroup::{self, Group};
use crate::credentials::Credentials;
use crate::netns::Namespace;
use crate::node_config::{self, Proxy, Topology};
use crate::process::{ProcessId, Program, Tree, is_program, pids, run, until};
use crate::programs::find_in_path;
use crate::state::{Trees, node_label};

/// A node of a running cluster.
#[derive(Debug)]
pub struct Node {
    index: u8,
    name: String,
    dir: PathBuf,
    // The order of these is the order in which they end.
    pub(crate) tree: Tree,
    programs: Mutex<Vec<Program>>,
    group: Option<Group>,
    namespace: Namespace,
}

/// Folders that programs insist on: each node has its own, in memory, gone with its mount namespace.
const PRIVATE: [&str; 5] = ["/run/netns", "/run/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log"];
/// Those of them that something is written to all the time.
const DISKS: &str = "/run/containerd /var/lib/kubelet /var/lib/cni /var/log";

impl Node {
    /// Starts the tree of a node, with containerd in it.
    pub(crate) fn create(cluster_dir: &Path, index: u8, namespace: Namespace, topology: Topology, trees: &Trees) -> Result<Node> {
        let name = node_label(index);
        let dir = cluster_dir.join(&name);
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let group = Group::create(namespace.name())?;
        write_cni(&dir, index, topology)?;
        fs::write(dir.join("containerd.toml"), node_config::containerd(&dir))?;
        let tree = boot(&namespace, &dir, trees)?;
        let node = Node { index, name, dir, tree, programs: Mutex::default(), group: Some(group), namespace };
        node.start_containerd()?;
        Ok(node)
    }

    /// Ends everything on the node at once, containers too, and starts it again as a machine does: its disk is as it was, its kernel knows no
    /// rule, no connection and no pod's interface.
    pub(crate) fn reboot(&mut self, trees: &Trees, joining: &Joining) -> Result<()> {
        self.tree.end();
        self.programs().clear();
        self.nft("flush ruleset")?;
        self.namespace.forget_connections()?;
        self.tree = boot(&self.namespace, &self.dir, trees)?;
        self.start_containerd()?;
        self.wait_for_containerd()?;
        self.join(joining)
    }

    fn start_containerd(&self) -> Result<()> {
        let mut containerd = self.tree.command("containerd");
        containerd.arg("--config").arg(self.dir.join("containerd.toml"));
        self.start("containerd", &mut containerd)
    }

    /// A node that another process started.
    pub(crate) fn attach(cluster_dir: &Path, index: u8, namespace: Namespace, tree: Tree) -> Node {
        let name = node_label(index);
        Node { index, dir: cluster_dir.join(&name), name, tree, programs: Mutex::default(), group: None, namespace }
    }

    fn start(&self, name: &str, command: &mut std::process::Command) -> Result<()> {
        let program = Program::start(&self.tree, name, command, self.dir.join(format!("{name}.log")))?;
        self.programs().push(program);
        Ok(())
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, Vec<Program>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails, with the end of its log, if a program of the node has ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.programs().iter_mut().try_for_each(Program::check).with_context(|| self.name.clone())
    }

    /// Waits for containerd and gives it images.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        self.wait_for_containerd()?;
        for archive in archives {
            run(self.tree.command("ctr").args(["--namespace", "k8s.io", "images", "import"]).arg(archive))
                .with_context(|| format!("{}: importing an image", self.name))?;
        }
        Ok(())
    }

    fn wait_for_containerd(&self) -> Result<()> {
        until("containerd answers", Duration::from_secs(30), || {
            self.check()?;
            Ok(run(self.tree.command("ctr").arg("version")).ok())
        })
        .map(drop)
    }

    /// Starts kubelet and kube-proxy. The API server must answer.
    pub(crate) fn join(&self, Joining { kubernetes, credentials, ipv6_first, proxy }: &Joining) -> Result<()> {
        let kubeconfig = credentials.path(&format!("{}.kubeconfig", self.name));
        let [v4, v6] = addresses::node(self.index).both();
        let (first, second) = if *ipv6_first { (v6, v4) } else { (v4, v6) };
        fs::write(self.dir.join("kubelet.yaml"), node_config::kubelet(&self.name, self.namespace.name(), credentials))?;
        let mut kubelet = self.tree.command(kubernetes.join("kubelet"));
        kubelet
            .arg(format!("--config={}", self.dir.join("kubelet.yaml").display()))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={first},{second}"));
        self.start("kubelet", &mut kubelet)?;
        let config = self.dir.join("kube-proxy.yaml");
        fs::write(&config, node_config::kube_proxy(&self.name, *proxy, &credentials.path("kube-proxy.kubeconfig")))?;
        let mut proxy = self.tree.command(kubernetes.join("kube-proxy"));
        self.start("kube-proxy", proxy.arg(format!("--config={}", config.display())))
    }

    /// Kills kubelet and kube-proxy, and starts them again; containers go on.
    pub(crate) fn rejoin(&self, joining: &Joining) -> Result<()> {
        let all = std::mem::take(&mut *self.programs());
        let (ended, others): (Vec<Program>, _) = all.into_iter().partition(|program| ["kubelet", "kube-proxy"].contains(&program.name()));
        *self.programs() = others;
        for program in ended {
            self.tree.processes(program.name()).iter().for_each(ProcessId::kill);
            program.wait()?;
        }
        self.join(joining)
    }

    /// Fills the disks that kubelet and CNI plugins write to, and running containers with their logs, to their last byte. Images and what
    /// containers have of them are elsewhere.
    pub fn fill_disks(&self) -> Result<()> {
        // Others write meanwhile, and a disk cannot be made smaller than what is on it.
        let fill = "for disk in $DISKS; do
                until used=$(du -skx $disk 2>/dev/null | cut -f 1); mount -o remount,size=$((used + 256))k $disk 2>/dev/null; do sleep 0.1; done
                while echo more 2>/dev/null >>$disk/full; do cat /dev/zero >>$disk/full 2>/dev/null || true; done
            done";
        run(self.tree.command("sh").args(["-c", fill]).env("DISKS", DISKS)).context("filling disks").map(drop)
    }

    /// Makes room there again.
    pub fn free_disks(&self) -> Result<()> {
        let free = "for disk in $DISKS; do rm -f $disk/full; mount -o remount,size=50% $disk; done";
        run(self.tree.command("sh").args(["-c", free]).env("DISKS", DISKS)).context("making room on disks").map(drop)
    }

    /// The name that Kubernetes knows it by: `node1`, `node2`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, which pods on `hostNetwork` share.
    pub fn netns(&self) -> &Namespace {
        &self.namespace
    }

    /// Leaves all of it running, for somebody else to remove.
    pub(crate) fn stay(&mut self) -> Result<()> {
        self.namespace.disown();
        if let Some(group) = self.group.take() {
            group.disown();
        }
        self.tree.stay()
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        addresses::node(self.index).v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        addresses::node(self.index).v6
    }

    /// The addresses of its pods.
    pub fn pod_cidrs(&self) -> (Ipv4Net, Ipv6Net) {
        addresses::pods(self.index)
    }

    /// Runs a command in its network namespace: what it printed, or an error that quotes it.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let output = self.output(command)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        anyhow::ensure!(output.status.success(), "{command:?} on {}: {}\n{}", self.name, output.status, text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// The same for a command that may fail.
    pub fn output(&self, command: &[&str]) -> Result<Output> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let program = find_in_path(program).unwrap_or_else(|| program.into());
        Ok(self.namespace.command(program).args(arguments).output()?)
    }

    /// Runs `nft`, with the command given as one text: `list table inet k8s-sg`.
    pub fn nft(&self, command: &str) -> Result<String> {
        self.run(&["nft", command])
    }

    /// Processes on this node, in containers too, whose program has this file name.
    pub fn processes(&self, program: &str) -> Vec<ProcessId> {
        let group = self.namespace.name();
        let contained = pids().filter(|pid| is_program(*pid, program) && cgroup::contains(group, *pid)).filter_map(ProcessId::of);
        let mut found: Vec<ProcessId> = self.tree.processes(program).into_iter().chain(contained).collect();
        // A container on the node's own pid namespace is found both ways.
        found.sort_by_key(|process| process.pid);
        found.dedup();
        found
    }

    /// Ends such processes with SIGKILL; how many there were. Kubelet starts containers again.
    pub fn kill(&self, program: &str) -> usize {
        let found = self.processes(program);
        found.iter().for_each(ProcessId::kill);
        found.len()
    }

    /// Where the log of `containerd`, `kubelet` or `kube-proxy` is.
    pub fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }
}

/// What a node joins a cluster with.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) kubernetes: PathBuf,
    pub(crate) credentials: Credentials,
    pub(crate) ipv6_first: bool,
    pub(crate) proxy: Proxy,
}

/// Starts the tree of a node, with the folders that are gone after a reboot.
fn boot(namespace: &Namespace, dir: &Path, trees: &Trees) -> Result<Tree> {
    let private: String = PRIVATE.iter().map(|folder| format!("mkdir -p {folder}; mount -t tmpfs tmpfs {folder}\n")).collect();
    let tree = Tree::start(namespace, &private, &dir.join("tree.log"))?;
    trees.add(tree.init())?;
    Ok(tree)
}

/// The configuration of the pod network, and the folder of plugins.
fn write_cni(dir: &Path, index: u8, topology: Topology) -> Result<()> {
    let (plugins, configs) = (dir.join("cni-plugins"), dir.join("cni"));
    fs::create_dir(&plugins)?;
    fs::create_dir(&configs)?;
    for plugin in ["host-local", "loopback"] {
        symlink(Path::new("/usr/lib/cni").join(plugin), plugins.join(plugin))?;
    }
    let plugin = plugins.join("pods");
    fs::write(&plugin, node_config::cni_plugin(index, topology))?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    fs::write(configs.join("10-pods.conflist"), node_config::cni(index, topology).to_string()).context("writing the CNI configuration")
}
