//! What hands do to our table on a node is put right within a second, counted, and told (P12).

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Cluster;
use serde_json::Value;

use super::cases::{Source, hold, udp};
use super::fixture::{AGENT, condition, in_force, metric, metrics, page, report, rules, run_server, start, until};

/// Each opens or closes something.
const EDITS: [&str; 5] = [
    "flush chain inet k8s-sg in-pod/t/server",
    "insert rule inet k8s-sg forward-ingress accept",
    "add element inet k8s-sg endpoints4 { 203.0.113.99 }",
    "flush table inet k8s-sg",
    "delete table inet k8s-sg",
];

/// Whether the node's kernel, Linux 6.9 or newer, lets nobody but the agent at its table.
fn persists(report: &Value) -> bool {
    let version = report["kernel"]["version"].as_str().unwrap_or_default();
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 9)
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_what_hands_do_to_the_table_is_put_right_within_a_second() -> Result<()> {
    let cluster = start("drift").await?;
    tokio::task::block_in_place(|| {
        let server = run_server(&cluster)?;
        let node = cluster.node(0);
        // Where the kernel lets nobody else at the table, there is nothing to put right.
        let guarded = rules(&cluster, 0)?;
        let said = report(&cluster, 0)?;
        ensure!(said["kernel"]["tableOwnerSupported"] == persists(&said), "{said}");
        if persists(&said) {
            for edit in EDITS {
                ensure!(node.nft(edit).is_err() && rules(&cluster, 0)? == guarded, "`{edit}` by a stranger");
            }
        }
        ensure!(condition(&report(&cluster, 0)?, "RulesetIntact").0 == "True", "{}", report(&cluster, 0)?);

        cluster.kubectl(&["set", "env", "daemonset/agent", "--namespace=kube-security-groups", "OWN_TABLE=false"])?;
        cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"])?;
        // Line by line in order: a table that is made anew lists its objects in another one. Empty where there is no table.
        let ruleset = || {
            let text = node.run(&["nft", "--stateless", "list", "table", "inet", "k8s-sg"]).unwrap_or_default();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // Packets of the server's rules in the kernel.
        let counted = || -> Result<u64> {
            let text = node.nft("list counters table inet k8s-sg")?;
            let ours = text.split("\tcounter ").filter(|counter| counter.starts_with("in/t/server/"));
            let packets = ours.filter_map(|counter| counter.split_once("packets ")?.1.split_whitespace().next()?.parse::<u64>().ok());
            Ok(packets.sum())
        };
        for _ in 0..5 {
            hold(&cluster, udp(Source::World(0), &server, 7, true))?;
        }
        let allowed = counted()?;
        ensure!(allowed >= 5, "{allowed} packets were counted");
        let read = || metrics(&cluster, 0, "securitygroups_agent_rule_allowed_packets_total{");
        until("the agent has read them", || Ok(read()?.iter().map(|(_, packets)| packets).sum::<u64>() >= allowed))?;
        let repairs = || -> Result<u64> { Ok(metric(&cluster, 0, "securitygroups_agent_repairs_total ")?.parse()?) };
        let (wanted, before) = (ruleset(), repairs()?);
        ensure!(condition(&report(&cluster, 0)?, "RulesetIntact").0 == "True", "{}", report(&cluster, 0)?);

        let mut slowest = Duration::ZERO;
        for edit in EDITS {
            node.nft(edit)?;
            let edited = Instant::now();
            while ruleset() != wanted {
                ensure!(edited.elapsed() < Duration::from_secs(60), "`{edit}` stands");
            }
            slowest = slowest.max(edited.elapsed());
            // A quiet time, as between two people.
            std::thread::sleep(Duration::from_millis(500));
        }
        println!("{} edits by hand, each put right within {} ms", EDITS.len(), slowest.as_millis());
        ensure!(slowest < Duration::from_secs(1), "put right only after {slowest:?}");
        ensure!(counted()? >= allowed, "what was counted goes on in a table that was made anew: {} of {allowed}", counted()?);
        until("each repair is counted, once", || Ok(repairs()? == before + EDITS.len() as u64))?;
        until("the node says so", || Ok(condition(&report(&cluster, 0)?, "RulesetIntact") == ("False".into(), "RulesetRepaired".into())))?;
        // Where people look; one event for them all.
        let described = || cluster.kubectl(&["describe", "nodereport", node.name()]);
        until("its description shows the event", || Ok(described()?.contains("RulesetRepaired")))?;
        let events: Vec<String> = described()?.lines().filter(|line| line.contains("Warning")).map(str::to_owned).collect();
        ensure!(events.len() == 1 && events[0].contains("somebody else changed the table"), "{events:#?}");
        taken_away(&cluster)?;
        until("the rules are back", || Ok(ruleset() == wanted))
    })
}

/// Another process makes the table its own, in one change, and the kernel refuses the agent every one of its own as long as that process
/// lives. Nobody is told that anything is in force, and when it has gone nothing needs a hand.
fn taken_away(cluster: &Cluster) -> Result<()> {
    let failures = || -> Result<u64> { Ok(metric(cluster, 0, "securitygroups_agent_commit_failures_total ")?.parse()?) };
    let readyz = || page(cluster, 0, AGENT, "/readyz");
    let before = failures()?;
    ensure!(readyz()?.contains(" 200 "), "{}", readyz()?);

    let mut command = cluster.node(0).netns().command("nft");
    let mut thief = command.arg("--interactive").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let edits = b"delete table inet k8s-sg; add table inet k8s-sg { flags owner; }\n";
    let told = thief.stdin.as_mut().context("a pipe")?.write_all(edits).context("to nft").and_then(|()| refused(cluster, &readyz));
    thief.kill()?;
    thief.wait()?;
    told?;
    ensure!(failures()? > before, "each refusal is counted");

    until("the agent is ready again", || Ok(readyz()?.contains(" 200 ")))?;
    until("the node says so", || Ok(condition(&report(cluster, 0)?, "Ready") == ("True".into(), "InForce".into())))?;
    in_force(cluster, "t")
}

/// Whoever asks hears that the node has not what it should have.
fn refused(cluster: &Cluster, readyz: &dyn Fn() -> Result<String>) -> Result<()> {
    until("the node says it", || Ok(condition(&report(cluster, 0)?, "Ready") == ("False".into(), "CommitFailed".into())))?;
    let said = readyz()?;
    ensure!(said.contains(" 503 ") && said.contains("kernel: ") && said.contains("nobody knows which rules are in force"), "{said}");
    ensure!(said.contains("EPERM") && said.contains("no other owner of the table"), "{said}");
    until("the group and the attachment say it", || {
        let json = cluster.kubectl(&["get", "sg/server", "sgatt/server", "--namespace=t", "--output=json"])?;
        let list: Value = serde_json::from_str(&json)?;
        let objects = list["items"].as_array().context("a list")?;
        Ok(objects.iter().all(|object| condition(&object["status"], "Programmed").0 == "False"))
    })?;
    ensure!(metric(cluster, 0, "securitygroups_agent_enforcing ")? == "0", "the metric says it");
    ensure!(report(cluster, 0)?["groups"] == serde_json::json!([]), "{}", report(cluster, 0)?);
    ensure!(cluster.node(0).processes("agent").len() == 1, "the agent stays");
    Ok(())
}
