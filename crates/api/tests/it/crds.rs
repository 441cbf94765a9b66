//! `deploy/crds` is what the types say.

use std::fs;
use std::path::Path;

#[test]
fn deploy_crds_is_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let mut stale = Vec::new();
    for (name, text) in api::crds_yaml().expect("CRDs render as YAML") {
        let path = folder.join(&name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("deploy/crds is writable");
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "deploy/crds is not what crates/api says: {stale:?}. Run: cargo run -p operator -- crds --out deploy/crds");
}
