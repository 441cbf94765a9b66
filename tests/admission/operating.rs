//! The operator itself, with the rights that it is installed with, on this control plane.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::server::Server;

/// An operator that runs as its service account; it ends with this value, by SIGKILL.
pub struct Operator(Child);

impl Operator {
    /// Starts it. Each is the same candidate for the Lease, so that the next one need not wait until the lease of one killed runs out.
    pub fn start(server: &Server) -> Result<Operator> {
        let token = server.kubectl(&["create", "token", "operator", "--namespace", "kube-security-groups"])?;
        let kubeconfig = kubeconfig_of(server, "operator", token.out.trim())?;
        let log = File::options().create(true).append(true).open(server.cluster().dir().join("operator.log"))?;
        let program = lab::programs::ours(&["operator"])?;
        let mut command = Command::new(&program[0]);
        command.args(["run", "--health-address=127.0.0.1:0", "--identity=test"]).env("KUBECONFIG", kubeconfig);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("starting the operator")?;
        Ok(Operator(child))
    }
}

/// A kubeconfig with somebody's token.
pub fn kubeconfig_of(server: &Server, who: &str, token: &str) -> Result<PathBuf> {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(server.cluster().kubeconfig())?)?;
    config["users"][0]["user"] = json!({ "token": token });
    let file = server.cluster().dir().join(format!("{who}.kubeconfig"));
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself; what it said then is in its log.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the operator said, to go with an error.
pub fn log(server: &Server) -> String {
    let log = std::fs::read_to_string(server.cluster().dir().join("operator.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
