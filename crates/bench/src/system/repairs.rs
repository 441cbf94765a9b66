//! How long what somebody else does to our table stands. Where the kernel lets nobody else at it (Linux 6.9), the agent does without that here.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Cluster, Node};
use tokio::task::block_in_place;

use crate::table::{Line, median};

/// Each opens or closes something.
const EDITS: [&str; 4] = [
    "insert rule inet k8s-sg forward-ingress accept",
    "add element inet k8s-sg endpoints4 { 203.0.113.99 }",
    "flush table inet k8s-sg",
    "delete table inet k8s-sg",
];

/// So many edits of each kind, on a cluster of this size.
pub async fn measure(cluster: &Cluster, size: &str, edits: usize, tell: &mut impl FnMut(Line)) -> Result<()> {
    block_in_place(|| set(cluster, "OWN_TABLE=false"))?;
    let node = cluster.node(0);
    let mut took = Vec::new();
    for edit in EDITS.iter().cycle().take(EDITS.len() * edits) {
        let ms = block_in_place(|| repaired(node, edit))?.as_secs_f64() * 1e3;
        took.push(ms);
        // A quiet time, as between two people.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let slowest = took.iter().copied().fold(0.0, f64::max);
    tell(Line::limit(format!("{size}: another's edit of the table is put right"), median(took), 1_000.0, "ms"));
    tell(Line::limit(format!("{size}: the slowest of them"), slowest, 1_000.0, "ms"));
    block_in_place(|| set(cluster, "OWN_TABLE-"))
}

fn set(cluster: &Cluster, variable: &str) -> Result<()> {
    cluster.kubectl(&["set", "env", "daemonset/agent", "--namespace=kube-security-groups", variable])?;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"]).map(drop)
}

/// From an edit until the table is as it was; to list it takes its own time as well.
fn repaired(node: &Node, edit: &str) -> Result<Duration> {
    // Line by line in order: a table that is made anew lists its objects in another one. Empty where there is no table.
    let table = || {
        let text = node.run(&["nft", "--stateless", "list", "table", "inet", "k8s-sg"]).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let wanted = table();
    ensure!(!wanted.is_empty(), "there is no table");
    node.nft(edit)?;
    let edited = Instant::now();
    while table() != wanted {
        ensure!(edited.elapsed() < Duration::from_secs(60), "`{edit}` stands");
    }
    Ok(edited.elapsed())
}
