//! What upstream's tests of network policies demand, with real packets between pods on two nodes: see [`tests::conformance`]. Needs root.
//!
//! A program of its own: its hundreds of connections at once would delay the packets that tests beside it count.

mod two_nodes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use policy::model::Transport;
use probe::{Probe, Target, run_all};
use tests::conformance::{Cell, FOLDERS, Programs, Scenario, Sightings, World, scenarios, table};
use two_nodes::TwoNodes;

/// Most of the time goes by waiting for answers that do not come: several clusters wait at the same time.
const CLUSTERS: usize = 3;
/// How long a first answer may take, and a second and third: the machine may be busy.
const PATIENCE_MS: [u64; 3] = [250, 1_000, 2_000];

/// All 48 scenarios of Kubernetes and all 230 cases of Cyclonus, every pair of pods, both families.
#[test]
fn every_scenario_comes_out_as_expected_with_real_packets() -> Result<()> {
    let start = Instant::now();
    let world = World::read()?;
    let mut all: Vec<Scenario> = Vec::new();
    for folder in FOLDERS {
        all.extend(scenarios(folder)?);
    }
    let (next, packets, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        let cluster = TwoNodes::new(&world, &[80, 81])?;
        while let Some(scenario) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            match play(&cluster, &world, scenario) {
                Ok(count) => drop(packets.fetch_add(count, Ordering::Relaxed)),
                Err(error) => wrong.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push(format!("{scenario}: {error:#}")),
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLUSTERS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let wrong = wrong.into_inner()?;
    ensure!(wrong.is_empty(), "{} of {} scenarios:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let packets = packets.into_inner();
    println!("{} scenarios, {packets} connections tried, {} s", all.len(), start.elapsed().as_secs());
    ensure!(all.len() == 48 + 230 && packets > 100_000, "{} scenarios, {packets} connections", all.len());
    Ok(())
}

/// What was seen, of all steps; fails at the first that is not as expected.
fn play(cluster: &TwoNodes, world: &World, scenario: &Scenario) -> Result<usize> {
    let mut programs = Programs::new(world);
    let mut count = 0;
    for (i, step) in scenario.steps.iter().enumerate() {
        programs.take(step)?;
        for (node, agent) in &programs.nodes {
            cluster.enforce(node, &agent.compiled.policy).with_context(|| format!("step {}", i + 1))?;
        }
        let cells = programs.cells(step)?;
        count += cells.len();
        let mut seen = vec![None; cells.len()];
        cluster.fresh_ports()?;
        for patience in PATIENCE_MS {
            let open: Vec<usize> = (0..cells.len()).filter(|&i| seen[i].is_none_or(|answered| again(&cells[i], answered))).collect();
            for (i, answered) in ask(cluster, &cells, &open, patience)? {
                seen[i] = Some(answered);
            }
        }
        let cells: Vec<(Cell, Sightings)> =
            cells.into_iter().zip(seen).map(|(cell, seen)| (cell, seen.map(|seen| ("kernel", seen)).into_iter().collect())).collect();
        let wrong = table(&cells);
        ensure!(wrong.is_empty(), "step {}\n{wrong}", i + 1);
    }
    Ok(count)
}

/// What is lost may be late. What is answered and must not be is wrong at once; but SCTP's source port may be one of the step before (S34).
fn again(cell: &Cell, answered: bool) -> bool {
    answered != cell.allowed && (cell.allowed || cell.probe.protocol == Transport::Sctp)
}

/// Tries some of the cells, all at the same time, each in its sender's namespace; whether they were answered.
fn ask(cluster: &TwoNodes, cells: &[Cell], which: &[usize], patience: u64) -> Result<Vec<(usize, bool)>> {
    let mut by_sender: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &i in which {
        by_sender.entry(&cells[i].from).or_default().push(i);
    }
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = by_sender
            .into_iter()
            .map(|(from, which)| {
                scope.spawn(move || -> Result<Vec<(usize, bool)>> {
                    let probes: Vec<Probe> = which.iter().map(|&i| probe(&cells[i], patience)).collect();
                    let outcomes = cluster.pod(from)?.run(|| run_all(&probes))?;
                    Ok(which.into_iter().zip(outcomes.into_iter().map(|outcome| outcome.ok)).collect())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Result<Vec<_>>>()
    })?;
    Ok(answers.into_iter().flatten().collect())
}

fn probe(cell: &Cell, patience: u64) -> Probe {
    let (destination, source): (IpAddr, IpAddr) = (cell.destination, cell.source);
    let (target, port) = (Target::new(destination).from(source).within_ms(patience), cell.probe.port);
    match cell.probe.protocol {
        Transport::Tcp => Probe::Tcp { target, port },
        Transport::Udp => Probe::Udp { target, port },
        Transport::Sctp => Probe::Sctp { target, port },
    }
}
