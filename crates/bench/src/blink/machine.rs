//! Where a machine may drop packets for reasons that are not rules.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lab::Namespace;

/// Counts by place.
pub(super) type Drops = BTreeMap<String, u64>;

/// What has been dropped in between.
pub(super) fn since(before: Drops, after: Drops) -> Drops {
    let more = |(place, count): (String, u64)| {
        let more = count.saturating_sub(before.get(&place).copied().unwrap_or_default());
        (more > 0).then_some((place, more))
    };
    after.into_iter().filter_map(more).collect()
}

/// What every device, IP and UDP have dropped in a namespace; and conntrack, where it is at work.
pub(super) fn drops(namespace: &Namespace, role: &str) -> Result<Drops> {
    // The thread's own, not the process': only the thread is in the namespace.
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).with_context(|| file.to_owned());
    namespace.run(|| {
        let mut drops = devices(&read("dev")?);
        drops.extend(paired(&read("snmp")?));
        drops.extend(listed(&read("snmp6")?));
        drops.extend(conntrack(&read("stat/nf_conntrack").unwrap_or_default()));
        Ok(drops.into_iter().map(|(place, count)| (format!("{role}: {place}"), count)).collect())
    })?
}

/// `eth0: bytes packets errs drop …` of what was received (8 columns), then the same of what was sent.
fn devices(text: &str) -> Drops {
    let mut drops = Drops::new();
    for (device, counts) in text.lines().filter_map(|line| line.split_once(':')) {
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        for (column, what) in [(3, "received"), (11, "sent")] {
            drops.insert(format!("{} {what}", device.trim()), counts.get(column).copied().unwrap_or_default());
        }
    }
    drops
}

/// What IP and UDP call it when they drop a packet that was well-formed.
const DROPPED: [&str; 6] = ["InDiscards", "OutDiscards", "OutNoRoutes", "RcvbufErrors", "SndbufErrors", "MemErrors"];

/// A line of names, then a line of numbers, for each protocol.
fn paired(text: &str) -> Drops {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let pairs = lines.chunks(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
    let counts = pairs.flat_map(|(names, numbers)| names.iter().zip(numbers).map(|(name, number)| (names[0], *name, *number)));
    counts
        .filter(|(_, name, _)| DROPPED.contains(name))
        .filter_map(|(protocol, name, number)| Some((format!("{protocol}{name}"), number.parse().ok()?)))
        .collect()
}

/// `Udp6RcvbufErrors 0`, a line each.
fn listed(text: &str) -> Drops {
    let counts = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    counts
        .filter(|(name, _)| DROPPED.iter().any(|dropped| name.ends_with(dropped)))
        .filter_map(|(name, number)| Some((name.into(), number.trim().parse().ok()?)))
        .collect()
}

/// A line of names, then a line of hexadecimal numbers for each processor.
fn conntrack(text: &str) -> Drops {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut drops = Drops::new();
    for line in lines {
        let counts = names.iter().zip(line.split_whitespace());
        for (name, count) in counts.filter(|(name, _)| ["drop", "insert_failed"].contains(name)) {
            *drops.entry(format!("conntrack {name}")).or_default() += u64::from_str_radix(count, 16).unwrap_or_default();
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_read_in_every_form() {
        let dev = " face |bytes\n  eth0: 1 2 0 7 0 0 0 0 9 9 0 8 0 0 0 0\n";
        let read = [
            devices(dev),
            paired("Udp: InDatagrams RcvbufErrors\nUdp: 5 3\n"),
            listed("Ip6InDiscards                   \t4\nUdp6InDatagrams 9\n"),
            conntrack("entries insert_failed drop\n00000001 00000002 0000000a\n00000001 00000000 00000001\n"),
        ];
        let all: Drops = read.into_iter().flatten().collect();
        let wanted = [
            ("eth0 received", 7),
            ("eth0 sent", 8),
            ("Udp:RcvbufErrors", 3),
            ("Ip6InDiscards", 4),
            ("conntrack drop", 11),
            ("conntrack insert_failed", 2),
        ];
        assert_eq!(all, wanted.map(|(place, count)| (place.into(), count)).into());
        assert_eq!(
            since([("a".into(), 1), ("b".into(), 2)].into(), [("a".into(), 1), ("b".into(), 5), ("c".into(), 1)].into()),
            [("b".into(), 3), ("c".into(), 1)].into()
        );
    }
}
