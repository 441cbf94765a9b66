//! What `kubectl get` shows.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::server::{Server, attachment, group, prefix_list};
use crate::slices::OPERATOR;

pub fn shown(server: &Server) -> Result<()> {
    let make = |object| server.kubectl_object(&["create", "-f", "-"], &object)?.silent("making it");
    make(group(json!({ "description": "Web tier" })))?;
    make(attachment(json!({ "securityGroups": ["web", "common"], "podSelector": {} })))?;
    make(prefix_list(json!({ "addressFamily": "IPv4", "maxEntries": 20 })))?;
    let slice = json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice", "addresses": ["10.244.1.5", "fd00::5"],
        "metadata": { "name": "web-7k2xq", "namespace": "shop", "labels": { api::LABEL_GROUP: "web", api::LABEL_GROUP_ID: "sg-0c1f6c1c2f0a4b7d1" } },
    });
    server.kubectl_object(&[&["create", "-f", "-"], &OPERATOR[..]].concat(), &slice)?.silent("a slice, as the operator")?;
    make(json!({ "apiVersion": "securitygroups.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": "worker-1" }, "spec": {} }))?;
    let condition = |kind: &str, reason: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let nodes = json!({ "desired": 3, "programmed": 3, "summary": "3/3" });
    for (kind, status) in [
        (
            "sg",
            json!({ "groupId": "sg-0c1f6c1c2f0a4b7d1", "members": 12, "rules": { "ingress": 6, "egress": 1, "stale": 0 }, "packets": { "ingressAllowed": 1, "ingressDenied": 2, "egressAllowed": 3, "egressDenied": 4 }, "nodes": nodes, "conditions": [condition("Programmed", "AllNodes")] }),
        ),
        (
            "sgatt",
            json!({ "endpoints": 12, "skippedCount": 1, "nodes": nodes, "conditions": [condition("Accepted", "Accepted"), condition("Programmed", "AllNodes")] }),
        ),
        ("sgpl", json!({ "entries": 3, "referencedBy": 2, "nodes": nodes, "conditions": [condition("Programmed", "AllNodes")] })),
        ("sgnr", json!({ "rulesetHash": "6f0c", "lastCommit": "2026-01-01T00:00:00Z", "conditions": [condition("Ready", "InForce")] })),
    ] {
        let name = if kind == "sgnr" { "worker-1" } else { "web" };
        let patch = json!({ "status": status }).to_string();
        server
            .kubectl(&["patch", kind, name, "--namespace", "shop", "--subresource=status", "--type=merge", "-p", &patch])?
            .silent(kind)?;
    }
    for (kind, wide, header, row) in [
        ("sg", false, "NAME INGRESS EGRESS MEMBERS NODES PROGRAMMED AGE", "web 6 1 12 3/3 True"),
        (
            "sg",
            true,
            "NAME INGRESS EGRESS MEMBERS NODES PROGRAMMED AGE INGRESS-DENIED EGRESS-DENIED GROUP-ID DESCRIPTION",
            "web 6 1 12 3/3 True",
        ),
        ("sgatt", false, "NAME GROUPS ENDPOINTS NODES PROGRAMMED AGE", r#"web ["web","common"] 12 3/3 True"#),
        ("sgatt", true, "NAME GROUPS ENDPOINTS NODES PROGRAMMED AGE ACCEPTED SKIPPED", r#"web ["web","common"] 12 3/3 True"#),
        ("sgpl", false, "NAME FAMILY ENTRIES MAX-ENTRIES REFERENCED-BY NODES PROGRAMMED AGE", "web IPv4 3 20 2 3/3 True"),
        ("sgms", false, "NAME GROUP ADDRESSES AGE", r#"web-7k2xq web ["10.244.1.5","fd00::5"]"#),
        ("sgnr", false, "NAME READY REASON LAST-COMMIT AGE", "worker-1 True InForce"),
    ] {
        let answer = server.kubectl(&["get", kind, "--namespace", "shop", "-o", if wide { "wide" } else { "" }])?;
        let mut lines = answer.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let (shown, first) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        ensure!(shown == header, "{kind} shows {shown}");
        ensure!(first.starts_with(row), "{kind} shows {first}");
    }
    let wide = server.kubectl(&["get", "sg", "web", "--namespace", "shop", "-o", "wide"])?;
    ensure!(wide.out.contains("sg-0c1f6c1c2f0a4b7d1") && wide.out.trim_end().ends_with("Web tier"), "{}", wide.out);
    let all = server.kubectl(&["get", "sg-all", "--all-namespaces", "-o", "name"])?;
    let kinds: Vec<&str> = all.out.lines().filter_map(|line| line.split('.').next()).collect();
    ensure!(kinds == ["attachment", "memberslice", "nodereport", "prefixlist", "securitygroup"], "{kinds:?}");
    server.clear()
}
