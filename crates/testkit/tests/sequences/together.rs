//! The operator and the agents of two nodes, each with its own view of one random history.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use policy::index::{Key, Object};
use policy::model::PodRef;
use policy::{resolve, slices};
use proptest::prelude::*;
use testkit::history::State;
use testkit::steps::{NODES, history};
use testkit::{Event, Program, from_scratch};

/// Every node has addresses of its own, as most networks have it: those of the second are the first's with one bit more.
fn elsewhere(address: &IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(*address) | 0x100).into()),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(*address) | 0x1_0000)),
    }
}

/// A state as the API server has it, without slices: those are the operator's.
fn stored(state: &State) -> State {
    state.map(|object| match object {
        Object::MemberSlice(..) => None,
        Object::Pod(name, pod) => {
            let mut pod = pod.clone();
            if pod.node.as_ref().is_some_and(|node| node.0 == NODES[1]) {
                pod.addresses = pod.addresses.iter().map(elsewhere).collect();
            }
            Some(Object::Pod(name.clone(), pod))
        }
        other => Some(other.clone()),
    })
}

/// What an agent sees of it: its own node's pods, everything else.
fn seen_by(node: &str, state: &State) -> State {
    state.map(|object| match object {
        Object::Pod(_, pod) if pod.node.as_ref().is_none_or(|own| own.0 != node) => None,
        other => Some(other.clone()),
    })
}

/// The operator writes what is missing; hands out what its watch, and the agents', say of it.
fn publish(operator: &mut Program) -> Vec<Event> {
    let mut events = Vec::new();
    for op in slices::plan(&operator.cluster, &resolve(&operator.cluster)) {
        events.push(match op.outcome() {
            Some(slice) => Event::Apply(Object::MemberSlice(op.key().clone(), slice.clone())),
            None => Event::Delete(Key::MemberSlice(op.key().clone())),
        });
    }
    events.iter().for_each(|event| operator.take(event));
    events
}

/// An agent, what it has seen, and what it has not heard yet.
struct Agent {
    program: Program,
    seen: State,
    waiting: Vec<Event>,
}

impl Agent {
    fn hears(&mut self, state: &State) -> Result<(), String> {
        let now = seen_by(&self.program.node.0, state);
        let events = self.seen.events_to(&now);
        self.seen = now;
        for event in events.iter().chain(&std::mem::take(&mut self.waiting)) {
            self.program.take(event);
        }
        self.program.sync()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// S6, S17, P05, P34: as soon as everything is heard, every node's sets hold the members of the whole cluster, and every pod is
    /// guarded as the operator sees it, whoever heard what late.
    #[test]
    fn s17_p05_p34_nodes_and_operator_agree_in_the_end(states in history(), late in any::<u64>()) {
        let mut operator = Program::new("none");
        let mut agents = NODES.map(|node| Agent { program: Program::new(node), seen: State::default(), waiting: Vec::new() });
        let mut before = State::default();
        for (number, state) in states.iter().map(stored).enumerate() {
            before.events_to(&state).iter().for_each(|event| operator.take(event));
            before = state;
            let written = publish(&mut operator);
            prop_assert_eq!(slices::plan(&operator.cluster, &resolve(&operator.cluster)), vec![], "one round is enough");
            for (which, agent) in agents.iter_mut().enumerate() {
                agent.waiting.extend(written.iter().cloned());
                if late >> ((2 * number + which) % 64) & 1 == 0 {
                    agent.hears(&before).map_err(TestCaseError::fail)?;
                }
            }
        }
        let whole = resolve(&operator.cluster);
        for agent in &mut agents {
            agent.hears(&before).map_err(TestCaseError::fail)?;
            let (compiled, _) = from_scratch(&agent.program.cluster, &agent.program.node);
            prop_assert_eq!(&compiled.awaited, &BTreeSet::new());
            for (group, members) in &compiled.policy.members {
                prop_assert_eq!(members.iter().copied().collect::<BTreeSet<_>>(), whole.addresses(group), "{} on {}", group, agent.program.node);
            }
            let own = whole.endpoints.iter().filter(|(_, pod)| pod.node.as_ref() == Some(&agent.program.node));
            let own: Vec<(&PodRef, _, _)> = own.map(|(name, pod)| (name, &pod.addresses, &pod.groups)).collect();
            let guarded: Vec<_> = compiled.policy.endpoints.iter().map(|(name, pod)| (name, &pod.addresses, &pod.groups)).collect();
            prop_assert_eq!(guarded, own);
        }
    }
}
