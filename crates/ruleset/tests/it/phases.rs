//! A change in phases: each is legal, together they lead where the change leads, and no verdict but the old and the new is ever given (S42).

use policy::model::NodePolicy;
use policy::verdict;
use proptest::prelude::*;
use ruleset::{FakeKernel, Kernel, Op, Phase, Transaction, diff, lower, lower_within, trace};

use crate::build::*;
use crate::generate;

fn phases(from: &NodePolicy, to: &NodePolicy) -> Vec<Transaction> {
    diff(&lower(from), &lower(to)).phases().into_iter().map(|(_, transaction)| transaction).collect()
}

#[test]
fn a_member_that_joins_is_one_transaction() {
    let after = three_tier().members("shop/app", &["10.2.0.3", "10.3.0.3", "fd00:2::3"]);
    assert_eq!(phases(&three_tier(), &after), [diff(&lower(&three_tier()), &lower(&after))]);
    assert_eq!(phases(&after, &after), []);
}

#[test]
fn a_pod_is_made_before_it_is_dispatched_to_and_goes_after() {
    let after = three_tier().pod("shop/app-9", &["10.2.0.9"], &["shop/app"]);
    let with = |text: &'static str| move |transaction: &Transaction| transaction.ops.iter().any(|op| op.to_string().contains(text));
    let (chain, element) = (" chain inet k8s-sg in-pod/shop/app-9", " element inet k8s-sg in4 { 10.2.0.9 ");
    let coming = phases(&three_tier(), &after);
    assert_eq!(coming.iter().map(with(chain)).collect::<Vec<_>>(), [true, false]);
    assert_eq!(coming.iter().map(with(element)).collect::<Vec<_>>(), [false, true]);
    let going = phases(&after, &three_tier());
    assert_eq!(going.iter().map(with(element)).collect::<Vec<_>>(), [true, false]);
    assert_eq!(going.iter().map(with(chain)).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_table_is_replaced_in_one() {
    let replacement = Transaction::replace(&lower(&three_tier()));
    assert_eq!(replacement.clone().phases(), [(Phase::Change, replacement)]);
}

/// What changes what packets meet: everything but making, filling and clearing what nobody refers to.
fn changes(transaction: &Transaction, made: &mut Vec<String>) -> bool {
    made.extend(transaction.ops.iter().filter_map(|op| match op {
        Op::AddChain(name, None) => Some(name.clone()),
        _ => None,
    }));
    transaction.ops.iter().any(|op| matches!(op, Op::AddRule(chain, _) if !made.contains(chain)))
}

proptest! {
    #[test]
    fn before_the_change_verdicts_are_the_old_ones_and_from_then_on_the_new(
        from in generate::policy(),
        to in generate::policy(),
        bounds in generate::bounds(),
        packets in prop::collection::vec(generate::packet(), 20),
    ) {
        let (before, after) = (lower_within(&from, bounds), lower_within(&to, bounds));
        let mut kernel = FakeKernel::with(before.clone());
        let phases = diff(&before, &after).phases();
        prop_assert!(phases.len() <= 3);
        let mut made = Vec::new();
        let mut changed = 0;
        for (_, phase) in &phases {
            changed += usize::from(changes(phase, &mut made));
            prop_assert_eq!(kernel.commit(phase), Ok(()), "{}", phase);
            let table = kernel.table().cloned().unwrap_or_default();
            let verdicts: Vec<_> = packets.iter().map(|packet| trace(&table, packet)).collect();
            let is = |policy: &NodePolicy| packets.iter().map(|packet| verdict(policy, packet)).eq(verdicts.iter().copied());
            prop_assert!(is(&from) || is(&to), "half a change is in force after\n{}", phase);
        }
        prop_assert!(changed <= 1, "more than one phase changes chains that are in use");
        prop_assert_eq!(kernel.table(), Some(&after));
    }
}
