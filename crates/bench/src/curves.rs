//! How the cost of a new UDP flow grows: with groups on the node, with rules of the pod, with members of a peer group. As lines and as a picture.

use anyhow::Result;
use policy::model::Transport;

use crate::layout::{self, Layout};
use crate::packets::interleaved;
use crate::svg::{Panel, Picture, Series};
use crate::table::{Line, number};
use crate::workload::{Workload, Worst, many_groups};

/// Flows of one measurement: fewer than elsewhere, there are many.
const FLOWS: usize = 20_000;

/// From the fastest, each with its colour: bright enough for a dark page, dark enough for a white one.
const LAYOUTS: [(Layout, &str); 5] = [
    (Layout::Conntrack, "#8a8f98"),
    (Layout::Ours, "#1a9e63"),
    (Layout::OneRuleAPeer, "#3b82d6"),
    (Layout::OneList, "#b06fd8"),
    (Layout::KubeRouter, "#d9722e"),
];

/// All figures and the picture of them.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<Picture> {
    layout::check()?;
    let rules = |rules| Worst { same_port: true, ..Worst::of(rules) }.workload();
    let panels = vec![
        panel("groups on the node", &[1, 10, 100, 1_000], |groups| many_groups(Transport::Udp, groups, 10), rounds, tell)?,
        panel("rules of the pod, the last is met", &[1, 5, 25, 100, 250, 1_000], rules, rounds, tell)?,
        panel(
            "members of the peer group",
            &[10, 100, 1_000, 10_000, 100_000],
            |members| many_groups(Transport::Udp, 1, members),
            rounds,
            tell,
        )?,
    ];
    Ok(Picture { title: "What a new connection costs on its way through a node, in µs".into(), panels })
}

fn panel(title: &str, sizes: &[usize], workload: impl Fn(usize) -> Workload, rounds: u16, tell: &mut impl FnMut(Line)) -> Result<Panel> {
    let mut series = LAYOUTS.map(|(layout, colour)| Series {
        name: layout.name().into(),
        colour,
        width: if layout == Layout::Ours { 3 } else { 2 },
        points: Vec::new(),
    });
    for &size in sizes {
        let workload = workload(size);
        let costs = interleaved(&LAYOUTS.map(|(layout, _)| (layout, &workload)), FLOWS, rounds)?;
        for (series, &cost) in series.iter_mut().zip(&costs) {
            series.points.push((size as f64, cost));
            if series.name != Layout::Conntrack.name() {
                tell(Line::new(format!("new flow, {title}, {}: {}", number(size as f64), series.name), cost, costs[0], "µs", None));
            }
        }
    }
    Ok(Panel { title: title.into(), series: series.into() })
}
