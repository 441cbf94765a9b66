//! The control plane with our definitions and policies in force.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use policy::Problem;
use policy::index::Object;
use serde_json::{Value, json};

use crate::quotas;

/// The folder of this test; messages quote paths relative to it.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("admission")
}

/// The YAML files of a folder here, sorted, relative to it.
pub fn manifests(name: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder().join(name))? {
        files.push(format!("{name}/{}", entry?.file_name().to_string_lossy()));
    }
    files.sort();
    Ok(files)
}

/// A manifest of this folder.
pub fn read(file: &str) -> Result<Value> {
    serde_saphyr::from_str(&std::fs::read_to_string(folder().join(file))?).context(file.to_owned())
}

/// What our programs would say against a stored group, attachment or prefix list.
pub fn problems(stored: &Value) -> Result<Vec<Problem>> {
    let metadata = serde_json::from_value(stored["metadata"].clone())?;
    Ok(match stored["kind"].as_str() {
        Some("SecurityGroup") => match Object::security_group(&metadata, &stored["spec"]) {
            Object::SecurityGroup(_, group) => group.problems,
            _ => bail!("not a group"),
        },
        Some("PrefixList") => match Object::prefix_list(&metadata, &stored["spec"]) {
            Object::PrefixList(_, list) => list.problems,
            _ => bail!("not a prefix list"),
        },
        _ => match Object::attachment(&metadata, &stored["spec"]) {
            Object::Attachment(_, attachment) => attachment.problems,
            _ => bail!("not an attachment"),
        },
    })
}

/// A SecurityGroup shop/web.
pub fn group(spec: Value) -> Value {
    object("SecurityGroup", spec)
}

/// An Attachment shop/web.
pub fn attachment(spec: Value) -> Value {
    object("Attachment", spec)
}

/// A PrefixList shop/web.
pub fn prefix_list(spec: Value) -> Value {
    object("PrefixList", spec)
}

fn object(kind: &str, spec: Value) -> Value {
    json!({ "apiVersion": "securitygroups.dev/v1alpha1", "kind": kind, "metadata": { "name": "web", "namespace": "shop" }, "spec": spec })
}

/// What kubectl said.
#[derive(Debug)]
pub struct Answer {
    pub done: bool,
    pub out: String,
    /// Warnings and errors.
    pub err: String,
}

impl Answer {
    /// Fails unless it was refused with a message that contains all of these.
    pub fn refused_saying(&self, what: &str, words: &[&str]) -> Result<()> {
        ensure!(!self.done, "{what} was not refused: {}", self.out);
        for word in words {
            ensure!(self.err.contains(word), "{what} was refused without saying `{word}`: {}", self.err);
        }
        Ok(())
    }

    /// Fails unless it was done, and without a warning.
    pub fn silent(&self, what: &str) -> Result<()> {
        ensure!(self.done, "{what} was refused: {}", self.err);
        ensure!(self.err.is_empty(), "{what} came with a warning: {}", self.err);
        Ok(())
    }
}

pub struct Server {
    cluster: lab::Cluster,
}

impl Server {
    /// A control plane that knows nothing of ours.
    pub async fn bare(name: &str) -> Result<Server> {
        Ok(Server { cluster: lab::Cluster::builder(name).nodes(0).start().await? })
    }

    /// Returns when all of it is in force.
    pub async fn start() -> Result<Server> {
        let server = Server::bare("admission").await?;
        server.kubectl(&["apply", "-k", "../../deploy"])?.silent("deploy")?;
        server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=300s"])?.silent("crds")?;
        for namespace in ["shop", "ops"] {
            server.kubectl(&["create", "namespace", namespace])?.silent(namespace)?;
        }
        server.policies_in_force(true).await?;
        quotas::set(&server, &quotas::raised())?;
        eventually("the limits are raised", || {
            Ok(server.kubectl_object(&["create", "--dry-run=server", "-f", "-"], &quotas::ingress(200))?.done)
        })
        .await?;
        Ok(server)
    }

    /// The cluster that has nothing but this control plane.
    pub fn cluster(&self) -> &lab::Cluster {
        &self.cluster
    }

    /// Waits until the policies judge, or until they do not any more: the API server sees a change of them with a delay.
    pub async fn policies_in_force(&self, wanted: bool) -> Result<()> {
        let twice = json!([{ "protocol": "All", "from": [{ "self": true }, { "self": true }] }]);
        let selector = json!({ "matchLabels": { "app": null } });
        let entries = json!([{ "cidr": "10.0.0.0/8" }, { "cidr": "10.0.0.0/8" }]);
        let broken = [
            group(json!({ "ingress": twice })),
            attachment(json!({ "securityGroups": ["web"], "podSelector": selector })),
            prefix_list(json!({ "addressFamily": "IPv4", "maxEntries": 2, "entries": entries })),
        ];
        for mut object in broken {
            let policy = match object["kind"].as_str() {
                Some("SecurityGroup") => "securitygroups.securitygroups.dev",
                Some("Attachment") => "attachments.securitygroups.dev",
                _ => "prefixlists.securitygroups.dev",
            };
            // A name that nothing stored has: that would be refused, too.
            object["metadata"]["name"] = "in-force".into();
            eventually(&format!("policies in force: {wanted}"), || {
                let answer = self.kubectl_object(&["create", "--dry-run=server", "-f", "-"], &object)?;
                Ok(answer.err.contains(&format!("ValidatingAdmissionPolicy '{policy}'")) == wanted)
            })
            .await?;
        }
        Ok(())
    }

    /// The server's minor version: 36 of Kubernetes 1.36.
    pub fn minor(&self) -> Result<u32> {
        let version: Value = serde_json::from_str(&self.kubectl(&["version", "--output=json"])?.out)?;
        Ok(version["serverVersion"]["minor"].as_str().context("a version")?.parse()?)
    }

    /// Runs kubectl in the folder of this test.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Answer> {
        self.kubectl_text(arguments, "")
    }

    /// The same, with an object on its standard input.
    pub fn kubectl_object(&self, arguments: &[&str], object: &Value) -> Result<Answer> {
        self.kubectl_text(arguments, &object.to_string())
    }

    /// The same, with text.
    pub fn kubectl_text(&self, arguments: &[&str], input: &str) -> Result<Answer> {
        let mut command = self.cluster.kubectl_command();
        command.args(arguments).current_dir(folder());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting kubectl")?;
        // Dropped at once: kubectl reads to the end. A kubectl that reads nothing closes the pipe, which is no error here.
        let _ = child.stdin.take().context("kubectl's input")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        Ok(Answer { done: output.status.success(), out: String::from_utf8(output.stdout)?, err: String::from_utf8(output.stderr)? })
    }

    /// An object as it is stored.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let answer = self.kubectl(&["get", kind, name, "--namespace", "shop", "-o", "json"])?;
        ensure!(answer.done, "{kind} {name}: {}", answer.err);
        Ok(serde_json::from_str(&answer.out)?)
    }

    /// Removes all groups, attachments and prefix lists.
    pub fn clear(&self) -> Result<()> {
        self.kubectl(&["delete", "sg,sgatt,sgpl", "--all", "--namespace", "shop"])?.silent("deleting")
    }

    /// Fails if a group, an attachment or a prefix list is stored.
    pub fn nothing_is_stored(&self) -> Result<()> {
        let answer = self.kubectl(&["get", "sg,sgatt,sgpl", "--all-namespaces", "-o", "name"])?;
        ensure!(answer.done && answer.out.is_empty(), "stored all the same: {}{}", answer.out, answer.err);
        Ok(())
    }
}

/// Polls until it holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within three minutes");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
