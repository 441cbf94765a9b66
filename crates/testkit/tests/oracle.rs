//! The compiled ruleset in the packet trace against the oracle: no difference in 10,000 random cases (S1–S37).

use std::collections::{BTreeMap, BTreeSet};

use policy::model::{ConnState, Exemption, Payload, Peer, Verdict};
use policy::verdict;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use ruleset::{Bounds, FakeKernel, Kernel, Transaction, lower_within, trace};

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Through the fake kernel, so that what is traced is also what a kernel would have accepted.
    #[test]
    fn the_ruleset_says_what_the_oracle_says((policy, packet) in testkit::case(), few in 0..9usize, peers in 0..4usize, most in 0..20usize) {
        let bounds = Bounds { few, peers, most };
        let mut kernel = FakeKernel::default();
        kernel.commit(&Transaction::replace(&lower_within(&policy, bounds))).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let in_force = kernel.load().map_err(|error| TestCaseError::fail(error.to_string()))?.unwrap_or_default();
        prop_assert_eq!(trace(&in_force, &packet), verdict(&policy, &packet), "\n{}\n{:?}", in_force, packet);
    }
}

/// A test that only ever meets one verdict proves nothing: the generator meets all of them, in every state, often.
#[test]
fn the_random_cases_meet_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = [0; 3];
    for _ in 0..3_000 {
        let Ok(tree) = testkit::case().new_tree(&mut runner) else { continue };
        let (policy, packet) = tree.current();
        if packet.state == ConnState::New {
            seen[match verdict(&policy, &packet) {
                Verdict::Allow => 0,
                Verdict::Drop => 1,
                Verdict::Reject => 2,
            }] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count > 100), "allow, drop, reject: {seen:?}");
}

/// Nor does one that never meets a kind of peer, of exemption, of path.
#[test]
fn the_random_cases_meet_every_kind() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..2_000 {
        let Ok(tree) = (testkit::draft(), testkit::packet()).new_tree(&mut runner) else { continue };
        let (draft, packet) = tree.current();
        let policy = draft.policy();
        let mut met: BTreeSet<String> = BTreeSet::from([format!("{:?}", packet.path), format!("{:?}", packet.state)]);
        if let Payload::Protocol(number) = packet.payload {
            met.insert(format!("protocol {number}"));
        }
        for (group, rules) in &policy.groups {
            for rule in rules.all() {
                met.insert(match &rule.peer {
                    Peer::Net(_) => "a network".into(),
                    Peer::Group(peer) if peer == group => "self".into(),
                    Peer::Group(peer) if policy.members.contains_key(peer) => "a group".into(),
                    Peer::Group(_) => "a group that does not exist".into(),
                    Peer::PrefixList(list) => match policy.prefix_lists.get(list).map(|entries| entries.len()) {
                        None => "a list that does not exist".into(),
                        Some(0) => "an empty list".into(),
                        Some(_) => "a list".into(),
                    },
                });
            }
        }
        for entries in draft.lists.values() {
            let written = entries.len();
            let trunc: BTreeSet<_> = entries.iter().map(|entry| entry.trunc()).collect();
            met.extend(entries.iter().any(|entry| entry.trunc() != *entry).then(|| "host bits".into()));
            met.extend((trunc.len() < written).then(|| "an entry twice".into()));
            met.extend(trunc.iter().any(|entry| entry.prefix_len() == 0).then(|| "everybody".into()));
            met.extend(trunc.iter().any(|a| trunc.iter().any(|b| a != b && a.contains(b))).then(|| "an entry within another".into()));
        }
        // What one exemption alone decides.
        for exemption in Exemption::ALL {
            let mut other = policy.clone();
            if !other.exempt.remove(&exemption) {
                other.exempt.insert(exemption);
            }
            met.extend((verdict(&other, &packet) != verdict(&policy, &packet)).then(|| format!("{exemption} decides")));
        }
        for kind in met {
            *seen.entry(kind).or_default() += 1;
        }
    }
    let kinds = [
        "Forward",
        "Input",
        "Output",
        "Loopback",
        "New",
        "Established",
        "Related",
        "Invalid",
        "protocol 0",
        "protocol 47",
        "protocol 99",
        "a network",
        "self",
        "a group",
        "a group that does not exist",
        "a list",
        "an empty list",
        "a list that does not exist",
        "host bits",
        "an entry twice",
        "everybody",
        "an entry within another",
        "Node decides",
        "NeighbourDiscovery decides",
        "ListenerDiscovery decides",
        "DHCP decides",
        "Hairpin decides",
        "ClusterDNS decides",
    ];
    for kind in kinds {
        assert!(seen.get(kind).is_some_and(|&count| count >= 3), "{kind}: {seen:#?}");
    }
}
