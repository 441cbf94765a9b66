//! What was expected and what was seen, as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use policy::model::Family;

use super::programs::Cell;

/// What each of several judges says of a cell, by the judge's name: whether it is allowed.
pub type Sightings = BTreeMap<&'static str, bool>;

/// Nothing where all agree with the expectation; else a table for each traffic and family in which one does not.
pub fn table(cells: &[(Cell, Sightings)]) -> String {
    let mut tables: BTreeMap<_, Vec<&(Cell, Sightings)>> = BTreeMap::new();
    for cell in cells {
        tables.entry((cell.0.probe, cell.0.family)).or_default().push(cell);
    }
    tables.retain(|_, cells| cells.iter().any(|(cell, seen)| differs(cell, seen)));
    let mut text = String::new();
    for ((probe, family), cells) in tables {
        let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let _ = writeln!(text, "{probe} over {family}; rows send, + is allowed, - denied, ! is not as expected:");
        let _ = writeln!(text, "{}", rows(&cells));
        for (cell, seen) in cells.into_iter().filter(|(cell, seen)| differs(cell, seen)) {
            let said: Vec<String> = seen.iter().map(|(judge, allowed)| format!("{judge}: {}", word(*allowed))).collect();
            let _ = writeln!(text, "  {} -> {} expected: {}; {}", cell.from, cell.to, word(cell.allowed), said.join(", "));
        }
    }
    text
}

fn differs(cell: &Cell, seen: &Sightings) -> bool {
    seen.values().any(|allowed| *allowed != cell.allowed)
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

fn rows(cells: &[&(Cell, Sightings)]) -> String {
    let mut pods: Vec<&str> = cells.iter().flat_map(|(cell, _)| [cell.from.as_str(), cell.to.as_str()]).collect();
    pods.sort_unstable();
    pods.dedup();
    let mark = |from: &str, to: &str| match cells.iter().find(|(cell, _)| cell.from == from && cell.to == to) {
        None => "·".to_owned(),
        Some((cell, seen)) => {
            let expected = if cell.allowed { '+' } else { '-' };
            if differs(cell, seen) { format!("{expected}!") } else { expected.into() }
        }
    };
    let mut text = format!("{:8}", "");
    for pod in &pods {
        let _ = write!(text, "{pod:>6}");
    }
    for from in &pods {
        let _ = write!(text, "\n  {from:6}");
        for to in &pods {
            let _ = write!(text, "{:>6}", mark(from, to));
        }
    }
    text
}
