//! What each part of the product may do, by the server's own word, and what it is refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{chart, golden, template};
use crate::operating::kubeconfig_of;
use crate::server::{Answer, Server, eventually};
use crate::slices::slice;

const GOLDEN: &str = "tests/admission/chart/rights.txt";
/// The same before Kubernetes 1.36, which cannot say that an agent may read what its node may.
const GOLDEN_BEFORE: &str = "tests/admission/chart/rights-1.33.txt";
/// With `agent.reads=all` and the cluster's DNS exempt: what an agent may at most.
const GOLDEN_MOST: &str = "tests/admission/chart/rights-most.txt";

/// `kubectl auth can-i --list` of each service account, in each namespace that is something to the product.
pub async fn as_written_down(server: &Server) -> Result<()> {
    // They exist while `helm uninstall` runs; the Job would, too.
    let hooks = template(&["--show-only", "templates/uninstall.yaml"])?;
    server.kubectl_text(&["apply", "-f", "-"], &hooks)?.silent("what uninstalls")?;
    let text = listed(server, &["agent", "operator", "uninstall"])?;
    server.kubectl_text(&["delete", "-f", "-"], &hooks)?.silent("what uninstalls, again")?;
    golden(if agents_read_as_nodes(server)? { GOLDEN } else { GOLDEN_BEFORE }, &text)
}

fn agents_read_as_nodes(server: &Server) -> Result<bool> {
    Ok(server.minor()? >= 36)
}

fn listed(server: &Server, accounts: &[&str]) -> Result<String> {
    let rows = |account: &str, namespace: &str| -> Result<BTreeSet<String>> {
        let user = format!("--as=system:serviceaccount:sg-system:{account}");
        let answer = server.kubectl(&["auth", "can-i", "--list", &user, "--namespace", namespace, "--no-headers"])?;
        ensure!(answer.done && answer.err.is_empty(), "{account}: {answer:?}");
        Ok(answer.out.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    };
    let everybody = rows("default", "shop")?;
    let mut text = "# kubectl auth can-i --list: resources, [URLs], [names], [verbs]; without what every service account may.\n".to_owned();
    for account in accounts {
        let elsewhere: BTreeSet<String> = rows(account, "shop")?.difference(&everybody).cloned().collect();
        text += &format!("\n{account}\n");
        elsewhere.iter().for_each(|row| text += &format!("  {row}\n"));
        for namespace in ["sg-system", "kube-system", "default"] {
            for row in rows(account, namespace)?.difference(&everybody).filter(|row| !elsewhere.contains(*row)) {
                text += &format!("  in {namespace} alone: {row}\n");
            }
        }
    }
    Ok(text)
}

/// With the token of an agent's pod, as the pod has it: the rights of the service account and the node that the token names.
pub async fn an_agent_is_bound_to_its_node(server: &Server) -> Result<()> {
    let status = r#"{"status":{"allocatable":{"cpu":"4","memory":"8Gi","pods":"20"}}}"#;
    for node in ["n1", "n2"] {
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node, "labels": { "kubernetes.io/os": "linux" } } });
        server.kubectl_object(&["create", "-f", "-"], &object)?.silent(node)?;
        server.kubectl(&["patch", "node", node, "--subresource=status", "--type=merge", "-p", status])?.silent(node)?;
    }
    let config = token_of_the_agent_on(server, "n1").await?;
    let run = |arguments: &[&str], object: &Value| {
        server.kubectl_object(&[&["--kubeconfig", &config.display().to_string()], arguments].concat(), object)
    };
    let get = |arguments: &str| run(&arguments.split(' ').collect::<Vec<_>>(), &Value::Null);

    if agents_read_as_nodes(server)? {
        as_its_node(&get)?;
    }
    let forbidden = |what: &str, answer: Answer| answer.refused_saying(what, &["forbidden"]);
    for arguments in [
        "get nodes",
        "get secrets -A",
        "get secrets -n sg-system",
        "get secrets -n kube-system",
        "get configmaps -n sg-system",
        "label node n1 a=b",
        "annotate daemonset agent -n sg-system a=b",
        "delete pods --all -n sg-system",
        "get nodereports --as=system:serviceaccount:sg-system:operator",
        "get nodereports --as=admin --as-group=system:masters",
        "get node n2 --as=system:node:n2",
        "patch configmap quotas -n sg-system -p {\"data\":{}}",
        "delete nodereport n1",
        "create token agent -n sg-system",
    ] {
        forbidden(arguments, get(arguments)?)?;
    }
    bound_reports(&run)?;
    forbidden("a slice", run(&["create", "-f", "-"], &slice(&["10.66.0.1"]))?)?;
    let group = crate::quotas::ingress(1);
    forbidden("a group", run(&["create", "-f", "-"], &group)?)?;

    // On an older Kubernetes RBAC has no narrower word than all pods; nothing else is wider.
    let upgrade = ["upgrade", "kube-security-groups", &chart(), "--namespace=sg-system", "--set=agent.reads=all,exempt={ClusterDNS}"];
    server.cluster().helm(&upgrade)?;
    eventually("all pods", || Ok(get("get pods -A")?.done)).await?;
    eventually("where DNS answers", || Ok(get("get endpointslices -n kube-system")?.done)).await?;
    golden(GOLDEN_MOST, &listed(server, &["agent"])?)?;
    for arguments in ["get secrets -A", "get nodes", "label node n1 a=b"] {
        forbidden(arguments, get(arguments)?)?;
    }
    bound_reports(&run)
}

/// Its own node and what is there: as the node, which the token names.
fn as_its_node(get: &dyn Fn(&str) -> Result<Answer>) -> Result<()> {
    let own = get("get pods -A -o name --as=system:node:n1 --field-selector=spec.nodeName=n1")?;
    ensure!(own.done && own.out.contains("pod/agent-"), "{own:?}");
    ensure!(get("get node n1 -o name --as=system:node:n1")?.out == "node/n1\n");
    for arguments in [
        "get pods -A",
        "get pods -A --field-selector=spec.nodeName=n1",
        "get pods -A --as=system:node:n1",
        "get pods -A --as=system:node:n1 --field-selector=spec.nodeName=n2",
        "get pods -A --as=system:node:n2 --field-selector=spec.nodeName=n2",
        "get node n2 --as=system:node:n1",
        "get nodes --as=system:node:n1",
        "get secrets -A --as=system:node:n1",
        "label node n1 a=b --as=system:node:n1",
    ] {
        get(arguments)?.refused_saying(arguments, &["forbidden"])?;
    }
    Ok(())
}

/// Its own report can be written, and no other.
fn bound_reports(run: &dyn Fn(&[&str], &Value) -> Result<Answer>) -> Result<()> {
    let report =
        |name: &str| json!({ "apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": name }, "spec": {} });
    let create = ["create", "--dry-run=server", "-f", "-"];
    run(&create, &report("n1"))?.silent("its own report")?;
    run(&create, &report("n2"))?.refused_saying("the report of another node", &["it runs on node n1", "NodeReport n2 is not this agent's"])
}

async fn token_of_the_agent_on(server: &Server, node: &str) -> Result<PathBuf> {
    let mut pod = String::new();
    eventually("an agent on the node", || {
        let of_node = format!("--field-selector=spec.nodeName={node}");
        let pods = ["get", "pods", "--namespace=sg-system", "--selector=app.kubernetes.io/component=agent", "-o", "name", &of_node];
        pod = server.kubectl(&pods)?.out.trim().trim_start_matches("pod/").to_owned();
        Ok(!pod.is_empty())
    })
    .await?;
    let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={pod}")];
    let token = server.kubectl(&[&["create", "token", "agent", "--namespace=sg-system"], &bound[..]].concat())?;
    token.silent("the agent's token")?;
    kubeconfig_of(server, "agent", token.out.trim()).context("the agent's kubeconfig")
}
