//! Order is what firewalls get wrong (P59): nothing is accepted before dispatch but what S31 allows, groups never see an invalid packet,
//! and whoever is not accepted is denied.

use std::sync::Arc;

use proptest::prelude::*;
use ruleset::{Action, Chain, CtStates, Hook, Match, Rule, Ruleset, lower, lower_within};

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
        } else if name == "closed-in" || name == "closed-out" {
            lint_closed(chain)
        } else if name.starts_with("in/") || name.starts_with("out/") {
            lint_class(chain)
        } else if name.starts_with("exempt") || (name.starts_with("schema-") && chain.rules.is_empty()) {
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

/// It has no groups, and lets nothing pass by itself.
fn lint_closed(chain: &Chain) -> Option<&'static str> {
    let passes = |rule: &Rule| match &rule.action {
        Action::Jump(to) => to != "exempt",
        action => *action != Action::Drop,
    };
    lint_endpoint(chain).or(chain.rules.iter().any(passes).then_some("lets something pass"))
}

fn lint_endpoint(chain: &Chain) -> Option<&'static str> {
    let judged = CtStates { new: true, untracked: true, ..CtStates::default() };
    let invalid = CtStates { invalid: true, ..CtStates::default() };
    let rules = match chain.rules.as_slice() {
        [Rule { matches, counter: None, action: Action::Jump(to) }, rest @ ..] if to != "exempt" => {
            if *matches != [Match::CtState(judged)] {
                return Some("shows groups what is invalid");
            }
            rest
        }
        rules => rules,
    };
    let [exempt, rest @ .., last] = rules else { return Some("is too short") };
    let is_invalid = |rule: &Rule| rule.action == Action::Drop && rule.matches == [Match::CtState(invalid)];
    let dropped = rest.iter().position(is_invalid);
    let exempts = |rule: &Rule| rule.action == Action::Accept && rule.counter.as_ref().is_some_and(|name| name.starts_with("exempt-"));
    if !exempt.matches.is_empty() || exempt.action != Action::Jump("exempt".into()) {
        Some("does not exempt after its groups")
    } else if !last.matches.is_empty() || !matches!(last.action, Action::Drop | Action::RejectAdminProhibited) {
        Some("does not end in denial")
    } else if !dropped.is_some_and(|place| rest[..place].iter().all(exempts)) {
        Some("does not drop what is invalid after what is exempt")
    } else if rest
        .iter()
        .skip(dropped.unwrap_or_default())
        .any(|rule| matches!(rule.action, Action::Accept | Action::Jump(_) | Action::Goto(_)))
    {
        Some("accepts after the end of invalid packets")
    } else {
        None
    }
}

fn lint_class(chain: &Chain) -> Option<&'static str> {
    // Match::Family is everybody of a family, 0.0.0.0/0 or ::/0.
    let is_peer = |test: &Match| matches!(test, Match::InSet { .. } | Match::CountedIn { .. } | Match::InNet { .. } | Match::Family(_));
    let names_peer = |rule: &Rule| rule.matches.iter().any(is_peer);
    let counts = |rule: &Rule| rule.counter.is_some() || matches!(rule.matches.last(), Some(Match::CountedIn { .. }));
    let accepts = |rule: &Rule| rule.action == Action::Accept && counts(rule) && names_peer(rule);
    let narrows = |rule: &Rule| {
        matches!(rule.matches[..], [Match::L4Proto(_)])
            && match &rule.action {
                Action::PortLookup(_) => true,
                Action::Jump(to) => to.starts_with("in/") || to.starts_with("out/"),
                _ => false,
            }
    };
    (!chain.rules.iter().all(|rule| accepts(rule) || narrows(rule))).then_some("accepts without a peer or a counter")
}

proptest! {
    #[test]
    fn p59_every_ruleset_is_in_order(policy in generate::policy(), bounds in generate::bounds()) {
        prop_assert_eq!(lint(&lower_within(&policy, bounds)), Vec::<String>::new());
    }
}

/// The lint itself notices.
#[test]
fn p59_what_is_out_of_order_is_found() {
    let accept = || Rule { matches: vec![], counter: None, action: Action::Accept };
    let spoiled = |chain: &str, change: fn(&mut Vec<Rule>, Rule)| {
        let mut ruleset = lower(&three_tier());
        change(&mut Arc::make_mut(ruleset.chains.get_mut(chain).unwrap()).rules, accept());
        lint(&ruleset)
    };
    assert_eq!(spoiled("forward-egress", |rules, rule| rules.insert(1, rule)), ["forward-egress: does more than dispatch"]);
    assert_eq!(spoiled("input-egress", |rules, rule| rules.insert(0, rule)), ["input-egress: does not begin with established traffic"]);
    assert_eq!(spoiled("in-pod/shop/web-0", |rules, rule| rules.insert(1, rule)), ["in-pod/shop/web-0: does not exempt after its groups"]);
    assert_eq!(spoiled("in-pod/shop/web-0", |rules, rule| rules.push(rule)), ["in-pod/shop/web-0: does not end in denial"]);
    assert_eq!(spoiled("out/shop/db", |rules, rule| rules.push(rule)), ["out/shop/db: accepts without a peer or a counter"]);
    assert_eq!(
        spoiled("out-pod/shop/db-0", |rules, _| rules.retain(|rule| rule.action != Action::Drop || rule.matches.is_empty())),
        ["out-pod/shop/db-0: does not drop what is invalid after what is exempt"]
    );
    assert_eq!(
        spoiled("out-pod/shop/db-0", |rules, rule| rules.insert(rules.len() - 1, rule)),
        ["out-pod/shop/db-0: accepts after the end of invalid packets"]
    );
    assert_eq!(spoiled("out-pod/shop/db-0", |rules, _| rules[0].matches.clear()), ["out-pod/shop/db-0: shows groups what is invalid"]);
}
