//! What the programs use, while nothing happens and while labels change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lab::Cluster;
use nix::unistd::{SysconfVar, sysconf};
use tokio::time::{MissedTickBehavior, interval};

use super::Thoroughness;
use super::fill::Fill;
use crate::table::Line;

/// Label changes a second.
const RATE: u32 = 20;

/// A program on one of the nodes.
struct Program {
    name: &'static str,
    pid: i32,
}

/// What it has used by now.
#[derive(Clone, Copy)]
struct Used {
    mebibytes: f64,
    seconds: f64,
}

impl Program {
    /// Of several the one that has worked most: of operators only one does.
    fn find(cluster: &Cluster, name: &'static str, nodes: &[usize]) -> Result<Program> {
        let processes = nodes.iter().flat_map(|node| cluster.node(*node).processes(name));
        let mut found = processes.map(|process| Program { name, pid: process.pid }).collect::<Vec<_>>();
        let worked = |program: &Program| program.used().map(|used| used.seconds).unwrap_or_default();
        found.sort_by(|one, other| worked(one).total_cmp(&worked(other)));
        found.pop().with_context(|| format!("no {name} runs"))
    }

    fn used(&self) -> Result<Used> {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).with_context(|| format!("{} has ended", self.name));
        let status = read("status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        let stat = read("stat")?;
        // What follows the name in parentheses: utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let ticks = |field: usize| fields.get(field - 3).and_then(|field| field.parse::<f64>().ok()).context("a number of ticks");
        let hertz = sysconf(SysconfVar::CLK_TCK)?.context("ticks a second")? as f64;
        Ok(Used { mebibytes: resident.context("VmRSS")? / 1024.0, seconds: (ticks(14)? + ticks(15)?) / hertz })
    }
}

/// Percent of a processor.
fn share(before: Used, after: Used, elapsed: Duration) -> f64 {
    (after.seconds - before.seconds) / elapsed.as_secs_f64() * 100.0
}

/// The first node's agent, and the operator.
fn programs(cluster: &Cluster) -> Result<[Program; 2]> {
    Ok([Program::find(cluster, "agent", &[0])?, Program::find(cluster, "operator", &[0, 1])?])
}

/// Waits until the programs have nothing more to do: what was changed before is in force, and said to be.
pub(super) async fn at_rest(cluster: &Cluster) -> Result<()> {
    const LOOK: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let programs = programs(cluster)?;
        let used = || programs.iter().map(|program| Ok(program.used()?.seconds)).sum::<Result<f64>>();
        let before = used()?;
        tokio::time::sleep(LOOK).await;
        // A tick or two are for leases and probes.
        if used()? - before < 0.05 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the agent or the operator does not come to rest");
    }
}

/// All figures.
pub(super) async fn measure(cluster: &Cluster, fill: &Fill<'_>, how: Thoroughness, tell: &mut impl FnMut(Line)) -> Result<()> {
    at_rest(cluster).await?;
    let programs = programs(cluster)?;
    let used = || programs.iter().map(Program::used).collect::<Result<Vec<Used>>>();

    let (before, begun) = (used()?, Instant::now());
    tokio::time::sleep(how.idle).await;
    let idle = used()?;
    let idling = begun.elapsed();

    let begun = Instant::now();
    let made = relabel(fill, how.busy).await?;
    let elapsed = begun.elapsed();
    let busy = used()?;
    let rate = made as f64 / elapsed.as_secs_f64();
    ensure!(rate > f64::from(RATE) * 0.8, "only {rate:.1} label changes a second");
    // Who does nothing uses nothing: every change has to have got there.
    fill.settled().await?;
    tell(Line::figure(
        format!("{made} label changes: the last is in force after at most"),
        begun.elapsed().as_secs_f64() - elapsed.as_secs_f64(),
        "s",
    ));

    for (at, program) in programs.iter().enumerate() {
        let name = program.name;
        let agent = name == "agent";
        let cpu = [share(before[at], idle[at], idling), share(idle[at], busy[at], elapsed)];
        tell(Line::figure(format!("{name}: memory, idle, 10,000 members"), idle[at].mebibytes, "MiB"));
        tell(Line::figure(format!("{name}: processor, idle"), cpu[0], "%"));
        let (memory, processor) =
            (format!("{name}: memory after {RATE} label changes a second"), format!("{name}: processor, {RATE} label changes a second"));
        match agent {
            true => {
                tell(Line::limit(memory, busy[at].mebibytes, 32.0, "MiB"));
                tell(Line::limit(processor, cpu[1], 2.0, "%"));
                tell(Line::new("agent: processor, against Calico Felix", cpu[1], 18.0, "%", None));
            }
            false => {
                tell(Line::figure(memory, busy[at].mebibytes, "MiB"));
                tell(Line::figure(processor, cpu[1], "%"));
            }
        }
    }
    Ok(())
}

/// Changes labels at a steady rate, whatever the API server's answers take; how many.
async fn relabel(fill: &Fill<'_>, length: Duration) -> Result<usize> {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begun = Instant::now();
    let mut made = 0;
    let mut open = FuturesUnordered::new();
    while begun.elapsed() < length {
        tokio::select! {
            _ = ticks.tick() => {
                open.push(fill.relabel());
                made += 1;
            }
            Some(done) = open.next() => done?,
        }
    }
    while let Some(done) = open.next().await {
        done?;
    }
    Ok(made)
}
