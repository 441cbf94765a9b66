//! The cluster program: who is in each group that a rule names, and what users read.
//!
//! *In:* pods, namespaces, groups, attachments, member slices, node reports, limits; a Lease. *Out:* member slices; the status of groups
//! and attachments, events when it turns, finalizers on what is in use. `facts ─▶ resolve ─▶ due ─▶ outbox ─▶ write`. Also prints the CRDs.
//!
//! Invariants
//! 1. Nothing is written before every watch has listed, nor by anyone but the holder of the Lease.
//! 2. Each slice and each status has one writer at a time; what it writes is worked out from what the watches have shown since the last
//!    write. Ended at any moment (kill -9), the next run finishes what is half written: there is no other memory than the API.
//! 3. A head slice is written only after all that it vouches for; `Programmed` is said only of what nodes have reported.
//!
//! Not here: what facts mean (`policy`), how watches and the Lease work (`runtime`), anything that packets wait for but slices: agents
//! enforce their own pods without us.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use runtime::client::with_causes;
use runtime::shutdown;

use crate::run::RunArgs;
use crate::uninstall::UninstallArgs;

mod due;
mod events;
mod facts;
#[cfg(test)]
mod fake;
mod finalizer;
mod metrics;
mod outbox;
mod run;
mod uninstall;
mod write;

/// The operator of kube-security-groups.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run in a cluster (what happens without a command, too).
    Run(RunArgs),
    /// Prepare the cluster for the removal of the manifests: rules, agents, the operator, finalizers, slices and reports go.
    Uninstall(UninstallArgs),
    /// Print the CustomResourceDefinitions.
    Crds {
        /// Write each to a file of this folder instead.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Err(error) = run(Cli::parse()) else { return ExitCode::SUCCESS };
    let line = with_causes(error.as_ref());
    eprintln!("operator: {line}");
    shutdown::last_words(&line);
    ExitCode::FAILURE
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => {
            shutdown::end_on_panic();
            tokio::runtime::Runtime::new()?.block_on(run::run(args))
        }
        Command::Uninstall(args) => tokio::runtime::Runtime::new()?.block_on(uninstall::uninstall(args)),
        Command::Crds { out: Some(folder) } => write_crds(&folder),
        Command::Crds { out: None } => print_crds(),
    }
}

fn write_crds(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, yaml) in api::crds_yaml()? {
        let file = folder.join(name);
        std::fs::write(&file, yaml).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn print_crds() -> anyhow::Result<()> {
    let documents: Vec<String> = api::crds_yaml()?.into_iter().map(|(_, yaml)| yaml).collect();
    std::io::stdout().write_all(documents.join("---\n").as_bytes()).context("cannot print")
}
