//! What is in use is not removed (api.md, "Deleting what is in use"), with the operator running as it is installed, killed, and gone for good.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::operating::{Operator, log};
use crate::quotas;
use crate::server::{Server, attachment, eventually, group};
use crate::slices::OPERATOR;

const CREATE: [&str; 3] = ["create", "-f", "-"];

/// An object under another name, or in another namespace.
fn named(mut object: Value, namespace: &str, name: &str) -> Value {
    object["metadata"] = json!({ "namespace": namespace, "name": name });
    object
}

/// A group that lets these in: `web`, or `shop/web`.
fn naming(peers: &[&str]) -> Value {
    let peer = |peer: &&str| match peer.split_once('/') {
        Some((namespace, name)) => json!({ "securityGroup": { "namespace": namespace, "name": name } }),
        None => json!({ "securityGroup": { "name": peer } }),
    };
    let from: Vec<Value> = peers.iter().map(peer).collect();
    group(if from.is_empty() { json!({}) } else { json!({ "ingress": [{ "type": "SSH", "from": from }] }) })
}

fn attaching(groups: &[&str]) -> Value {
    attachment(json!({ "securityGroups": groups, "podSelector": { "matchLabels": { "nobody": "has-this" } } }))
}

/// Something about a group of a namespace; empty where there is none.
fn show(server: &Server, namespace: &str, name: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    Ok(server.kubectl(&["get", "sg", name, "--namespace", namespace, "--ignore-not-found", "-o", &path])?.out)
}

async fn shows(server: &Server, name: &str, path: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("{name} shows {wanted} at {path}"), || {
        last = show(server, "shop", name, path)?;
        Ok(last == wanted)
    })
    .await
    .with_context(|| format!("it shows {last:?}; the operator:\n{}", log(server)))
}

const FINALIZERS: &str = "{.metadata.finalizers[*]}";
const DELETABLE: &str = "{.status.conditions[?(@.type==\"Deletable\")].message}";

pub async fn in_use(server: &Server) -> Result<()> {
    let operator = Operator::start(server)?;
    let create = |namespace: &str, name: &str, object: Value| {
        server.kubectl_object(&CREATE, &named(object, namespace, name))?.silent(&format!("{namespace}/{name}"))
    };
    let delete = |kind: &str, name: &str| server.kubectl(&["delete", kind, name, "--namespace=shop", "--wait=false"])?.silent(name);

    // Attached, though to nobody, and named by a rule of another namespace.
    create("shop", "web", naming(&["web"]))?;
    create("shop", "unused", naming(&[]))?;
    create("shop", "web", attaching(&["web"]))?;
    create("ops", "far", naming(&["shop/web"]))?;
    shows(server, "web", FINALIZERS, api::FINALIZER_IN_USE).await?;
    let foreign = [
        "patch",
        "sg",
        "web",
        "--namespace=shop",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/finalizers/-","value":"example.org/x"}]"#,
    ];
    server.kubectl(&foreign)?.silent("another's finalizer")?;
    delete("sg", "unused")?;
    ensure!(show(server, "shop", "unused", "{.metadata.name}")?.is_empty(), "an unused group goes at once");
    delete("sg", "web")?;
    let both = "It is named by 2, and stays in force until it is by none: Attachment shop/web, SecurityGroup ops/far (ingress[0].from[0])";
    shows(server, "web", DELETABLE, both).await?;
    delete("sgatt", "web")?;
    shows(server, "web", DELETABLE, "It is named by 1, and stays in force until it is by none: SecurityGroup ops/far (ingress[0].from[0])")
        .await?;
    server.kubectl(&["delete", "sg", "far", "--namespace=ops"])?.silent("far")?;
    shows(server, "web", FINALIZERS, "example.org/x").await?;
    server
        .kubectl(&["patch", "sg", "web", "--namespace=shop", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?
        .silent("theirs")?;
    shows(server, "web", "{.metadata.name}", "").await?;

    // Two that name each other.
    create("shop", "a", naming(&["b"]))?;
    create("shop", "b", naming(&["a"]))?;
    shows(server, "a", FINALIZERS, api::FINALIZER_IN_USE).await?;
    shows(server, "b", FINALIZERS, api::FINALIZER_IN_USE).await?;
    server.kubectl(&["delete", "sg", "a", "b", "--namespace=shop", "--timeout=300s"])?.silent("both")?;

    told(server).await?;
    limits_lowered(server).await?;
    finalizers_only(server)?;
    namespace_ends(server).await?;
    drop(operator);
    killed(server).await?;
    gone_for_good(server).await
}

/// Events where people look, written with the operator's own rights.
async fn told(server: &Server) -> Result<()> {
    server.kubectl_object(&CREATE, &named(naming(&["nobody"]), "shop", "stale"))?.silent("stale")?;
    server.kubectl_object(&CREATE, &named(attaching(&["missing"]), "shop", "closed"))?.silent("closed")?;
    server.kubectl(&["label", "namespace", "shop", "securitygroups.dev/default-group=absent"])?.silent("a label")?;
    let wanted = [
        "Warning PeerNotFound SecurityGroup/stale ingress[0].from[0]: SecurityGroup shop/nobody does not exist",
        "Warning GroupNotFound Attachment/closed SecurityGroup missing does not exist in this namespace",
        "Warning GroupNotFound Namespace/shop its default group shop/absent does not exist",
    ];
    let columns = "jsonpath={range .items[*]}{.type} {.reason} {.regarding.kind}/{.regarding.name} {.note}{\"\\n\"}{end}";
    let mut seen = String::new();
    eventually("three events", || {
        seen = server.kubectl(&["get", "events.events.k8s.io", "--namespace=shop", "-o", columns])?.out;
        Ok(wanted.iter().all(|event| seen.contains(event)))
    })
    .await
    .with_context(|| format!("{seen}\n{}", log(server)))?;
    let described = server.kubectl(&["describe", "sg", "stale", "--namespace=shop"])?.out;
    ensure!(described.contains("PeerNotFound") && described.contains("Events:"), "{described}");
    server.kubectl(&["label", "namespace", "shop", "securitygroups.dev/default-group-"])?.silent("no label")?;
    server.kubectl(&["delete", "sg/stale", "sgatt/closed", "--namespace=shop"])?.silent("deleting")
}

/// What is over a limit that was lowered is said, by an operator that may read this one ConfigMap and no other.
async fn limits_lowered(server: &Server) -> Result<()> {
    let spec = json!({ "ingress": [{ "type": "HTTP", "from": quotas::pairs(12) }] });
    server.kubectl_object(&CREATE, &named(group(spec), "shop", "large"))?.silent("12 pairs")?;
    let quota = "{.status.conditions[?(@.type==\"WithinQuota\")].reason}";
    shows(server, "large", quota, "WithinQuota").await?;
    quotas::set(server, &json!({ "rulesPerDirection": "10" }))?;
    shows(server, "large", quota, "RulesPerSecurityGroupLimitExceeded").await?;
    shows(server, "large", "{.status.rules.ingress} {.status.conditions[?(@.type==\"Ready\")].status}", "12 True").await?;
    quotas::set(server, &quotas::raised())?;
    shows(server, "large", quota, "WithinQuota").await?;
    let may = |resource: &str| {
        let who = "--as=system:serviceaccount:kube-security-groups:operator";
        Ok::<_, anyhow::Error>(server.kubectl(&["auth", "can-i", "list", resource, "--namespace=kube-security-groups", who])?.done)
    };
    ensure!(may("configmaps/quotas")? && !may("configmaps")? && !may("configmaps/other")?, "this one by its name");
    server.kubectl(&["delete", "sg", "large", "--namespace=shop"])?.silent("large")
}

/// Whoever takes over the operator cannot write rules with it.
fn finalizers_only(server: &Server) -> Result<()> {
    let held = r#"{"metadata":{"finalizers":["example.org/x"]}}"#;
    server.kubectl_object(&CREATE, &named(naming(&[]), "shop", "web"))?.silent("web")?;
    let patch = |patch: &str, who: &[&str]| {
        server.kubectl(&[&["patch", "sg", "web", "--namespace=shop", "--type=merge", "-p", patch], who].concat())
    };
    patch(held, &[])?.silent("another's finalizer")?;
    // First with its own rights, then with every right, so that nothing but the policy decides.
    for who in [&OPERATOR[..1], &OPERATOR[..]] {
        for broken in [
            r#"{"spec":{"ingress":[{"type":"AllTraffic","from":[{"cidr":"0.0.0.0/0"}]}]}}"#,
            r#"{"spec":{"egress":[]}}"#,
            r#"{"metadata":{"labels":{"a":"b"}}}"#,
            r#"{"metadata":{"annotations":{"a":"b"}}}"#,
            r#"{"metadata":{"finalizers":null}}"#,
            r#"{"metadata":{"finalizers":["example.org/x","example.org/y"]}}"#,
        ] {
            patch(broken, who)?.refused_saying(broken, &["the operator changes nothing of an object but its own finalizer"])?;
        }
    }
    server
        .kubectl_object(&[&CREATE[..], &OPERATOR].concat(), &named(naming(&[]), "shop", "mine"))?
        .refused_saying("a group by the operator", &["nothing of an object but its own finalizer"])?;
    patch(r#"{"metadata":{"finalizers":["example.org/x","securitygroups.dev/in-use"]}}"#, &OPERATOR[..1])?.silent("its own")?;
    patch(r#"{"metadata":{"finalizers":null}}"#, &[])?.silent("no finalizer")?;
    server.kubectl(&["delete", "sg", "web", "--namespace=shop"])?.silent("web")
}

/// A namespace with everything that could hold it up.
fn full_namespace(server: &Server, name: &str) -> Result<()> {
    server.kubectl(&["create", "namespace", name])?.silent(name)?;
    let objects = [("web", naming(&["db", "web"])), ("db", naming(&["web"])), ("web", attaching(&["web", "db"]))];
    for (object, value) in objects {
        server.kubectl_object(&CREATE, &named(value, name, object))?.silent(object)?;
    }
    server.kubectl(&["label", "namespace", name, "securitygroups.dev/default-group=db"])?.silent("a label")?;
    server.kubectl_object(&CREATE, &named(naming(&[&format!("{name}/web")]), "shop", &format!("to-{name}")))?.silent("a rule elsewhere")
}

async fn held_in(server: &Server, namespace: &str) -> Result<()> {
    eventually("both groups are held", || {
        Ok(show(server, namespace, "web", FINALIZERS)? == api::FINALIZER_IN_USE
            && show(server, namespace, "db", FINALIZERS)? == api::FINALIZER_IN_USE)
    })
    .await
    .with_context(|| log(server))
}

async fn namespace_ends(server: &Server) -> Result<()> {
    full_namespace(server, "ending")?;
    held_in(server, "ending").await?;
    let begun = Instant::now();
    server.kubectl(&["delete", "namespace", "ending", "--timeout=300s"])?.silent("deleting a namespace")?;
    println!("a namespace with held groups went in {:.1} s", begun.elapsed().as_secs_f64());
    shows(server, "to-ending", "{.status.conditions[?(@.type==\"StaleRules\")].status}", "True").await?;
    server.kubectl(&["delete", "sg", "to-ending", "--namespace=shop"])?.silent("to-ending")
}

/// Killed again and again while groups are made and deleted: in the end held is exactly what is in use, and gone is what was deleted and not.
async fn killed(server: &Server) -> Result<()> {
    const ROUNDS: usize = 8;
    for round in 0..ROUNDS {
        let operator = Operator::start(server)?;
        let objects = [
            named(naming(&[]), "shop", &format!("used-{round}")),
            named(naming(&[&format!("used-{round}")]), "shop", &format!("user-{round}")),
            named(attaching(&[&format!("used-{round}")]), "shop", &format!("user-{round}")),
        ];
        for object in objects {
            server.kubectl_object(&CREATE, &object)?.silent("creating")?;
        }
        // Each time somewhere else: from before its lists are read to after everything is written.
        tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
        if let Some(earlier) = round.checked_sub(3) {
            let of = |name: &str| format!("{name}-{earlier}");
            let delete = ["delete", "--namespace=shop", "--wait=false"];
            server.kubectl(
                &[&delete[..], &[&format!("sg/{}", of("used")), &format!("sg/{}", of("user")), &format!("sgatt/{}", of("user"))]].concat(),
            )?;
        }
        drop(operator);
    }
    let _operator = Operator::start(server)?;
    let held = "jsonpath={range .items[*]}{.metadata.name}={.metadata.finalizers[*]} {end}";
    let wanted: Vec<String> = (ROUNDS - 3..ROUNDS)
        .map(|round| format!("used-{round}={}", api::FINALIZER_IN_USE))
        .chain((ROUNDS - 3..ROUNDS).map(|round| format!("user-{round}=")))
        .collect();
    let mut seen = String::new();
    eventually("what is in use is held, the rest is gone", || {
        seen = server.kubectl(&["get", "sg", "--namespace=shop", "-o", held])?.out;
        Ok(seen.split_whitespace().eq(wanted.iter()))
    })
    .await
    .with_context(|| format!("{seen}\n{}", log(server)))?;
    server.clear()
}

/// The operator never comes back: the line of the documentation lets everything go, also a namespace that has begun to end.
async fn gone_for_good(server: &Server) -> Result<()> {
    let operator = Operator::start(server)?;
    full_namespace(server, "stuck")?;
    held_in(server, "stuck").await?;
    drop(operator);
    server.kubectl(&["delete", "namespace", "stuck", "--wait=false"])?.silent("deleting a namespace")?;
    let is_there = || Ok::<_, anyhow::Error>(server.kubectl(&["get", "namespace", "stuck"])?.done);
    // Long enough for everything else in it to be gone.
    eventually("its attachments are gone", || Ok(server.kubectl(&["get", "sgatt", "--namespace=stuck", "-o", "name"])?.out.is_empty()))
        .await?;
    ensure!(is_there()?, "nobody lets its groups go");

    let readme = std::fs::read_to_string(crate::server::folder().join("../../README.md"))?;
    let line = readme
        .lines()
        .find(|line| line.contains("kubectl get sg,sgpl") && line.contains("\"finalizers\":null"))
        .context("the line in README.md")?;
    let kubectl = server.cluster().kubernetes().display().to_string();
    let path = format!("{kubectl}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh").args(["-ec", line]).env("PATH", path).env("KUBECONFIG", server.cluster().kubeconfig()).output()?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    eventually("the namespace is gone", || Ok(!is_there()?)).await?;
    ensure!(show(server, "shop", "to-stuck", "{.metadata.name}")? == "to-stuck", "what nobody deleted is there");
    server.clear()
}
