//! Every value is explained, does something, and is refused where it is wrong.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rendered::EVERYTHING;
use super::{chart, file, golden, helm, read, template};

/// A value of the chart: its path, its default, and what is said of it.
struct Documented {
    path: String,
    default: Value,
    words: String,
}

/// From `values.yaml`: what a comment stands above. What is below it belongs to it.
fn values() -> Result<Vec<Documented>> {
    let text = read("charts/kube-security-groups/values.yaml")?;
    let defaults: Value = serde_saphyr::from_str(&text)?;
    let (mut found, mut words, mut path) = (Vec::<Documented>::new(), Vec::new(), Vec::<String>::new());
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            words.push(comment.trim());
            continue;
        }
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| !key.starts_with('-')) else {
            words.clear();
            continue;
        };
        path.truncate(indent / 2);
        path.push(key.to_owned());
        let full = path.join(".");
        let inside = found.last().is_some_and(|above| full.starts_with(&format!("{}.", above.path)));
        if !words.is_empty() {
            let default = defaults.pointer(&format!("/{}", path.join("/"))).cloned().with_context(|| full.clone())?;
            found.push(Documented { path: full, default, words: words.join(" ") });
        } else {
            ensure!(inside || value.is_empty(), "values.yaml says nothing of {full}");
        }
        words.clear();
    }
    Ok(found)
}

#[test]
fn the_readme_lists_every_value() -> Result<()> {
    let mut table = "| value | default | what it is |\n|---|---|---|\n".to_owned();
    for Documented { path, default, words } in values()? {
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        table += &format!("| `{path}` | {default} | {words} |\n");
    }
    let readme = read("charts/kube-security-groups/README.md")?;
    let (before, rest) = readme.split_once("| value |").context("a table")?;
    let after = rest.split_once("\n\n").context("something after the table")?.1;
    golden("charts/kube-security-groups/README.md", &format!("{before}{table}\n{after}"))
}

/// With every value changed, and one of them as it is by default: what is rendered changes each time.
#[test]
fn every_value_does_something() -> Result<()> {
    let everything: Value = serde_saphyr::from_str(&read(EVERYTHING)?)?;
    let folder = std::env::temp_dir().join(format!("ksg-values-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = each_does_something(&everything, &folder.join("values.json"));
    std::fs::remove_dir_all(&folder)?;
    result
}

fn each_does_something(everything: &Value, values_file: &std::path::Path) -> Result<()> {
    let rendered = |values: &Value| -> Result<String> {
        std::fs::write(values_file, values.to_string())?;
        template(&["--values", &values_file.display().to_string()])
    };
    let all = rendered(everything)?;
    for Documented { path, default, .. } in values()? {
        let (parents, key) = path.rsplit_once('.').unwrap_or(("", &path));
        let parent = parents.split('.').filter(|parent| !parent.is_empty()).map(|parent| format!("/{parent}")).collect::<String>();
        let mut values = everything.clone();
        let map = values.pointer_mut(&parent).and_then(Value::as_object_mut);
        let value = map.and_then(|map| map.remove(key)).with_context(|| format!("{EVERYTHING} lacks {path}"))?;
        ensure!(value != default, "{EVERYTHING} leaves {path} at its default");
        // Monitors cannot be had without the agents' metrics, which is a difference, too.
        let one = rendered(&values).or_else(|error| if path == "metrics.exposeAgents" { Ok(String::new()) } else { Err(error) })?;
        ensure!(one != all, "{path} changes nothing");
    }
    Ok(())
}

/// A typing error is refused, by its place.
#[test]
fn what_is_wrong_is_refused_with_its_place() -> Result<()> {
    let wrong = [
        "imag.tag=1",
        "image.tga=1",
        "image.repository=Registry/kube-security-groups:1",
        "image.tag=a tag",
        "image.pullPolicy=Sometimes",
        "log.filter=kube=loud",
        "enforce=maybe",
        "exempt={DNS}",
        "clusterDns=kube-dns",
        "countsInterval=5",
        "quotas.rules=100",
        "quotas.rulesPerDirection=2000",
        "quotas.groupsPerEndpoint=many",
        "agent.reads=some",
        "agent.resources.request.cpu=1",
        "agent.resources.limits.memory=much",
        "agent.resources.requests.cpu=-1",
        "agent.maxUnavailable=0%",
        "operator.replicas=0",
        "operator.tolerations[0].efect=NoSchedule",
        "metrics.agentPort=70000",
        "metrics.exposeAgents=true,metrics.exposedPort=9650",
        "metrics.monitor.kind=Monitor",
        "metrics.monitor.kind=PodMonitor",
        "alerts.enable=true",
        "crds.keep=no-thanks",
        "uninstall.rules=delete",
    ];
    let chart = chart();
    let mut text = String::new();
    for value in wrong {
        let (done, _, err) = helm(&["template", "x", &chart, "--set", value])?;
        ensure!(!done, "--set {value} was not refused");
        let said: Vec<&str> =
            err.lines().filter_map(|line| line.strip_prefix("- ").or(line.split_once(": metrics.").map(|(_, rest)| rest))).collect();
        ensure!(said.len() == 1, "--set {value}: {err}");
        text += &format!("--set {value}\n  {}\n", said[0]);
    }
    golden("tests/admission/chart/refused.txt", &text)
}

/// As part of another chart it gets Helm's `global`.
#[test]
fn helms_own_value_is_taken() -> Result<()> {
    template(&["--set", "global.anything=1"]).map(drop)?;
    ensure!(file(EVERYTHING).is_file());
    Ok(())
}
