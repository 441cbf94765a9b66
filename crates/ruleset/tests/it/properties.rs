//! What holds of every policy, ruleset and packet.

use std::sync::Arc;

use policy::model::NodePolicy;
use policy::verdict;
use proptest::prelude::*;
use ruleset::{FakeKernel, Fingerprint, Kernel, Lowering, Refused, Ruleset, Transaction, diff, lower_within, trace};

use crate::generate;

fn applied(from: &Ruleset, transaction: &Transaction) -> Result<Option<Ruleset>, Refused> {
    let mut kernel = FakeKernel::with(from.clone());
    kernel.commit(transaction)?;
    kernel.load()
}

fn leads(from: &Ruleset, to: &Ruleset) -> Result<(), TestCaseError> {
    let steps = diff(from, to);
    prop_assert_eq!(applied(from, &steps), Ok(Some(to.clone())), "steps:\n{}", steps);
    prop_assert_eq!(steps.is_empty(), from == to);
    prop_assert_eq!(diff(to, to), Transaction::default());
    prop_assert_eq!(applied(from, &Transaction::replace(to)), Ok(Some(to.clone())));
    prop_assert_eq!(Fingerprint::of(from) == Fingerprint::of(to), from == to);
    prop_assert_eq!(Fingerprint::of(from).follow(from, to), Fingerprint::of(to));
    Ok(())
}

/// A policy with one thing fewer, for each thing there is.
fn without_one(policy: &NodePolicy) -> Vec<NodePolicy> {
    let mut all = Vec::new();
    let mut take = |change: &dyn Fn(&mut NodePolicy)| {
        let mut less = policy.clone();
        change(&mut less);
        all.push(less);
    };
    for group in policy.members.keys() {
        take(&|less| drop(less.members.remove(group)));
    }
    for (group, address) in policy.members.iter().flat_map(|(group, members)| members.iter().map(move |address| (group, address))) {
        take(&|less| {
            if let Some(members) = less.members.get_mut(group) {
                members.remove(address);
            }
        });
    }
    for list in policy.prefix_lists.keys() {
        take(&|less| drop(less.prefix_lists.remove(list)));
        take(&|less| drop(less.prefix_lists.insert(list.clone(), Arc::default())));
    }
    for group in policy.groups.keys() {
        take(&|less| drop(less.groups.remove(group)));
        take(&|less| drop(less.groups.insert(group.clone(), Arc::default())));
    }
    for pod in policy.endpoints.keys() {
        take(&|less| drop(less.endpoints.remove(pod)));
        take(&|less| less.endpoints.get_mut(pod).into_iter().for_each(|endpoint| endpoint.groups.clear()));
    }
    take(&|less| less.cluster_dns.clear());
    take(&|less| less.exempt.clear());
    all
}

proptest! {
    /// What `lower` makes is legal, and every change of policy is one legal transaction that leads where it should.
    #[test]
    fn changes_of_policy_lead_there(from in generate::policy(), to in generate::policy(), bounds in generate::bounds()) {
        leads(&lower_within(&from, bounds), &lower_within(&to, bounds))?;
    }

    /// The same where one thing is taken away and comes back: nothing else changes that would have it made anew by chance.
    #[test]
    fn lowering_follows_every_single_thing(policy in generate::policy(), bounds in generate::bounds()) {
        let mut lowering = Lowering::within(bounds);
        for less in without_one(&policy) {
            for policy in [&policy, &less, &policy] {
                prop_assert_eq!(lowering.lower(policy), lower_within(policy, bounds));
            }
        }
    }

    /// What is made from what was before is what is made from nothing, whichever way policies go.
    #[test]
    fn lowering_goes_along(policies in proptest::collection::vec(generate::policy(), 1..4), bounds in generate::bounds()) {
        let mut lowering = Lowering::within(bounds);
        for policy in policies.iter().chain(policies.iter().rev()) {
            prop_assert_eq!(lowering.lower(policy), lower_within(policy, bounds));
        }
    }

    #[test]
    fn changes_of_any_ruleset_lead_there(from in generate::ruleset(), to in generate::ruleset()) {
        leads(&from, &to)?;
    }

    /// The ruleset is the policy (S1–S37), however early rules are sorted and merged.
    #[test]
    fn the_trace_is_the_verdict(
        policy in generate::policy(),
        bounds in generate::bounds(),
        packets in prop::collection::vec(generate::packet(), 40),
    ) {
        let ruleset = lower_within(&policy, bounds);
        for packet in packets {
            prop_assert_eq!(trace(&ruleset, &packet), verdict(&policy, &packet), "{:?}\n{}", packet, ruleset);
        }
    }
}
