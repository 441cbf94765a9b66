//! The cost of new flows through a node.

use anyhow::{Context, Result};
use netlink::Nftables;
use ruleset::{Kernel, Transaction, lower};

use crate::rival;
use crate::road::Road;
use crate::table::{Line, median};
use crate::workload::{Workload, many_groups, many_rules};

/// A ruleset to measure.
enum Layout<'a> {
    /// What the agent would put there.
    Ours,
    /// Another's, as nftables text; it loads before anything is measured.
    Text(&'a str),
}

/// All figures.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let worst = [
        ("ports differ", many_rules(false, false), 1.10),
        ("same port", many_rules(true, false), 1.15),
        ("same port, 250 networks more", many_rules(true, true), 1.20),
    ];
    for (name, workload, goal) in &worst {
        let rivals = [
            ("one rule a peer", rival::one_rule_a_peer(&workload.policy)),
            ("one list", rival::one_list(&workload.policy)),
            ("peer first", rival::peer_first(&workload.policy)),
            ("port first", rival::port_first(&workload.policy, "")),
            ("port first, intervals", rival::port_first(&workload.policy, "flags interval;")),
        ];
        compare(&format!("worst of 250 rules, {name}"), workload, *goal, &rivals, rounds, tell)?;
    }
    let (one, thousand) = (many_groups(1, 10), many_groups(1_000, 10));
    flat("1,000 groups against 1", &one, &thousand, rounds, tell)?;
    let (ten, many) = (many_groups(1, 10), many_groups(1, 100_000));
    flat("100,000 members against 10", &ten, &many, rounds, tell)
}

/// Ours and the rivals against conntrack alone.
fn compare(name: &str, workload: &Workload, goal: f64, rivals: &[(&str, String)], rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let mut layouts = vec![Layout::Text(""), Layout::Text(rival::CONNTRACK), Layout::Ours];
    layouts.extend(rivals.iter().map(|(_, text)| Layout::Text(text)));
    let costs = interleaved(&layouts.iter().map(|layout| (layout, workload)).collect::<Vec<_>>(), rounds)?;
    let conntrack = costs[1];
    tell(Line::new(format!("{name}: ours, against conntrack alone"), costs[2], conntrack, "µs", Some(goal)));
    tell(Line::new(format!("{name}: no rules at all"), costs[0], conntrack, "µs", None));
    for ((rival, _), cost) in rivals.iter().zip(&costs[3..]) {
        tell(Line::new(format!("{name}: {rival}"), *cost, conntrack, "µs", None));
    }
    Ok(())
}

/// Ours at one size against ours at another.
fn flat(name: &str, small: &Workload, large: &Workload, rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let costs = interleaved(&[(&Layout::Ours, small), (&Layout::Ours, large)], rounds)?;
    tell(Line::new(format!("new flow, {name}"), costs[1], costs[0], "µs", Some(1.05)));
    Ok(())
}

/// The median cost in each, in microseconds. All are measured in every round, so that what disturbs the machine disturbs all.
fn interleaved(layouts: &[(&Layout<'_>, &Workload)], rounds: u16) -> Result<Vec<f64>> {
    let road = Road::new()?;
    let mut costs = vec![Vec::new(); layouts.len()];
    for _ in 0..rounds {
        for ((layout, workload), costs) in layouts.iter().zip(&mut costs) {
            match layout {
                Layout::Ours => {
                    road.nft("")?;
                    let transaction = Transaction::replace(&lower(&workload.policy));
                    road.node.run(|| Nftables::open()?.commit(&transaction))??;
                }
                Layout::Text(text) => road.nft(text).context("loading a rival's ruleset")?,
            }
            costs.push(road.cost(&workload.flows)?.as_secs_f64() * 1e6);
        }
    }
    Ok(costs.into_iter().map(median).collect())
}
