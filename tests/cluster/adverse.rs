//! What happens to clusters: what is in force stays in force, status tells the truth afterwards, and nothing needs a hand (S41).

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use lab::Cluster;
use serde_json::Value;
use tokio::runtime::Handle;

use super::cases::{Source, hold, udp};
use super::fixture::{
    AGENT, both_rules, condition, group, in_force, in_turn, page, pod, pod_addresses, rules, run_servers, start, under_streams, until,
};

/// For how many seconds the API server is away: five minutes, unless one is in a hurry.
const AWAY: &str = "AWAY_SECONDS";
const NAMESPACE: &str = "--namespace=kube-security-groups";
const AGENTS: &str = "--selector=app.kubernetes.io/component=agent";

#[tokio::test(flavor = "multi_thread")]
async fn s41_p27_whatever_happens_to_the_cluster_rules_stay_and_status_is_true_again() -> Result<()> {
    let cluster = start("adverse").await?;
    tokio::task::block_in_place(|| {
        run_servers(&cluster)?;
        in_turn(
            &cluster,
            &[
                ("API server away", api_server_away),
                ("etcd restored", etcd_restored),
                ("etcd full", etcd_full),
                ("disks full", disks_full),
                ("clock an hour ahead", |cluster| clock_off(cluster, 3600)),
                ("clock an hour behind", |cluster| clock_off(cluster, -3600)),
                ("memory limit hit", memory_limit_hit),
            ],
        )
    })
}

/// Without a hand, a rule that is written now comes into force, and a pod that starts now is guarded.
fn follows(cluster: &Cluster, name: &str, port: u16) -> Result<()> {
    let started = Instant::now();
    let spec = format!("ingress: [{{ protocol: TCP, port: {port}, from: [{{ cidr: 203.0.113.10/32 }}] }}]");
    cluster.kubectl_stdin(&["apply", "-f", "-"], &group("t", "follows", &spec, &["server"]))?;
    until("a rule that is written now is in the kernel", || has_rule(cluster, port))?;
    in_force(cluster, "t")?;
    let rule = started.elapsed();
    let manifest = pod("t", name, "NODE0", "--udp=7", "").replace(&format!("app: {name}"), "app: server");
    let manifest = manifest.replace("NODE0", cluster.node(0).name()).replace("IMAGE", lab::images::PROBE);
    cluster.kubectl_stdin(&["apply", "-f", "-"], &manifest)?;
    // Kubelet may be slow to come back: it tries every half minute.
    cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--namespace=t", "--timeout=300s"])?;
    let to = pod_addresses(cluster, "t", name)?;
    // In force is what was attached before as well: that of a pod comes a moment later.
    until("a new pod is guarded, and answers whom it should", || {
        let mut cases = udp(Source::World(0), &to, 7, true);
        cases.extend(udp(Source::World(1), &to, 7, false));
        Ok(hold(cluster, cases).is_ok())
    })?;
    in_force(cluster, "t")?;
    println!("a rule is in force after {:.1} s, a new pod after {:.1} s", rule.as_secs_f64(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Whether an agent runs on a node and says that it is ready.
fn is_ready(cluster: &Cluster, node: usize) -> Result<bool> {
    let runs = cluster.node(node).processes("agent").len() == 1;
    Ok(runs && page(cluster, node, AGENT, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.0 200")))
}

/// The servers' addresses in one family: one is a routed pod, one a bridged one.
fn servers(cluster: &Cluster, index: usize) -> Result<[IpAddr; 2]> {
    let address = |pod| pod_addresses(cluster, "t", pod)?.get(index).copied().context("a dual-stack pod");
    Ok([address("server")?, address("server-2")?])
}

/// Whether there is a rule for a port on the server's node.
fn has_rule(cluster: &Cluster, port: u16) -> Result<bool> {
    let rule = format!("tcp dport {port} ");
    Ok(rules(cluster, 0)?.iter().any(|line| line.contains(&rule)))
}

/// The rules of the server's node, in no order: chains are listed in the order in which they were made.
fn sorted_rules(cluster: &Cluster) -> Result<Vec<String>> {
    let mut lines = rules(cluster, 0)?;
    lines.sort();
    Ok(lines)
}

/// The agent restarts meanwhile, and has nobody to ask.
fn api_server_away(cluster: &Cluster) -> Result<()> {
    let away = Duration::from_secs(std::env::var(AWAY).map_or(Ok(300), |text| text.parse()).context(AWAY)?);
    let before = both_rules(cluster)?;
    under_streams(cluster, &servers(cluster, 0)?, || {
        let running = || [0, 1].map(|node| cluster.node(node).processes("agent"));
        let agents = running();
        cluster.kill_api_server()?;
        std::thread::sleep(away / 2);
        ensure!(agents.iter().all(|agents| agents.len() == 1) && running() == agents, "the agents stay up");
        ensure!(both_rules(cluster)? == before, "the rules are what they were");
        for node in cluster.nodes() {
            node.kill("agent");
        }
        std::thread::sleep(away / 2);
        for (old, new) in agents.iter().zip(running()) {
            ensure!(new.len() == 1 && new != *old, "kubelet has started another agent");
        }
        ensure!(both_rules(cluster)? == before, "the rules are what they were, though the agents know nothing");
        for node in 0..2 {
            let ready = page(cluster, node, AGENT, "/readyz")?;
            ensure!(ready.starts_with("HTTP/1.0 503") && ready.contains("first sync"), "an agent that knows nothing says: {ready}");
            ensure!(page(cluster, node, AGENT, "/healthz")?.starts_with("HTTP/1.0 200"), "and to restart it would not help");
        }
        Handle::current().block_on(cluster.start_api_server())
    })?;
    follows(cluster, "after-away", 1001)?;
    for node in 0..2 {
        let ready = page(cluster, node, AGENT, "/readyz")?;
        ensure!(ready.starts_with("HTTP/1.0 200"), "{ready}");
    }
    Ok(())
}

/// Everything that was written goes back in time, also what the agents and the operator wrote.
fn etcd_restored(cluster: &Cluster) -> Result<()> {
    let version = || -> Result<u64> {
        let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw=/api/v1/namespaces?limit=1"])?)?;
        Ok(list["metadata"]["resourceVersion"].as_str().context("a list's version")?.parse()?)
    };
    Handle::current().block_on(cluster.snapshot_etcd())?;
    let before = sorted_rules(cluster)?;

    let more = r#"ingress: [{ protocol: UDP, port: 7, from: [{ cidr: 203.0.113.10/32 }, { cidr: "2001:db8:113::10/128" }] },
        { protocol: TCP, port: 9999, from: [{ cidr: 203.0.113.11/32 }] }]"#;
    let later = group("t", "server", more, &["server"]) + &group("t", "later", "", &["server"]);
    cluster.kubectl_stdin(&["apply", "-f", "-"], &later)?;
    in_force(cluster, "t")?;
    ensure!(sorted_rules(cluster)? != before, "what comes later is in force");
    // Resource versions go back so far that what is written afterwards does not soon reach those that were.
    let configs: String =
        (0..300).map(|n| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{n}, namespace: default }}\n")).collect();
    cluster.kubectl_stdin(&["create", "-f", "-"], &configs)?;
    let version_before = version()?;

    under_streams(cluster, &servers(cluster, 1)?, || {
        Handle::current().block_on(cluster.restore_etcd())?;
        let version = version()?;
        ensure!(version + 100 < version_before, "resource versions went back: {version_before}, then {version}");
        until("the rules are the older ones", || Ok(sorted_rules(cluster)? == before))
    })?;
    let groups = cluster.kubectl(&["get", "sg", "--namespace=t", "--output=name"])?;
    ensure!(!groups.contains("later"), "{groups}");
    follows(cluster, "after-restore", 1002)
}

/// Nothing can be written, so nobody can say anything either; agents that start meanwhile read what there is.
fn etcd_full(cluster: &Cluster) -> Result<()> {
    let before = both_rules(cluster)?;
    under_streams(cluster, &servers(cluster, 1)?, || {
        cluster.etcd_full(true)?;
        let refused = cluster.kubectl_stdin(&["apply", "-f", "-"], &group("t", "refused", "", &["server"]));
        ensure!(refused.as_ref().is_err_and(|error| format!("{error:#}").contains("database space exceeded")), "{refused:?}");
        for node in cluster.nodes() {
            ensure!(node.kill("agent") == 1, "there is an agent");
        }
        for node in 0..2 {
            until("the agent that comes then has all that it needs", || is_ready(cluster, node))?;
        }
        ensure!(both_rules(cluster)? == before, "the rules are what they were");
        cluster.etcd_full(false)
    })?;
    follows(cluster, "after-etcd", 1010)
}

/// The disks of a node are full while its agent has much to say, and when it has to be started again.
fn disks_full(cluster: &Cluster) -> Result<()> {
    let upgrade = |filter: &str| {
        let filter = format!("--set=log.filter={filter}");
        cluster.helm(&["upgrade", "kube-security-groups", &demo::chart(), NAMESPACE, &filter, "--wait", "--timeout=300s"])
    };
    upgrade("trace")?;
    under_streams(cluster, &servers(cluster, 0)?, || {
        let node = cluster.node(0);
        node.fill_disks()?;
        for port in 10_000..10_005 {
            let spec = format!("ingress: [{{ protocol: TCP, port: {port}, from: [{{ cidr: 203.0.113.10/32 }}] }}]");
            cluster.kubectl_stdin(&["apply", "-f", "-"], &group("t", "follows", &spec, &["server"]))?;
            until("a change is in the kernel though the disks are full", || has_rule(cluster, port))?;
            in_force(cluster, "t")?;
        }
        let before = sorted_rules(cluster)?;
        ensure!(node.kill("agent") == 1, "there is an agent");
        // Kubelet tries twice at least.
        std::thread::sleep(Duration::from_secs(15));
        let back = if is_ready(cluster, 0)? { "is back though they are full" } else { "is not back before there is room" };
        println!("an agent that ends while disks are full {back}");
        ensure!(sorted_rules(cluster)? == before, "the rules are what they were");
        node.free_disks()?;
        until("the agent is back", || is_ready(cluster, 0))
    })?;
    upgrade("info")?;
    follows(cluster, "after-full", 1003)
}

/// Gives agents another template, all at once.
fn patch_agents(cluster: &Cluster, container: &str, volumes: &str) -> Result<()> {
    let container = format!(r#"{{ "name": "agent", {container} }}"#);
    let patch = format!(r#"{{ "spec": {{ "template": {{ "spec": {{ "containers": [{container}], "volumes": [{volumes}] }} }} }} }}"#);
    cluster.kubectl(&["patch", "daemonset/agent", NAMESPACE, "--patch", &patch])?;
    cluster.kubectl(&["delete", "pods", AGENTS, NAMESPACE])?;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", NAMESPACE, "--timeout=300s"])?;
    Ok(())
}

/// Puts back what [`patch_agents`] changed.
fn undo(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "undo", "daemonset/agent", NAMESPACE])?;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", NAMESPACE, "--timeout=300s"])?;
    Ok(())
}

/// Agents have a clock of their own, which libfaketime gives them; that of nobody else is off.
fn clock_off(cluster: &Cluster, seconds: i64) -> Result<()> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    ensure!(fs::exists(format!("{library}/libfaketime.so.1"))?, "libfaketime is missing: sudo apt-get install libfaketime");
    let container = format!(
        r#""env": [{{ "name": "LD_PRELOAD", "value": "/faketime/libfaketime.so.1" }}, {{ "name": "FAKETIME", "value": "{seconds:+}s" }},
            {{ "name": "FAKETIME_DONT_FAKE_MONOTONIC", "value": "1" }}],
        "volumeMounts": [{{ "name": "faketime", "mountPath": "/faketime", "readOnly": true }}]"#
    );
    let (name, port) = if seconds > 0 { ("ahead", 1004) } else { ("behind", 1006) };
    under_streams(cluster, &servers(cluster, 1)?, || {
        patch_agents(cluster, &container, &format!(r#"{{ "name": "faketime", "hostPath": {{ "path": "{library}" }} }}"#))?;
        let logs = cluster.kubectl(&["logs", AGENTS, NAMESPACE, "--tail=1"])?;
        ensure!(logs.lines().count() == 2, "a line of each agent: {logs}");
        for line in logs.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let said: Timestamp = line["timestamp"].as_str().context("a line of the log")?.parse()?;
            let off = said.as_second() - Timestamp::now().as_second();
            ensure!((off - seconds).abs() < 300, "the agent's clock is off by {off} s");
        }
        follows(cluster, name, port)?;
        undo(cluster)
    })?;
    follows(cluster, &format!("after-{name}"), port + 1)
}

/// There is more to know than agents have memory for, and the kernel ends them again and again, until there is less.
fn memory_limit_hit(cluster: &Cluster) -> Result<()> {
    let before = rules(cluster, 0)?;
    under_streams(cluster, &servers(cluster, 0)?, || {
        patch_agents(cluster, r#""resources": { "requests": { "memory": "6Mi" }, "limits": { "memory": "6Mi" } }"#, "")?;
        let rule = |n| format!(r#"{{ protocol: TCP, port: {n}, description: "one of many", from: [{{ cidr: 203.0.113.{n}/32 }}] }}"#);
        let rules_of_each = (1..=50).map(rule).collect::<Vec<_>>().join(", ");
        let many = |n| {
            format!(
                "---\napiVersion: securitygroups.dev/v1alpha1\nkind: SecurityGroup\nmetadata: {{ name: many-{n}, namespace: default }}\nspec: {{ ingress: [{rules_of_each}] }}\n"
            )
        };
        let much: String = (0..300).map(many).collect();
        cluster.kubectl_stdin(&["create", "-f", "-"], &much)?;
        let why = "--output=jsonpath={.items[*].status.containerStatuses[*].lastState.terminated.reason}";
        until("the kernel has ended both agents for their memory", || {
            let reasons = cluster.kubectl(&["get", "pods", AGENTS, NAMESPACE, why])?;
            Ok(reasons == "OOMKilled OOMKilled")
        })?;
        ensure!(rules(cluster, 0)? == before, "the rules are what they were");
        let spec = "ingress: [{ protocol: TCP, port: 1008, from: [{ cidr: 203.0.113.10/32 }] }]";
        cluster.kubectl_stdin(&["apply", "-f", "-"], &group("t", "follows", spec, &["server"]))?;
        until("a rule that no agent knows is not in force", || {
            let json = cluster.kubectl(&["get", "sg/follows", "--namespace=t", "--output=json"])?;
            Ok(condition(&serde_json::from_str::<Value>(&json)?["status"], "Programmed").0 == "False")
        })?;
        cluster.kubectl(&["delete", "sg", "--all", "--namespace=default"])?;
        // Kubelet starts again, ever later, what ends.
        cluster.kubectl(&["wait", "--for=condition=Ready", "pods", AGENTS, NAMESPACE, "--timeout=300s"])?;
        until("it is in force once agents have what they need", || has_rule(cluster, 1008))?;
        in_force(cluster, "t")
    })?;
    undo(cluster)?;
    follows(cluster, "after-memory", 1009)
}
