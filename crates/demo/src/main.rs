//! Command one: `deploy/demo`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use demo::{Ledger, Matrix, Shop};
use lab::{Cluster, Signals};

/// Security groups on a real two-node Kubernetes on this machine: installs the product, applies deploy/samples/three-tier.yaml,
/// and shows with real connections who reaches whom. Takes everything down again, also on Ctrl-C, TERM and HUP.
#[derive(Parser)]
#[command(name = "deploy/demo", version)]
struct Arguments {
    /// Leave the cluster running, and print how to use it
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Take down a cluster that --keep left running
    Down,
}

const NAME: &str = "demo";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Command::Down) = arguments.command {
        if !lab::state::list()?.iter().any(|state| state.name == NAME) {
            println!("There is no demo cluster.");
            return Ok(ExitCode::SUCCESS);
        }
        lab::state::remove(NAME)?;
        println!("The demo's cluster is gone.");
        return Ok(ExitCode::SUCCESS);
    }
    let claimed = lab::state::list()?.iter().any(|state| state.name == NAME && state.is_claimed());
    ensure!(!claimed, "there is a demo cluster already; this takes it down: deploy/demo down");
    show(arguments.keep, Signals::new()?).await
}

/// Says why the demo ends; cleaning up takes a moment.
fn interrupted(code: u8) -> ExitCode {
    println!("\ninterrupted: cleaning up");
    ExitCode::from(code)
}

fn title(number: u8, text: &str) {
    println!("\n\x1b[1m{number}. {text}\x1b[0m");
}

async fn show(keep: bool, mut signals: Signals) -> Result<ExitCode> {
    title(1, "A two-node Kubernetes, each node in namespaces of its own");
    let start = Instant::now();
    let mut starting = Box::pin(Cluster::builder(NAME).nodes(2).images([lab::images::product()?]).start());
    let cluster = tokio::select! {
        biased;
        // What has been started goes with the future, once that has been said.
        code = signals.received() => return Ok(interrupted(code)),
        started = &mut starting => Arc::new(started?),
    };
    println!("{}  ready after {:.1} s", cluster.kubectl(&["get", "nodes", "-o", "wide"])?, start.elapsed().as_secs_f64());

    // Everything from here on waits for kubectl and for packets: none of the runtime's own threads shall.
    let stage = cluster.clone();
    let performing = tokio::task::spawn_blocking(move || {
        let mut ledger = Ledger::new();
        let result = perform(&stage, &mut ledger);
        (ledger, result)
    });
    let (mut ledger, result) = tokio::select! {
        biased;
        code = signals.received() => {
            interrupted(code);
            cluster.take_down();
            // Not by returning, which would wait for the performance, and that for some of its deadlines.
            std::process::exit(code.into());
        }
        performed = performing => performed?,
    };
    if let Err(error) = result {
        ledger.expect(false, format!("{error:#}"));
    }

    println!("\n{} expectations held, {} failed", ledger.held(), ledger.failed().len());
    for failed in ledger.failed() {
        println!("  {failed}");
    }
    if keep {
        let mut cluster = Arc::into_inner(cluster).context("the performance is over")?;
        cluster.keep()?;
        println!("\nThe cluster keeps running. Try:");
        println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
        println!("  export PATH={}:$PATH", cluster.kubernetes().display());
        println!("  kubectl get sg,sgatt -n shop");
        println!("  kubectl edit sg web -n shop");
        println!("  ip netns exec {} nft list table inet k8s-sg", cluster.node(0).netns().name());
        println!("  deploy/demo down");
    }
    Ok(if ledger.failed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn perform(cluster: &Cluster, ledger: &mut Ledger) -> Result<()> {
    title(2, "The product: helm install kube-security-groups charts/kube-security-groups");
    demo::install(cluster)?;
    println!("{}", cluster.kubectl(&["get", "pods", "--namespace=kube-security-groups", "-o", "wide"])?);

    title(3, "The shop, without groups: every pod reaches every port of every other");
    demo::apply_workloads(cluster)?;
    println!("{}", cluster.kubectl(&["get", "pods", "--namespace=shop", "-o", "wide"])?);
    let shop = Shop::look(cluster)?;
    let before = Matrix::measure(&shop)?;
    before.print();
    before.check(ledger, |_, _, _, _| true);

    title(4, "With the groups and attachments of deploy/samples/three-tier.yaml");
    demo::apply_sample(cluster)?;
    let after = Matrix::measure(&shop)?;
    after.print();
    after.check(ledger, demo::expected);
    println!("  {} connections tried: same node and across nodes, IPv4 and IPv6", after.len());

    title(5, "A ping from outside");
    demo::ping_story(&shop, ledger)?;

    title(6, "kubectl scale: a new web pod");
    demo::scale_story(&shop, ledger)?;

    title(7, "kubectl label: an app pod that is none any more");
    demo::relabel_story(&shop, ledger)?;

    title(8, "kubectl get sg,sgatt -n shop");
    demo::wait_in_force(cluster)?;
    println!("{}", cluster.kubectl(&["get", "sg,sgatt", "--namespace=shop"])?);

    title(9, "What the kernel of node 1 has");
    println!("{}", cluster.node(0).nft("list table inet k8s-sg")?);
    Ok(())
}
