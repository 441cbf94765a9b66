//! Broken manifests, and what the user reads.

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::server::{Server, folder, manifests};

/// Signs of a rule that failed itself, or that has no message of its own.
const NOT_FOR_USERS: [&str; 6] = ["failed rule", "failed expression", "evaluating rule", "no such", "resulted in error", "budget"];

pub fn all_with_golden_messages(server: &Server) -> Result<()> {
    let files = manifests("refused")?;
    ensure!(files.len() >= 30, "only {} manifests", files.len());
    let mut messages =
        String::from("What `kubectl apply` prints for each manifest of refused/. Does every answer name the field and the fix?\n");
    for file in &files {
        let answer = server.kubectl(&["apply", "-f", file])?;
        answer.refused_saying(file, &[])?;
        for sign in NOT_FOR_USERS {
            ensure!(!answer.err.contains(sign), "{file}: {}", answer.err);
        }
        write!(messages, "\n--- {file}\n{}", in_order(&answer.err))?;
    }
    server.nothing_is_stored()?;

    // Older servers say more of types and less of values.
    let golden = folder().join(if server.minor()? >= 36 { "refused.txt" } else { "refused-1.33.txt" });
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &messages)?;
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    for (is, should) in messages.split("\n--- ").zip(expected.split("\n--- ")) {
        ensure!(is.trim_end() == should.trim_end(), "the answer is\n{is}\nand in {} it is\n{should}", golden.display());
    }
    ensure!(messages == expected, "{} is about other manifests than refused/ has; UPDATE=1 writes it anew", golden.display());
    Ok(())
}

/// The server names the fields of one object in any order: here in the order of the alphabet.
fn in_order(answer: &str) -> String {
    let mut lines: Vec<&str> = answer.split_inclusive('\n').collect();
    lines.chunk_by_mut(|a, b| a.starts_with("* ") && b.starts_with("* ")).for_each(<[&str]>::sort_unstable);
    lines.concat()
}
