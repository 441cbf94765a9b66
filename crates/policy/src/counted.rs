//! Things that several others need.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Things, each there as long as somebody needs it.
#[derive(Clone, Debug)]
pub struct Counted<T> {
    users: BTreeMap<T, usize>,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Counted { users: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Counted<T> {
    /// One more needs it; whether it is the first.
    pub fn need(&mut self, thing: &T) -> bool {
        if let Some(users) = self.users.get_mut(thing) {
            *users += 1;
            return false;
        }
        self.users.insert(thing.clone(), 1);
        true
    }

    /// One fewer needs it; whether that was the last. What nobody needs is not there to be let go.
    pub fn release(&mut self, thing: &T) -> bool {
        let Entry::Occupied(mut users) = self.users.entry(thing.clone()) else { return false };
        *users.get_mut() -= 1;
        let last = *users.get() == 0;
        if last {
            users.remove();
        }
        last
    }

    /// All that somebody needs.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.users.keys()
    }

    /// Whether somebody needs it.
    pub fn contains(&self, thing: &T) -> bool {
        self.users.contains_key(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_brings_it_and_the_last_takes_it_away() {
        let mut things = Counted::default();
        assert!(things.need(&"a"));
        assert!(!things.need(&"a"));
        assert!(!things.release(&"a") && things.contains(&"a"));
        assert!(things.release(&"a") && !things.contains(&"a"));
        assert!(!things.release(&"a"));
        assert_eq!(things.iter().count(), 0);
    }
}
