//! A node's cgroup: kubelet wants one to put its pods under, in every hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// The roots of all hierarchies: one in version 2, one a controller in version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if is_unified(root) {
        return vec![root.to_owned()];
    }
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        // cpu,cpuacct may be one folder with a symbolic link for each.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn is_unified(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.controllers").exists()
}

/// A node's cgroup, removed when dropped. The processes in it must have ended by then.
#[derive(Debug)]
pub(crate) struct Group(String);

impl Group {
    /// Makes it in every hierarchy.
    pub(crate) fn create(name: &str) -> Result<Group> {
        let group = Group(name.to_owned());
        create(name)?;
        Ok(group)
    }

    /// Leaves it to somebody else to remove it.
    pub(crate) fn disown(mut self) {
        self.0.clear();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            remove(&self.0);
        }
    }
}

fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        if is_unified(&hierarchy) {
            let available = fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
            let wanted: Vec<String> = available.split_whitespace().map(|controller| format!("+{controller}")).collect();
            fs::create_dir_all(&group).with_context(|| format!("creating {}", group.display()))?;
            for controller in wanted {
                // Some cannot be enabled (rdma without devices, cpu with realtime tasks); kubelet says which of them it misses.
                for folder in [&hierarchy, &group] {
                    let _ = fs::write(folder.join("cgroup.subtree_control"), &controller);
                }
            }
            continue;
        }
        fs::create_dir_all(&group).with_context(|| format!("creating {}", group.display()))?;
        // A new version 1 cpuset is empty and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(hierarchy.join(file)) {
                fs::write(group.join(file), value).with_context(|| format!("writing {file} of {}", group.display()))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup of a node whose processes have ended, with all below it.
pub(crate) fn remove(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        while group.exists() {
            match remove_tree(&group) {
                Ok(()) => break,
                // A process that has just ended leaves its group a moment later.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    eprintln!("lab: removing {}: {error}", group.display());
                    break;
                }
            }
        }
    }
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Whether a process is in a group below this one, in any hierarchy.
pub(crate) fn contains(name: &str, pid: i32) -> bool {
    let inside = format!(":/{name}/");
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.lines().any(|line| line.contains(&inside)))
}
