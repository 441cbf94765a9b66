//! The node program: facts in, one table out, the difference to the kernel, and what is in force is reported.
//!
//! *In:* watches of this node's pods, of groups, attachments and namespaces, and of the member slices that its rules name.
//! *Out:* the table `inet k8s-sg` of this node, and its NodeReport.
//!
//! ```text
//! watches ─▶ Facts ─▶ plan ─▶ Enforcement ─▶ Committed<Plan> ─▶ Report ─▶ Throttle ─▶ NodeReport
//! ```
//!
//! Invariants
//! 1. One task owns the facts. A sync is whole: resolve, compile, lower, diff, commit, report.
//! 2. Nothing is committed before every watch, that of the named groups' slices included, has delivered its first list.
//! 3. The table outlives the program (S41): it is taken over at the start and left at the end, whatever the end.
//! 4. What is reported is in force: only a commit hands out [`enforce::Committed`], and only of that a report is made; and of no group as
//!    long as packets pass beside the rules ([`bridge`], [`passage`]), or the kernel lacks something that rules consist of ([`support`]).
//!
//! Not here: what rules mean (`policy`), how nftables says it (`ruleset`), how the kernel is told (`netlink`), watches (`runtime`).

mod agent;
mod bridge;
mod disabled;
mod facts;
mod late;
mod metrics;
mod pace;
mod passage;
mod report;
mod reporter;
mod slices;
mod support;
mod tally;
#[cfg(test)]
mod tests;
mod thread;
mod throttle;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::agent::{enforce, plan};
use anyhow::Context;
use clap::Parser;
use netlink::{Changes, Nftables};
use policy::model::{Exemption, NodeName};
use runtime::calls::Calls;
use runtime::health::{Heartbeat, Readiness, Served};
use runtime::watch::Watches;
use runtime::{client, health, logs, shutdown};
use tokio::sync::{mpsc, watch};

use crate::agent::{Agent, COUNT, FIRST_SYNC};
use crate::bridge::Bridges;
use crate::facts::{Facts, Message};
use crate::late::Late;
use crate::metrics::Metrics;
use crate::passage::Ways;
use crate::report::Report;
use crate::reporter::Reporter;
use crate::support::Support;
use crate::tally::Tally;
use crate::thread::KernelThread;

/// Enforces security groups on one node.
#[derive(Debug, Parser)]
#[command(name = "agent", version)]
struct Options {
    /// The name of this node in Kubernetes.
    #[arg(long, env = "NODE_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node_name: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9650")]
    listen: SocketAddr,
    /// Where /metrics alone is served as well, for a Prometheus elsewhere, such as 0.0.0.0:9651; left out: nowhere. They name groups, and on
    /// the host's network whoever reaches the node reaches them.
    #[arg(long, env = "METRICS_LISTEN", value_parser = address)]
    metrics_listen: Option<Address>,
    /// What always passes, whatever the rules say (S36): any of Node, NeighbourDiscovery, ListenerDiscovery, DHCP, Loopback, Hairpin and
    /// ClusterDNS; an empty text for none.
    #[arg(long, env = "EXEMPT", value_parser = exempt, default_value = "Node,NeighbourDiscovery,ListenerDiscovery,DHCP,Loopback,Hairpin")]
    exempt: Exempt,
    /// The Service of the cluster's DNS, which ClusterDNS exempts: NAMESPACE/NAME.
    #[arg(long, env = "CLUSTER_DNS", default_value = "kube-system/kube-dns", value_parser = service)]
    cluster_dns: Service,
    /// Whether bridges that connect guarded pods are made to show their packets to the rules (br_netfilter), where the node's sysctls
    /// do not. With false it is only reported.
    #[arg(long, env = "SET_BRIDGE_NETFILTER", default_value_t = true, action = clap::ArgAction::Set)]
    set_bridge_netfilter: bool,
    /// Whether nobody but this program may change the table while it runs: hands and other programs get EPERM, and `nft flush ruleset` passes
    /// it by. Needs Linux 6.9; on an older one the table is anybody's, and what they do to it is put right.
    #[arg(long, env = "OWN_TABLE", default_value_t = true, action = clap::ArgAction::Set)]
    own_table: bool,
    /// Whether the rules are enforced. With false this node's table is removed and nothing is in force, and the report says so.
    #[arg(long, env = "ENFORCE", default_value_t = true, action = clap::ArgAction::Set)]
    enforce: bool,
    /// Whether this node and its pods are read as the node itself, which may read no others: needs the right to impersonate it (constrained
    /// impersonation, Kubernetes 1.36). Without it the service account reads them, whose rights cannot be bound to one node.
    #[arg(long, env = "AS_NODE", default_value_t = false, action = clap::ArgAction::Set)]
    as_node: bool,
    /// Seconds between two reports of what groups have counted, 10 at least: each is a write of this node's report where counts have changed.
    #[arg(long, env = "COUNTS_INTERVAL", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..))]
    counts_interval: u32,
    /// What is logged, in the syntax of RUST_LOG, which wins where it is set.
    #[arg(long, default_value = logs::DEFAULT_FILTER)]
    log: String,
    /// How it is logged: text or json.
    #[arg(long, default_value = "text")]
    log_format: logs::Format,
}

/// An address to listen on; none of an empty text, which the environment may hold.
#[derive(Clone, Debug, PartialEq)]
struct Address(Option<SocketAddr>);

fn address(text: &str) -> Result<Address, std::net::AddrParseError> {
    if text.is_empty() { Ok(Address(None)) } else { text.parse().map(|address| Address(Some(address))) }
}

/// Exemptions from a comma-separated text.
#[derive(Clone, Debug, PartialEq)]
struct Exempt(BTreeSet<Exemption>);

fn exempt(text: &str) -> Result<Exempt, String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::parse).collect::<Result<_, _>>().map(Exempt)
}

/// A Service by namespace and name.
#[derive(Clone, Debug)]
struct Service {
    namespace: String,
    name: String,
}

fn service(text: &str) -> Result<Service, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Service { namespace: namespace.into(), name: name.into() })
        }
        _ => Err("write NAMESPACE/NAME, as in kube-system/kube-dns".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    shutdown::end_on_panic();
    if let Err(error) = logs::start(options.log_format, &options.log) {
        eprintln!("agent: {error}");
        return ExitCode::from(2);
    }
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            shutdown::last_words(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let node = NodeName(options.node_name);
    let shutdown = shutdown::on_signal()?;
    require_net_admin()?;
    let mut registry = health::registry("securitygroups_agent", env!("CARGO_PKG_VERSION"));
    let calls = Calls::new(&mut registry);
    let client = client::connect(&calls).await?;
    let as_node = if options.as_node { client::connect_as(Some(format!("system:node:{node}")), &calls).await? } else { client.clone() };
    let reporter = Reporter::new(&client, &as_node, node.clone());
    if !options.enforce {
        let metrics_listen = options.metrics_listen.and_then(|Address(address)| address);
        return disabled::run(node, reporter, options.own_table, options.listen, metrics_listen, registry, shutdown).await;
    }
    let set = options.set_bridge_netfilter;
    let (touched, foreign) = mpsc::channel(1);
    let (support, mut supported) = watch::channel(Support::default());
    let own = options.own_table;
    support::find_out(support).context("cannot look at what the kernel takes")?;
    let kernel = Late::new(move || {
        let kernel = if own { Nftables::open_as_owner()? } else { Nftables::open()? };
        tracing::info!(own_table = kernel.is_owner(), "connected to nftables");
        tell_of(kernel.changes()?, touched.clone())?;
        Ok(kernel)
    });
    let kernel = KernelThread::start(kernel, move || Ok((Bridges::open(set)?, Ways::open()?))).await?;

    let readiness = Readiness::default();
    readiness.wait(FIRST_SYNC, "not all first lists are in");
    let heartbeat = Heartbeat::default();
    let (watches, messages) = Watches::<Message>::new(client.clone(), readiness.clone(), &mut registry);
    let metrics = Metrics::new(&mut registry);
    let served = Served { readiness: readiness.clone(), heartbeat: heartbeat.clone(), registry: Arc::new(registry) };
    let address = served.open(options.listen, options.metrics_listen.and_then(|Address(address)| address), &shutdown).await?;
    tracing::info!(%node, %address, version = env!("CARGO_PKG_VERSION"), "starting");

    let _open = [
        watches.pods_of(as_node, &node, Message::Fact),
        watches.security_groups(Message::Fact),
        watches.attachments(Message::Fact),
        watches.prefix_lists(Message::Fact),
        watches.namespaces(Message::Fact),
    ];
    let Exempt(exempt) = options.exempt;
    let Service { namespace, name } = &options.cluster_dns;
    let _dns = exempt.contains(&Exemption::ClusterDns).then(|| watches.dns(namespace, name, Message::Fact));
    let mut report = Report::continuing(reporter.earlier().await);
    report.support = supported.borrow_and_update().clone();
    let (reports, wanted) = watch::channel(None);
    let reporter = tokio::spawn(reporter.run(wanted));

    let (facts, watches) = (Facts::new(node, exempt), Arc::new(watches));
    let agent = Agent {
        facts,
        watches,
        messages,
        kernel,
        foreign,
        support: supported,
        tally: Tally::new(Duration::from_secs(options.counts_interval.into()), COUNT),
        report,
        reports,
        readiness,
        heartbeat,
        metrics,
        rules: Default::default(),
        table: Default::default(),
        synced: false,
    };
    tokio::select! {
        ended = agent.run(shutdown) => ended?,
        // Without it the status would speak of the past for ever: better to be started again.
        ended = reporter => anyhow::bail!("the reporter has ended: {ended:?}"),
    }
    tracing::info!("ended; the rules stay in force");
    Ok(())
}

/// Passes on that somebody else has touched the table; once for many touches that nobody has looked at yet.
fn tell_of(mut changes: Changes, touched: mpsc::Sender<()>) -> Result<(), netlink::Error> {
    let listen = move || {
        let failed = loop {
            if let Err(error) = changes.wait() {
                break error;
            }
            match touched.try_send(()) {
                Err(mpsc::error::TrySendError::Closed(())) => return,
                Ok(()) | Err(mpsc::error::TrySendError::Full(())) => {}
            }
        };
        tracing::error!(error = %failed, "cannot hear any more who touches the table; it is read again every minute");
    };
    std::thread::Builder::new().name("changes".into()).spawn(listen).map_err(netlink::Error::Open).map(drop)
}

/// nftables answers to a process without it with a bare "operation not permitted", and only at the first commit.
fn require_net_admin() -> anyhow::Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read this process's capabilities")?;
    anyhow::ensure!(
        has_capability(&status, CAP_NET_ADMIN),
        "CAP_NET_ADMIN is missing: run as root with capabilities.add [NET_ADMIN]; nothing was changed"
    );
    Ok(())
}

/// Whether the text of `/proc/PID/status` shows the capability as effective.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & (1 << capability) != 0)
}
