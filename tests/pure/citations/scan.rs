//! Who cites what: tests are found by their attribute, numbers by their form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// A test that cites, or a row of a table that a test judges.
#[derive(Clone, Debug)]
pub struct Citation {
    pub file: String,
    pub line: usize,
    pub test: String,
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.test, self.file, self.line)
    }
}

/// One test of a file.
#[derive(Debug)]
pub struct Test {
    pub name: String,
    pub line: usize,
    pub numbers: BTreeSet<String>,
}

/// All citations below this folder, by number.
pub fn citations(root: &Path) -> BTreeMap<String, Vec<Citation>> {
    let mut cited: BTreeMap<String, Vec<Citation>> = BTreeMap::new();
    let mut files = Vec::new();
    for folder in ["crates", "tests"] {
        walk(&root.join(folder), &mut files);
    }
    files.sort();
    for path in files {
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let tests = match (file.ends_with(".txt"), is_test_code(&file)) {
            (true, true) => of_rows(&text),
            (true, false) => Vec::new(),
            (false, true) => of_tests(&text),
            (false, false) => of_tests(&inline_tests(&text)),
        };
        for Test { name, line, numbers } in tests {
            for number in numbers {
                cited.entry(number).or_default().push(Citation { file: file.clone(), line, test: name.clone() });
            }
        }
    }
    cited
}

/// Rust files and tables; not those of this check, whose text names numbers that it does not test.
fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "txt") && !path.to_string_lossy().contains("tests/pure/citations") {
            files.push(path);
        }
    }
}

fn is_test_code(file: &str) -> bool {
    file.starts_with("tests/") || file.contains("/tests/") || file.ends_with("/tests.rs")
}

/// The `#[cfg(test)]` modules of a file of the product; all other lines are empty, so that lines keep their numbers.
fn inline_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = vec![""; lines.len()];
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| line.trim() == "#[cfg(test)]") {
        let end = end_of_item(&lines, start, indent(line));
        kept[start..=end].copy_from_slice(&lines[start..=end]);
    }
    kept.join("\n")
}

/// The tests in a file of test code.
pub fn of_tests(text: &str) -> Vec<Test> {
    let lines: Vec<&str> = text.lines().collect();
    let attributes = lines.iter().enumerate().filter(|(_, line)| ["#[test]", "#[tokio::test"].iter().any(|a| line.trim().starts_with(a)));
    let test = |(at, line): (usize, &&str)| {
        let above = lines[..at].iter().rev().take_while(|line| ["//", "#["].iter().any(|start| line.trim().starts_with(start))).count();
        let (offset, name) = lines[at..].iter().take(6).enumerate().find_map(|(offset, line)| Some((offset, name_of(line)?)))?;
        let end = end_of_item(&lines, at + offset, indent(line));
        let mut numbers = numbers_in_name(&name);
        for line in &lines[at - above..=end] {
            numbers.extend(numbers_in_text(line));
        }
        Some(Test { name, line: at + offset + 1, numbers })
    };
    attributes.filter_map(test).collect()
}

/// The rows of a table that a test judges: `S12 | … | … | …`, where the last column may name a pain.
pub fn of_rows(text: &str) -> Vec<Test> {
    let row = |(i, line): (usize, &str)| {
        let (clause, _) = line.split_once(" | ")?;
        number_of(clause)?;
        let (_, note) = line.rsplit_once(" | ")?;
        let numbers = [numbers_in_text(clause), numbers_in_text(note)].into_iter().flatten().collect();
        Some(Test { name: format!("row: {note}"), line: i + 1, numbers })
    };
    text.lines().enumerate().filter_map(row).collect()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The closing brace that stands as far to the right as the item; rustfmt sees to that.
fn end_of_item(lines: &[&str], start: usize, indent: usize) -> usize {
    let closing = format!("{}}}", " ".repeat(indent));
    (start..lines.len()).find(|&i| lines[i].trim_end() == closing).unwrap_or(lines.len() - 1)
}

fn name_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("fn ")?;
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// `s11_to_s15` is all five.
fn numbers_in_name(name: &str) -> BTreeSet<String> {
    let words: Vec<&str> = name.split('_').collect();
    let mut numbers = BTreeSet::new();
    for (i, word) in words.iter().enumerate() {
        let Some((letter, number)) = number_of(&word.to_uppercase()) else { continue };
        let last = match words.get(i + 1..i + 3) {
            Some(["to", end]) => number_of(&end.to_uppercase()).filter(|(other, _)| *other == letter).map_or(number, |(_, last)| last),
            _ => number,
        };
        numbers.extend((number..=last).map(|n| written(letter, n)));
    }
    numbers
}

/// S31, P10, S11–S15; as words of their own.
fn numbers_in_text(line: &str) -> BTreeSet<String> {
    let mut numbers = BTreeSet::new();
    let mut before: Option<(char, u32)> = None;
    let mut gap = "";
    let mut rest = line;
    while !rest.is_empty() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word_end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if word_end == 0 {
            let gap_end = rest.find(is_word).unwrap_or(rest.len());
            (gap, rest) = rest.split_at(gap_end);
            continue;
        }
        let (word, after) = rest.split_at(word_end);
        let found = number_of(word);
        if let Some((letter, number)) = found {
            let first = match before {
                // A range of more than ten means "all of them" and proves nothing of each.
                Some((other, first)) if other == letter && (gap == "–" || gap == "-") && number < first + 10 => first,
                _ => number,
            };
            numbers.extend((first..=number).map(|n| written(letter, n)));
        }
        before = found;
        rest = after;
    }
    numbers
}

fn number_of(word: &str) -> Option<(char, u32)> {
    let letter = word.chars().next().filter(|c| matches!(c, 'S' | 'P'))?;
    let digits = &word[1..];
    let fits = digits.bytes().all(|b| b.is_ascii_digit()) && (if letter == 'S' { 1..=2 } else { 2..=2 }).contains(&digits.len());
    digits.parse().ok().filter(|_| fits).map(|number| (letter, number))
}

fn written(letter: char, number: u32) -> String {
    if letter == 'P' { format!("P{number:02}") } else { format!("S{number}") }
}
