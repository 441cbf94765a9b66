//! What is stored changes only to what would be taken as new; what was stored before a policy existed can still be let go of.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::server::{Server, attachment, eventually, group, prefix_list};

const APPLY: [&[&str]; 2] = [&["apply", "-f", "-"], &["replace", "-f", "-"]];

pub fn judged(server: &Server) -> Result<()> {
    let rule = |port: Value| json!({ "protocol": "TCP", "port": port, "from": [{ "cidr": "10.0.0.0/8" }] });
    let good = group(json!({ "ingress": [rule(json!(80))], "egress": [] }));
    server.kubectl_object(&["apply", "-f", "-"], &good)?.silent("the good group")?;
    let stored = server.get("sg", "web")?;
    let twice = json!([rule(json!(80)), rule(json!(80))]);
    for (broken, word) in [
        (json!({ "ingress": [rule(json!(70000))], "egress": [] }), "spec.ingress[0].port"),
        (json!({ "ingress": twice, "egress": [] }), "InvalidPermission.Duplicate"),
        (json!({ "ingress": [rule(json!(80))], "egress": null }), "egress"),
        (json!({ "ingress": [rule(Value::Null)], "egress": [] }), "port"),
    ] {
        for way in APPLY {
            server.kubectl_object(way, &group(broken.clone()))?.refused_saying(&format!("{} of {broken}", way[0]), &[word])?;
        }
    }
    // A merge patch says null and means "remove": that is an update without the field, and legal.
    let patch = |patch: &str| server.kubectl(&["patch", "sg", "web", "--namespace", "shop", "--type=json", "-p", patch]);
    patch(r#"[{"op":"replace","path":"/spec/egress","value":null}]"#)?.refused_saying("a patch to null", &["spec.egress"])?;
    patch(r#"[{"op":"add","path":"/spec/ingress/-","value":{"type":"HTTP","from":[{"cidr":"10.1.2.3/8"}]}}]"#)?
        .refused_saying("a patch that adds a duplicate", &["InvalidPermission.Duplicate", "spec.ingress[1].from[0]"])?;
    let now = server.get("sg", "web")?;
    ensure!(now["spec"] == stored["spec"] && now["metadata"]["generation"] == stored["metadata"]["generation"], "changed: {now:#}");

    server
        .kubectl_object(&["apply", "-f", "-"], &attachment(json!({ "securityGroups": ["web"], "podSelector": {} })))?
        .silent("attachment")?;
    let broken = attachment(json!({ "securityGroups": ["web"], "podSelector": { "matchLabels": null } }));
    for way in APPLY {
        server.kubectl_object(way, &broken)?.refused_saying(&format!("{} of a null", way[0]), &["matchLabels"])?;
    }

    let list = |family: &str, cidr: &str| prefix_list(json!({ "addressFamily": family, "maxEntries": 2, "entries": [{ "cidr": cidr }] }));
    server.kubectl_object(&["apply", "-f", "-"], &list("IPv4", "10.0.0.0/8"))?.silent("a prefix list")?;
    for way in APPLY {
        server.kubectl_object(way, &list("IPv6", "fd00::/8"))?.refused_saying("another family", &["addressFamily cannot be changed"])?;
    }
    server.clear()
}

pub fn status_is_ignored(server: &Server) -> Result<()> {
    let list = prefix_list(json!({ "addressFamily": "IPv4", "maxEntries": 1 }));
    for kind in [group(json!({})), attachment(json!({ "securityGroups": ["web"], "podSelector": {} })), list] {
        let mut lying = kind.clone();
        lying["status"] = json!({ "observedGeneration": 1, "members": 5, "conditions": [] });
        match kind["kind"].as_str() {
            Some("Attachment") => lying["status"] = json!({ "observedGeneration": 1, "endpoints": 5, "conditions": [] }),
            Some("PrefixList") => lying["status"] = json!({ "observedGeneration": 1, "entries": 5, "conditions": [] }),
            _ => {}
        }
        let name = kind["kind"].as_str().context("kind")?;
        for way in [["create", "-f", "-"], ["replace", "-f", "-"]] {
            server.kubectl_object(&way, &lying)?.silent(name)?;
            let stored = server.get(name, "web")?;
            ensure!(stored.get("status").is_none(), "{name}: {}", stored["status"]);
        }
    }
    server.clear()
}

/// Before a policy is in force, or by one of an earlier version, more was stored than would be taken today.
pub async fn stored_before(server: &Server) -> Result<()> {
    let web = ["sg", "web", "--namespace", "shop"];
    let run = |verb: &str, more: &[&str]| server.kubectl(&[&[verb], &web[..], more].concat());
    // But one, which is there so that the limits are found again.
    let others = "--field-selector=metadata.name!=watched.securitygroups.dev";
    for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
        server.kubectl(&["delete", kind, others])?.silent("removing the policies")?;
    }
    server.policies_in_force(false).await?;
    let rule = json!({ "type": "HTTP", "from": [{ "self": true }] });
    server.kubectl_object(&["create", "-f", "-"], &group(json!({ "ingress": [rule, rule], "egress": null })))?.silent("no policy")?;
    server.kubectl(&["apply", "-k", "../../deploy"])?.silent("deploy")?;
    server.policies_in_force(true).await?;

    let finalizers = |list: &str| format!("{{\"metadata\":{{\"finalizers\":{list}}}}}");
    run("patch", &["--type=merge", "-p", &finalizers("[\"securitygroups.dev/in-use\"]")])?.silent("adding a finalizer")?;
    run("patch", &["--type=merge", "--subresource=status", "-p", r#"{"status":{"members":1}}"#])?.silent("writing the status")?;
    run("patch", &["--type=merge", "-p", r#"{"spec":{"onDeny":"Reject"}}"#])?.refused_saying("another edit", &["spec.egress"])?;
    run("patch", &["--type=merge", "-p", r#"{"spec":{"egress":[]}}"#])?
        .refused_saying("half a repair", &["InvalidPermission.Duplicate"])?;
    let repair = r#"[{"op":"remove","path":"/spec/egress"},{"op":"remove","path":"/spec/ingress/1"}]"#;
    run("patch", &["--type=json", "-p", repair])?.silent("the repair")?;
    run("delete", &["--wait=false"])?.silent("deleting")?;
    run("patch", &["--type=merge", "-p", &finalizers("null")])?.silent("removing the finalizer")?;
    eventually("the group is gone", || Ok(!run("get", &[])?.done)).await
}
