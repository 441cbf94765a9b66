//! Networks as the ranges of an interval set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use policy::model::Family;

/// The ranges that these networks of one family cover: no two of them overlap or touch, so that whatever entries come and go, the kernel
/// never meets an overlap, which it refuses (P53).
pub fn merge(nets: &BTreeSet<IpNet>, family: Family) -> OrdMap<IpAddr, IpAddr> {
    let mut ranges: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    // In the order of first addresses; a network comes before those within it or behind it.
    for net in nets.iter().filter(|net| Family::of(net.addr()) == family) {
        let (first, last) = (net.network(), net.broadcast());
        match ranges.last_entry() {
            Some(mut before) if next(*before.get()).is_none_or(|next| first <= next) => {
                let end = last.max(*before.get());
                before.insert(end);
            }
            _ => {
                ranges.insert(first, last);
            }
        }
    }
    ranges.into_iter().collect()
}

/// What several hold, cut so that each address belongs to the first who holds it; neighbours of the same holder are one range. Ranges of
/// one holder neither overlap nor touch.
pub(crate) fn first_holders<T: Clone + PartialEq>(
    holders: impl Iterator<Item = (OrdMap<IpAddr, IpAddr>, T)>,
) -> OrdMap<IpAddr, (IpAddr, T)> {
    let mut names = Vec::new();
    // Who begins and who has ended at an address.
    let mut edges: BTreeMap<IpAddr, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    let mut end_of_all = None;
    for (number, (ranges, name)) in holders.enumerate() {
        names.push(name);
        for (first, last) in ranges {
            edges.entry(first).or_default().0.push(number);
            match next(last) {
                Some(behind) => edges.entry(behind).or_default().1.push(number),
                None => end_of_all = Some(last),
            }
        }
    }
    let mut pieces: Vec<(IpAddr, IpAddr, usize)> = Vec::new();
    let mut open = BTreeSet::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((first, (begin, end))) = edges.next() {
        open.retain(|number| !end.contains(number));
        open.extend(begin);
        let last = edges.peek().map_or(end_of_all, |(behind, _)| previous(*behind));
        let (Some(holder), Some(last)) = (open.first(), last) else { continue };
        match pieces.last_mut() {
            Some((_, before, same)) if same == holder && next(*before) == Some(first) => *before = last,
            _ => pieces.push((first, last, *holder)),
        }
    }
    pieces.into_iter().filter_map(|(first, last, number)| Some((first, (last, names.get(number)?.clone())))).collect()
}

/// The address behind this one; none behind the last of its family.
pub fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// The address before this one; none before the first of its family.
pub fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_sub(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_sub(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(nets: &[&str]) -> Vec<String> {
        let nets: BTreeSet<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let text = |(first, last): (IpAddr, IpAddr)| format!("{first}-{last}");
        [Family::V4, Family::V6].into_iter().flat_map(|family| merge(&nets, family)).map(text).collect()
    }

    #[test]
    fn p53_what_overlaps_or_touches_is_one_range() {
        assert_eq!(merged(&["10.0.0.0/16", "10.0.3.0/24", "10.0.3.7/32"]), ["10.0.0.0-10.0.255.255"], "contained");
        assert_eq!(merged(&["10.0.1.0/24", "10.0.2.0/24"]), ["10.0.1.0-10.0.2.255"], "neighbours that are no larger network");
        assert_eq!(merged(&["10.0.1.0/24", "10.0.3.0/24"]), ["10.0.1.0-10.0.1.255", "10.0.3.0-10.0.3.255"]);
        assert_eq!(merged(&["::1/128", "10.0.0.1/32"]), ["10.0.0.1-10.0.0.1", "::1-::1"], "families apart");
    }

    #[test]
    fn each_address_belongs_to_the_first_who_holds_it() {
        let held = |holders: &[&[&str]]| -> Vec<String> {
            let ranges = |nets: &&[&str]| merge(&nets.iter().map(|net| net.parse().unwrap()).collect(), Family::V4);
            let held = first_holders(holders.iter().map(ranges).zip("abc".chars()));
            held.into_iter().map(|(first, (last, name))| format!("{name} {first}-{last}")).collect()
        };
        assert_eq!(held(&[&["10.0.0.0/30"], &["10.0.0.0/30"]]), ["a 10.0.0.0-10.0.0.3"]);
        assert_eq!(held(&[&["10.0.0.2/32"], &["10.0.0.0/30"]]), ["b 10.0.0.0-10.0.0.1", "a 10.0.0.2-10.0.0.2", "b 10.0.0.3-10.0.0.3"]);
        assert_eq!(held(&[&["10.0.0.0/30"], &["10.0.0.2/32"], &["10.0.0.4/32"]]), ["a 10.0.0.0-10.0.0.3", "c 10.0.0.4-10.0.0.4"]);
        assert_eq!(
            held(&[&["10.0.0.1/32", "10.0.0.3/32"], &["10.0.0.9/32"], &["10.0.0.3/32"]])[1..],
            ["a 10.0.0.3-10.0.0.3", "b 10.0.0.9-10.0.0.9"]
        );
        let whole = held(&[&["255.255.255.254/31"], &["0.0.0.0/0"]]);
        assert_eq!(whole, ["b 0.0.0.0-255.255.255.253", "a 255.255.255.254-255.255.255.255"], "to both ends of the address space");
        assert_eq!(held(&[&[]]), [""; 0]);
    }

    #[test]
    fn the_ends_of_the_address_space_are_addresses_too() {
        assert_eq!(merged(&["0.0.0.0/0", "10.0.0.0/8"]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(merged(&["255.255.255.255/32", "0.0.0.0/32"]), ["0.0.0.0-0.0.0.0", "255.255.255.255-255.255.255.255"]);
        assert_eq!(merged(&["255.255.255.254/32", "255.255.255.255/32"]), ["255.255.255.254-255.255.255.255"]);
        assert_eq!(merged(&["::/0"]), ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        assert_eq!(merged(&[]), [""; 0]);
    }
}
