//! What upstream's tests of network policies demand, judged by the oracle and by the walk through the ruleset, on two nodes: see
//! [`tests::conformance`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use policy::model::{ConnState, NodeName, Packet, Path, Payload, Verdict};
use policy::verdict;
use ruleset::{FakeKernel, Kernel, Transaction, diff, lower, trace};
use tests::conformance::{Cell, FOLDERS, Programs, Scenario, Sightings, Step, World, index, scenarios, table};

/// All that was found wrong, of all scenarios; `[scenarios, steps, cells]` otherwise.
fn run(folder: &str) -> Result<[usize; 3]> {
    let world = World::read()?;
    let (mut counts, mut wrong) = ([0; 3], Vec::new());
    for scenario in scenarios(folder)? {
        counts[0] += 1;
        match judge(&world, &scenario) {
            Ok((steps, cells)) => {
                counts[1] += steps;
                counts[2] += cells;
            }
            Err(error) => wrong.push(format!("{scenario}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of {} scenarios of {folder}:\n{}", wrong.len(), counts[0], wrong.join("\n"));
    println!("{folder}: {} scenarios, {} steps, {} packets", counts[0], counts[1], counts[2]);
    Ok(counts)
}

fn judge(world: &World, scenario: &Scenario) -> Result<(usize, usize)> {
    let mut programs = Programs::new(world);
    let mut kernels: BTreeMap<NodeName, FakeKernel> = BTreeMap::new();
    let mut count = 0;
    for (i, step) in scenario.steps.iter().enumerate() {
        let cells = after(&mut programs, &mut kernels, step).with_context(|| format!("step {}", i + 1))?;
        let wrong = table(&cells);
        ensure!(wrong.is_empty(), "step {}\n{wrong}", i + 1);
        count += cells.len();
    }
    Ok((scenario.steps.len(), count))
}

fn after(programs: &mut Programs, kernels: &mut BTreeMap<NodeName, FakeKernel>, step: &Step) -> Result<Vec<(Cell, Sightings)>> {
    programs.take(step)?;
    for (name, node) in &programs.nodes {
        let kernel = kernels.entry(name.clone()).or_default();
        let wanted = lower(&node.compiled.policy);
        let transaction = kernel.table().map_or_else(|| Transaction::replace(&wanted), |held| diff(held, &wanted));
        kernel.commit(&transaction)?;
        ensure!(kernel.table() == Some(&wanted), "the difference leads elsewhere on node {}", name.0);
    }
    let judged = programs.cells(step)?.into_iter().map(|cell| {
        let destination = cell.probe.port;
        let packet = Packet {
            source: cell.source,
            destination: cell.destination,
            payload: Payload::Transport { protocol: cell.probe.protocol, source: 40_000, destination },
            state: ConnState::New,
            path: Path::Forward,
        };
        // It has to pass every node on its way (S30).
        let oracle = cell.nodes.iter().all(|node| verdict(&programs.nodes[node].compiled.policy, &packet) == Verdict::Allow);
        let ruleset = cell.nodes.iter().all(|node| kernels[node].table().is_some_and(|table| trace(table, &packet) == Verdict::Allow));
        (cell, Sightings::from([("oracle", oracle), ("ruleset", ruleset)]))
    });
    Ok(judged.collect())
}

#[test]
fn every_network_policy_scenario_of_kubernetes_comes_out_as_expected() -> Result<()> {
    let [scenarios, _, cells] = run("networkpolicy")?;
    ensure!(scenarios == 48 && cells > 1_000, "{scenarios} scenarios, {cells} packets");
    Ok(())
}

#[test]
fn every_case_of_cyclonus_comes_out_as_expected() -> Result<()> {
    let [scenarios, _, cells] = run("cyclonus")?;
    ensure!(scenarios == 230 && cells > 100_000, "{scenarios} scenarios, {cells} packets");
    Ok(())
}

#[test]
fn all_that_upstream_has_is_answered() -> Result<()> {
    for folder in FOLDERS {
        let mut answered: BTreeMap<String, usize> = BTreeMap::new();
        for scenario in scenarios(folder)? {
            *answered.entry(scenario.answers).or_default() += 1;
        }
        let wanted = index(folder)?;
        for (name, count) in &wanted {
            let has = answered.get(name).copied().unwrap_or_default();
            ensure!(has == *count, "{folder}: {has} scenarios answer `{name}`, which has {count}");
        }
        let unknown: Vec<&String> = answered.keys().filter(|name| !wanted.contains_key(*name)).collect();
        ensure!(unknown.is_empty(), "{folder}: {unknown:?} are not in its index");
    }
    Ok(())
}

/// The comparison itself can fail: an expectation turned round is found, in every scenario.
#[test]
fn a_wrong_expectation_is_found() -> Result<()> {
    let world = World::read()?;
    for mut scenario in scenarios("networkpolicy")? {
        let last = scenario.steps.last_mut().context("no steps")?;
        let line = last.expect.last_mut().context("no lines")?;
        line.allows = !line.allows;
        let error = judge(&world, &scenario).err().with_context(|| format!("{scenario} passes either way"))?.to_string();
        ensure!(error.contains("rows send") && error.contains("expected: "), "{scenario}: {error}");
    }
    Ok(())
}
