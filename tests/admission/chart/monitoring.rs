//! What the dashboard and the alerts ask for, our programs serve.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::read;

/// The names of the page that lists them, which each program's tests hold to what it serves.
fn served() -> Result<BTreeSet<&'static str>> {
    let rows = testkit::metrics::PAGE.lines().filter_map(|line| line.strip_prefix("| `securitygroups_"));
    let names: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    ensure!(names.len() > 20, "{names:?}");
    Ok(names)
}

/// Fails if an expression is none, or names a metric of ours that there is not; how many it names.
fn known(expression: &str, names: &BTreeSet<&str>) -> Result<usize> {
    // Grafana puts a duration there.
    let query = expression.replace("$__rate_interval", "5m");
    promql_parser::parser::parse(&query).map_err(|error| anyhow!("{expression}: {error}"))?;
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter_map(|word| word.strip_prefix("securitygroups_"));
    let mut count = 0;
    for word in words {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
        ensure!(names.contains(bare), "{expression}: there is no metric {word}");
        count += 1;
    }
    Ok(count)
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() -> Result<()> {
    let names = served()?;
    let dashboard: Value = serde_json::from_str(&read("charts/kube-security-groups/files/dashboard.json")?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    ensure!(panels.len() >= 10);
    for panel in panels {
        for target in panel["targets"].as_array().context("targets")? {
            let expression = target["expr"].as_str().context("an expression")?;
            ensure!(known(expression, &names)? > 0, "{expression} asks for nothing of ours");
        }
    }
    Ok(())
}

/// Each alert is about something that there is, and says what to do.
#[test]
fn alerts_ask_for_metrics_that_there_are_and_say_what_to_do() -> Result<()> {
    let names = served()?;
    let alerts: Value = serde_saphyr::from_str(&read("charts/kube-security-groups/files/alerts.yaml")?)?;
    let rules = alerts["groups"][0]["rules"].as_array().context("rules")?;
    ensure!(rules.len() >= 8);
    for rule in rules {
        let (name, expression) = (&rule["alert"], rule["expr"].as_str().context("an expression")?);
        let found = known(expression, &names)?;
        ensure!(found > 0 || expression.contains("up{job=\"kube-security-groups-agent\"}"), "{name} asks for nothing of ours");
        let description = rule["annotations"]["description"].as_str().unwrap_or_default();
        ensure!(description.len() > 60 && rule["annotations"]["summary"].is_string(), "{name} does not say what to do");
    }
    Ok(())
}
