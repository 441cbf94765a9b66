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
    let value = json_schema!({ "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" });
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

/// A null anywhere in a selector would select more than was meant: `matchLabels:` with nothing behind it would be everything.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LabelSelector>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if let Some(path) = null_in(&value) {
        return Err(D::Error::custom(format!("null in a selector{path}")));
    }
    serde_json::from_value(value).map(Some).map_err(D::Error::custom)
}

/// Where the first null is.
fn null_in(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Object(fields) => fields.iter().find_map(|(key, value)| null_in(value).map(|rest| format!(".{key}{rest}"))),
        Value::Array(items) => items.iter().enumerate().find_map(|(i, value)| null_in(value).map(|rest| format!("[{i}]{rest}"))),
        _ => None,
    }
}
