//! S24: limits are the administrator's, checked when something is written; what is stored stays free to be let go of.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::server::{Answer, Server, attachment, eventually, group};

const CREATE: [&str; 3] = ["create", "-f", "-"];
const CONFIG: [&str; 4] = ["configmap", "quotas", "--namespace", "kube-security-groups"];

/// So many pairs, all different.
pub fn pairs(count: usize) -> Vec<Value> {
    (0..count).map(|i| json!({ "cidr": format!("10.{}.{}.0/24", i / 256, i % 256) })).collect()
}

/// A group with so many inbound pairs.
pub fn ingress(count: usize) -> Value {
    group(json!({ "ingress": [{ "type": "HTTP", "from": pairs(count) }] }))
}

fn names(count: usize) -> Value {
    let names: Vec<String> = (0..count).map(|i| format!("g{i}")).collect();
    attachment(json!({ "securityGroups": names, "podSelector": {} }))
}

/// Sets limits and leaves out all others.
pub fn set(server: &Server, limits: &Value) -> Result<()> {
    let patch = json!([{ "op": "add", "path": "/data", "value": limits }]).to_string();
    server.kubectl(&[&["patch"], &CONFIG[..], &["--type=json", "-p", &patch]].concat())?.silent("limits")
}

/// High enough for every other part.
pub fn raised() -> Value {
    json!({ "rulesPerDirection": "1000", "groupsPerEndpoint": "16" })
}

pub async fn the_administrators(server: &Server) -> Result<()> {
    let dry = |object: &Value| server.kubectl_object(&["create", "--dry-run=server", "-f", "-"], object);
    let refused = async |what: &str, object: &Value, words: &[&str]| -> Result<()> {
        let mut last: Option<Answer> = None;
        // At first it may be refused by the limits from before, and then it says those.
        let said = eventually(what, || Ok(last.insert(dry(object)?).refused_saying(what, words).is_ok())).await;
        said.or_else(|error| last.map_or(Err(error), |answer| answer.refused_saying(what, words)))
    };
    let taken = async |what: &str, object: &Value| eventually(what, || Ok(dry(object)?.done)).await;

    // Without a value: AWS's.
    set(server, &json!({}))?;
    let over = ["RulesPerSecurityGroupLimitExceeded", "51 (rule, peer) pairs", "the limit is 50", "kube-security-groups/quotas"];
    refused("51 inbound pairs", &ingress(51), &[&over[..], &["spec.ingress"]].concat()).await?;
    taken("50 inbound pairs", &ingress(50)).await?;
    let egress =
        |count| group(json!({ "ingress": [{ "type": "HTTP", "from": pairs(50) }], "egress": [{ "type": "HTTP", "to": pairs(count) }] }));
    refused("51 outbound pairs", &egress(51), &[&over[..], &["spec.egress"]].concat()).await?;
    taken("50 outbound pairs", &egress(50)).await?;
    let over = ["SecurityGroupsPerInterfaceLimitExceeded", "names 6 groups", "may be in 5", "groupsPerEndpoint"];
    refused("6 groups", &names(6), &over).await?;
    taken("5 groups", &names(5)).await?;

    // Raised: at once, without a restart of anything.
    set(server, &json!({ "rulesPerDirection": "60", "groupsPerEndpoint": "7" }))?;
    taken("60 pairs of 60", &ingress(60)).await?;
    taken("7 groups of 7", &names(7)).await?;
    refused("61 pairs of 60", &ingress(61), &["the limit is 60"]).await?;
    server.kubectl_object(&CREATE, &ingress(55))?.silent("55 pairs")?;
    server.kubectl_object(&CREATE, &names(7))?.silent("7 groups")?;

    // Lowered: what is stored can be let go of, mended and shortened, and grows no more.
    set(server, &json!({ "rulesPerDirection": "10", "groupsPerEndpoint": "2" }))?;
    refused("11 pairs of 10", &ingress(11), &["the limit is 10"]).await?;
    let apply = |object: &Value| server.kubectl_object(&["replace", "-f", "-"], object);
    apply(&ingress(56))?
        .refused_saying("one pair more", &["RulesPerSecurityGroupLimitExceeded", "56 (rule, peer) pairs", "the limit is 10"])?;
    apply(&names(8))?.refused_saying("one group more", &["SecurityGroupsPerInterfaceLimitExceeded", "may be in 2"])?;
    let mut other = ingress(55);
    other["spec"]["ingress"][0]["from"][7] = json!({ "cidr": "192.0.2.0/24" });
    apply(&other)?.silent("another pair in place of one")?;
    apply(&ingress(54))?.silent("one pair less")?;
    apply(&names(6))?.silent("one group less")?;
    unchanged_may_go(server).await?;

    // No number: nothing is taken until it is one; what is stored can go.
    server_with_one_of_each(server)?;
    for text in ["fifty", "", "-1", "1e3", " 60", "10000000"] {
        set(server, &json!({ "rulesPerDirection": text }))?;
        let says = [&format!("rulesPerDirection is \"{text}\"") as &str, "kube-security-groups/quotas", "write a whole number"];
        refused(&format!("rulesPerDirection {text:?}"), &ingress(1), &says).await?;
        refused(&format!("an attachment, rulesPerDirection {text:?}"), &names(1), &says).await?;
    }
    apply(&ingress(2))?.refused_saying("an edit", &["rulesPerDirection is \"10000000\""])?;
    unchanged_may_go(server).await?;

    // Missing: nothing new is taken; what is stored can be changed and removed. Nulls and duplicates are refused as ever.
    set(server, &json!({}))?;
    taken("with the limits again", &ingress(1)).await?;
    server_with_one_of_each(server)?;
    server.kubectl(&[&["delete"], &CONFIG[..]].concat())?.silent("removing the ConfigMap")?;
    let says = ["needs-configmap-kube-security-groups-quotas", "no params found"];
    refused("a new group without the ConfigMap", &ingress(1), &says).await?;
    refused("a new attachment without the ConfigMap", &names(1), &says).await?;
    apply(&ingress(2))?.silent("an edit without the ConfigMap")?;
    let twice = group(json!({ "ingress": [{ "type": "HTTP", "from": [{ "self": true }, { "self": true }] }] }));
    apply(&twice)?.refused_saying("a duplicate without the ConfigMap", &["InvalidPermission.Duplicate"])?;
    apply(&group(json!({ "ingress": null })))?.refused_saying("a null without the ConfigMap", &["spec.ingress"])?;
    unchanged_may_go(server).await?;

    server.kubectl(&["apply", "-k", "../../deploy"])?.silent("the ConfigMap again")?;
    set(server, &raised())?;
    taken("raised again", &ingress(200)).await?;
    // Installing again leaves what was set.
    server.kubectl(&["apply", "-k", "../../deploy"])?.silent("the ConfigMap once more")?;
    let now = server.kubectl(&[&["get"], &CONFIG[..], &["-o", "jsonpath={.data.rulesPerDirection}"]].concat())?;
    ensure!(now.out == "1000", "{now:?}");
    server.nothing_is_stored()
}

fn server_with_one_of_each(server: &Server) -> Result<()> {
    set(server, &json!({}))?;
    for object in [ingress(1), names(1)] {
        let mut answer = server.kubectl_object(&CREATE, &object)?;
        // The server may not have seen the limits yet.
        for _ in 0..100 {
            if answer.done {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            answer = server.kubectl_object(&CREATE, &object)?;
        }
        answer.silent("one of each")?;
    }
    Ok(())
}

/// Labels and finalizers of what is stored may change, and it can be deleted.
async fn unchanged_may_go(server: &Server) -> Result<()> {
    for kind in ["sg", "sgatt"] {
        let run = |verb: &[&str], more: &[&str]| server.kubectl(&[verb, &[kind, "web", "--namespace", "shop"], more].concat());
        run(&["label"], &["a=b"])?.silent("a label")?;
        run(&["patch"], &["--type=merge", "-p", r#"{"metadata":{"finalizers":["example.org/x"]}}"#])?.silent("a finalizer")?;
        run(&["delete"], &["--wait=false"])?.silent("deleting")?;
        run(&["patch"], &["--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?.silent("no finalizer")?;
        eventually("it is gone", || Ok(!run(&["get"], &[])?.done)).await?;
    }
    Ok(())
}
