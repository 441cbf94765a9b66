//! kubectl and helm, with every right, as tests use them.

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::process::{ProcessId, checked, complete};
use crate::programs;

/// The commands that run for a cluster now; `None` once it is being taken down.
#[derive(Debug)]
pub(crate) struct Running(Mutex<Option<Vec<ProcessId>>>);

impl Running {
    pub(crate) fn none() -> Running {
        Running(Mutex::new(Some(Vec::new())))
    }

    /// Started and noted in one, so that [`Running::end`] misses none.
    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.as_mut().context("the cluster is being taken down")?;
        let child = command.spawn()?;
        running.retain(ProcessId::is_alive);
        running.extend(ProcessId::of(i32::try_from(child.id())?));
        Ok(child)
    }

    /// Ends those that run, and lets no other start: a kubectl that outlives its cluster may wait for it for minutes, and make its folder
    /// again to keep a cache in.
    pub(crate) fn end(&self) {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        ended.iter().for_each(ProcessId::kill);
        for process in ended {
            process.wait_gone(Duration::from_secs(10));
        }
    }
}

impl Cluster {
    /// A kubectl command for this cluster, still without arguments.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.kubernetes().join("kubectl"));
        // No cache of what the API offers: another cluster may have had the same port.
        command.env("KUBECONFIG", self.kubeconfig()).arg("--cache-dir").arg(self.dir().join("kubectl")).stdin(Stdio::null());
        command
    }

    /// Runs kubectl: what it printed, or an error that quotes it.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_checked(arguments, None)
    }

    /// The same, with text on its standard input (`apply -f -`).
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.kubectl_checked(arguments, Some(input))
    }

    /// For a command that may fail.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Result<Output> {
        complete(self.kubectl_command().args(arguments), None, |command| self.running.spawn(command))
    }

    fn kubectl_checked(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(arguments);
        self.run(command, input)
    }

    /// Runs helm: what it printed, or an error that quotes it. What it keeps of its own is the cluster's.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::helm()?);
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, self.dir().join("helm"));
        }
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments).stdin(Stdio::null());
        self.run(command, None)
    }

    fn run(&self, mut command: Command, input: Option<&str>) -> Result<String> {
        let output = complete(&mut command, input, |command| self.running.spawn(command))?;
        checked(&command, output)
    }

    /// Runs a command in a pod's first container: what it printed.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["exec", "--namespace", namespace, pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments)
    }
}
