//! A kernel that is opened when it is needed, and tried again where it could not be: the program says what is missing instead of ending.

use std::collections::BTreeMap;
use std::fmt;

use ruleset::{Counter, Kernel, Ruleset, Transaction};

/// Opened at the first call, and at the next where that failed.
pub struct Late<K, F> {
    kernel: Option<K>,
    open: F,
}

impl<K: Kernel, F: FnMut() -> Result<K, K::Error>> Late<K, F> {
    /// Not opened yet.
    pub fn new(open: F) -> Late<K, F> {
        Late { kernel: None, open }
    }

    fn kernel(&mut self) -> Result<&mut K, K::Error> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => (self.open)()?,
        };
        Ok(self.kernel.insert(kernel))
    }
}

impl<K: Kernel, F: FnMut() -> Result<K, K::Error>> Kernel for Late<K, F> {
    type Error = K::Error;

    fn load(&mut self) -> Result<Option<Ruleset>, K::Error> {
        self.kernel()?.load()
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), K::Error> {
        self.kernel()?.commit(transaction)
    }

    fn settle(&mut self) -> Result<(), K::Error> {
        self.kernel()?.settle()
    }

    fn refused(error: &K::Error) -> Option<Vec<usize>> {
        K::refused(error)
    }

    fn counters(&mut self) -> Result<BTreeMap<String, Counter>, K::Error> {
        self.kernel()?.counters()
    }
}

impl<K, F> fmt::Debug for Late<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Late(open: {})", self.kernel.is_some())
    }
}
