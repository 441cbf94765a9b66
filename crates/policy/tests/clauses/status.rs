//! What status is not: a list of nodes that grows, or a count that hangs.

use std::collections::BTreeMap;

use api::{AppliedGroup, NodeReportStatus, SecurityGroupStatus};
use policy::model::NodeName;
use policy::status::View;
use policy::{Cluster, resolve};
use serde_json::json;
use testkit::Manifest;
use testkit::manifest::group_ref;

/// The status of `shop/web` with a member on each of these nodes, of which so many have reported it.
fn status(nodes: usize, reported: usize) -> SecurityGroupStatus {
    let mut cluster = Cluster::default();
    let _ = cluster.apply(Manifest::group("shop/web", json!({})).fact());
    let _ = cluster.apply(Manifest::attachment("shop/web", "web", &["web"]).fact());
    for n in 0..nodes {
        let pod = Manifest::pod(&format!("shop/web-{n:04}"), &format!("node-{n:04}"), "web");
        let _ = cluster.apply(pod.at(&[&format!("10.{}.{}.1", n / 256, n % 256)]).fact());
    }
    let group = AppliedGroup {
        namespace: "shop".into(),
        name: "web".into(),
        uid: "uid-web".into(),
        generation: 1,
        endpoints: 1,
        packets: Default::default(),
    };
    let report = NodeReportStatus { groups: vec![group], ..NodeReportStatus::default() };
    let reports: BTreeMap<NodeName, NodeReportStatus> = (0..reported).map(|n| (NodeName(format!("node-{n:04}")), report.clone())).collect();
    let resolution = resolve(&cluster);
    View::new(&cluster, &resolution, &reports).group(&group_ref("shop/web")).expect("the group")
}

fn programmed(status: &SecurityGroupStatus) -> &str {
    &status.conditions.iter().find(|condition| condition.type_ == "Programmed").expect("the condition").status
}

/// A thousand nodes are counted, not listed.
#[test]
fn p32_a_status_does_not_grow_with_the_nodes() {
    let size = |status: &SecurityGroupStatus| serde_json::to_string(status).expect("JSON").len();
    for lag in [0, 10] {
        let (few, many) = (status(20, 20 - lag), status(1000, 1000 - lag));
        assert_eq!(many.nodes.desired, 1000);
        assert!(size(&many) < size(&few) + 50, "{} bytes against {}", size(&many), size(&few));
    }
}

#[test]
fn p31_nodes_without_a_member_do_not_count_and_the_node_that_lags_is_named() {
    let lagging = status(3, 2);
    assert_eq!((lagging.nodes.summary.as_str(), programmed(&lagging)), ("2/3", "False"));
    let message = |status: &SecurityGroupStatus| status.conditions.iter().map(|condition| condition.message.clone()).collect::<String>();
    assert!(message(&lagging).contains("node-0002"));
    // The last members have gone, reports of their nodes are still there, or are not.
    for reported in [0, 3] {
        let empty = status(0, reported);
        assert_eq!((empty.nodes.summary.as_str(), programmed(&empty)), ("0/0", "True"), "{reported} reports");
    }
}
