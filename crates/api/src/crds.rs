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

#[cfg(test)]
mod tests {
    /// Before Kubernetes 1.36 the server does not know how long such a string may be, and refuses the whole definition where a rule of the field
    /// itself asks for its type. A rule of the object that has the field may. (`tests/run oldest` asks such a server.)
    #[test]
    fn a_field_that_is_a_number_or_a_string_has_no_rules_of_its_own() {
        fn look(schema: &serde_json::Value, either: &mut usize) {
            if schema["x-kubernetes-int-or-string"] == true {
                assert!(schema["x-kubernetes-validations"].is_null(), "{schema}");
                *either += 1;
            }
            schema.as_object().into_iter().flat_map(|object| object.values()).for_each(|inner| look(inner, either));
            schema.as_array().into_iter().flatten().for_each(|inner| look(inner, either));
        }
        let mut either = 0;
        super::crds().iter().for_each(|crd| look(&serde_json::to_value(crd).unwrap(), &mut either));
        assert_eq!(either, 2, "the protocol of both directions");
    }
}
