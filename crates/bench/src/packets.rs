//! The cost of new UDP flows through a node.

use anyhow::{Context, Result};
use policy::model::Transport;

use crate::layout::{self, Layout};
use crate::road::Road;
use crate::table::{Line, median};
use crate::workload::{Workload, Worst, many_groups};

/// Flows of one measurement.
const FLOWS: usize = 50_000;
/// Packets that arrive only where nobody filters, sent before anything is measured.
const DENIED: usize = 500;

/// All figures.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    layout::check()?;
    for both_ends in [false, true] {
        for (name, same_port, nets, goal) in [
            ("ports differ", false, false, 1.10),
            ("same port", true, false, 1.15),
            ("ports differ, 250 CIDRs too", false, true, 1.20),
            ("same port, 250 CIDRs too", true, true, 1.20),
        ] {
            let workload = Worst { same_port, nets, both_ends, ..Worst::of(250) }.workload();
            let name = if both_ends { format!("{name}, both ends") } else { name.into() };
            let goal = if both_ends { 1.30 } else { goal };
            compare(&name, &workload, goal, both_ends, rounds, tell)?;
        }
    }
    few(rounds, tell)?;
    let groups = [("1 group", 1), ("100 groups", 100), ("1,000 groups", 1_000)];
    flat(&groups.map(|(name, groups)| (name, many_groups(Transport::Udp, groups, 10))), rounds, tell)?;
    let members = [("10 members", 10), ("10,000 members", 10_000), ("100,000 members", 100_000)];
    flat(&members.map(|(name, members)| (name, many_groups(Transport::Udp, 1, members))), rounds, tell)?;
    let members = [("250 rules on one port, 10,000 members", 40), ("250 rules on one port, 100,000 members", 400)];
    flat(&members.map(|(name, members)| (name, Worst { same_port: true, members, ..Worst::of(250) }.workload())), rounds, tell)
}

/// Ours and the rivals against conntrack alone.
fn compare(name: &str, workload: &Workload, goal: f64, both_ends: bool, rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let mut layouts = vec![Layout::Conntrack, Layout::Ours, Layout::Nothing];
    layouts.extend(Layout::NAIVE);
    if !both_ends {
        layouts.extend(Layout::CLEVER);
    }
    let cases: Vec<_> = layouts.iter().map(|layout| (*layout, workload)).collect();
    let costs = interleaved(&cases, FLOWS, rounds)?;
    for (layout, cost) in layouts.iter().zip(&costs).skip(1) {
        let goal = (*layout == Layout::Ours).then_some(goal);
        tell(Line::new(format!("worst of 250 rules, {name}: {}", layout.name()), *cost, costs[0], "µs", goal));
    }
    Ok(())
}

/// From how many rules on maps are worth their price: the last rule of few, one after another and by maps.
fn few(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    for same_port in [false, true] {
        for rules in [1, 2, 3, 4, 5, 8] {
            let workload = Worst { same_port, ..Worst::of(rules) }.workload();
            let costs = interleaved(&[Layout::Conntrack, Layout::InTurn, Layout::Mapped].map(|layout| (layout, &workload)), FLOWS, rounds)?;
            let ports = if same_port { "same port" } else { "ports differ" };
            for (layout, cost) in [Layout::InTurn, Layout::Mapped].iter().zip(&costs[1..]) {
                tell(Line::new(format!("last of {rules} rules, {ports}: {}", layout.name()), *cost, costs[0], "µs", None));
            }
        }
    }
    Ok(())
}

/// Ours at several sizes, against the first one and against conntrack alone.
fn flat(sizes: &[(&str, Workload)], rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let mut cases = vec![(Layout::Conntrack, &sizes[0].1)];
    cases.extend(sizes.iter().map(|(_, workload)| (Layout::Ours, workload)));
    let costs = interleaved(&cases, FLOWS, rounds)?;
    for ((size, _), cost) in sizes.iter().zip(&costs[1..]) {
        tell(Line::new(format!("new flow, {size}, against conntrack alone"), *cost, costs[0], "µs", None));
    }
    for ((size, _), cost) in sizes.iter().zip(&costs[1..]).skip(1) {
        tell(Line::new(format!("new flow, {size}, against {}", sizes[0].0), *cost, costs[1], "µs", Some(1.05)));
    }
    Ok(())
}

/// The median cost of a flow in each, in microseconds. All are measured in every round, so that what disturbs the machine disturbs all; in
/// the first one also whether they filter.
pub fn interleaved(cases: &[(Layout, &Workload)], flows: usize, rounds: u16) -> Result<Vec<f64>> {
    let road = Road::new()?;
    let mut costs = vec![Vec::new(); cases.len()];
    for round in 0..rounds {
        for ((layout, workload), costs) in cases.iter().zip(&mut costs) {
            layout.put(&road.node, &workload.policy)?;
            if round == 0 {
                road.cost(&workload.denied, DENIED, !layout.filters()).with_context(|| layout.name())?;
            }
            costs.push(road.cost(&workload.flows, flows, true).with_context(|| layout.name())?);
        }
    }
    Ok(costs.into_iter().map(median).collect())
}
