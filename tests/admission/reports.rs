//! An agent writes the report of its own node and of no other.

use anyhow::Result;
use serde_json::{Value, json};

use crate::server::{Answer, Server};

const AGENT: &str = "system:serviceaccount:kube-security-groups:agent";

pub fn own_node_only(server: &Server) -> Result<()> {
    // More than the agent's own role allows, so that nothing but the policy stands in the way.
    let user = format!("--user={AGENT}");
    server.kubectl(&["create", "clusterrolebinding", "agent-without-limits", "--clusterrole=cluster-admin", &user])?.silent("binding")?;
    let on = |node: &str| vec![format!("--as={AGENT}"), format!("--as-user-extra=authentication.kubernetes.io/node-name={node}")];
    let run = |who: &[String], arguments: &[&str], object: &Value| -> Result<Answer> {
        let who: Vec<&str> = who.iter().map(String::as_str).collect();
        server.kubectl_object(&[arguments, &who[..]].concat(), object)
    };
    let report =
        |name: &str| json!({ "apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": name }, "spec": {} });
    let status = ["--subresource=status", "--type=merge", "-p", r#"{"status":{"rulesetHash":"6f0c"}}"#];
    let patch = |name| [&["patch", "nodereport", name], &status[..]].concat();

    run(&on("worker-1"), &["create", "-f", "-"], &report("worker-1"))?.silent("its own report")?;
    run(&on("worker-1"), &patch("worker-1"), &Value::Null)?.silent("its own status")?;
    let both = ["worker-1", "worker-2"];
    run(&on("worker-1"), &["create", "-f", "-"], &report("worker-2"))?.refused_saying("the report of another node", &both)?;
    run(&on("worker-2"), &patch("worker-1"), &Value::Null)?.refused_saying("the status of another node", &both)?;
    run(&on("worker-2"), &["label", "nodereport", "worker-1", "a=b"], &Value::Null)?.refused_saying("a label of another node", &both)?;
    run(&on("worker-2"), &["delete", "nodereport", "worker-1"], &Value::Null)?.refused_saying("deleting another node's", &both)?;
    let nowhere = [format!("--as={AGENT}")];
    run(&nowhere, &patch("worker-1"), &Value::Null)?
        .refused_saying("a token without a node", &["authentication.kubernetes.io/node-name"])?;
    // Whoever else may write them is a matter of roles, not of this policy.
    run(&[], &patch("worker-1"), &Value::Null)?.silent("the administrator")?;
    run(&on("worker-1"), &["delete", "nodereport", "worker-1"], &Value::Null)?.silent("deleting its own")
}
