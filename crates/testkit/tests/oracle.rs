//! The compiled ruleset in the packet trace against the oracle: no difference in 10,000 random cases (S1–S37).

use policy::model::{ConnState, Verdict};
use policy::verdict;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use ruleset::{FakeKernel, Kernel, Transaction, lower, trace};

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Through the fake kernel, so that what is traced is also what a kernel would have accepted.
    #[test]
    fn the_ruleset_says_what_the_oracle_says((policy, packet) in testkit::case()) {
        let mut kernel = FakeKernel::default();
        kernel.commit(&Transaction::replace(&lower(&policy))).map_err(|error| TestCaseError::fail(error.to_string()))?;
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
