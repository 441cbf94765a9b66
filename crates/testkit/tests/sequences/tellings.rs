//! Random histories, told in every way.

use proptest::prelude::*;
use testkit::history::{State, TELLINGS, Telling, tell};
use testkit::steps::{NODES, history};
use testkit::{Program, from_scratch};

/// One program hears one telling; it syncs after every batch.
fn hears(node: &str, states: &[State], telling: Telling, seed: u64) -> Result<Program, String> {
    let mut program = Program::new(node);
    for batch in tell(states, telling, seed) {
        if batch.restart {
            program.restart();
        }
        batch.events.iter().for_each(|event| program.take(event));
        program.sync()?;
        let Some(state) = batch.state else { continue };
        if program.cluster != state.cluster() {
            return Err(format!("{telling:?}: the facts are not those that are stored\n{:#?}\n{state:#?}", program.cluster));
        }
        let (_, wanted) = from_scratch(&state.cluster(), &program.node);
        if program.kernel.table() != Some(&wanted) {
            return Err(format!("{telling:?}: the rules are not those of the facts"));
        }
    }
    Ok(program)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// S6–S9, S20, S21, P08, P10, P11, P34: present facts decide, and nothing else. P53: so do overlapping networks that come and go.
    #[test]
    fn s6_p08_p34_every_telling_of_a_history_leads_to_the_same_rules(states in history(), seed in any::<u64>()) {
        for node in NODES {
            for telling in TELLINGS {
                let program = hears(node, &states, telling, seed).map_err(TestCaseError::fail)?;
                let end = if telling == Telling::Reversed { states.first() } else { states.last() };
                prop_assert_eq!(&program.cluster, &end.map(State::cluster).unwrap_or_default(), "{:?}", telling);
            }
        }
    }
}

/// A test that meets nothing proves nothing: the random histories guard pods, name groups, reuse addresses and reach both nodes.
#[test]
fn the_histories_meet_what_they_are_for() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut guarded, mut members, mut shared, mut finished, mut missing) = (0, 0, 0, 0, 0);
    for _ in 0..300 {
        let Ok(tree) = history().new_tree(&mut runner) else { continue };
        for state in tree.current() {
            let cluster = state.cluster();
            let resolution = policy::resolve(&cluster);
            let compiled = policy::compile(&cluster, &resolution, &policy::model::NodeName("n1".into()));
            guarded += usize::from(!compiled.policy.endpoints.is_empty());
            members += usize::from(compiled.policy.members.values().any(|addresses| !addresses.is_empty()));
            let running = || cluster.pods.values().filter(|pod| !pod.finished && !pod.host_network);
            let claims = running().map(|pod| pod.addresses.len()).sum::<usize>();
            let addresses = running().flat_map(|pod| &pod.addresses).collect::<std::collections::BTreeSet<_>>();
            shared += usize::from(claims > addresses.len());
            finished += usize::from(cluster.pods.values().any(|pod| pod.finished && !pod.addresses.is_empty()));
            missing += usize::from(resolution.endpoints.values().any(|pod| !pod.missing.is_empty()));
        }
    }
    let met = [guarded, members, shared, finished, missing];
    assert!(met.iter().all(|&count| count > 200), "guarded, members, shared addresses, finished, missing groups: {met:?}");
}
