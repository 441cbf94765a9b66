//! A table that is made anew as a whole, and what guards meanwhile.

use netlink::Nftables;
use ruleset::{Base, Chain, Hook, Kernel, Op, Ruleset, Transaction};

use crate::namespace::{in_namespace, nft};
use crate::rulesets::{everything, frame};

fn open() -> Nftables {
    Nftables::open().expect("a netlink socket")
}

fn tables() -> String {
    nft(&["list", "tables"])
}

const OURS: &str = "table inet k8s-sg\n";

/// What a run that was cut off has left.
fn leave_a_guard(hooked: bool) {
    let hook = if hooked { "{ type filter hook forward priority -5 ; }" } else { "" };
    nft(&["add table inet k8s-sg-next"]);
    nft(&[&format!("add chain inet k8s-sg-next left {hook}")]);
}

#[test]
fn there_is_one_table_afterwards() {
    in_namespace(|| {
        let mut kernel = open();
        for ruleset in [frame(), everything(), everything(), Ruleset::default(), frame()] {
            kernel.commit(&Transaction::replace(&ruleset)).expect("a legal transaction");
            assert_eq!((kernel.load().expect("a listing"), tables().as_str()), (Some(ruleset), OURS));
        }
    });
}

/// The refusal names the caller's step, and nothing has changed.
#[test]
fn what_is_refused_leaves_the_old_table_and_no_guard() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        let mut bad = Transaction::replace(&everything());
        bad.ops.push(Op::DeleteCounter("not there".into()));
        let error = kernel.commit(&bad).expect_err("there is no such counter");
        assert_eq!(Nftables::refused(&error), Some(vec![bad.ops.len() - 1]));
        let base = Some(Base { hook: Hook::Input, priority: 0 });
        bad.ops.pop();
        bad.ops.push(Op::AddChain("forward".into(), base));
        let error = kernel.commit(&bad).expect_err("it is there");
        assert_eq!(Nftables::refused(&error), Some(vec![bad.ops.len() - 1]), "of what packets meet");
        assert_eq!((kernel.load().expect("a listing"), tables().as_str()), (Some(frame()), OURS));
    });
}

/// What was left behind guards until the table is there, and no longer.
#[test]
fn a_guard_that_is_left_behind_goes() {
    in_namespace(|| {
        let mut kernel = open();
        for (hooked, table) in [(true, false), (false, false), (true, true), (false, true)] {
            if table {
                kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
            }
            leave_a_guard(hooked);
            kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
            assert_eq!((kernel.load().expect("a listing"), tables().as_str()), (Some(everything()), OURS), "{hooked} {table}");
            leave_a_guard(hooked);
            open().settle().expect("nothing in the way");
            open().settle().expect("nothing to do");
            assert_eq!((kernel.load().expect("a listing"), tables().as_str()), (Some(everything()), OURS), "{hooked} {table}");
            nft(&["delete table inet k8s-sg"]);
        }
    });
}

/// A table that is another's is an error of the step that removes it, and no guard stays beside it.
#[test]
fn what_cannot_be_removed_is_said_and_nothing_has_changed() {
    in_namespace(|| {
        let (mut kernel, mut owner) = (open(), Nftables::open_as_owner().expect("a netlink socket"));
        // Before Linux 6.9 nobody can own a table for long, so nobody is in the way.
        if !owner.is_owner() {
            return;
        }
        let base = Chain { base: Some(Base { hook: Hook::Forward, priority: 0 }), rules: Vec::new() };
        let mut own = Ruleset::default();
        own.chains.insert("base".into(), base.into());
        owner.commit(&Transaction::replace(&own)).expect("a legal transaction");
        let error = kernel.commit(&Transaction::replace(&frame())).expect_err("it is another's");
        assert_eq!(Nftables::refused(&error), Some(vec![1]), "{error}");
        assert!(error.to_string().contains("permitted"), "{error}");
        assert_eq!(owner.load().expect("a listing"), Some(own));
        assert_eq!(tables(), OURS);
    });
}
