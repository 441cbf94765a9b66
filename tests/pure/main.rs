//! What needs nothing but cargo: which crate may depend on which, which clause is tested where, and conformance without packets.

mod citations;
mod conformance;

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that a package of ours ships with, by name; built for itself, without the features that others ask for.
fn reach(package: &str) -> BTreeSet<String> {
    let tree = ["tree", "--offline", "--edges=normal", "--prefix=none", "--format={p}", "--package", package];
    let output = Command::new(env!("CARGO")).args(tree).output().expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("text");
    let names: BTreeSet<String> = names.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains(package), "{package} is in its own tree");
    names
}

const OURS: [&str; 11] = ["api", "policy", "ruleset", "netlink", "runtime", "agent", "operator", "probe", "lab", "demo", "testkit"];

/// Arrows point one way: `api ← policy ← ruleset ← netlink`, `api ← runtime`, programs on top.
#[test]
fn the_crates_depend_on_each_other_one_way() {
    let allowed: [(&str, &[&str]); 9] = [
        ("api", &[]),
        ("policy", &["api"]),
        ("ruleset", &["policy", "api"]),
        ("netlink", &["ruleset", "policy", "api"]),
        ("runtime", &["policy", "api"]),
        ("agent", &["runtime", "netlink", "ruleset", "policy", "api"]),
        ("operator", &["runtime", "policy", "api"]),
        ("probe", &[]),
        ("lab", &["probe"]),
    ];
    for (package, allowed) in allowed {
        let forbidden: Vec<String> = reach(package)
            .into_iter()
            .filter(|name| OURS.contains(&name.as_str()) && name != package && !allowed.contains(&name.as_str()))
            .collect();
        assert!(forbidden.is_empty(), "{package} must not reach {forbidden:?}");
    }
}

/// The core does no I/O: nothing in it can.
#[test]
fn the_core_reaches_no_runtime_no_client_and_no_kernel() {
    for package in ["api", "policy", "ruleset"] {
        let reached = reach(package);
        for forbidden in ["tokio", "kube-client", "kube-runtime", "hyper", "nftnl", "nftnl-sys", "mnl", "rustls", "nix", "socket2"] {
            assert!(!reached.contains(forbidden), "{package} reaches {forbidden}");
        }
    }
    // And what is looked for here is found where it should be.
    assert!(reach("agent").contains("kube-client") && reach("netlink").contains("nftnl"));
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
