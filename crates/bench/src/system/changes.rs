//! From just before an API request is written to the first packet with the new verdict: a new flow every millisecond tells.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use lab::Cluster;
use probe::stream::Kind;
use probe::{Report, Stream, Target};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{address, apply, group, now_us, pod};
use crate::table::{Line, median, percentile};

/// From one change to the next. What packets do not see until then has not been seen.
const APART: Duration = Duration::from_secs(1);
/// A flow that is lost for another reason is no verdict: as many as this, one after another, are.
const CERTAIN: u64 = 3;
/// What nobody has.
const NOBODY: &str = "192.0.2.1/32";

/// A server on the first node, a client on the second, and the groups that are changed.
pub(super) struct Stage<'a> {
    cluster: &'a Cluster,
    server: Ipv4Addr,
    groups: Api<api::SecurityGroup>,
    attachments: Api<api::Attachment>,
    pods: Api<Pod>,
}

/// From where flows come.
enum From {
    /// Outside of the cluster.
    World,
    /// The client pod.
    Client,
}

impl<'a> Stage<'a> {
    /// Sets it up.
    pub(super) fn new(cluster: &'a Cluster) -> Result<Stage<'a>> {
        let office = cluster.world().clients()[0].v4;
        let opening = format!("ingress: [{{ protocol: UDP, port: 7, from: [{{ cidr: {office}/32 }}] }}]");
        let manifests = [
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: t }\n".into(),
            group("t", "server", "", "app: server"),
            group("t", "client", "", "app: client"),
            // By a selector that changes, and by a label that does.
            group("t", "opening", &opening, "app: nobody"),
            group("t", "labelled", &opening, "open: \"true\""),
            pod("t", "server", "server", "NODE0"),
            pod("t", "client", "client", "NODE1"),
        ];
        block_in_place(|| apply(cluster, "t", &manifests.concat()))?;
        // The ports of one stream are those of the next, whose flows must not be taken for earlier ones.
        let soon = [("netfilter/nf_conntrack_udp_timeout", "1"), ("netfilter/nf_conntrack_udp_timeout_stream", "1")];
        cluster.nodes().iter().try_for_each(|node| node.netns().set(&soon))?;
        Ok(Stage {
            cluster,
            server: block_in_place(|| address(cluster, "t", "server"))?,
            groups: Api::namespaced(cluster.client(), "t"),
            attachments: Api::namespaced(cluster.client(), "t"),
            pods: Api::namespaced(cluster.client(), "t"),
        })
    }

    /// All kinds of changes, at what size the cluster has now; beside what others need, in ms.
    pub(super) async fn measure(&self, size: &str, others: &[(&str, f64)], changes: usize, tell: &mut impl FnMut(Line)) -> Result<()> {
        let office = format!("{}/32", self.cluster.world().clients()[0].v4);
        let rule = async |open: bool| self.rule(json!({"cidr": if open { &office } else { NOBODY }})).await;
        let attachment = async |open: bool| {
            let patch = json!({"spec": {"podSelector": {"matchLabels": {"app": if open { "server" } else { "nobody" }}}}});
            self.attachments.patch("opening", &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop).map_err(Into::into)
        };
        let label = async |open: bool| self.label("server", json!({"open": open.to_string()})).await;
        let member = async |open: bool| self.label("client", json!({"app": if open { "client" } else { "nobody" }})).await;

        let mut slowest: f64 = 0.0;
        let mut figures = |what: &str, seen: Seen, tell: &mut dyn FnMut(Line)| {
            let middle = median(seen.packets.clone());
            slowest = slowest.max(middle);
            tell(Line::limit(format!("{size}: {what}: median"), middle, 12.0, "ms"));
            tell(Line::limit(format!("{size}: {what}: p90"), percentile(seen.packets, 90), 20.0, "ms"));
            tell(Line::figure(format!("{size}: {what}: the request alone"), median(seen.requests), "ms"));
        };
        // Closed in all ways before each kind; each kind leaves it closed.
        self.rule(json!({"cidr": NOBODY})).await?;
        label(false).await?;
        figures("a rule", self.seen(From::World, changes, rule).await?, tell);
        figures("an attachment", self.seen(From::World, changes, attachment).await?, tell);
        figures("a label of the guarded pod", self.seen(From::World, changes, label).await?, tell);
        member(false).await?;
        self.rule(json!({"securityGroup": {"name": "client"}})).await?;
        figures("a label of a peer on the other node", self.seen(From::Client, changes, member).await?, tell);
        self.rule(json!({"cidr": NOBODY})).await?;
        member(true).await?;
        for (other, best) in others {
            tell(Line::new(format!("{size}: our slowest median, {other}'s best"), slowest, *best, "ms", None));
        }
        Ok(())
    }

    async fn rule(&self, from: Value) -> Result<()> {
        let patch = json!({"spec": {"ingress": [{"protocol": "UDP", "port": 7, "from": [from]}]}});
        self.groups.patch("server", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    async fn label(&self, pod: &str, labels: Value) -> Result<()> {
        let patch = json!({"metadata": {"labels": labels}});
        self.pods.patch(pod, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Makes changes that open and close the server by turns, under a stream of new flows.
    async fn seen(&self, from: From, changes: usize, change: impl AsyncFn(bool) -> Result<()>) -> Result<Seen> {
        // What was changed before is in force, and said to be; and conntrack has forgotten the last stream.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let length = APART * u32::try_from(changes)? + Duration::from_secs(4);
        let running = Running::start(self.cluster, from, self.server, length)?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for round in 0..changes {
            let begun = Instant::now();
            asked.push(now_us()?);
            change(round % 2 == 0).await?;
            requests.push(begun.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(APART.saturating_sub(begun.elapsed())).await;
        }
        let ended = now_us()?;
        let report = block_in_place(|| running.stop())?;
        ensure!(report.sent > 200 * u64::try_from(changes)?, "too few flows: {}", report.sent);
        Ok(Seen { packets: latencies(&report, &asked, ended), requests })
    }
}

/// How long each change took, in ms.
struct Seen {
    /// Until the first packet with the new verdict; infinite where there was none before the next change.
    packets: Vec<f64>,
    /// Until the API server's answer.
    requests: Vec<f64>,
}

fn latencies(report: &Report, asked: &[u64], ended: u64) -> Vec<f64> {
    let ends = asked.iter().skip(1).copied().chain([ended]);
    let latency = |((round, asked), end): ((usize, &u64), u64)| {
        let allowed = round % 2 == 0;
        // The verdict is new: flows that had it before the request was written do not tell of this change.
        let first = report.ranges.iter().find(|range| {
            let seen = range.first_monotonic_us >= *asked && range.first_monotonic_us < end;
            seen && range.error.is_none() == allowed && range.last - range.first + 1 >= CERTAIN
        });
        first.map_or(f64::INFINITY, |range| (range.first_monotonic_us - asked) as f64 / 1e3)
    };
    asked.iter().enumerate().zip(ends).map(latency).collect()
}

/// New UDP flows, 1,000 a second.
enum Running {
    Thread(Arc<AtomicBool>, std::thread::JoinHandle<Result<std::io::Result<Report>>>),
    Pod(std::process::Child),
}

impl Running {
    fn start(cluster: &Cluster, from: From, to: Ipv4Addr, length: Duration) -> Result<Running> {
        match from {
            From::World => {
                let target = Target::new(to).from(cluster.world().clients()[0].v4).within_ms(1000);
                let stream = Stream { target, port: 7, kind: Kind::Udp, rate: 1000, duration: length };
                let stop = Arc::new(AtomicBool::new(false));
                let stopping = stop.clone();
                Ok(Running::Thread(stop, cluster.world().netns().spawn(move || stream.run(&stopping))?))
            }
            From::Client => {
                let (to, seconds) = (to.to_string(), length.as_secs().to_string());
                let stream = ["exec", "--namespace=t", "client", "--", "/bin/probe", "stream", &to, "7", "--seconds", &seconds];
                Ok(Running::Pod(cluster.kubectl_command().args(stream).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
            }
        }
    }

    /// Ends it, or waits for its end.
    fn stop(self) -> Result<Report> {
        match self {
            Running::Thread(stop, thread) => {
                stop.store(true, Ordering::Relaxed);
                Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)
            }
            Running::Pod(child) => {
                let output = child.wait_with_output()?;
                let said = || [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
                serde_json::from_slice(&output.stdout).with_context(said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use probe::Failure;

    use super::*;

    /// Flows one a millisecond: so many of each fate, in turn.
    fn report(runs: &[(bool, u64)]) -> Report {
        let mut ranges = Vec::new();
        let mut first = 0;
        for (answered, flows) in runs {
            let last = first + flows - 1;
            ranges.push(json!({"first": first, "last": last, "firstMonotonicUs": first * 1000, "lastMonotonicUs": last * 1000,
                "firstRealtimeUs": 0, "lastRealtimeUs": 0}));
            if !answered && let Some(range) = ranges.last_mut() {
                range["error"] = json!(Failure::Timeout);
            }
            first += flows;
        }
        let report = json!({"sent": first, "answered": 0, "lost": 0, "refused": 0, "ranges": ranges, "maxLateMs": 0.0});
        serde_json::from_value(report).expect("a report")
    }

    #[test]
    fn a_change_is_seen_with_its_first_new_verdict_or_not_at_all() {
        // Closed, open from 120 on, closed from 230 on.
        let report = report(&[(false, 120), (true, 110), (false, 170)]);
        assert_eq!(latencies(&report, &[100_000, 200_000], 400_000), [20.0, 30.0]);
        // The second is not seen before the third; and what was so before says nothing about the third.
        assert_eq!(latencies(&report, &[100_000, 150_000, 200_000], 220_000), [20.0, f64::INFINITY, f64::INFINITY]);
    }

    #[test]
    fn a_flow_that_is_lost_by_itself_is_no_verdict() {
        let report = report(&[(true, 110), (false, 1), (true, 39), (false, 100)]);
        assert_eq!(latencies(&report, &[50_000, 100_000], 240_000), [f64::INFINITY, 50.0]);
    }
}
