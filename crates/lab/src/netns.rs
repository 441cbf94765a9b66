//! Network namespaces: made, entered, removed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::process::{feed, run};

/// A named network namespace (`ip netns`), removed when dropped if this value made it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    owned: bool,
}

impl Namespace {
    /// Makes a namespace with its loopback up. The name must be free.
    pub fn create(name: &str) -> Result<Namespace> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Namespace { name: name.to_owned(), owned: true };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A namespace that somebody else made and will remove.
    pub fn existing(name: &str) -> Result<Namespace> {
        let namespace = Namespace { name: name.to_owned(), owned: false };
        if !namespace.path().exists() {
            bail!("there is no network namespace {name}");
        }
        Ok(namespace)
    }

    /// Leaves it to somebody else to remove it.
    pub(crate) fn disown(&mut self) {
        self.owned = false;
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs a closure inside, on a thread of its own, and waits for it. Sockets opened by the closure keep belonging to the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("opening network namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {}", self.name))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a closure inside on a thread that goes on by itself.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<std::thread::JoinHandle<Result<T>>> {
        let file = File::open(self.path()).with_context(|| format!("opening network namespace {}", self.name))?;
        let name = self.name.clone();
        Ok(std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {name}"))?;
            Ok(work())
        }))
    }

    /// A command that will run inside. `nsenter`, not `ip netns exec`, because the latter mounts a new sysfs and so hides the cgroups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        // Ctrl-C in a terminal is for us to act upon, not for the whole cluster at once.
        command.process_group(0);
        command
    }

    /// Runs `ip` commands inside, one a line, as one batch.
    pub fn ip(&self, batch: &str) -> Result<()> {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), batch).map(drop)
    }

    /// Sets kernel parameters below `/proc/sys/net` of this namespace, given as `ipv4/ip_forward`.
    pub fn set(&self, parameters: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in parameters {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value).map_err(|error| anyhow!("{}: {error}", path.display()))?;
            }
            Ok(())
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// Removes a namespace if it is there.
pub(crate) fn remove(name: &str) {
    let file = Path::new("/run/netns").join(name);
    if file.exists()
        && let Err(error) = run(Command::new("ip").args(["netns", "del", name]))
        // Somebody else may have been faster: a cluster that is taken down while it starts is removed from two sides.
        && file.exists()
    {
        eprintln!("lab: {error:#}");
    }
}
