//! A new pod that a group protects, under a stream of packets that are not allowed since before its start: how many get in?

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Cluster;
use probe::stream::Kind;
use probe::{Failure, Report, Stream, Target};
use tokio::task::block_in_place;

use super::{address, apply, group, pod};
use crate::table::{Line, median};

/// How long a pod is watched once it is ready.
const AFTER: Duration = Duration::from_secs(1);

/// All figures.
pub(super) fn measure(cluster: &Cluster, starts: usize, tell: &mut impl FnMut(Line)) -> Result<()> {
    block_in_place(|| {
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: new }\n";
        let rules = "ingress: [{ protocol: UDP, port: 7, from: [{ cidr: 192.0.2.1/32 }] }]";
        apply(
            cluster,
            "new",
            &[namespace, &group("new", "closed", rules, "app: closed"), &pod("new", "last", "closed", "NODE0")].concat(),
        )?;
        let mut got_in = Vec::new();
        let mut last = address(cluster, "new", "last")?;
        for number in 0..starts {
            let (count, own) = start(cluster, &format!("new-{number}"), last)?;
            got_in.push(count as f64);
            last = own;
        }
        let most = got_in.iter().copied().fold(0.0, f64::max);
        tell(Line::none(format!("a new pod, 1,000 packets/s that are not allowed: in, worst of {starts}"), most, "pkt"));
        tell(Line::none("the same: in, median", median(got_in), "pkt"));
        cluster.kubectl(&["delete", "namespace", "new", "--timeout=60s"])?;
        Ok(())
    })
}

/// Starts one pod; how many packets got in, and its address. Addresses are given out one after another.
fn start(cluster: &Cluster, name: &str, last: Ipv4Addr) -> Result<(u64, Ipv4Addr)> {
    let next = Ipv4Addr::from_bits(last.to_bits() + 1);
    let target = Target::new(next).from(cluster.world().clients()[1].v4).within_ms(1000);
    let stream = Stream { target, port: 7, kind: Kind::Udp, rate: 1000, duration: Duration::from_secs(60) };
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let thread = cluster.world().netns().spawn(move || stream.run(&stopping))?;
    std::thread::sleep(Duration::from_millis(300));
    let started = apply(cluster, "new", &pod("new", name, "closed", "NODE0"));
    std::thread::sleep(AFTER);
    stop.store(true, Ordering::Relaxed);
    let report = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
    started?;
    let own = address(cluster, "new", name)?;
    ensure!(own == next, "{name} has the address {own}, not {next}: the stream was for nobody");
    ensure!(report.sent > 300, "only {} flows", report.sent);
    Ok((inside(&report), own))
}

/// Flows that the pod has answered, also by saying that nobody listens yet.
fn inside(report: &Report) -> u64 {
    let inside = report.ranges.iter().filter(|range| matches!(range.error, None | Some(Failure::Refused)));
    inside.map(|range| range.last - range.first + 1).sum()
}
