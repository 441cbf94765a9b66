//! The CustomResourceDefinitions, as values and as the files that are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{Attachment, MemberSlice, NodeReport, SecurityGroup};

const HEADER: &str = "# Made from crates/api by `cargo run -p operator -- crds --out deploy/crds`; change it there.\n";

/// Every CustomResourceDefinition, those that users write first.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![SecurityGroup::crd(), Attachment::crd(), MemberSlice::crd(), NodeReport::crd()]
}

/// Every CustomResourceDefinition as a file: its name and its YAML.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            let yaml = serde_saphyr::to_string(&crd)?;
            Ok((format!("{}.yaml", crd.spec.names.plural), format!("{HEADER}{yaml}")))
        })
        .collect()
}
