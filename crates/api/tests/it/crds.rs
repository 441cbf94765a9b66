//! The chart's custom resource definitions are what the types say.

use std::fs;
use std::path::Path;

#[test]
fn the_charts_crds_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/kube-security-groups/files/crds");
    let mut stale = Vec::new();
    for (name, text) in api::crds_yaml().expect("CRDs render as YAML") {
        let path = folder.join(&name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("the chart is writable");
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "the chart's definitions are not what crates/api says: {stale:?}. Run: deploy/render");
}
