//! What is installed is sound by the server's own judgement.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::server::{Server, eventually};

/// The controller-manager type-checks every policy against our schemas and notes what it finds in its status.
pub async fn sound(server: &Server) -> Result<()> {
    for policy in ["securitygroups", "attachments", "nodereports", "memberslices", "finalizers", "quotas", "watched"] {
        let name = format!("{policy}.securitygroups.dev");
        let mut status = Value::Null;
        eventually(&format!("{name} is type-checked"), || {
            let answer = server.kubectl(&["get", "validatingadmissionpolicy", &name, "-o", "jsonpath={.status}"])?;
            status = serde_json::from_str(&answer.out).unwrap_or_default();
            Ok(status["observedGeneration"].is_number())
        })
        .await?;
        let warnings = &status["typeChecking"]["expressionWarnings"];
        ensure!(warnings.is_null(), "{name}: {warnings:#}");
    }
    // Conditions such as NonStructuralSchema, and names that another definition has taken, would be here.
    for definition in api::crds() {
        let name = definition.metadata.name.unwrap_or_default();
        let answer = server.kubectl(&["get", "crd", &name, "-o", "jsonpath={.status.conditions[?(@.status==\"True\")].type}"])?;
        let mut conditions: Vec<&str> = answer.out.split(' ').collect();
        conditions.sort_unstable();
        ensure!(conditions == ["Established", "NamesAccepted"], "{name}: {conditions:?}");
    }
    Ok(())
}
