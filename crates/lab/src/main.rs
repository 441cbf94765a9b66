//! `lab up|down|status`: a cluster to try things on.

use anyhow::Result;
use clap::{Parser, Subcommand};

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
        /// Give the nodes the product's image, from the programs as they are built now
        #[arg(long)]
        product: bool,
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
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up { name, nodes, product } => {
            let images = if product { vec![lab::Image::product()?] } else { Vec::new() };
            let cluster = lab::Cluster::builder(&name).nodes(nodes).images(images).keep().start().await?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            println!("export PATH={}:$PATH", cluster.kubernetes().display());
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
    Ok(())
}
