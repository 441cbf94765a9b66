//! A field with nothing behind it must not widen anything: null is refused for every optional field, whichever way it comes.

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use serde_json::{Value, json};

use crate::server::{Server, attachment, group, prefix_list};

/// kubectl's own apply drops nulls before it sends the object; create and server-side apply send them.
const WAYS: [&[&str]; 3] = [&["apply", "-f", "-"], &["apply", "--server-side", "-f", "-"], &["create", "-f", "-"]];

pub fn everywhere(server: &Server) -> Result<()> {
    let peer = json!([{ "securityGroup": { "name": "app" } }]);
    let list_peer = json!([{ "prefixList": { "name": "offices" } }]);
    let rules = json!({ "ingress": [{ "type": "SSH", "from": peer }], "egress": [{ "type": "SSH", "to": list_peer }] });
    let selector = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [{ "key": "tier", "operator": "Exists" }] });
    let list = json!({ "addressFamily": "IPv4", "maxEntries": 9, "entries": [{ "cidr": "10.0.0.0/8" }] });
    let good = [group(rules), attachment(json!({ "securityGroups": ["web"], "podSelector": selector })), prefix_list(list)];
    for (definition, good) in api::crds().iter().zip(good) {
        server.kubectl_object(&["create", "--dry-run=server", "-f", "-"], &good)?.silent("the object without a null")?;
        let schema = definition.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).context("schema")?;
        let mut paths = Vec::new();
        nullable(&schema.properties.as_ref().context("properties")?["spec"], vec!["spec".into()], &mut paths);
        ensure!(paths.len() > 1, "optional fields are nullable: {paths:?}");
        for path in paths {
            let mut broken = good.clone();
            put_null(&mut broken, &path)?;
            let second_kind = if path.contains(&"ingress".into()) { "prefixList" } else { "securityGroup" };
            // What is within what is not supported yet, or within a second kind of peer, is refused with it; of a label, the message names
            // the list that it is in.
            let within = path.iter().find(|step| [second_kind, "nodeSelector", "matchLabels"].contains(&step.as_str()));
            let named = within.or(path.last()).context("a path")?;
            for way in WAYS {
                server.kubectl_object(way, &broken)?.refused_saying(&format!("{} null by {}", path.join("."), way.join(" ")), &[named])?;
            }
        }
    }
    server.nothing_is_stored()
}

/// Every optional field below a schema that the server keeps when it is null. A list is entered at its first element, a map at `app`.
fn nullable(schema: &JSONSchemaProps, path: Vec<String>, found: &mut Vec<Vec<String>>) {
    if schema.nullable == Some(true) {
        found.push(path.clone());
    }
    let mut enter = |step: &str, schema: &JSONSchemaProps| nullable(schema, [path.clone(), vec![step.into()]].concat(), found);
    for (name, property) in schema.properties.iter().flatten() {
        enter(name, property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        enter("0", items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        enter("app", values);
    }
}

/// Sets a field to null; what holds it is made where it is not there.
fn put_null(object: &mut Value, path: &[String]) -> Result<()> {
    let mut at = object;
    for step in path {
        at = match step.parse::<usize>() {
            Ok(index) => {
                if at.is_null() {
                    *at = json!([{}]);
                }
                at.get_mut(index).context("a list is entered at its first element")?
            }
            Err(_) => &mut at[step.as_str()],
        };
    }
    *at = Value::Null;
    Ok(())
}

/// An optional field that is not nullable would lose its null before anyone sees it.
pub fn every_optional_field_is_nullable() -> Result<()> {
    for definition in api::crds().iter().take(3) {
        let schema = definition.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).context("schema")?;
        check(&schema.properties.as_ref().context("properties")?["spec"], "spec")?;
    }
    Ok(())
}

fn check(schema: &JSONSchemaProps, path: &str) -> Result<()> {
    for (name, property) in schema.properties.iter().flatten() {
        let required = schema.required.iter().flatten().any(|required| required == name);
        ensure!(required || property.nullable == Some(true), "{path}.{name} is neither required nor nullable");
        check(property, &format!("{path}.{name}"))?;
    }
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => check(items, &format!("{path}[]")),
        _ => Ok(()),
    }
}
