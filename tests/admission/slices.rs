//! Who is in a group is the operator's to publish: nobody else writes a MemberSlice (S7, P58).

use anyhow::Result;
use serde_json::{Value, json};

use crate::server::Server;

/// As the operator, and with every right, so that nothing but the policy decides.
pub const OPERATOR: [&str; 2] = ["--as=system:serviceaccount:kube-security-groups:operator", "--as-group=system:masters"];

/// A MemberSlice default/guarded.
pub fn slice(addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice", "addresses": addresses,
        "metadata": { "name": "guarded", "namespace": "default", "labels": { api::LABEL_GROUP: "web", api::LABEL_GROUP_ID: "sg-0c1f6c1c2f0a4b7d1" } },
    })
}

pub fn by_the_operator_only(server: &Server) -> Result<()> {
    let says = ["MemberSlices are written by the operator alone", "Attachment"];
    let create = ["create", "-f", "-"];
    server.kubectl_object(&create, &slice(&["10.66.0.1"]))?.refused_saying("a slice by somebody else", &says)?;
    server.kubectl_object(&[&create[..], &OPERATOR].concat(), &slice(&["10.244.1.5"]))?.silent("by the operator")?;
    let patch = |patch: &'static str| ["patch", "memberslice", "guarded", "--namespace=default", "--type=merge", "-p", patch];
    server.kubectl(&patch(r#"{"addresses":["10.66.0.1"]}"#))?.refused_saying("an address by somebody else", &says)?;
    let head = r#"{"metadata":{"labels":{"securitygroups.dev/head":"true"}}}"#;
    server.kubectl(&patch(head))?.refused_saying("a label by somebody else", &says)?;
    // What the garbage collector does.
    server.kubectl(&patch(r#"{"metadata":{"finalizers":["example.org/x"]}}"#))?.silent("a finalizer")?;
    server.kubectl(&patch(r#"{"metadata":{"finalizers":null}}"#))?.silent("no finalizer")?;
    server.kubectl(&["delete", "memberslice", "guarded", "--namespace=default"])?.silent("deleting it")
}
