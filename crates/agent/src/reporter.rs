//! Writes the NodeReport, apart from the loop, so that a slow API server delays no rule.

use api::{NodeReport, NodeReportSpec, NodeReportStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use policy::model::NodeName;
use runtime::client::{Error, in_time, with_causes};
use runtime::patch;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::throttle::Throttle;

const MANAGER: &str = "kube-security-groups-agent";

/// The one writer of this node's report.
pub struct Reporter {
    node: NodeName,
    reports: Api<NodeReport>,
    nodes: Api<Node>,
}

impl Reporter {
    /// For this node, which `as_node` may read.
    pub fn new(client: &Client, as_node: &Client, node: NodeName) -> Reporter {
        Reporter { node, reports: Api::all(client.clone()), nodes: Api::all(as_node.clone()) }
    }

    /// What an earlier run reported; empty where there is nothing, or nothing that can be read.
    pub async fn earlier(&self) -> NodeReportStatus {
        match in_time(self.reports.get_opt(&self.node.0)).await {
            Ok(report) => report.and_then(|report| report.status).unwrap_or_default(),
            Err(error) => {
                tracing::info!(error = with_causes(&error), "cannot read the report of an earlier run; starting a new one");
                NodeReportStatus::default()
            }
        }
    }

    /// Writes what the loop says, at the pace of [`Throttle`], until the loop ends.
    pub async fn run(self, mut wanted: watch::Receiver<Option<NodeReportStatus>>) {
        let mut throttle = Throttle::default();
        loop {
            let status = wanted.borrow_and_update().clone();
            let Some(status) = status else {
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                () = sleep_until(throttle.due(&status, Instant::now())) => {}
                changed = wanted.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            match self.write(&status).await {
                Ok(()) => throttle.written(status, Instant::now()),
                Err(error) => {
                    tracing::warn!(error = with_causes(&error), node = %self.node, "cannot write the report; trying again");
                    throttle.failed(Instant::now());
                }
            }
        }
    }

    /// Writes it, once.
    pub async fn write(&self, status: &NodeReportStatus) -> Result<(), Error> {
        match patch::status(&self.reports, MANAGER, &self.node.0, None, status).await {
            Err(error) if error.is_not_found() => {
                self.create().await?;
                patch::status(&self.reports, MANAGER, &self.node.0, None, status).await.map(|_| ())
            }
            result => result.map(|_| ()),
        }
    }

    /// Owned by the Node, so that it goes with it.
    async fn create(&self) -> Result<(), Error> {
        let node = in_time(self.nodes.get(&self.node.0)).await?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node.0.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta { name: Some(self.node.0.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let report = NodeReport { metadata, spec: NodeReportSpec {}, status: None };
        match in_time(self.reports.create(&PostParams::default(), &report)).await {
            Err(error) if error.is_conflict() => Ok(()),
            result => result.map(|_| ()),
        }
    }
}
