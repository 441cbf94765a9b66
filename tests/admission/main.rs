//! A real kube-apiserver refuses what is wrong, with a message that names the field and the fix, stores nothing of it, and takes
//! what is right exactly as it is written.
//!
//! `refused/` and `accepted/` hold one manifest a file; `refused.txt` the server's answer to each of the former, to be read by people.
//! `UPDATE=1` writes it anew.

mod accepted;
mod chart;
mod columns;
mod conformance;
mod duplicates;
mod installed;
mod nulls;
mod operating;
mod protection;
mod quotas;
mod refused;
mod reports;
mod server;
mod slices;
mod updates;

use anyhow::Result;
use server::Server;

/// One control plane for all parts, because it takes seconds to start; every part runs whatever the others found.
#[tokio::test(flavor = "multi_thread")]
async fn admission() -> Result<()> {
    let server = Server::start().await?;
    let mut failed = Vec::new();
    let mut part = |name: &str, result: Result<()>| match result {
        Ok(()) => println!("{name}: ok"),
        Err(error) => failed.push(format!("{name}: {error:#}")),
    };
    part("what is installed is sound", installed::sound(&server).await);
    part("what is wrong is refused", refused::all_with_golden_messages(&server));
    part("what is right is taken as written", accepted::all_as_written(&server));
    part("every optional field is nullable", nulls::every_optional_field_is_nullable());
    part("nulls are refused", nulls::everywhere(&server));
    part("duplicates are refused", duplicates::every_preset_and_a_long_list(&server));
    part("our programs mean the same by duplicate", duplicates::our_programs_agree());
    part("updates are judged like new objects", updates::judged(&server));
    part("status is not the user's", updates::status_is_ignored(&server));
    part("what was stored before can still go", updates::stored_before(&server).await);
    // After the policies have gone and come again: without the policy `watched`, this server would see no change of a ConfigMap any more.
    part("limits are the administrator's", quotas::the_administrators(&server).await);
    part("agents report for their own node", reports::own_node_only(&server));
    part("slices are the operator's", slices::by_the_operator_only(&server));
    part("conformance: every manifest is taken", conformance::all_are_taken(&server));
    part("columns", columns::shown(&server));
    part("what is in use stays", protection::in_use(&server).await);
    assert!(failed.is_empty(), "\n{}", failed.join("\n\n"));
    Ok(())
}
