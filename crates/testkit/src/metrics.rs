//! Holds the page that lists the metrics to what a program serves.

use std::collections::{BTreeMap, BTreeSet};

/// The page.
pub const PAGE: &str = include_str!("../../../deploy/guides/metrics.md");

/// The rows of the page's table for these metrics, from the text that a program serves. A metric without any series is not served.
pub fn rows(served: &str) -> BTreeSet<String> {
    let mut help = BTreeMap::new();
    let mut types = BTreeMap::new();
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in served.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help.insert(name, text.trim_end_matches('.'));
        } else if let Some((name, type_)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            types.insert(name, type_);
        } else if let Some((series, rest)) = line.split_once('{') {
            let pairs = rest.rsplit_once('}').map_or("", |(pairs, _)| pairs);
            let names = pairs.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).filter(|name| *name != "le");
            labels.entry(series).or_default().extend(names);
        }
    }
    let row = |(name, type_): (&&str, &&str)| {
        let series = match *type_ {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => (*name).to_string(),
        };
        let buckets = format!("{name}_bucket");
        let labelled = [&series, &buckets].into_iter().filter_map(|series| labels.get(series.as_str())).flatten().copied();
        let labels: Vec<String> = labelled.collect::<BTreeSet<_>>().into_iter().map(|label| format!("`{label}`")).collect();
        format!("| `{series}` | {type_} | {} | {} |", labels.join(" "), help.get(name).unwrap_or(&""))
    };
    types.iter().map(row).collect()
}

/// Where the page differs from what a program serves whose metrics begin so: rows that it lacks, and rows that it should not have.
///
/// # Errors
/// Says which.
pub fn documented(prefix: &str, served: &str) -> Result<(), String> {
    let (served, begin) = (rows(served), format!("| `{prefix}_"));
    let listed: BTreeSet<String> = PAGE.lines().filter(|line| line.starts_with(&begin)).map(str::to_string).collect();
    let list = |rows: Vec<&String>| rows.into_iter().map(|row| format!("{row}\n")).collect::<String>();
    match (list(served.difference(&listed).collect()), list(listed.difference(&served).collect())) {
        (lacks, invents) if lacks.is_empty() && invents.is_empty() => Ok(()),
        (lacks, invents) => Err(format!("deploy/guides/metrics.md lacks\n{lacks}and has what is not served\n{invents}")),
    }
}
