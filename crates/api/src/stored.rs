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
        Ok(match T::deserialize(&value) {
            Ok(understood) => Stored::Understood(understood),
            Err(error) => Stored::NotUnderstood { value, why: error.to_string() },
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

/// For optional fields: a field that is left out is `None`, a field that is `null` is an error, because it must not widen anything
/// (`port:` with nothing behind it is not "every port").
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
