//! The ways to guarded pods: what is found, what it means, and what is said.

use netlink::{Device, Route};
use policy::model::PodRef;

use super::*;
use crate::passage::{Astray, Cause, Datapath, Found, Passage, Way, judge};

const OWN: Route = Route { device: 7, gateway: false, single: true, local: false };
const NETWORK: Route = Route { single: false, ..OWN };

fn device(kind: &str) -> Option<Device> {
    Some(Device { index: 7, name: "dev7".into(), kind: kind.into(), ..Device::default() })
}

fn found(route: Route, kind: &str) -> Found {
    Found { route: Some(route), device: device(kind), ..Found::default() }
}

fn past(way: &Way) -> Option<Cause> {
    if let Way::Past(cause, _) = way { Some(*cause) } else { None }
}

#[test]
fn s30_a_veth_of_its_own_or_a_bridge_is_forwarded_and_what_leaves_the_node_is_not() {
    assert_eq!(judge(&found(OWN, "veth")), Way::Forwarded);
    assert_eq!(judge(&found(NETWORK, "bridge")), Way::Forwarded);
    for elsewhere in [
        found(NETWORK, ""),
        found(OWN, ""),
        // The nodes of a cluster in containers have a veth towards the others.
        found(NETWORK, "veth"),
        found(Route { gateway: true, ..OWN }, "veth"),
        found(Route { gateway: true, ..NETWORK }, "bridge"),
        found(Route { local: true, ..OWN }, "veth"),
        found(OWN, "macvlan"),
        found(OWN, "ipvlan"),
        found(NETWORK, "vxlan"),
        Found::default(),
    ] {
        assert_eq!(past(&judge(&elsewhere)), Some(Cause::NotForwardedHere), "{elsewhere:?}");
    }
}

#[test]
fn open_vswitch_switches_by_itself_whether_the_pod_is_its_port_or_behind_its_gateway() {
    assert_eq!(past(&judge(&found(NETWORK, "openvswitch"))), Some(Cause::OpenVSwitch));
    let port = Found { master: device("openvswitch"), ..found(OWN, "veth") };
    assert_eq!(past(&judge(&port)), Some(Cause::OpenVSwitch));
}

#[test]
fn programs_on_the_way_have_to_prove_that_they_let_packets_pass() {
    let watched = Found { programs: ["handle_ingress".into()].into(), ..found(OWN, "veth") };
    assert!(matches!(judge(&watched), Way::Unproven(what) if what.contains("handle_ingress")));
    let xdp = found(OWN, "veth");
    let xdp = Found { device: xdp.device.map(|device| Device { xdp: true, ..device }), ..xdp };
    assert!(matches!(judge(&xdp), Way::Unproven(_)));
    for kind in ["netkit", "tun"] {
        assert!(matches!(judge(&found(OWN, kind)), Way::Unproven(what) if what.contains(kind)));
    }
}

/// One forwarded connection would prove nothing: Calico's programs forward what is to be masqueraded.
#[test]
fn two_known_dataplanes_of_programs_cannot_prove_it() {
    let with = |found: Found, datapath| judge(&Found { datapath: Some(datapath), ..found });
    assert_eq!(past(&with(found(OWN, "veth"), Datapath::Calico)), Some(Cause::EbpfForwarding));
    assert_eq!(past(&with(found(Route { gateway: true, ..NETWORK }, "veth"), Datapath::Cilium)), Some(Cause::EbpfForwarding));
    assert!(matches!(with(found(OWN, "veth"), Datapath::Cilium), Way::Perhaps(Cause::EbpfForwarding, _)));
}

fn condition<'a>(status: &'a NodeReportStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).expect("it is said either way");
    (&found.status, &found.reason, &found.message)
}

fn astray(sure: bool, cause: Cause) -> Astray {
    let pod = PodRef { namespace: "shop".into(), name: "web-0".into() };
    Astray { sure, cause, why: "packets to it leave this node by eth0".into(), pod, address: "10.0.0.1".parse().unwrap() }
}

#[test]
fn p30_while_packets_may_pass_beside_the_rules_no_group_is_said_to_be_in_force() {
    let mut node = Node::with(&[pod("web-0", "web", "10.0.0.1"), group("web", 1, &[]), attachment("web")], &[]);
    let status = node.synced();
    assert_eq!((condition(&status, "TrafficFiltered").0, condition(&status, "TrafficFiltered").1), ("True", "Filtered"));
    assert!(node.report.is_ready() && status.groups.len() == 1 && status.attachments.len() == 1);

    for (passage, filtered, reason, problems) in [
        (Passage { astray: vec![astray(true, Cause::NotForwardedHere)], error: None }, "False", "NotForwardedHere", 1),
        (Passage { astray: vec![astray(false, Cause::CannotTell)], error: None }, "Unknown", "CannotTell", 1),
        (Passage { astray: vec![], error: Some("eth0: EIO".into()) }, "Unknown", "CannotTell", 0),
    ] {
        node.report.passage = passage;
        let status = node.synced();
        assert_eq!((status.groups.len(), status.attachments.len(), node.report.is_ready()), (0, 0, false));
        let (answer, why, message) = condition(&status, "TrafficFiltered");
        assert_eq!((answer, why), (filtered, reason));
        assert!(message.contains("eth0"), "{message}");
        assert_eq!((condition(&status, "Ready").0, condition(&status, "Ready").1), ("False", reason));
        let told: Vec<_> = status.problems.iter().map(|problem| (problem.object.as_str(), problem.reason.as_str())).collect();
        assert_eq!(told, vec![("Pod shop/web-0", reason); problems]);
    }

    node.report.passage = Passage::default();
    let status = node.synced();
    assert_eq!(
        (status.groups.len(), status.problems.len(), node.report.is_ready()),
        (1, 0, true),
        "and said again once they meet the rules"
    );
}

#[test]
fn of_many_pods_a_text_names_few() {
    let pods =
        (0..300).map(|n| Astray { pod: PodRef { namespace: "shop".into(), name: format!("p{n}") }, ..astray(true, Cause::OpenVSwitch) });
    let passage = Passage { astray: pods.collect(), error: None };
    assert!(passage.message().ends_with("and 297 more") && passage.message().len() < 400, "{}", passage.message());
    let mut problems = Vec::new();
    passage.tell(&mut problems);
    assert_eq!(problems.len(), 20);
    Passage::default().tell(&mut problems);
    assert_eq!(problems.len(), 0, "what was said is taken back");
}
