//! Installed by Helm on a real kube-apiserver, in a namespace of another name: the policies hold there, upgrades bring new definitions and leave
//! the administrator's limits, and after an uninstall it can be installed again.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::rendered::EVERYTHING;
use super::{chart, file, rights, template};
use crate::quotas::ingress;
use crate::server::{Server, eventually};
use crate::slices::slice;

const NAME: &str = "kube-security-groups";
const NAMESPACE: &str = "--namespace=sg-system";
const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];

/// An upgrade brings new definitions (P43), and an agent's token is no more than its node (P57).
#[tokio::test(flavor = "multi_thread")]
async fn chart_on_a_real_server() -> Result<()> {
    let server = Server::bare("chart").await?;
    let namespaces = ["shop", "dns", "sg-system"];
    for namespace in namespaces {
        server.kubectl(&["create", "namespace", namespace])?.silent(namespace)?;
    }
    the_server_takes_every_option(&server)?;
    server.cluster().helm(&["install", NAME, &chart(), NAMESPACE])?;
    policies_name_the_releases_namespace(&server).await?;
    rights::as_written_down(&server).await?;
    rights::an_agent_is_bound_to_its_node(&server).await?;
    limits_set_by_hand_stay(&server).await?;
    an_upgrade_brings_new_definitions(&server).await?;
    it_can_be_installed_again(&server).await
}

/// Also what the Prometheus operator's kinds need, by its own definitions of them.
fn the_server_takes_every_option(server: &Server) -> Result<()> {
    let definitions = prometheus_operator()?.join("example/prometheus-operator-crd");
    for plural in ["podmonitors", "servicemonitors", "prometheusrules"] {
        let file = definitions.join(format!("monitoring.coreos.com_{plural}.yaml"));
        server.kubectl(&["create", "-f", &file.display().to_string()])?.silent(plural)?;
    }
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=300s"])?.silent("crds")?;
    let everything = file(EVERYTHING).display().to_string();
    let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    for monitor in ["PodMonitor", "ServiceMonitor"] {
        let kind = format!("metrics.monitor.kind={monitor}");
        let text = template(&["--values", &everything, "--set", &kind])?;
        server.kubectl_text(&dry, &text)?.silent(monitor)?;
    }
    server.kubectl_text(&dry, &template(&[])?)?.silent("the defaults")
}

/// The folder of the Prometheus operator's Go module.
fn prometheus_operator() -> Result<PathBuf> {
    const MODULE: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
    const SUM: &str = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=";
    // Not in a folder of a module, whose own requirements it would have to agree with.
    let output =
        Command::new("go").args(["mod", "download", "-json", MODULE]).current_dir("/").output().context("go: https://go.dev/dl")?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(answer["Sum"] == SUM, "{MODULE}: {answer}");
    Ok(answer["Dir"].as_str().context("a folder")?.into())
}

async fn policies_name_the_releases_namespace(server: &Server) -> Result<()> {
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=300s"])?.silent("crds")?;
    let alone = "MemberSlices are written by the operator alone";
    eventually("slices are guarded", || Ok(server.kubectl_object(&CREATE, &guarded())?.err.contains(alone))).await?;
    let account = |namespace: &str| format!("--as=system:serviceaccount:{namespace}:operator");
    let as_admin = |namespace: &str| [&CREATE[..], &[&account(namespace), "--as-group=system:masters"]].concat().join(" ");
    let create = |arguments: &str| server.kubectl_object(&arguments.split(' ').collect::<Vec<_>>(), &guarded());
    create(&as_admin("sg-system"))?.silent("the operator's slice")?;
    create(&as_admin(NAME))?.refused_saying("a slice of another namespace's operator", &[alone])?;
    // By its own rights, without an administrator's.
    server.kubectl_object(&[&CREATE[..], &[&account("sg-system")]].concat(), &guarded())?.silent("the operator's own right")?;
    limit(server, 50).await?;
    server
        .kubectl_object(&CREATE, &ingress(51))?
        .refused_saying("51 pairs", &["binding 'needs-configmap-sg-system-quotas'", "in ConfigMap sg-system/quotas"])
}

fn guarded() -> Value {
    slice(&["10.66.0.1"])
}

/// So many pairs are taken, and no more.
async fn limit(server: &Server, pairs: usize) -> Result<()> {
    eventually(&format!("{pairs} pairs and no more"), || {
        let over = server.kubectl_object(&CREATE, &ingress(pairs + 1))?.err.contains(&format!("the limit is {pairs}"));
        Ok(over && server.kubectl_object(&CREATE, &ingress(pairs))?.done)
    })
    .await
}

fn upgrade(server: &Server, chart: &str, values: &[&str]) -> Result<String> {
    server.cluster().helm(&[&["upgrade", NAME, chart, NAMESPACE, "--reset-values"], values].concat())
}

/// What the values say is Helm's, everything else is whose who wrote it; what both say is refused, by its name.
async fn limits_set_by_hand_stay(server: &Server) -> Result<()> {
    let patch = r#"{"data":{"rulesPerDirection":"70"}}"#;
    server.kubectl(&["patch", "configmap", "quotas", NAMESPACE, "--type=merge", "-p", patch])?.silent("by hand")?;
    limit(server, 70).await?;
    upgrade(server, &chart(), &["--set", "quotas.groupsPerEndpoint=7"])?;
    let data = server.kubectl(&["get", "configmap", "quotas", NAMESPACE, "-o", "jsonpath={.data}"])?.out;
    ensure!(serde_json::from_str::<Value>(&data)? == json!({ "groupsPerEndpoint": "7", "rulesPerDirection": "70" }), "{data}");
    let both = upgrade(server, &chart(), &["--set", "quotas.rulesPerDirection=80"]).err().context("both say it")?.to_string();
    ensure!(both.contains("conflict with \"kubectl-patch\"") && both.contains(".data.rulesPerDirection"), "{both}");
    upgrade(server, &chart(), &[])?;
    let data = server.kubectl(&["get", "configmap", "quotas", NAMESPACE, "-o", "jsonpath={.data}"])?.out;
    ensure!(serde_json::from_str::<Value>(&data)? == json!({ "rulesPerDirection": "70" }), "{data}");
    Ok(())
}

/// P43: Helm never updates what is in a chart's folder `crds`; ours are templates.
async fn an_upgrade_brings_new_definitions(server: &Server) -> Result<()> {
    let newer = server.cluster().dir().join("newer");
    copy(chart().as_ref(), &newer)?;
    let definition = newer.join("files/crds/securitygroups.yaml");
    let text = std::fs::read_to_string(&definition)?;
    let place = "            properties:\n              connections:\n";
    ensure!(text.matches(place).count() == 1, "the spec of a group begins otherwise");
    std::fs::write(
        &definition,
        text.replace(place, &place.replace("connections", "newer:\n                type: string\n              connections")),
    )?;
    let mut group = ingress(1);
    group["spec"]["newer"] = "x".into();
    server.kubectl_object(&CREATE, &group)?.refused_saying("a field that is not there yet", &["unknown field \"spec.newer\""])?;
    upgrade(server, &newer.display().to_string(), &[])?;
    eventually("the new field", || Ok(server.kubectl_object(&CREATE, &group)?.done)).await?;
    upgrade(server, &chart(), &[]).map(drop)
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// What was written stays, limits are found again; and with `crds.keep=false` everything goes.
async fn it_can_be_installed_again(server: &Server) -> Result<()> {
    server.kubectl_object(&["create", "-f", "-"], &ingress(1))?.silent("a group")?;
    let uninstall = ["uninstall", NAME, NAMESPACE, "--no-hooks"];
    server.cluster().helm(&uninstall)?;
    for kind in ["configmap/quotas", "daemonset/agent", "deployment/operator", "serviceaccount/operator", "service/operator"] {
        let left = server.kubectl(&["get", kind, NAMESPACE])?;
        ensure!(left.err.contains("NotFound"), "{kind} is left: {left:?}");
    }
    ensure!(server.get("sg", "web")?["spec"] == ingress(1)["spec"], "the group has changed");
    server.cluster().helm(&["install", NAME, &chart(), NAMESPACE])?;
    server.clear()?;
    limit(server, 50).await?;
    upgrade(server, &chart(), &["--set", "crds.keep=false"])?;
    server.cluster().helm(&uninstall)?;
    let ours = || server.kubectl(&["get", "crd,validatingadmissionpolicy,validatingadmissionpolicybinding,clusterrole", "-o", "name"]);
    eventually("nothing is left", || Ok(!ours()?.out.lines().any(|name| name.contains("securitygroups.dev") || name.contains(NAME)))).await
}
