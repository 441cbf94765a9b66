//! What was expected, and whether it held.

/// Counts expectations and prints each that fails.
#[derive(Debug, Default)]
pub struct Ledger {
    held: usize,
    failed: Vec<String>,
}

impl Ledger {
    /// Nothing expected yet.
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// Notes an expectation, quietly where it held.
    pub fn expect(&mut self, held: bool, what: impl Into<String>) {
        if held {
            self.held += 1;
        } else {
            let what = what.into();
            println!("  FAILED: {what}");
            self.failed.push(what);
        }
    }

    /// Notes an expectation and prints it either way.
    pub fn show(&mut self, held: bool, what: impl Into<String>) {
        let what = what.into();
        if held {
            println!("  ok: {what}");
        }
        self.expect(held, what);
    }

    /// How many held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Those that did not.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }
}
