//! Good manifests are taken without a warning and stored as written; our programs have nothing to say against them.

use anyhow::{Context, Result, ensure};

use crate::server::{Server, manifests, problems, read};

pub fn all_as_written(server: &Server) -> Result<()> {
    let files = manifests("accepted")?;
    ensure!(files.len() >= 15, "only {} manifests", files.len());
    for file in &files {
        server.kubectl(&["apply", "-f", file])?.silent(file)?;
        let again = server.kubectl(&["apply", "-f", file])?;
        ensure!(again.out.ends_with(" unchanged\n"), "{file}, a second time: {}{}", again.out, again.err);
        as_written(server, file).context(file.clone())?;
        server.clear()?;
    }
    Ok(())
}

fn as_written(server: &Server, file: &str) -> Result<()> {
    let written = read(file)?;
    let (kind, name) = (written["kind"].as_str().context("kind")?, written["metadata"]["name"].as_str().context("name")?);
    let stored = server.get(kind, name)?;
    ensure!(stored["spec"] == written["spec"], "stored as {:#}", stored["spec"]);
    let problems = problems(&stored)?;
    ensure!(problems.is_empty(), "our programs read it otherwise: {problems:?}");
    Ok(())
}
