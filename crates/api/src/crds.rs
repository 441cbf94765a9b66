//! The CustomResourceDefinitions, as values and as the files that are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Attachment, MemberSlice, NodeReport, PrefixList, SecurityGroup};

const HEADER: &str = "# Made from crates/api by deploy/render; change it there.\n";

/// Every CustomResourceDefinition, those that users write first.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![SecurityGroup::crd(), Attachment::crd(), PrefixList::crd(), MemberSlice::crd(), NodeReport::crd()];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        version.schema.iter_mut().filter_map(|schema| schema.open_api_v3_schema.as_mut()).for_each(drop_defaults);
    }
    crds
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

/// What serde fills in when reading is ours alone: the server stores what was written and nothing else.
fn drop_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.properties.iter_mut().flatten().for_each(|(_, property)| drop_defaults(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_defaults(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_defaults(values);
    }
}
