//! Measures the product against its alternatives: ratios within one interleaved run, medians of several.
//!
//! *In:* names of groups of figures. *Out:* a line a figure, `name  ours  baseline  ratio  goal  met|short`, and the same as JSON.
//!
//! - `packets`: the cost of new UDP flows that meet the worst of 250 rules, with one end or both on the node; of flows where there are many
//!   groups, many members; TCP connections in a second; what an established one carries. Beside ours: conntrack alone, linear rules of
//!   nftables, iptables with ipset as kube-router writes them, and three ways that nftables would allow.
//! - `commits`: what a change costs the agent, up to the kernel's answer; and the same changes in other layouts, by the programs that load them.
//! - `curves`: the cost of a new UDP flow against groups, rules and members, ours beside the naive ways. `crates/bench/curves.svg` is that
//!   picture; `tests/bench curves --svg crates/bench/curves.svg` draws it anew.
//!
//! Everything happens in network namespaces of its own; needs root, `nft`, `iptables` and `ipset`. What a layout must not let through is sent
//! too, once in every run, and fails it if it arrives.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bench::system::Thoroughness;
use bench::table::{self, Line};
use bench::{blink, commits, connections, curves, layouts, packets, system};
use clap::{Parser, ValueEnum};

/// Groups of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// What the way through a node costs: new flows, TCP connections, established ones.
    Packets,
    /// What a change costs the agent, up to the kernel's answer.
    Commits,
    /// How the cost of a new flow grows, also as a picture.
    Curves,
    /// What packets notice of a thousand changes.
    Blink,
    /// The whole product on a cluster of two nodes: latency, memory, processor.
    System,
}

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures the product against its alternatives, in one run")]
struct Options {
    /// What to measure; everything if left out.
    groups: Vec<Group>,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Measure the cluster less thoroughly, to see whether it works.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures as JSON.
    #[arg(long, overrides_with = "json")]
    json: Option<PathBuf>,
    /// Where to draw the curves.
    #[arg(long, overrides_with = "svg")]
    svg: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let groups = if options.groups.is_empty() { Group::value_variants().to_vec() } else { options.groups };
    println!("{}", table::heading());
    let mut lines = Vec::new();
    let mut tell = |line: Line| {
        println!("{line}");
        lines.push(line);
    };
    for group in groups {
        match group {
            Group::Packets => {
                packets::measure(options.rounds, &mut tell)?;
                connections::measure(options.rounds, &mut tell)?;
            }
            Group::Commits => {
                commits::measure(options.rounds, &mut tell)?;
                layouts::measure(options.rounds, &mut tell)?;
            }
            Group::Curves => {
                let picture = curves::measure(options.rounds, &mut tell)?;
                if let Some(file) = &options.svg {
                    std::fs::write(file, picture.to_string()).with_context(|| format!("writing {}", file.display()))?;
                }
            }
            Group::Blink => blink::measure(&mut tell)?,
            Group::System => {
                system::measure(if options.quick { Thoroughness::QUICK } else { Thoroughness::FULL }, &mut tell)?;
            }
        }
    }
    if let Some(file) = options.json {
        std::fs::write(&file, serde_json::to_string_pretty(&lines)?).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
