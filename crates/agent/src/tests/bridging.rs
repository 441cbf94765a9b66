//! Pods on a bridge: what is found, what it means, and what is said.

use netlink::Bridge;

use super::*;
use crate::bridge::{Bridging, Cause, judge};

fn bridge(name: &str, v4: bool, v6: bool) -> Bridge {
    Bridge { index: 1, name: name.into(), v4, v6 }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(String::from).into()
}

#[test]
fn s30_packets_on_a_bridge_meet_the_rules_by_its_own_switch_or_by_that_of_all_bridges() {
    for (own, all, escapes) in [
        ((false, false), (false, false), true),
        ((true, false), (false, false), true),
        ((false, true), (false, false), true),
        ((false, false), (true, false), true),
        ((false, false), (false, true), true),
        ((true, true), (false, false), false),
        ((false, false), (true, true), false),
        ((true, false), (false, true), false),
    ] {
        let found = judge(&[bridge("cni0", own.0, own.1)].into(), Some(all));
        let wanted = match escapes {
            true => Bridging::Escapes(names(["cni0"]), Cause::Off),
            false => Bridging::Filtered(names(["cni0"])),
        };
        assert_eq!(found, wanted, "{own:?} {all:?}");
    }
}

#[test]
fn without_br_netfilter_no_switch_helps_and_without_a_bridge_none_is_needed() {
    assert_eq!(judge(&[bridge("cni0", true, true)].into(), None), Bridging::Escapes(names(["cni0"]), Cause::NoModule));
    for sysctls in [None, Some((false, false)), Some((true, true))] {
        assert_eq!(judge(&BTreeSet::new(), sysctls), Bridging::None);
    }
}

#[test]
fn of_several_bridges_those_that_are_open_are_named() {
    let two = [bridge("cni0", true, true), bridge("br-pods", false, false)].into();
    assert_eq!(judge(&two, Some((false, false))), Bridging::Escapes(names(["br-pods"]), Cause::Off));
    assert_eq!(judge(&two, Some((true, true))), Bridging::Filtered(names(["br-pods", "cni0"])));
}

fn condition<'a>(status: &'a NodeReportStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).expect("it is said either way");
    (&found.status, &found.reason, &found.message)
}

#[test]
fn p30_while_packets_pass_beside_the_rules_no_group_is_said_to_be_in_force() {
    let mut node = Node::with(&[pod("web-0", "web", "10.0.0.1"), group("web", 1, &[]), attachment("web")], &[]);
    let status = node.synced();
    assert_eq!(condition(&status, "BridgeTrafficFiltered").0, "True");
    assert_eq!((condition(&status, "Ready").0, status.groups.len(), status.attachments.len()), ("True", 1, 1));

    for (bridging, reason, words) in [
        (Bridging::Escapes(names(["cni0"]), Cause::Off), "BridgeNetfilterOff", "net.bridge.bridge-nf-call-ip6tables=1"),
        (Bridging::Escapes(names(["cni0"]), Cause::NoModule), "BridgeNetfilterMissing", "modprobe br_netfilter"),
        (Bridging::Unknown("EIO".into()), "CannotTell", "EIO"),
    ] {
        node.report.bridging = bridging.clone();
        let status = node.synced();
        assert_eq!((status.groups.len(), status.attachments.len()), (0, 0));
        let (ready, why, message) = condition(&status, "Ready");
        assert_eq!((ready, why), ("False", reason));
        assert!(message.contains(words), "{message}");
        let (filtered, why, _) = condition(&status, "BridgeTrafficFiltered");
        assert_eq!((filtered == "True", why), (false, reason));
        let [problem] = &status.problems[..] else { panic!("one problem: {:?}", status.problems) };
        assert!(problem.object.starts_with("Bridge") && problem.reason == reason && problem.message.contains(words), "{problem:?}");

        // Nor when the kernel refuses something at the same time.
        node.enforcement.kernel().refuse = 1;
        node.take(apply(group("web", 2, &[])));
        node.take(apply(pod("web-1", "web", "10.0.0.2")));
        assert!(node.sync().expect("all lists are in").is_err());
        let status = node.report.continued();
        assert_eq!((status.groups.len(), condition(&status, "Ready").1, status.problems.len()), (0, "CommitFailed", 1));
        node.synced();
        node.take(delete(Kind::Pod, "web-1"));
    }

    node.report.bridging = Bridging::Filtered(names(["cni0"]));
    let status = node.synced();
    assert_eq!(
        (status.groups.len(), status.attachments.len(), status.problems.len()),
        (1, 1, 0),
        "and said again once they meet the rules"
    );
    assert_eq!((condition(&status, "Ready").0, condition(&status, "BridgeTrafficFiltered").1), ("True", "Filtered"));
}
