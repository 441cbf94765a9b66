//! Nodes with another kernel: an agent in a machine that is emulated, which reaches the API server of the cluster through a node's network.
//! There is no kubelet on such a node, so its pods do not run; they are there all the same, and wait to be guarded.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use lab::images::Image;
use lab::{Cluster, programs};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::fixture::{condition, in_force, page, pod, until};

/// A kernel, what it goes without, and what an agent there has to name.
struct Kernel {
    node: &'static str,
    suite: &'static str,
    without: &'static str,
    lacks: &'static [&'static str],
    /// Where its metrics are served on the cluster's first node, on loopback.
    port: u16,
}

const OBJECTS: [&str; 3] = ["named counters", "maps of addresses to counters", "maps of networks to counters (interval)"];

const KERNELS: [Kernel; 3] = [
    Kernel { node: "without-conntrack", suite: "trixie", without: "nf_conntrack", lacks: &["ct state"], port: 19651 },
    Kernel { node: "without-nf-tables", suite: "trixie", without: "nf_tables", lacks: &["tables of the inet family"], port: 19652 },
    // As an older one than those that we support, it has not all that rules consist of.
    Kernel { node: "without-objects", suite: "bullseye", without: "nft_objref", lacks: &OBJECTS, port: 19653 },
];

const NAMESPACE: &str = "--namespace=kube-security-groups";
const AGENTS: &str = "--selector=app.kubernetes.io/component=agent";
const NETWORK: &str = "ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2";

/// Where a pod finds what its service account is.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// One that is emulated, until this is dropped.
struct Machine {
    script: Child,
    console: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The whole of it: the script removes what it wrote.
        let _ = killpg(Pid::from_raw(self.script.id().cast_signed()), Signal::SIGTERM);
        let _ = self.script.wait();
    }
}

/// Each is told by its agent, in its report, in its metric, and in the status of the group and the attachment that have a pod there. Needs the
/// namespace `b` with a group and an attachment `closed` of the pods with the label `app: forwarded`, in force.
pub fn nodes_that_lack_something(cluster: &Cluster) -> Result<()> {
    // Before anybody waits.
    for kernel in &KERNELS {
        let fetched = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kernel")).arg(kernel.suite).output()?;
        ensure!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    }
    KERNELS.iter().try_for_each(|kernel| join(cluster, kernel.node))?;
    let mut machines = KERNELS.iter().map(|kernel| boot(cluster, kernel)).collect::<Result<Vec<Machine>>>()?;
    for (kernel, machine) in KERNELS.iter().zip(&mut machines) {
        let outcome = told(cluster, kernel, machine);
        let console = || fs::read(&machine.console).unwrap_or_default();
        outcome.with_context(|| format!("{}\n{}", kernel.node, String::from_utf8_lossy(&console())))?;
    }
    drop(machines);
    for kernel in &KERNELS {
        cluster.kubectl(&["delete", "node", kernel.node])?;
        // Nobody is there to end them.
        let on = format!("--field-selector=spec.nodeName={}", kernel.node);
        cluster.kubectl(&["delete", "pods", "--all-namespaces", &on, "--force"])?;
    }
    until("reports go with their nodes", || {
        let reports = cluster.kubectl(&["get", "nodereports", "--output=name"])?;
        Ok(KERNELS.iter().all(|kernel| !reports.contains(kernel.node)))
    })?;
    in_force(cluster, "b")
}

/// Makes a node, and a pod on it that has an address and a group.
fn join(cluster: &Cluster, node: &str) -> Result<()> {
    let room = json!({ "cpu": "4", "memory": "4Gi", "pods": "10" });
    let ready = json!([{ "type": "Ready", "status": "True", "reason": "Joined", "message": "" }]);
    let status = json!({ "capacity": room, "allocatable": room, "conditions": ready });
    let metadata = json!({ "name": node, "labels": { "kubernetes.io/os": "linux" } });
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status });
    cluster.kubectl_stdin(&["create", "-f", "-"], &object.to_string())?;
    let name = format!("on-{node}");
    // Nobody keeps the node alive.
    let stays = "tolerations: [{ operator: Exists }]";
    let pod = pod("b", &name, node, "--tcp=80", stays).replace("IMAGE", lab::images::PROBE);
    let pod = pod.replace(&format!("app: {name}"), "app: forwarded");
    cluster.kubectl_stdin(&["create", "-f", "-"], &pod)?;
    let number = KERNELS.iter().position(|kernel| kernel.node == node).context("one of these")?;
    let address = format!("10.244.200.{}", 1 + number);
    let runs = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
    let patch = ["patch", "pod", &name, "--namespace=b", "--subresource=status", "--patch"];
    cluster.kubectl(&[&patch[..], &[&runs.to_string()]].concat()).map(drop)
}

/// Starts a machine whose agent is what the DaemonSet wants on the node: the same options, and a token of the same pod.
fn boot(cluster: &Cluster, kernel: &Kernel) -> Result<Machine> {
    let pod = agent_pod(cluster, kernel.node)?;
    let name = pod["metadata"]["name"].as_str().context("a pod's name")?;
    let token = cluster.kubectl(&["create", "token", "agent", NAMESPACE, "--bound-object-kind=Pod", "--bound-object-name", name])?;

    let root = cluster.dir().join(kernel.node);
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|file| Path::new(file).exists());
    let busybox = busybox.context("busybox is missing: tests/setup kernels")?;
    let programs = [programs::ours(&["agent"])?, vec![busybox.into()]].concat();
    Image::new("emulated", programs).small().unpack(&root)?;
    fs::create_dir_all(root.join(ACCOUNT))?;
    fs::write(root.join(ACCOUNT).join("token"), token.trim())?;
    let authority = "--output=jsonpath={.data.ca\\.crt}";
    fs::write(root.join(ACCOUNT).join("ca.crt"), cluster.kubectl(&["get", "configmap/kube-root-ca.crt", NAMESPACE, authority])?)?;
    fs::write(root.join(ACCOUNT).join("namespace"), "kube-security-groups")?;
    let main = root.join("main");
    let server = "--output=jsonpath={.endpoints[0].addresses[0]} {.ports[0].port}";
    let server = cluster.kubectl(&["get", "endpointslice/kubernetes", "--namespace=default", server])?;
    let (host, port) = server.split_once(' ').context("where the API server is")?;
    fs::write(&main, start_agent(&pod, kernel, host, port)?)?;
    fs::set_permissions(&main, fs::Permissions::from_mode(0o755))?;

    let console = cluster.dir().join(format!("{}.console", kernel.node));
    let file = fs::File::create(&console)?;
    let boot = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/boot");
    // It ends with us, whatever becomes of us.
    let mut command = cluster.node(0).netns().command("setpriv");
    command.args(["--pdeathsig", "TERM", "--", boot, kernel.suite]).arg(&root).args(["--without", kernel.without]);
    command.args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:{}", kernel.port, kernel.port)]);
    command.args(["-device", "virtio-net-pci,netdev=net"]);
    command.env("TMPDIR", cluster.dir()).stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file));
    Ok(Machine { script: command.spawn().with_context(|| boot.to_owned())?, console })
}

/// The pod that the DaemonSet wants on a node.
fn agent_pod(cluster: &Cluster, node: &str) -> Result<Value> {
    let mut found = Value::Null;
    until(&format!("the DaemonSet has a pod for {node}"), || {
        let on = format!("--field-selector=spec.nodeName={node}");
        let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", NAMESPACE, AGENTS, &on, "--output=json"])?)?;
        found = list["items"][0].clone();
        Ok(found.is_object())
    })?;
    Ok(found)
}

/// What the machine runs: the agent with the environment and the arguments of its pod.
fn start_agent(pod: &Value, kernel: &Kernel, host: &str, port: &str) -> Result<String> {
    let container = &pod["spec"]["containers"][0];
    let metrics = format!("0.0.0.0:{}", kernel.port);
    let mut environment = vec![("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port), ("METRICS_LISTEN", &*metrics)];
    for variable in container["env"].as_array().context("variables")? {
        let name = variable["name"].as_str().context("a variable's name")?;
        // What has no value here is the node's name.
        environment.push((name, variable["value"].as_str().unwrap_or(kernel.node)));
    }
    let exports: String = environment.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let words: Vec<&str> = container["args"].as_array().context("arguments")?.iter().filter_map(Value::as_str).collect();
    Ok(format!("#!/bin/sh\n{NETWORK}\n{exports}agent {}\n", words.join(" ")))
}

/// Waits until all who should say it do.
fn told(cluster: &Cluster, kernel: &Kernel, machine: &mut Machine) -> Result<()> {
    let lacks = |status: &Value| condition(status, "KernelSupported") == ("False".into(), "KernelFeatureMissing".into());
    let report = || -> Result<Value> {
        let name = format!("nodereport/{}", kernel.node);
        let json = cluster.kubectl(&["get", &name, "--output=json", "--ignore-not-found"])?;
        Ok(if json.is_empty() { Value::Null } else { serde_json::from_str::<Value>(&json)?["status"].take() })
    };
    until("the node's report says it", || {
        ensure!(machine.script.try_wait()?.is_none(), "the machine is off");
        Ok(lacks(&report()?))
    })?;
    let said = report()?;
    let lacking: Vec<&Value> = said["kernel"]["unsupported"].as_array().into_iter().flatten().collect();
    let features: Vec<&str> = lacking.iter().filter_map(|feature| feature["feature"].as_str()).collect();
    ensure!(features == kernel.lacks, "{features:?} of {said}");
    let explained = |feature: &&Value| feature["error"].as_str().is_some_and(|error| !error.is_empty());
    let provided = said["conditions"].to_string().matches(": provided by the kernel module").count();
    ensure!(lacking.iter().all(explained) && provided >= lacking.len(), "why, and what would be right: {said}");
    ensure!(said["groups"] == json!([]) && condition(&said, "Ready") == ("False".into(), "KernelFeatureMissing".into()), "{said}");
    println!("{}: Linux {} lacks {}", kernel.node, said["kernel"]["version"], features.join(", "));

    until("the group and the attachment say it", || {
        let list: Value =
            serde_json::from_str(&cluster.kubectl(&["get", "sg/closed", "sgatt/closed", "--namespace=b", "--output=json"])?)?;
        let objects = list["items"].as_array().context("a list")?;
        Ok(objects.iter().all(|object| {
            let text = object["status"]["conditions"].to_string();
            condition(&object["status"], "Programmed") == ("False".into(), "CannotEnforce".into()) && text.contains(kernel.node)
        }))
    })?;
    let metrics = page(cluster, 0, SocketAddr::from(([127, 0, 0, 1], kernel.port)), "/metrics")?;
    if !metrics.lines().any(|line| line == "securitygroups_agent_enforcing 0") {
        bail!("the metric does not say it: {metrics}");
    }
    Ok(())
}
