//! Member slices, and what they say together: who is in which group, as the operator has published it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use crate::index::MemberSlice;

/// All slices by namespace and name, and their sum for each group, which goes along with every change at the cost of that change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSlices {
    slices: BTreeMap<(String, String), MemberSlice>,
    sums: Sums,
}

/// What the slices of each group say together, by namespace and id: a slice speaks for groups of its own namespace only, so who may write
/// there decides nothing elsewhere (S7, P58). A copy costs nothing, and is compared with what comes of it at the cost of what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(OrdMap<(String, String), Arc<Published>>);

impl Sums {
    /// The groups of which these say something else, by namespace and id.
    pub fn differ<'a>(&'a self, other: &'a Sums) -> impl Iterator<Item = &'a (String, String)> {
        self.0.diff(&other.0).map(|item| match item {
            DiffItem::Add(group, _) | DiffItem::Remove(group, _) | DiffItem::Update { old: (group, _), .. } => group,
        })
    }
}

/// What the slices of one group say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Their names.
    names: OrdSet<String>,
    heads: usize,
    addresses: OrdSet<IpAddr>,
    /// How often more than once an address is listed, where it is.
    again: OrdMap<IpAddr, usize>,
}

impl Published {
    /// Whether the group has been published as a whole.
    pub fn has_head(&self) -> bool {
        self.heads > 0
    }

    /// The addresses of its members.
    pub fn addresses(&self) -> &OrdSet<IpAddr> {
        &self.addresses
    }

    fn add(&mut self, name: &str, slice: &MemberSlice) {
        self.names.insert(name.to_string());
        self.heads += usize::from(slice.head);
        for &address in &slice.addresses {
            if self.addresses.contains(&address) {
                *self.again.entry(address).or_default() += 1;
            } else {
                self.addresses.insert(address);
            }
        }
    }

    /// What a slice said.
    fn withdraw(&mut self, slice: &MemberSlice) {
        self.heads -= usize::from(slice.head);
        for &address in &slice.addresses {
            match self.again.get_mut(&address) {
                Some(1) => drop(self.again.remove(&address)),
                Some(times) => *times -= 1,
                None => drop(self.addresses.remove(&address)),
            }
        }
    }
}

impl MemberSlices {
    /// Takes a slice that is new or has changed; the one that had its name before.
    pub fn insert(&mut self, key: (String, String), slice: MemberSlice) -> Option<MemberSlice> {
        // First the new one: what both list is not touched.
        let sum = self.sums.0.entry((key.0.clone(), slice.group_id.clone())).or_default();
        Arc::make_mut(sum).add(&key.1, &slice);
        let same_group = self.slices.get(&key).is_some_and(|old| old.group_id == slice.group_id);
        let old = self.slices.insert(key.clone(), slice);
        if let Some(old) = &old {
            self.withdraw(&key, old, same_group);
        }
        old
    }

    /// Forgets a slice that is gone.
    pub fn remove(&mut self, key: &(String, String)) -> Option<MemberSlice> {
        let old = self.slices.remove(key)?;
        self.withdraw(key, &old, false);
        Some(old)
    }

    fn withdraw(&mut self, (namespace, name): &(String, String), slice: &MemberSlice, stays: bool) {
        let group = (namespace.clone(), slice.group_id.clone());
        let Some(sum) = self.sums.0.get_mut(&group) else { return };
        let sum = Arc::make_mut(sum);
        sum.withdraw(slice);
        if !stays {
            sum.names.remove(name);
        }
        if sum.names.is_empty() {
            self.sums.0.remove(&group);
        }
    }

    /// These and no others, at the cost of what differs; whether anything does.
    pub fn replace(&mut self, new: MemberSlices) -> bool {
        let mut changed = false;
        let gone: Vec<_> = self.slices.keys().filter(|key| !new.slices.contains_key(*key)).cloned().collect();
        for key in &gone {
            changed |= self.remove(key).is_some();
        }
        for (key, slice) in new.slices {
            if self.slices.get(&key) != Some(&slice) {
                self.insert(key, slice);
                changed = true;
            }
        }
        changed
    }

    /// What is said of each group.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// What is said of the group of this namespace and id.
    pub fn of(&self, namespace: &str, id: &str) -> Option<&Published> {
        self.sums.0.get(&(namespace.to_string(), id.to_string())).map(Arc::as_ref)
    }

    /// The groups that a slice speaks of, by namespace and id.
    pub fn groups(&self) -> impl Iterator<Item = &(String, String)> {
        self.sums.0.keys()
    }

    /// The slices of the group of this namespace and id, by name.
    pub fn slices_of(&self, namespace: &str, id: &str) -> impl Iterator<Item = (&(String, String), &MemberSlice)> {
        let names = self.of(namespace, id).into_iter().flat_map(|group| &group.names);
        names.filter_map(move |name| self.slices.get_key_value(&(namespace.to_string(), name.clone())))
    }

    /// All of them, by namespace and name.
    pub fn all(&self) -> &BTreeMap<(String, String), MemberSlice> {
        &self.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(id: &str, head: bool, addresses: &[&str]) -> MemberSlice {
        MemberSlice { group_id: id.into(), head, addresses: addresses.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn key(name: &str) -> (String, String) {
        ("shop".into(), name.into())
    }

    fn addresses(slices: &MemberSlices, id: &str) -> Vec<String> {
        slices.of("shop", id).into_iter().flat_map(|group| group.addresses()).map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_a_member_as_long_as_one_slice_lists_it() {
        let mut slices = MemberSlices::default();
        slices.insert(key("a"), slice("sg-1", true, &["10.0.0.1", "10.0.0.2"]));
        slices.insert(key("b"), slice("sg-1", false, &["10.0.0.2", "10.0.0.3"]));
        assert_eq!(addresses(&slices, "sg-1"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        slices.insert(key("b"), slice("sg-1", false, &["10.0.0.3"]));
        assert_eq!(addresses(&slices, "sg-1"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        slices.remove(&key("a"));
        assert_eq!(addresses(&slices, "sg-1"), ["10.0.0.3"]);
        assert!(!slices.of("shop", "sg-1").unwrap().has_head());
        slices.insert(key("b"), slice("sg-2", true, &["10.0.0.3"]));
        assert!(slices.of("shop", "sg-1").is_none() && slices.of("shop", "sg-2").unwrap().has_head(), "a slice may change its group");
        slices.remove(&key("b"));
        assert_eq!(slices, MemberSlices::default(), "nothing is left of what is gone");
    }

    #[test]
    fn a_new_list_is_the_same_as_its_differences() {
        let mut slices = MemberSlices::default();
        slices.insert(key("a"), slice("sg-1", true, &["10.0.0.1"]));
        slices.insert(key("b"), slice("sg-1", false, &["10.0.0.2"]));
        slices.insert(key("c"), slice("sg-3", false, &["10.0.0.9"]));
        let mut new = MemberSlices::default();
        new.insert(key("b"), slice("sg-1", true, &["10.0.0.2", "10.0.0.1"]));
        new.insert(key("d"), slice("sg-4", true, &[]));
        assert!(slices.replace(new.clone()) && !slices.replace(new.clone()));
        assert_eq!(slices, new);
    }

    #[test]
    fn what_is_listed_again_unchanged_is_shared() {
        let mut slices = MemberSlices::default();
        slices.insert(key("a"), slice("sg-1", true, &["10.0.0.1", "10.0.0.2"]));
        let before = slices.of("shop", "sg-1").unwrap().addresses().clone();
        slices.replace(slices.clone());
        slices.insert(key("a"), slice("sg-1", false, &["10.0.0.1", "10.0.0.2"]));
        assert!(before.ptr_eq(slices.of("shop", "sg-1").unwrap().addresses()));
    }
}
