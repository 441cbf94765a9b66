//! Helm takes the chart, and what it makes of it is what is written down.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::{chart, file, golden, helm, read, template};

pub const EVERYTHING: &str = "tests/admission/chart/everything.values.yaml";

fn documents(text: &str) -> Vec<&str> {
    text.split("---\n").map(str::trim).filter(|document| !document.is_empty()).collect()
}

#[test]
fn helm_finds_nothing_to_complain_of() -> Result<()> {
    for values in [vec![], vec!["--values".to_owned(), file(EVERYTHING).display().to_string()]] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let (done, out, err) = helm(&[&["lint", "--strict", &chart()], &values[..]].concat())?;
        ensure!(done && err.is_empty(), "helm lint: {out}{err}");
        ensure!(!out.contains("[WARNING]") && !out.contains("[ERROR]"), "helm lint: {out}");
    }
    Ok(())
}

/// `deploy/render` has been run: the plain manifests say what the chart says.
#[test]
fn the_plain_manifests_are_the_charts() -> Result<()> {
    let chart = chart();
    let render = ["template", "kube-security-groups", &chart, "--namespace=kube-security-groups", "--no-hooks", "--kube-version=1.33.0"];
    let (done, out, err) = helm(&render)?;
    ensure!(done, "{err}");
    golden("deploy/install.yaml", &out)?;
    let dns = ["--set", "exempt={ClusterDNS}", "--show-only", "templates/rbac/cluster-dns.yaml"];
    let (done, out, err) = helm(&[&render[..], &dns].concat())?;
    ensure!(done, "{err}");
    golden("deploy/options/exempt-cluster-dns.yaml", out.strip_prefix("---\n").context("a document")?)?;
    let (done, out, err) = helm(&["template", render[1], render[2], render[3], "--show-only", "templates/uninstall.yaml"])?;
    ensure!(done, "{err}");
    golden("deploy/options/uninstall.yaml", out.strip_prefix("---\n").context("a document")?)
}

/// Without what is the same by default, so that it can be read.
#[test]
fn every_option_renders_as_written_down() -> Result<()> {
    let default = template(&["--no-hooks"])?;
    let default: BTreeSet<&str> = documents(&default).into_iter().collect();
    let everything = template(&["--values", &file(EVERYTHING).display().to_string()])?;
    let other: Vec<&str> = documents(&everything).into_iter().filter(|document| !default.contains(document)).collect();
    // The definitions differ in one annotation alone.
    let (definitions, other): (Vec<_>, Vec<_>) =
        other.into_iter().partition(|document| document.contains("kind: CustomResourceDefinition"));
    ensure!(definitions.len() == 5 && definitions.iter().all(|document| !document.contains("helm.sh/resource-policy")));
    // So does the dashboard, which is a file of the chart as it is.
    let dashboard = read("charts/kube-security-groups/files/dashboard.json")?.trim().replace('\n', "\n    ");
    let text = format!("{}\n", other.join("\n---\n"));
    ensure!(text.contains(&dashboard), "the dashboard is not in its ConfigMap");
    golden("tests/admission/chart/everything.yaml", &text.replace(&dashboard, "(files/dashboard.json)"))
}

/// What stays when the product goes: every definition, and the two that keep the limits watched.
#[test]
fn definitions_are_kept() -> Result<()> {
    let default = template(&[])?;
    let kept: Vec<&str> = documents(&default).into_iter().filter(|document| document.contains("helm.sh/resource-policy: keep")).collect();
    let of = |kind: &str| kept.iter().filter(|document| document.contains(&format!("kind: {kind}\n"))).count();
    let kinds = ["CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"].map(of);
    ensure!(kinds == [api::crds().len(), 1, 1] && kept.len() == 7, "{kinds:?} of {}", kept.len());
    Ok(())
}

/// One version: of the workspace, the chart, and the image that it asks for; and a package of that name.
#[test]
fn the_version_is_the_workspaces() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let text = read("charts/kube-security-groups/Chart.yaml")?;
    for key in ["version", "appVersion"] {
        ensure!(text.lines().any(|line| line == format!("{key}: {version}")), "Chart.yaml lacks {key}: {version}");
    }
    let image = lab::images::PRODUCT.trim_start_matches("docker.io/");
    ensure!(template(&[])?.contains(&format!("image: {image}\n")), "the chart does not ask for {image}");
    let folder = std::env::temp_dir().join(format!("ksg-chart-{}", std::process::id()));
    let (done, _, err) = helm(&["package", &chart(), "--destination", &folder.display().to_string()])?;
    let made = folder.join(format!("kube-security-groups-{version}.tgz"));
    let (shown, values, _) = helm(&["show", "values", &made.display().to_string()])?;
    std::fs::remove_dir_all(&folder)?;
    ensure!(done && shown, "{err}");
    ensure!(values.trim() == read("charts/kube-security-groups/values.yaml")?.trim(), "the package has other values");
    Ok(())
}
