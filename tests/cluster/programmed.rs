//! `kubectl wait --for=condition=Programmed` returns only when packets agree (P30).
//!
//! A stream of new flows, one a millisecond, is judged afterwards: every flow that was sent after the condition became true for the
//! generation in question, and before the next change was asked for, must have met the verdict of that generation.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams, WatchEvent, WatchParams};
use lab::Cluster;
use probe::Report;
use serde_json::json;

use super::fixture::{Running, now_us, run_server, start};

/// One change: when it was asked for, when it was said to be in force (both CLOCK_MONOTONIC, µs), and what it means for the stream.
struct Change {
    asked_us: u64,
    programmed_us: u64,
    allowed: bool,
}

/// Who waits for the condition.
#[derive(Clone, Copy)]
enum Waiting {
    /// `kubectl wait`, as a user does.
    Kubectl,
    /// A watch of our own, which sees it sooner than a program that has to start.
    Watch,
}

/// Changes the server's rules, and waits for Programmed: for the condition, of that generation or a later one.
async fn change(cluster: &Cluster, peer: serde_json::Value, allowed: bool, waiting: Waiting) -> Result<Change> {
    let groups: Api<api::SecurityGroup> = Api::namespaced(cluster.client(), "t");
    let from = if allowed { vec![peer] } else { vec![json!({"cidr": "192.0.2.1/32"})] };
    let patch = json!({"spec": {"ingress": [{"protocol": "UDP", "port": 7, "from": from}]}});
    let asked_us = now_us()?;
    let patched = groups.patch("server", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    if let Waiting::Kubectl = waiting {
        let wait = ["wait", "--for=condition=Programmed", "sg/server", "--namespace=t", "--timeout=300s"];
        tokio::task::block_in_place(|| cluster.kubectl(&wait))?;
        return Ok(Change { asked_us, programmed_us: now_us()?, allowed });
    }
    let generation = patched.metadata.generation;
    let version = patched.metadata.resource_version.context("a version")?;
    let mut events = groups.watch(&WatchParams::default().fields("metadata.name=server").timeout(30), &version).await?.boxed();
    while let Some(event) = events.next().await {
        let WatchEvent::Modified(group) = event? else { continue };
        let conditions = group.status.map(|status| status.conditions).unwrap_or_default();
        let programmed = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            c.type_ == "Programmed" && c.status == "True" && c.observed_generation >= generation
        };
        if conditions.iter().any(programmed) {
            return Ok(Change { asked_us, programmed_us: now_us()?, allowed });
        }
    }
    anyhow::bail!("sg/server generation {generation:?} is not programmed within 30 s")
}

/// Checks every flow that falls between a change's Programmed and the next change; the number of flows checked.
fn judge(report: &Report, changes: &[Change]) -> Result<u64> {
    let mut judged = 0;
    let ends = changes.iter().skip(1).map(|next| next.asked_us).chain([u64::MAX]);
    for (number, (change, end)) in changes.iter().zip(ends).enumerate() {
        for range in &report.ranges {
            if range.last_monotonic_us < change.programmed_us || range.first_monotonic_us >= end {
                continue;
            }
            // A range is uniform: one that reaches into the window at all has flows in it, but for its edges.
            let inside = range.first_monotonic_us.max(change.programmed_us)..range.last_monotonic_us.min(end);
            judged += inside.end.saturating_sub(inside.start) / 1000;
            let answered = range.error.is_none();
            ensure!(
                answered == change.allowed,
                "change {number} was Programmed at {} µs as {}, and flows {}–{} sent from {} to {} µs met {:?}",
                change.programmed_us,
                if change.allowed { "allowed" } else { "denied" },
                range.first,
                range.last,
                range.first_monotonic_us,
                range.last_monotonic_us,
                range.error
            );
        }
    }
    Ok(judged)
}

/// From the request until the first flow with the new verdict, for each change, in ms; sorted.
fn latencies(report: &Report, changes: &[Change]) -> Vec<f64> {
    let mut latencies: Vec<f64> = changes
        .iter()
        .filter_map(|change| {
            let range = report.ranges.iter().find(|r| r.error.is_none() == change.allowed && r.first_monotonic_us >= change.asked_us)?;
            Some((range.first_monotonic_us - change.asked_us) as f64 / 1000.0)
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

#[tokio::test(flavor = "multi_thread")]
async fn p30_programmed_is_true_only_when_packets_agree() -> Result<()> {
    let cluster = start("programmed").await?;
    let server = tokio::task::block_in_place(|| run_server(&cluster))?[0];

    // A CIDR peer, from outside.
    let stream = Running::start(&cluster, 0, server)?;
    let mut changes = Vec::new();
    for round in 0..100 {
        // Two rounds by one, two by the other: each sees both verdicts come.
        let waiting = if round % 4 < 2 { Waiting::Kubectl } else { Waiting::Watch };
        changes.push(change(&cluster, json!({"cidr": "203.0.113.10/32"}), round % 2 == 1, waiting).await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = stream.stop()?;
    let judged = judge(&report, &changes)?;
    ensure!(judged > 1000, "only {judged} flows judged");
    let latencies = latencies(&report, &changes);
    ensure!(latencies.len() == changes.len(), "each change was seen by packets: {} of {}", latencies.len(), changes.len());
    println!("a CIDR peer: {judged} flows judged; API request to packet: median {:.1} ms, p90 {:.1} ms", latencies[50], latencies[90]);

    // A group peer, from a pod of the other node: its members reach this node as slices that did not exist before.
    let stream = ["exec", "--namespace=t", "client", "--", "/bin/probe", "stream", &server.to_string(), "7", "--seconds", "25"];
    let child = cluster.kubectl_command().args(stream).stdout(std::process::Stdio::piped()).spawn()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut changes = Vec::new();
    for round in 0..30 {
        changes.push(change(&cluster, json!({"securityGroup": {"name": "client"}}), round % 2 == 1, Waiting::Watch).await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = tokio::task::block_in_place(|| child.wait_with_output())?;
    let report: Report = serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    let judged = judge(&report, &changes)?;
    println!("a group peer: {judged} flows judged");
    ensure!(judged > 300, "only {judged} flows judged");
    Ok(())
}
