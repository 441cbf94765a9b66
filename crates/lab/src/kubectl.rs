//! kubectl, with every right, as tests use it.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::process::{feed, run};

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
        run(self.kubectl_command().args(arguments))
    }

    /// The same, with text on its standard input (`apply -f -`).
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Result<String> {
        feed(self.kubectl_command().args(arguments), input)
    }

    /// For a command that may fail.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_command().args(arguments).output().context("starting kubectl")
    }

    /// Runs a command in a pod's first container: what it printed.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["exec", "--namespace", namespace, pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments)
    }
}
