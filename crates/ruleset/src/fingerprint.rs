//! Tells rulesets apart without keeping them.

use std::fmt::{self, Display};
use std::hash::Hasher as _;
use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, ordset};
use policy::model::Family;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::Ruleset;

/// Equal rulesets have equal fingerprints, also in other processes and on other nodes; different ones have different ones but by a chance of
/// 2⁻¹²⁸. It is a sum over all parts, so that it goes along with a change at the cost of that change. It protects from nobody who chooses
/// rulesets to have the same one: nothing but words in reports may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// That of a ruleset.
    pub fn of(ruleset: &Ruleset) -> Fingerprint {
        Fingerprint::default().follow(&Ruleset::default(), ruleset)
    }

    /// That of `to`, where this is the one of `from`.
    pub fn follow(self, from: &Ruleset, to: &Ruleset) -> Fingerprint {
        let element = |part: Part, address: &IpAddr| part.address(*address).sum();
        let range = |part: Part, first: &IpAddr, last: &IpAddr| part.address(*first).address(*last).sum();
        let entry = |part: Part, address: &IpAddr, chain: &String| part.address(*address).text(chain).sum();
        let parts = [
            keys(&from.counters, &to.counters, |name| Part::new("counter", name).sum()),
            containers(
                &from.sets,
                &to.sets,
                |name, set| (Part::new("set", name), sort(set.family), &set.elements),
                |part, old, new| keys(old, new, |address| element(part, address)),
            ),
            containers(
                &from.intervals,
                &to.intervals,
                |name, set| (Part::new("intervals", name), sort(set.family), &set.ranges),
                |part, old, new| entries(old, new, |first, last| range(part, first, last)),
            ),
            containers(
                &from.maps,
                &to.maps,
                |name, map| (Part::new("map", name), sort(map.family), &map.elements),
                |part, old, new| entries(old, new, |address, chain| entry(part, address, chain)),
            ),
            containers(
                &from.counter_maps,
                &to.counter_maps,
                |name, map| (Part::new("counters", name), sort(map.family) + 2 * u8::from(map.ranges), &map.elements),
                |part, old, new| entries(old, new, |first, (last, counter)| part.address(*first).address(*last).text(counter).sum()),
            ),
            entries(&from.port_maps, &to.port_maps, |name, map| Part::new("ports", name).text(map).sum()),
            entries(&from.chains, &to.chains, |name, chain| Part::new("chain", name).text(chain).sum()),
        ];
        Fingerprint(parts.into_iter().fold(self.0, u128::wrapping_add))
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A part of a ruleset.
#[derive(Clone, Copy)]
struct Part(SipHasher13);

impl Part {
    fn new(kind: &str, name: &str) -> Part {
        Part(SipHasher13::new()).text(&kind).text(&name)
    }

    /// Behind its length, so that moving a letter from one text to the next makes another part.
    fn text(mut self, text: &impl Display) -> Part {
        let text = text.to_string();
        self.0.write(&(text.len() as u64).to_le_bytes());
        self.0.write(text.as_bytes());
        self
    }

    fn address(mut self, address: IpAddr) -> Part {
        match address {
            IpAddr::V4(address) => self.0.write(&address.octets()),
            IpAddr::V6(address) => self.0.write(&address.octets()),
        }
        self
    }

    fn sum(self) -> u128 {
        self.0.finish128().as_u128()
    }
}

/// What all elements of a set or a map have in common.
fn sort(family: Family) -> u8 {
    u8::from(family == Family::V6)
}

/// What a set of parts gains and loses.
fn keys<K: Ord>(from: &OrdSet<K>, to: &OrdSet<K>, sum: impl Fn(&K) -> u128) -> u128 {
    from.diff(to).fold(0, |total: u128, item| match item {
        ordset::DiffItem::Add(key) => total.wrapping_add(sum(key)),
        ordset::DiffItem::Remove(key) => total.wrapping_sub(sum(key)),
    })
}

/// The same of parts with a name.
fn entries<K: Ord, V: PartialEq>(from: &OrdMap<K, V>, to: &OrdMap<K, V>, sum: impl Fn(&K, &V) -> u128) -> u128 {
    from.diff(to).fold(0, |total: u128, item| match item {
        DiffItem::Add(key, value) => total.wrapping_add(sum(key, value)),
        DiffItem::Remove(key, value) => total.wrapping_sub(sum(key, value)),
        DiffItem::Update { old, new } => total.wrapping_add(sum(new.0, new.1)).wrapping_sub(sum(old.0, old.1)),
    })
}

/// The same of named sets and maps, whose elements are parts themselves.
fn containers<'a, T: PartialEq, C: Default + 'a>(
    from: &'a OrdMap<String, T>,
    to: &'a OrdMap<String, T>,
    read: impl Fn(&'a String, &'a T) -> (Part, u8, &'a C),
    change: impl Fn(Part, &C, &C) -> u128,
) -> u128 {
    let none = C::default();
    let head = |part: Part, sort: u8| part.text(&sort).sum();
    from.diff(to).fold(0, |total: u128, item| match item {
        DiffItem::Add(name, new) => {
            let (part, sort, elements) = read(name, new);
            total.wrapping_add(head(part, sort)).wrapping_add(change(part, &none, elements))
        }
        DiffItem::Remove(name, old) => {
            let (part, sort, elements) = read(name, old);
            total.wrapping_sub(head(part, sort)).wrapping_add(change(part, elements, &none))
        }
        DiffItem::Update { old: (name, old), new: (_, new) } => {
            let ((part, was, before), (_, is, after)) = (read(name, old), read(name, new));
            total.wrapping_sub(head(part, was)).wrapping_add(head(part, is)).wrapping_add(change(part, before, after))
        }
    })
}
