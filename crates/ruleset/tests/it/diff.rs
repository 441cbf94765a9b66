//! A small change stays small.

use std::sync::Arc;

use imbl::ordmap;
use policy::model::*;
use ruleset::{Base, Chain, CounterMap, FakeKernel, Hook, Kernel, Op, PortMap, Ruleset, Transaction, diff, lower};

use crate::build::*;

fn change(after: &NodePolicy) -> Vec<Op> {
    diff(&lower(&three_tier()), &lower(after)).ops
}

/// A table of another version of this program, told by the name of a chain.
#[test]
fn a_table_of_another_schema_is_made_anew_as_a_whole_and_one_of_ours_is_not() {
    let wanted = lower(&three_tier());
    let schema = wanted.chains.keys().find(|name| name.starts_with("schema-")).unwrap().clone();
    let mut older = wanted.clone();
    let chain = older.chains.remove(&schema).unwrap();
    older.chains.insert("schema-1".into(), chain);
    assert_eq!(diff(&older, &wanted), Transaction::replace(&wanted));
    assert_eq!(diff(&wanted, &wanted).ops, []);
}

#[test]
fn a_member_that_joins_is_one_element_a_family() {
    let after = three_tier().members("shop/app", &["10.2.0.3", "10.3.0.3", "fd00:2::3", "fd00:3::3"]);
    assert_eq!(
        change(&after),
        [
            Op::AddElements("members4/shop/app".into(), addresses(&["10.3.0.3"])),
            Op::AddElements("members6/shop/app".into(), addresses(&["fd00:3::3"])),
        ]
    );
}

#[test]
fn a_member_that_leaves_is_one_element_a_family() {
    let after = three_tier().members("shop/app", &["10.2.0.3"]);
    assert_eq!(change(&after), [Op::DeleteElements("members6/shop/app".into(), addresses(&["fd00:2::3"]))]);
}

/// One element of each map that names the group: it comes, goes, or is another's from now on.
#[test]
fn a_member_of_peers_that_are_merged_is_one_element() {
    let policy = |one: &[&str], other: &[&str]| {
        let rules: Vec<Rule> = (0..9).map(|n| rule(&format!("{n}"), tcp(80), &format!("peers/g{n}"))).collect();
        let policy = NodePolicy::default().pod("shop/web-0", &["10.2.0.2"], &["shop/web"]).group("shop/web", &rules, &[]);
        let policy = (2..9).fold(policy, |policy, n| policy.members(&format!("peers/g{n}"), &["10.3.0.9"]));
        policy.members("peers/g0", one).members("peers/g1", other)
    };
    let change = |from: NodePolicy, to: NodePolicy| -> Vec<String> {
        let ops = diff(&lower(&from), &lower(&to)).ops;
        ops.iter()
            .map(Op::to_string)
            .filter(|op| op.contains("members4/") && !op.contains("peers"))
            .map(|op| op[op.find('{').unwrap()..].into())
            .collect()
    };
    let of = |n: u8| format!("{{ 10.3.0.1 : \"in/shop/web/sgr-{n}\" }}");
    let (both, first, second, none) =
        (policy(&["10.3.0.1"], &["10.3.0.1"]), policy(&["10.3.0.1"], &[]), policy(&[], &["10.3.0.1"]), policy(&[], &[]));
    assert_eq!(change(none.clone(), second.clone()), [of(1)]);
    assert_eq!(change(second.clone(), both.clone()), ["{ 10.3.0.1 }".to_owned(), of(0)], "it counts for the first of both");
    assert_eq!(change(both.clone(), first.clone()), [""; 0]);
    assert_eq!(change(both, second), ["{ 10.3.0.1 }".to_owned(), of(1)]);
    assert_eq!(change(first, none), ["{ 10.3.0.1 }"]);
}

#[test]
fn another_group_for_a_pod_refills_its_own_chains_only() {
    let after = three_tier().pod("shop/app-0", &["10.2.0.3", "fd00:2::3"], &["shop/web"]);
    let flushed: Vec<Op> = change(&after).into_iter().filter(|op| matches!(op, Op::FlushChain(_))).collect();
    // No pod is left in the other class.
    let chains = ["in-pod/shop/app-0", "out-pod/shop/app-0", "in/shop/app", "out/shop/app"];
    assert_eq!(flushed, chains.map(|chain| Op::FlushChain(chain.into())));
}

#[test]
fn a_rule_that_goes_takes_its_counter_and_no_other() {
    let mut after = three_tier();
    Arc::make_mut(after.groups.get_mut(&group("shop/db")).unwrap()).ingress.remove(&rule("c2", tcp(5432), "shop/app"));
    let ops: Vec<Op> = change(&after).into_iter().filter(|op| !matches!(op, Op::AddRule(..))).collect();
    assert_eq!(ops, [Op::FlushChain("in/shop/db".into()), Op::DeleteCounter("in/shop/db/sgr-c2".into())]);
}

#[test]
fn an_address_goes_over_to_another_pod_by_delete_and_add() {
    let before = NodePolicy::default().pod("shop/old", &["10.2.0.2"], &[]);
    let after = NodePolicy::default().pod("shop/new", &["10.2.0.2"], &[]);
    let (before, after) = (lower(&before), lower(&after));
    let elements: Vec<String> =
        diff(&before, &after).ops.iter().map(Op::to_string).filter(|op| op.contains("element") && op.contains(" in4 ")).collect();
    assert_eq!(
        elements,
        ["delete element inet k8s-sg in4 { 10.2.0.2 }", "add element inet k8s-sg in4 { 10.2.0.2 : goto in-pod/shop/new }"]
    );
}

/// A newer version of this program may hook elsewhere.
#[test]
fn what_cannot_be_changed_in_place_is_replaced_as_a_whole() {
    let base = |priority| Some(Base { hook: Hook::Input, priority });
    let at = |priority| Ruleset {
        chains: ordmap! {"base".into() => Chain { base: base(priority), rules: vec![] }.into()},
        ..Ruleset::default()
    };
    assert_eq!(diff(&at(-5), &at(7)), Transaction::replace(&at(7)));
    let ports =
        |ranges| Ruleset { port_maps: ordmap! {"ports".into() => PortMap { ranges, elements: [].into() }.into()}, ..Ruleset::default() };
    assert_eq!(diff(&ports(false), &ports(true)), Transaction::replace(&ports(true)));
    let counted = |family, ranges| Ruleset {
        counter_maps: ordmap! {"counted".into() => CounterMap { family, ranges, elements: ordmap! {} }},
        ..Ruleset::default()
    };
    for other in [counted(Family::V4, true), counted(Family::V6, false)] {
        assert_eq!(diff(&counted(Family::V4, false), &other), Transaction::replace(&other));
    }
}

#[test]
fn replacing_works_with_and_without_a_table() {
    let wanted = lower(&three_tier());
    for mut kernel in [FakeKernel::new(), FakeKernel::with(lower(&NodePolicy::default())), FakeKernel::with(wanted.clone())] {
        kernel.commit(&Transaction::replace(&wanted)).unwrap();
        assert_eq!(kernel.table(), Some(&wanted));
    }
    assert!(!Transaction::replace(&Ruleset::default()).is_empty(), "an empty table is still a table");
}
