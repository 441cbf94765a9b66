//! `lab up|down|run|status`: a cluster to try things on.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::{Cluster, Signals, Topology};

/// A Kubernetes cluster on this machine, without a container engine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a cluster that stays until `lab down`
    Up {
        /// What to call it
        #[arg(long, default_value = "lab")]
        name: String,
        /// How many nodes; 0 for a control plane alone
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// How the pods of a node are connected
        #[arg(long, value_enum, default_value_t)]
        topology: Topology,
        /// Give the nodes the product's image, from the programs as they are built now
        #[arg(long)]
        product: bool,
    },
    /// Starts a cluster, runs a command with KUBECONFIG set, and takes the cluster down
    Run {
        /// What to call it
        #[arg(long, default_value = "run")]
        name: String,
        /// How many nodes; 0 for a control plane alone
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// How the pods of a node are connected
        #[arg(long, value_enum, default_value_t)]
        topology: Topology,
        /// What to run
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Removes a cluster and all that it left
    Down {
        /// Its name
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Lists the clusters on this machine
    Status,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Up { name, nodes, topology, product } => {
            let images = if product { vec![lab::images::product()?] } else { Vec::new() };
            let mut signals = Signals::new()?;
            let cluster = tokio::select! {
                biased;
                code = signals.received() => return Ok(ExitCode::from(code)),
                started = Cluster::builder(&name).nodes(nodes).topology(topology).images(images).keep().start() => started?,
            };
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            println!("export PATH={}:$PATH", cluster.kubernetes().display());
        }
        Command::Run { name, nodes, topology, command } => {
            return run(Cluster::builder(&name).nodes(nodes).topology(topology), &command).await;
        }
        Command::Down { name } => lab::state::remove(&name)?,
        Command::Status => {
            println!("{:<16} {:<6} {:<6} {:<8} KUBECONFIG", "NAME", "NODES", "STATE", "OWNER");
            for state in lab::state::list()? {
                let alive = if state.is_alive() { "runs" } else { "dead" };
                let owner = if state.kept { "kept".to_owned() } else { state.owner.pid.to_string() };
                println!("{:<16} {:<6} {:<6} {:<8} {}", state.name, state.nodes, alive, owner, state.kubeconfig().display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C, TERM and HUP end it as its command's end does: the cluster is taken down either way.
async fn run(cluster: lab::Builder, command: &[String]) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let work = async {
        let cluster = cluster.start().await?;
        let (program, arguments) = command.split_first().context("no command")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("PATH", format!("{}:{path}", cluster.kubernetes().display()))
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| format!("running {program}"))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    };
    tokio::select! {
        biased;
        code = signals.received() => Ok(ExitCode::from(code)),
        done = work => done,
    }
}
