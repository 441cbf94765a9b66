//! TCP connections through a node: how many in a second, and how much one carries.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use policy::model::Transport;

use crate::layout::Layout;
use crate::stream::Stream;
use crate::table::{Line, median};
use crate::workload::{STRANGER, Workload, Worst, many_groups};

/// Connections of one measurement.
const CONNECTIONS: usize = 4_000;
/// Pieces of one measurement.
const PIECES: usize = 2_000;

/// The one that all layouts are measured with.
const WORST: Worst = Worst { transport: Transport::Tcp, same_port: true, ..Worst::of(250) };
/// And those that ours is.
const OTHERS: [(&str, Worst); 4] = [
    ("ports differ", Worst { same_port: false, ..WORST }),
    ("250 CIDRs too", Worst { nets: true, ..WORST }),
    ("both ends", Worst { both_ends: true, ..WORST }),
    ("250 CIDRs too, both ends", Worst { nets: true, both_ends: true, ..WORST }),
];

/// A layout, what it enforces, and what to say of that.
type Case<'a> = (Layout, &'a Workload, &'a str);

/// All figures.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    let [one, hundred, thousand] = [1, 100, 1_000].map(|groups| many_groups(Transport::Tcp, groups, 10));
    let worst = WORST.workload();
    let mut cases = vec![(Layout::Conntrack, &one, ""), (Layout::Nothing, &one, "")];
    cases.extend([
        (Layout::Ours, &one, "1 group: "),
        (Layout::Ours, &hundred, "100 groups: "),
        (Layout::Ours, &thousand, "1,000 groups: "),
    ]);
    cases.extend(Layout::NAIVE.map(|layout| (layout, &thousand, "1,000 groups: ")));
    let members = [10_000, 100_000].map(|members| many_groups(Transport::Tcp, 1, members));
    cases.extend(members.iter().zip(["10,000 members: ", "100,000 members: "]).map(|(workload, name)| (Layout::Ours, workload, name)));
    cases.push((Layout::Ours, &worst, "worst of 250 rules: "));
    cases.extend(Layout::NAIVE.map(|layout| (layout, &worst, "worst of 250 rules: ")));
    let others: Vec<(String, Workload)> =
        OTHERS.iter().map(|(name, other)| (format!("worst of 250 rules, {name}: "), other.workload())).collect();
    cases.extend(others.iter().map(|(name, workload)| (Layout::Ours, workload, name.as_str())));

    let rates = interleaved(&cases, rounds, |stream, workload| stream.connections(&workload.flows.sources, CONNECTIONS))?;
    lines("TCP connect–request–close", &cases, &rates, "/s", 0.95).for_each(&mut *tell);
    // Packets as large as the kernel makes them, and those of an Ethernet. Larger pieces would fit into the processor's cache or not, by
    // chance.
    for (name, join, size) in [("established TCP", true, 256), ("established TCP, 1,500-byte packets", false, 128)] {
        let rates = interleaved(&cases, rounds, |stream, workload| {
            stream.join_packets(join)?;
            stream.throughput(workload.flows.sources[0], PIECES, size)
        })?;
        lines(name, &cases, &rates, "MiB/s", 0.98).for_each(&mut *tell);
    }
    Ok(())
}

/// All against the first one.
fn lines(name: &str, cases: &[Case<'_>], rates: &[f64], unit: &'static str, goal: f64) -> impl Iterator<Item = Line> {
    cases.iter().zip(rates).skip(1).map(move |((layout, _, size), rate)| {
        let goal = (*layout == Layout::Ours).then_some(goal);
        Line::rate(format!("{name}, {size}{}", layout.name()), *rate, rates[0], unit, goal)
    })
}

/// The median rate in each; all are measured in every round, in the first one also whether they filter.
fn interleaved(cases: &[Case<'_>], rounds: u16, mut measure: impl FnMut(&mut Stream, &Workload) -> Result<f64>) -> Result<Vec<f64>> {
    let sources: BTreeSet<Ipv4Addr> = cases.iter().flat_map(|(_, workload, _)| &workload.flows.sources).copied().collect();
    let mut stream = Stream::new(&sources)?;
    let mut rates = vec![Vec::new(); cases.len()];
    for round in 0..rounds {
        for ((layout, workload, _), rates) in cases.iter().zip(&mut rates) {
            layout.put(&stream.node, &workload.policy)?;
            if round == 0 {
                let filters = !stream.lets_in(STRANGER)?;
                ensure!(filters == layout.filters(), "{}: whether a stranger is kept out: {filters}", layout.name());
            }
            rates.push(measure(&mut stream, workload).with_context(|| layout.name())?);
        }
    }
    Ok(rates.into_iter().map(median).collect())
}
