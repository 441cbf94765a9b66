//! A kernel that lacks something: what is said, and that nothing is said to be in force.

use netlink::Unsupported;

use super::*;
use crate::support::Support;
use crate::throttle::{NEWS, Throttle};

fn lacking(found: Result<Vec<Unsupported>, netlink::Error>) -> Support {
    Support::of("5.4.0".into(), found)
}

fn ct_state() -> Unsupported {
    Unsupported {
        feature: "ct state",
        error: "EOPNOTSUPP: this kernel does not support it".into(),
        provided_by: "the kernel module nft_ct",
    }
}

fn condition<'a>(status: &'a NodeReportStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).expect("it is said either way");
    (&found.status, &found.reason, &found.message)
}

#[test]
fn on_a_kernel_that_lacks_something_no_group_is_said_to_be_in_force() {
    let mut node = Node::with(&[pod("web-0", "web", "10.0.0.1"), group("web", 1, &[]), attachment("web")], &[]);
    node.report.support = lacking(Ok(vec![]));
    let whole = node.synced();
    assert_eq!((condition(&whole, "Ready").0, condition(&whole, "KernelSupported").0, whole.groups.len()), ("True", "True", 1));
    let kernel = whole.kernel.clone().expect("it is told");
    assert_eq!((kernel.version.as_str(), kernel.unsupported.len()), ("5.4.0", 0));

    node.report.support = lacking(Ok(vec![ct_state()]));
    let status = node.synced();
    assert_eq!((status.groups.len(), status.attachments.len()), (0, 0), "though the kernel took what there is now");
    for type_ in ["Ready", "KernelSupported"] {
        let (answer, reason, message) = condition(&status, type_);
        assert_eq!((answer, reason), ("False", "KernelFeatureMissing"), "{type_}");
        assert!(["5.4.0", "ct state", "EOPNOTSUPP", "nft_ct"].iter().all(|word| message.contains(word)), "{message}");
    }
    let [missing] = &status.kernel.as_ref().expect("it is told").unsupported[..] else { panic!("one: {:?}", status.kernel) };
    assert_eq!(missing.feature, "ct state");
    let (mut throttle, now) = (Throttle::default(), tokio::time::Instant::now());
    throttle.written(whole, now);
    assert_eq!(throttle.due(&status, now), now + NEWS, "it is news");

    // Nor when the kernel refuses a change.
    node.enforcement.kernel().refuse = 1;
    node.take(apply(pod("web-1", "web", "10.0.0.2")));
    assert!(node.sync().expect("all lists are in").is_err());
    let status = node.report.continued();
    assert_eq!((status.groups.len(), condition(&status, "Ready").1), (0, "KernelFeatureMissing"));

    // The module has come.
    node.report.support = lacking(Ok(vec![]));
    let status = node.synced();
    assert_eq!((condition(&status, "Ready").0, condition(&status, "KernelSupported").1, status.groups.len()), ("True", "Supported", 1));
}

#[test]
fn where_the_kernel_did_not_say_what_it_took_is_in_force() {
    let mut node = Node::with(&[pod("web-0", "web", "10.0.0.1"), group("web", 1, &[]), attachment("web")], &[]);
    node.report.support = lacking(Err(netlink::Error::NoAnswer));
    let status = node.synced();
    let (answer, reason, message) = condition(&status, "KernelSupported");
    assert_eq!((answer, reason), ("Unknown", "CannotTell"));
    assert!(message.contains("did not answer"), "{message}");
    assert_eq!((condition(&status, "Ready").0, status.groups.len()), ("True", 1));
}

/// Such a node has no nftables at all: the program stays, says so, and goes on when the module comes.
#[test]
fn a_kernel_that_cannot_be_opened_is_tried_again() {
    let missing = Cell::new(2);
    let open = || match missing.get() {
        0 => Ok(Flaky::default()),
        left => {
            missing.set(left - 1);
            Err(Says::NoMemory)
        }
    };
    let mut enforcement = Enforcement::new(crate::late::Late::new(open));
    let plan = || crate::plan::Plan::default();
    let now = || Time(Timestamp::UNIX_EPOCH);
    assert!(enforcement.counters().is_err());
    let failure = enforcement.enforce(plan(), now).expect_err("it cannot be opened");
    assert_eq!(failure.stands, None, "nobody knows what is in force");
    assert!(enforcement.enforce(plan(), now).expect("it is open").ops > 0);
    assert_eq!(enforcement.enforce(plan(), now).expect("it stays open").ops, 0);
}
