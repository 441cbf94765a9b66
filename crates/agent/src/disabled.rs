//! Enforcement is switched off (`--enforce=false`): this node's table goes, the report says that nothing is in force, and the program stays.
//! So an administrator opens everything without taking the product away, and so it is uninstalled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::NodeReportStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netlink::{Nftables, Unsupported};
use policy::model::NodeName;
use ruleset::{Kernel, Op, Transaction};
use runtime::client::with_causes;
use runtime::condition::{Status, Wanted, merge};
use runtime::health::{Heartbeat, Readiness, Registry, Served};
use runtime::patch::now;
use runtime::shutdown::CancellationToken;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::reporter::Reporter;

/// What `/readyz` waits for: a rollout of this setting is complete when no rule is left anywhere, and every report says so.
const REMOVED: &str = "removal of the table";
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(2);

/// Removes the table, says so, and waits for shutdown.
pub async fn run(
    node: NodeName,
    reporter: Reporter,
    own_table: bool,
    listen: SocketAddr,
    metrics_listen: Option<SocketAddr>,
    mut registry: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let readiness = Readiness::default();
    readiness.wait(REMOVED, "enforcement is switched off (--enforce=false), and the table inet k8s-sg is not removed yet");
    let heartbeat = Heartbeat::default();
    // All as with enforcement, and nothing in force.
    let _zeros = Metrics::new(&mut registry);
    let served = Served { readiness: readiness.clone(), heartbeat: heartbeat.clone(), registry: Arc::new(registry) };
    let address = served.open(listen, metrics_listen, &shutdown).await?;
    tracing::info!(%node, %address, version = env!("CARGO_PKG_VERSION"), "starting, to enforce nothing");
    let off = async {
        remove(own_table, &reporter, &readiness).await;
        shutdown.cancelled().await;
    };
    let alive = async {
        let mut pulse = Heartbeat::pulse();
        loop {
            pulse.tick().await;
            heartbeat.beat();
        }
    };
    tokio::select! {
        () = off => {}
        () = alive => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

async fn remove(own_table: bool, reporter: &Reporter, readiness: &Readiness) {
    while let Err(error) = remove_table(own_table).await {
        readiness.wait(REMOVED, &error);
        tracing::error!(error, "cannot remove the table inet k8s-sg; trying again");
        sleep(AGAIN).await;
    }
    let status = report(&reporter.earlier().await, &now());
    while let Err(error) = reporter.write(&status).await {
        let error = with_causes(&error);
        readiness.wait(REMOVED, format!("it is removed, and the report does not say so yet: {error}"));
        tracing::warn!(error, "cannot write the report; trying again");
        sleep(AGAIN).await;
    }
    readiness.done(REMOVED);
    tracing::info!("enforcement is switched off: the table inet k8s-sg is removed, nothing is in force");
}

async fn remove_table(own_table: bool) -> Result<(), String> {
    let remove = move || {
        let mut kernel = if own_table { Nftables::open_as_owner()? } else { Nftables::open()? };
        // Reading adopts what an earlier owner has left. What cannot be read goes all the same.
        let _ = kernel.load();
        // The first step makes the second legal.
        kernel.commit(&Transaction { ops: vec![Op::AddTable, Op::DeleteTable] })?;
        kernel.settle()
    };
    // A kernel that has no tables has none of ours.
    let none = || netlink::unsupported().is_ok_and(|lacking| lacking.iter().any(Unsupported::is_all_there_is));
    match spawn_blocking(move || remove().or_else(|error| if none() { Ok(()) } else { Err(error) })).await {
        Ok(removed) => removed.map_err(|error| with_causes(&error)),
        Err(panicked) => Err(panicked.to_string()),
    }
}

fn report(earlier: &NodeReportStatus, now: &Time) -> NodeReportStatus {
    let ready = Wanted {
        type_: api::condition::READY,
        status: Status::False,
        reason: "EnforcementOff".into(),
        message: "enforcement is switched off on this node (--enforce=false): the table inet k8s-sg is removed, every packet passes".into(),
    };
    NodeReportStatus { conditions: merge(&earlier.conditions, vec![ready], None, now), ..NodeReportStatus::default() }
}
