//! Every group, attachment and prefix list of [`tests::conformance`] is one that the API server takes, as it is written there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::conformance::{FOLDERS, Kind, scenarios};

use crate::server::Server;

pub fn all_are_taken(server: &Server) -> Result<()> {
    let mut manifests: BTreeMap<String, Value> = BTreeMap::new();
    let mut namespaces = BTreeSet::new();
    for folder in FOLDERS {
        let steps = scenarios(folder)?.into_iter().flat_map(|scenario| scenario.steps);
        for (name, spec) in steps.flat_map(|step| step.apply).filter(|(name, _)| !matches!(name.kind, Kind::Pod | Kind::Namespace)) {
            let manifest = name.manifest(&spec);
            manifests.insert(manifest.to_string(), manifest);
            namespaces.insert(name.namespace);
        }
    }
    for namespace in &namespaces {
        server.kubectl(&["create", "namespace", namespace])?.silent(namespace)?;
    }
    let count = manifests.len();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": manifests.into_values().collect::<Vec<_>>() });
    let answer = server.kubectl_object(&["create", "--dry-run=server", "-f", "-"], &list)?;
    answer.silent("conformance")?;
    let taken = answer.out.lines().filter(|line| line.ends_with("created (server dry run)")).count();
    ensure!(taken == count && count > 200, "{taken} of {count} manifests: {}", answer.out);
    server.nothing_is_stored()
}
