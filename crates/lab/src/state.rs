//! What a cluster leaves on this machine, written down before it is made, so that anybody can remove it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;
use crate::process::ProcessId;
use crate::{cgroup, netns};

/// Where clusters keep their files: `$KSG_LAB_DIR`, or /var/lib/ksg-lab. On a disk, because containers' files are there too.
pub fn root() -> PathBuf {
    std::env::var_os("KSG_LAB_DIR").map_or_else(|| PathBuf::from("/var/lib/ksg-lab"), PathBuf::from)
}

/// A cluster, as its `state.json` describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The cluster's name.
    pub name: String,
    /// The process that started it. It holds a lock on `owner` for as long as it lives.
    pub owner: ProcessId,
    /// Whether the cluster outlives its owner.
    pub kept: bool,
    /// How many nodes it has.
    pub nodes: u8,
    /// The first process of every tree that was started, the control plane's first.
    pub trees: Vec<ProcessId>,
}

impl State {
    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        root().join(&self.name)
    }

    /// The kubeconfig with every right.
    pub fn kubeconfig(&self) -> PathBuf {
        Credentials::at(&self.dir()).path("admin.kubeconfig")
    }

    /// Whether its owner is alive or it may do without. If not, the next one to start a cluster removes it.
    pub fn is_claimed(&self) -> bool {
        self.kept || owner_lives(&self.dir())
    }

    /// Whether it is claimed and its trees run.
    pub fn is_alive(&self) -> bool {
        self.is_claimed() && self.trees.len() == usize::from(self.nodes) + 1 && self.trees.iter().all(ProcessId::is_alive)
    }

    /// All names of network namespaces and cgroups that it may have, those of its nodes first.
    fn names(&self) -> Vec<String> {
        (0..self.nodes).map(|index| node_name(&self.name, index)).chain([control_plane_name(&self.name), world_name(&self.name)]).collect()
    }

    pub(crate) fn write(&self) -> Result<()> {
        let file = self.dir().join("state.json");
        let new = self.dir().join("state.json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", new.display()))?;
        // Renamed into place, so that nobody ever reads half of it.
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// Ends and removes everything. What is gone already is no error.
    pub(crate) fn remove(&self) {
        self.trees.iter().for_each(ProcessId::kill);
        for tree in &self.trees {
            if !tree.wait_gone(Duration::from_secs(10)) {
                eprintln!("lab: process {} of cluster {} does not end", tree.pid, self.name);
            }
        }
        for name in self.names() {
            netns::remove(&name);
            cgroup::remove(&name);
        }
        remove_dir(&self.dir());
    }
}

fn remove_dir(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        if Instant::now() > deadline {
            eprintln!("lab: removing {}: {error}", dir.display());
            return;
        }
        // Programs whose owner has just been killed may write until the kernel has ended them too.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The control plane's network namespace.
pub(crate) fn control_plane_name(cluster: &str) -> String {
    format!("ksg-{cluster}-cp")
}

/// The network namespace outside the cluster.
pub(crate) fn world_name(cluster: &str) -> String {
    format!("ksg-{cluster}-world")
}

/// The network namespace and cgroup of a node.
pub(crate) fn node_name(cluster: &str, index: u8) -> String {
    format!("ksg-{cluster}-n{}", index + 1)
}

/// What Kubernetes calls a node.
pub(crate) fn node_label(index: u8) -> String {
    format!("node{}", index + 1)
}

/// A cluster's place on this machine, held by its owner.
#[derive(Debug)]
pub(crate) struct Claim {
    trees: Trees,
    /// Locked. The kernel lets go of it when this process ends, however it ends.
    owner: File,
}

impl Claim {
    /// Removes what dead owners left, then claims a name.
    pub(crate) fn new(name: &str, nodes: u8) -> Result<Claim> {
        if name.is_empty()
            || name.len() > 40
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            bail!("a cluster's name has 1 to 40 lower-case letters, digits and dashes, unlike {name:?}");
        }
        let _one_at_a_time = lock()?;
        prune()?;
        let dir = root().join(name);
        if dir.exists() {
            bail!("there is a cluster {name} already (lab status shows it, lab down --name {name} removes it)");
        }
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let owner = File::create(dir.join("owner"))?;
        owner.lock()?;
        let pid = i32::try_from(std::process::id())?;
        let owner_id = ProcessId::of(pid).with_context(|| format!("reading /proc/{pid}/stat"))?;
        let state = State { name: name.to_owned(), owner: owner_id, kept: false, nodes, trees: Vec::new() };
        let claim = Claim { trees: Trees(Arc::new(Mutex::new(Entry { state, removed: false }))), owner };
        claim.trees.entry().state.write()?;
        Ok(claim)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.trees.entry().state.dir()
    }

    /// Where trees are to be noted.
    pub(crate) fn trees(&self) -> Trees {
        self.trees.clone()
    }

    /// Leaves the cluster to whoever comes next.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut entry = self.trees.entry();
        entry.state.kept = true;
        entry.state.write()?;
        self.owner.unlock().context("unlocking")
    }

    /// Ends and removes everything, unless the cluster was kept; no tree can be added any more.
    pub(crate) fn remove(&self) {
        let mut entry = self.trees.entry();
        if !entry.state.kept && !entry.removed {
            entry.removed = true;
            entry.state.remove();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The trees of a claimed cluster. A thread that starts some may outlive the claim, when its start is cancelled.
#[derive(Debug, Clone)]
pub(crate) struct Trees(Arc<Mutex<Entry>>);

#[derive(Debug)]
struct Entry {
    state: State,
    removed: bool,
}

impl Trees {
    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a tree as soon as it runs, so that whoever removes the cluster ends it. Fails once the cluster is gone: then so must the tree.
    pub(crate) fn add(&self, tree: ProcessId) -> Result<()> {
        let mut entry = self.entry();
        if entry.removed {
            bail!("cluster {} has been taken down", entry.state.name);
        }
        entry.state.trees.push(tree);
        entry.state.write()
    }
}

fn lock() -> Result<File> {
    let root = root();
    fs::create_dir_all(&root).with_context(|| format!("creating {} (the lab needs root)", root.display()))?;
    let path = root.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {} (the lab needs root)", path.display()))?;
    file.lock()?;
    Ok(file)
}

/// Whether some process holds the owner's lock.
fn owner_lives(dir: &Path) -> bool {
    File::open(dir.join("owner")).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Every cluster on this machine, by name.
pub fn list() -> Result<Vec<State>> {
    let root = root();
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut states = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("reading {}", root.display()))? {
        if let Ok(text) = fs::read(entry?.path().join("state.json")) {
            states.push(serde_json::from_slice::<State>(&text)?);
        }
    }
    states.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(states)
}

/// The cluster with this name.
pub fn find(name: &str) -> Result<State> {
    list()?.into_iter().find(|state| state.name == name).with_context(|| format!("there is no cluster {name}"))
}

/// Removes clusters whose owners have died without doing so, except kept ones.
fn prune() -> Result<()> {
    for entry in fs::read_dir(root())? {
        let dir = entry?.path();
        if !dir.is_dir() || owner_lives(&dir) {
            continue;
        }
        match fs::read(dir.join("state.json")).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok()) {
            Some(state) if state.kept => {}
            Some(state) => state.remove(),
            // Its owner died between making the folder and writing the file: there is nothing else yet.
            None => remove_dir(&dir),
        }
    }
    Ok(())
}

/// Removes a cluster, whoever owns it and whether or not it runs.
pub fn remove(name: &str) -> Result<()> {
    let _one_at_a_time = lock()?;
    find(name)?.remove();
    Ok(())
}
