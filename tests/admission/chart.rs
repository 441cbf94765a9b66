//! The Helm chart: what it renders, what it refuses, and what a real kube-apiserver says to it.
//!
//! `chart/everything.values.yaml` sets every value to something else than its default, `chart/everything.yaml` is what that renders otherwise
//! than the defaults do, which are `deploy/install.yaml`. `UPDATE=1` writes the golden files and the README's table anew.

mod installed;
mod monitoring;
mod rendered;
mod rights;
mod values;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::server::folder;

/// A file of the checkout.
fn file(path: &str) -> PathBuf {
    folder().join("../..").join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(file(path)).with_context(|| format!("reading {path}"))
}

/// The chart's folder.
fn chart() -> String {
    file("charts/kube-security-groups").display().to_string()
}

/// Runs helm without a cluster: whether it succeeded, what it printed, and its errors.
fn helm(arguments: &[&str]) -> Result<(bool, String, String)> {
    let output = Command::new(lab::programs::helm()?).args(arguments).env("KUBECONFIG", "/dev/null").output()?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

/// What the chart renders for the newest Kubernetes that is tested.
fn template(arguments: &[&str]) -> Result<String> {
    let chart = chart();
    let always = ["template", "kube-security-groups", &chart, "--namespace=sg-system", "--kube-version=1.36.0"];
    let (done, out, err) = helm(&[&always, arguments].concat())?;
    ensure!(done, "helm template {arguments:?}: {err}");
    Ok(out)
}

/// Fails unless a file is this; `UPDATE=1` makes it so.
fn golden(path: &str, text: &str) -> Result<()> {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file(path), text)?;
    }
    let stored = read(path).unwrap_or_default();
    let line =
        stored.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or_else(|| stored.lines().count().min(text.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(its end)").to_owned();
    ensure!(
        stored == text,
        "{path} differs in line {}:\n  is:      {}\n  is to be: {}\nUPDATE=1 cargo test -p tests --test admission",
        line + 1,
        at(&stored),
        at(text)
    );
    Ok(())
}
