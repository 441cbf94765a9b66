//! What needs nothing but cargo: the rule which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Direct, non-development dependencies of every package in the tree, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--offline"]).output().expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> =
        metadata["packages"].as_array().into_iter().flatten().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let of = |node: &Value| {
        let dependencies = node["deps"].as_array().into_iter().flatten();
        let shipped = dependencies.filter(|d| d["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null()));
        shipped.filter_map(|d| names.get(&text(&d["pkg"])).cloned()).collect::<BTreeSet<_>>()
    };
    nodes.map(|node| (names[&text(&node["id"])].clone(), of(node))).collect()
}

/// Everything that a package pulls in.
fn reach(dependencies: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in dependencies.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

/// Arrows point one way: `api ← policy ← ruleset ← netlink`, `api ← runtime`, programs on top.
#[test]
fn the_crates_depend_on_each_other_one_way() {
    let dependencies = dependencies();
    let allowed = BTreeMap::from([
        ("api", vec![]),
        ("policy", vec!["api"]),
        ("ruleset", vec!["policy", "api"]),
        ("netlink", vec!["ruleset", "policy", "api"]),
        ("runtime", vec!["policy", "api"]),
        ("probe", vec![]),
        ("lab", vec!["probe"]),
    ]);
    let ours: BTreeSet<&str> =
        ["api", "policy", "ruleset", "netlink", "runtime", "agent", "operator", "lab", "probe", "testkit", "demo"].into();
    for (package, allowed) in allowed {
        assert!(dependencies.contains_key(package), "{package} is not in the workspace");
        let reached = reach(&dependencies, package);
        let forbidden: Vec<&String> =
            reached.iter().filter(|name| ours.contains(name.as_str()) && !allowed.contains(&name.as_str())).collect();
        assert!(forbidden.is_empty(), "{package} must not reach {forbidden:?}");
    }
}

/// The core does no I/O: nothing in it can.
#[test]
fn the_core_reaches_no_runtime_no_client_and_no_kernel() {
    let dependencies = dependencies();
    for package in ["api", "policy", "ruleset"] {
        let reached = reach(&dependencies, package);
        for forbidden in ["tokio", "kube-client", "kube-runtime", "hyper", "nftnl", "nftnl-sys", "mnl", "rustls"] {
            assert!(!reached.contains(forbidden), "{package} reaches {forbidden}");
        }
    }
}

#[test]
fn only_netlink_may_be_unsafe() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for entry in std::fs::read_dir(format!("{root}/crates")).expect("crates/") {
        let path = entry.expect("an entry").path().join("Cargo.toml");
        let Ok(manifest) = std::fs::read_to_string(&path) else { continue };
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(
            inherits,
            !path.ends_with("netlink/Cargo.toml"),
            "{}: unsafe_code is forbidden everywhere but in netlink",
            path.display()
        );
    }
}
