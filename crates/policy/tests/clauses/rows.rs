//! The tables of `rows/`: what was decided by hand, clause by clause, against what the code says.

mod members;
mod packets;
mod texts;

use std::collections::BTreeMap;

/// One line of a table.
#[derive(Debug)]
pub struct Row {
    /// `packets.txt:12`, for messages.
    pub place: String,
    /// The clause it is about.
    pub clause: &'static str,
    /// The columns between the clause and the note.
    pub columns: Vec<&'static str>,
}

/// The rows of a table; each has so many columns beside clause and note.
fn rows(file: &str, text: &'static str, columns: usize) -> Vec<Row> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let row = |(i, line): (usize, &'static str)| {
        let place = format!("{file}:{}", i + 1);
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [clause, middle @ .., note] = cells.as_slice() else { panic!("{place}: too few columns") };
        assert!(middle.len() == columns && !note.is_empty(), "{place}: {columns} columns between clause and note, not {}", middle.len());
        Row { place, clause, columns: middle.to_vec() }
    };
    lines.map(row).collect()
}

fn all() -> Vec<Row> {
    [packets::table(), members::table(), texts::reading(), texts::ids(), texts::quotas()].into_iter().flatten().collect()
}

/// Clauses that no row of text can say, and what proves them instead.
const NO_ROWS: &[(&str, &str)] = &[
    ("S34", "connections in time: kernel tests"),
    ("S35", "connections in time: not built yet"),
    ("S39", "other programs' rules: kernel tests"),
    ("S40", "nodes as members: not built yet"),
    ("S41", "the ends of programs: kernel and cluster tests"),
    ("S42", "packets during updates: kernel tests"),
    ("S43", "first packets: not built yet"),
];

#[test]
fn every_clause_has_three_rows_or_a_reason() {
    let semantics = include_str!("../../SEMANTICS.md");
    let clauses = semantics.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**").map(|(clause, _)| clause));
    let mut count: BTreeMap<&str, usize> = clauses.map(|clause| (clause, 0)).collect();
    assert!(count.len() > 35, "{count:?}");
    for row in all() {
        *count.get_mut(row.clause).unwrap_or_else(|| panic!("{}: there is no clause {}", row.place, row.clause)) += 1;
    }
    for (clause, rows) in count {
        let why_none = NO_ROWS.iter().any(|(without, _)| *without == clause);
        assert!(if why_none { rows == 0 } else { rows >= 3 }, "{clause} has {rows} rows; in NO_ROWS: {why_none}");
    }
}
