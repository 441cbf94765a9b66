//! A value as it is stored: understood, or kept as it is.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// One element of a stored list. A newer schema may hold what this program does not know; that element is kept as it is and
/// allows nothing, and its neighbours stay in force (S38).
#[derive(Clone, Debug, PartialEq)]
pub enum Stored<T> {
    /// Read as a whole, no unknown field.
    Understood(T),
    /// Not readable by this program.
    NotUnderstood {
        /// What is stored.
        value: Value,
        /// Why it cannot be read, for the status message.
        why: String,
    },
}

impl<T: Serialize> Serialize for Stored<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Stored::Understood(value) => value.serialize(serializer),
            Stored::NotUnderstood { value, .. } => value.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Stored<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match read(&value) {
            Ok(understood) => Stored::Understood(understood),
            Err(why) => Stored::NotUnderstood { value, why },
        })
    }
}

impl<T: JsonSchema> JsonSchema for Stored<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Reads a stored object: strictly by field names.
///
/// # Errors
/// Says which field cannot be read, and why.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    by_name(value)?;
    T::deserialize(value).map_err(|error| error.to_string())
}

/// Serde also takes a list for a struct, its fields in order, so that `spec: []` would read as a spec with everything left out.
/// Lists are legal only where the API has lists; the elements of `ingress`, `egress` and `entries` are checked one by one ([`Stored`]).
fn by_name(value: &Value) -> Result<(), String> {
    const ONE_BY_ONE: [&str; 3] = ["ingress", "egress", "entries"];
    const LISTS: [&str; 5] = ["from", "to", "securityGroups", "matchExpressions", "values"];
    let Value::Object(fields) = value else { return Err(format!("an object is needed, not `{value}`")) };
    for (name, field) in fields {
        match field {
            Value::Array(_) if ONE_BY_ONE.contains(&name.as_str()) => {}
            Value::Array(elements) if LISTS.contains(&name.as_str()) => {
                elements.iter().filter(|element| !element.is_string()).try_for_each(by_name)?;
            }
            Value::Array(_) => return Err(format!("{name} is not a list")),
            Value::Object(_) => by_name(field)?,
            _ => {}
        }
    }
    Ok(())
}

/// For optional fields: a field that is left out is `None`, a field that is `null` is an error, because it must not widen anything
/// (`port:` with nothing behind it is not "every port").
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
