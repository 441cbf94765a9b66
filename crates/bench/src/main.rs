//! Measures the product against its alternatives: ratios within one interleaved run, medians of several.
//!
//! *In:* names of groups of figures. *Out:* a line a figure, `name  ours  baseline  ratio  goal  met|short`, and the same as JSON.
//!
//! Everything happens in network namespaces of its own; needs root and `nft`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bench::system::Thoroughness;
use bench::table::{self, Line};
use bench::{blink, commits, packets, system};
use clap::{Parser, ValueEnum};

/// Groups of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// The cost of the first packet of a connection.
    Packets,
    /// What a change costs the agent, up to the kernel's answer.
    Commits,
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
    #[arg(long)]
    json: Option<PathBuf>,
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
            Group::Packets => packets::measure(options.rounds, &mut tell)?,
            Group::Commits => commits::measure(options.rounds, &mut tell)?,
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
