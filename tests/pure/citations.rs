//! Every clause of SEMANTICS.md and every pain of PAINS.md is cited by a test: by its name (`s31_…`, `p10_…`), or by a number in the
//! comment above it or in its text (S31, P10); or by a row of a table that a test judges.
//! `cargo test -p tests --test pure citations -- --nocapture` prints who cites what.

mod scan;

use std::collections::{BTreeMap, BTreeSet};

use scan::{Citation, citations, of_rows, of_tests};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What nothing proves yet, and why. It only shrinks: what a test cites must be taken out.
const NOT_YET: &[(&str, &str)] = &[
    ("S40", "nodes are no members yet"),
    ("S43", "first packets are a later step"),
    ("P22", "slices in pieces are a later step"),
    ("P01", "first packets are a later step"),
    ("P06", "first packets are a later step"),
    ("P15", "cutting open connections (Revoke) is a later step"),
    ("P19", "conntrack is never written yet"),
    ("P20", "asymmetric routes are a later step"),
    ("P21", "the fill of conntrack is a later step"),
    ("P25", "the cost of a packet is a later step"),
    ("P26", "memory is a later step"),
    ("P28", "the load on the API server is a later step"),
    ("P29", "the load on the API server is a later step"),
    ("P36", "denials are explained by a later step"),
    ("P37", "denials are explained by a later step"),
    ("P38", "denials are explained by a later step"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The numbers that a text defines: what stands between `before` and `after` at the start of a line.
fn defined(path: &str, before: &str, after: &str) -> BTreeSet<String> {
    let text = read(path);
    let numbers = text.lines().filter_map(|line| line.strip_prefix(before)?.split_once(after).map(|(number, _)| number.to_string()));
    numbers.filter(|number| number.len() > 1 && number[1..].bytes().all(|b| b.is_ascii_digit())).collect()
}

/// What is wrong with these citations of these numbers.
fn wrong(defined: &BTreeSet<String>, cited: &BTreeMap<String, Vec<Citation>>, not_yet: &[(&str, &str)]) -> Vec<String> {
    let waits = |number: &str| not_yet.iter().any(|(waiting, _)| *waiting == number);
    let mut wrong = Vec::new();
    for number in defined.iter().filter(|number| !cited.contains_key(*number) && !waits(number)) {
        wrong.push(format!("{number}: no test cites it"));
    }
    for (number, tests) in cited {
        if !defined.contains(number) {
            wrong.push(format!("{number}: cited by {}, but there is no such number", tests[0]));
        }
        if waits(number) {
            wrong.push(format!("{number}: cited by {}; take it out of NOT_YET in {}", tests[0], file!()));
        }
    }
    for (number, _) in not_yet.iter().filter(|(number, _)| !defined.contains(*number)) {
        wrong.push(format!("{number}: in NOT_YET, but there is no such number"));
    }
    wrong
}

#[test]
fn every_clause_and_every_pain_is_cited_by_a_test() {
    let clauses = defined("crates/policy/SEMANTICS.md", "- **", "**");
    let pains = defined("tests/PAINS.md", "| ", " |");
    assert!(clauses.len() > 35 && pains.len() > 50, "{clauses:?} {pains:?}");
    let defined: BTreeSet<String> = clauses.union(&pains).cloned().collect();
    let cited = citations(ROOT.as_ref());
    for number in &defined {
        match (cited.get(number), NOT_YET.iter().find(|(waiting, _)| waiting == number)) {
            (Some(tests), _) => println!("{number}\n  {}", tests.iter().map(Citation::to_string).collect::<Vec<_>>().join("\n  ")),
            (None, Some((_, why))) => println!("{number}\n  not yet: {why}"),
            (None, None) => println!("{number}\n  NONE"),
        }
    }
    let wrong = wrong(&defined, &cited, NOT_YET);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_missing_unknown_or_waits_in_vain_is_named() {
    let defined = ["S1", "S2", "S3"].map(String::from).into();
    let cited = [("S1", "s1_x"), ("S9", "s9_x")]
        .map(|(number, test)| (number.to_string(), vec![Citation { file: "f".into(), line: 1, test: test.into() }]))
        .into();
    let said = wrong(&defined, &cited, &[("S1", ""), ("S3", ""), ("S7", "")]);
    assert_eq!(said.len(), 4, "{said:?}");
    for (text, start) in said.iter().zip(["S2: no test", "S1: cited by s1_x (f:1); take", "S9: cited by s9_x (f:1), but", "S7: in NOT_YET"])
    {
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn a_test_cites_by_name_by_comment_and_by_text_and_nothing_else_does() {
    let text = r#"
//! S1 above everything is nobody's.
/// S2: a helper is no test.
fn helper() {}

/// What S3 says.
#[test]
fn s4_p05_names_count() {
    assert_eq!(1, 1, "S6: and so does text");
    // S10–S12 too, but not XS7, S8x, S123 or AS9.
}

mod inner {
    #[tokio::test(flavor = "multi_thread")]
    async fn s20_to_s22_a_range() {
    }
    fn s23_is_no_test() {}
}
"#;
    let cited = |name: &str| of_tests(text).into_iter().find(|test| test.name.contains(name)).map(|test| test.numbers).unwrap_or_default();
    assert_eq!(cited("names_count").into_iter().collect::<Vec<_>>(), ["P05", "S10", "S11", "S12", "S3", "S4", "S6"]);
    assert_eq!(cited("a_range").into_iter().collect::<Vec<_>>(), ["S20", "S21", "S22"]);
    assert_eq!(of_tests(text).len(), 2);
    let rows = of_rows("# S1 | a head | is none\nS2 | S3 | allow | P04: why\nnothing | S5 | x\n");
    assert_eq!(rows.iter().flat_map(|row| row.numbers.clone()).collect::<Vec<_>>(), ["P04", "S2"]);
}
