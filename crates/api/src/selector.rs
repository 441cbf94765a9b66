//! Label selectors: their schema with the checks that the API server makes for its own kinds, and a reading that fails closed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::rules;

/// The schema of an optional selector. The one that comes with the type bounds nothing, checks nothing and loses nulls.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    let key = json_schema!({ "type": "string", "maxLength": 317, "x-kubernetes-validations": [rules::label_key_is_valid()] });
    let value = json_schema!({ "type": "string", "maxLength": 63, "x-kubernetes-validations": [rules::label_value_is_valid()] });
    let mut nullable_value = value.clone();
    nullable_value.insert("nullable".into(), true.into());
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that must all be there with these values.",
                "type": "object",
                "nullable": true,
                "maxProperties": 100,
                "x-kubernetes-validations": [rules::label_keys_are_valid()],
                "additionalProperties": nullable_value,
            },
            "matchExpressions": {
                "description": "Conditions that must all hold.",
                "type": "array",
                "nullable": true,
                "maxItems": 100,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": [rules::values_fit_the_operator()],
                    "properties": {
                        "key": key,
                        "operator": {
                            "description": "In, NotIn, Exists or DoesNotExist.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "For In and NotIn: at least one. For Exists and DoesNotExist: none.",
                            "type": "array",
                            "nullable": true,
                            "maxItems": 100,
                            "x-kubernetes-list-type": "atomic",
                            "items": value,
                        },
                    },
                },
            },
        },
    })
}

/// A selector without its null (`matchLabels:` with nothing behind it) or without a field that is new would select more than was
/// meant. The type drops both; what it does not give back as written is refused.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LabelSelector>, D::Error> {
    let written = Value::deserialize(deserializer)?;
    let read = LabelSelector::deserialize(&written).map_err(D::Error::custom)?;
    if serde_json::to_value(&read).map_err(D::Error::custom)? != written {
        return Err(D::Error::custom("a selector with a null or an unknown field"));
    }
    Ok(Some(read))
}
