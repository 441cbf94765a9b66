//! Order is what firewalls get wrong (P59): nothing is accepted before dispatch but what S31 allows, nothing in an endpoint's chains
//! before the exemptions, and whoever is not accepted is denied.

use proptest::prelude::*;
use ruleset::{Action, Chain, CtStates, Hook, Match, Rule, Ruleset, lower};

use crate::build::three_tier;
use crate::generate;

/// What is wrong with the order of the rules.
fn lint(ruleset: &Ruleset) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, chain) in &ruleset.chains {
        let complaint = if chain.base.is_some() {
            lint_base(chain)
        } else if name.starts_with("in-pod/") || name.starts_with("out-pod/") {
            lint_endpoint(chain)
        } else if name.starts_with("in/") || name.starts_with("out/") {
            lint_group(chain)
        } else if name.starts_with("exempt") {
            None
        } else {
            Some("belongs to no layer")
        };
        wrong.extend(complaint.map(|complaint| format!("{name}: {complaint}")));
    }
    wrong
}

fn lint_base(chain: &Chain) -> Option<&'static str> {
    let established = CtStates { established: true, related: true, ..CtStates::default() };
    let [first, rest @ ..] = chain.rules.as_slice() else { return Some("does nothing") };
    if first.action != Action::Accept || first.matches != [Match::CtState(established)] {
        return Some("does not begin with established traffic");
    }
    let dispatches = |rule: &Rule| rule.matches.is_empty() && matches!(rule.action, Action::Lookup { .. });
    // What the node sends to itself, and to its own pods (S36).
    let exempts = |rule: &Rule| match rule.matches[..] {
        [Match::FromLoopback] => chain.base.is_some_and(|base| base.hook == Hook::Input),
        [Match::ToLoopback] | [Match::InSet { .. }] => chain.base.is_some_and(|base| base.hook == Hook::Output),
        _ => false,
    };
    let counted = |rule: &Rule| rule.action == Action::Accept && rule.counter.as_ref().is_some_and(|name| name.starts_with("exempt-"));
    (!rest.iter().all(|rule| dispatches(rule) || counted(rule) && exempts(rule))).then_some("does more than dispatch")
}

fn lint_endpoint(chain: &Chain) -> Option<&'static str> {
    let [exempt, rest @ .., last] = chain.rules.as_slice() else { return Some("is too short") };
    let invalid = |rule: &Rule| rule.action == Action::Drop && matches!(rule.matches[..], [Match::CtState(states)] if states.invalid);
    let first_jump = rest.iter().position(|rule| matches!(rule.action, Action::Jump(_))).unwrap_or(rest.len());
    if !exempt.matches.is_empty() || exempt.action != Action::Jump("exempt".into()) {
        Some("does not begin with the exemptions")
    } else if !rest[..first_jump].iter().any(invalid) {
        Some("has groups before the end of invalid packets")
    } else if !last.matches.is_empty() || !matches!(last.action, Action::Drop | Action::RejectAdminProhibited) {
        Some("does not end in denial")
    } else {
        None
    }
}

fn lint_group(chain: &Chain) -> Option<&'static str> {
    // Match::Family is everybody of a family, 0.0.0.0/0 or ::/0.
    let is_peer = |test: &Match| matches!(test, Match::InSet { .. } | Match::InNet { .. } | Match::Family(_));
    let names_peer = |rule: &Rule| rule.matches.iter().any(is_peer);
    let fine = |rule: &Rule| rule.action == Action::Accept && rule.counter.is_some() && names_peer(rule);
    (!chain.rules.iter().all(fine)).then_some("accepts without a peer or a counter")
}

proptest! {
    #[test]
    fn p59_every_ruleset_is_in_order(policy in generate::policy()) {
        prop_assert_eq!(lint(&lower(&policy)), Vec::<String>::new());
    }
}

/// The lint itself notices.
#[test]
fn p59_what_is_out_of_order_is_found() {
    let accept = || Rule { matches: vec![], counter: None, action: Action::Accept };
    let spoiled = |chain: &str, change: fn(&mut Vec<Rule>, Rule)| {
        let mut ruleset = lower(&three_tier());
        change(&mut ruleset.chains.get_mut(chain).unwrap().rules, accept());
        lint(&ruleset)
    };
    assert_eq!(spoiled("forward-egress", |rules, rule| rules.insert(1, rule)), ["forward-egress: does more than dispatch"]);
    assert_eq!(spoiled("input-egress", |rules, rule| rules.insert(0, rule)), ["input-egress: does not begin with established traffic"]);
    assert_eq!(
        spoiled("in-pod/shop/web-0", |rules, rule| rules.insert(0, rule)),
        ["in-pod/shop/web-0: does not begin with the exemptions"]
    );
    assert_eq!(spoiled("in-pod/shop/web-0", |rules, rule| rules.push(rule)), ["in-pod/shop/web-0: does not end in denial"]);
    assert_eq!(spoiled("out/shop/db", |rules, rule| rules.push(rule)), ["out/shop/db: accepts without a peer or a counter"]);
    assert_eq!(
        spoiled("out-pod/shop/db-0", |rules, _| rules.retain(|rule| !matches!(rule.matches[..], [Match::CtState(_)]))),
        ["out-pod/shop/db-0: has groups before the end of invalid packets"]
    );
}
