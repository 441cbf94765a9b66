//! The files of an image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A file: its path from the root, and what it holds.
pub struct Entry {
    pub path: String,
    pub content: Vec<u8>,
}

/// Programs in `/bin`, and the loader and libraries that they need.
pub fn entries(programs: &[PathBuf]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut libraries = BTreeSet::new();
    for program in programs {
        let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
        entries.push(Entry { path: format!("bin/{}", name.to_string_lossy()), content: without_debug_information(program)? });
        libraries.extend(shared_libraries(program));
    }
    for library in libraries {
        let content = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
        entries.push(Entry { path: library.to_string_lossy().trim_start_matches('/').to_owned(), content });
    }
    Ok(entries)
}

/// A program's content, of half the size if `strip` is there: every node reads, checks and unpacks it.
fn without_debug_information(program: &Path) -> Result<Vec<u8>> {
    let scratch = tempfile::NamedTempFile::new()?;
    let stripped = output(Command::new("strip").arg("--strip-debug").arg("-o").arg(scratch.path()).arg(program));
    let file = if stripped.is_some() { scratch.path() } else { program };
    fs::read(file).with_context(|| format!("reading {}", program.display()))
}

/// The loader and the libraries of a program, at the paths where the loader looks for them.
fn shared_libraries(program: &Path) -> Vec<PathBuf> {
    // `ldd` fails on a program that is linked statically, which then needs nothing.
    output(Command::new("ldd").arg(program)).map_or_else(Vec::new, |text| parse_ldd(&text))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`; the vdso has no path.
pub fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = line.split("=>").last()?.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// What a command says, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
