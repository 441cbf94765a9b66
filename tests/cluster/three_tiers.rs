//! The article's three tiers, exactly, and what changes while pods run.

use anyhow::{Context, Result, ensure};
use demo::{Ledger, Matrix, Shop};
use lab::Cluster;

use super::fixture::start_with;

#[tokio::test(flavor = "multi_thread")]
async fn s2_s17_s30_the_three_tiers_are_exactly_as_the_article_says() -> Result<()> {
    let cluster = start_with(Cluster::builder("tiers")).await?;
    tokio::task::block_in_place(|| article(&cluster))
}

/// The article's table, packet by packet, and its changes; however pods are connected.
pub fn article(cluster: &Cluster) -> Result<()> {
    let mut ledger = Ledger::new();
    demo::apply_workloads(cluster)?;
    demo::apply_sample(cluster)?;
    let shop = Shop::look(cluster)?;
    ensure!(shop.pods.len() == 8 && shop.pods.iter().all(|pod| pod.addresses.len() == 2), "two dual-stack pods a tier: {:?}", shop.pods);
    let matrix = Matrix::measure(&shop)?;
    matrix.check(&mut ledger, demo::expected);
    // 8 pods reach for 7 others and 2 places outside for 8, at 5 ports and 2 addresses each.
    ensure!(matrix.len() == (8 * 7 + 2 * 8) * 5 * 2, "{} connections", matrix.len());
    demo::ping_story(&shop, &mut ledger)?;
    demo::scale_story(&shop, &mut ledger)?;
    demo::relabel_story(&shop, &mut ledger)?;
    ensure!(ledger.failed().is_empty(), "{:#?}", ledger.failed());

    // P46: kubelet's probes come from the node and always arrive, whatever the rules; 1 s apart, they would have failed by now.
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace=shop", "--timeout=300s"])?;
    let restarts = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace=shop",
        "--output=jsonpath={range .items[*]}{.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].ready} {end}",
    ])?;
    ensure!(restarts.split_whitespace().all(|pod| pod == "0true"), "restarts and readiness: {restarts}");
    status_is_true(cluster)
}

/// What `kubectl get` prints agrees with what was just shown.
fn status_is_true(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["wait", "--for=jsonpath={.status.members}=2", "sg/app", "--namespace=shop", "--timeout=300s"])?;
    demo::wait_in_force(cluster)?;
    let json: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["get", "sg/app", "--namespace=shop", "--output=json"])?)?;
    let status = &json["status"];
    ensure!(status["members"] == 2 && status["nodes"]["summary"] == "2/2", "{status}");
    ensure!(status["rules"]["ingress"] == 2 && status["rules"]["egress"] == 2 && status["rules"]["stale"] == 0, "{status}");
    ensure!(status["observedGeneration"] == json["metadata"]["generation"], "{json}");
    let table = cluster.kubectl(&["get", "sg,sgatt", "--namespace=shop"])?;
    let row = table.lines().find(|line| line.contains("securitygroups.dev/app") || line.contains("/app ")).context("a row for app")?;
    ensure!(row.contains("2/2") && row.contains("True"), "{table}");
    Ok(())
}
