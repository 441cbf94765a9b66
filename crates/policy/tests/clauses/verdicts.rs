//! The oracle against rows written by hand, clause by clause.

use policy::model::{ConnState, NodePolicy, Packet, Path, Payload, Transport, Verdict};
use policy::verdict;
use testkit::Scenario;

fn packet(source: &str, destination: &str, payload: Payload) -> Packet {
    let address = |text: &str| text.parse().expect("an address");
    Packet { source: address(source), destination: address(destination), payload, state: ConnState::New, path: Path::Forward }
}

fn tcp(destination: u16) -> Payload {
    Payload::Transport { protocol: Transport::Tcp, source: 40000, destination }
}

fn udp(source: u16, destination: u16) -> Payload {
    Payload::Transport { protocol: Transport::Udp, source, destination }
}

const PING: Payload = Payload::Icmp { kind: 8, code: 0 };

/// Web and app on this node, a database elsewhere; 10.0.0.9 is a pod in no group.
fn shop() -> NodePolicy {
    Scenario::new()
        .group("shop/web", &["ingress tcp 80 from 0.0.0.0/0", "ingress tcp 443 from ::/0", "egress all to 0.0.0.0/0", "egress all to ::/0"])
        .group("shop/app", &["ingress tcp 8080-8090 from sg/shop/web", "egress tcp 5432 to sg/shop/db"])
        .pod("shop/web-0", &["10.0.0.1", "fd00::1"], &["shop/web"])
        .pod("shop/app-0", &["10.0.0.2", "fd00::2"], &["shop/app"])
        .members("shop/db", &["10.1.0.5"])
        .members("shop/web", &["10.1.0.1"])
        .policy()
}

#[test]
fn allowed_and_denied_row_by_row() {
    let shop = shop();
    for (clause, source, destination, payload, wanted) in [
        ("S3: in no group, not filtered", "198.51.100.1", "10.0.0.9", tcp(1), Verdict::Allow),
        ("S2: allowed by its group", "198.51.100.1", "10.0.0.1", tcp(80), Verdict::Allow),
        ("S1: allowed by no rule", "198.51.100.1", "10.0.0.1", tcp(81), Verdict::Drop),
        ("S11: another protocol", "198.51.100.1", "10.0.0.1", udp(40000, 80), Verdict::Drop),
        ("S16: IPv4 rules are not for IPv6", "2001:db8::1", "fd00::1", tcp(80), Verdict::Drop),
        ("S16: IPv6 rules are for IPv6", "2001:db8::1", "fd00::1", tcp(443), Verdict::Allow),
        ("S12: first port of a range", "10.1.0.1", "10.0.0.2", tcp(8080), Verdict::Allow),
        ("S12: last port of a range", "10.1.0.1", "10.0.0.2", tcp(8090), Verdict::Allow),
        ("S12: one below", "10.1.0.1", "10.0.0.2", tcp(8079), Verdict::Drop),
        ("S12: one above", "10.1.0.1", "10.0.0.2", tcp(8091), Verdict::Drop),
        ("S17: only the members", "10.1.0.2", "10.0.0.2", tcp(8080), Verdict::Drop),
        ("S30: both ends on this node, both allow", "10.0.0.1", "10.0.0.2", tcp(8080), Verdict::Allow),
        ("S30: ingress denies", "10.0.0.1", "10.0.0.2", tcp(22), Verdict::Drop),
        ("S30: egress denies although ingress allows", "10.0.0.2", "10.0.0.1", tcp(80), Verdict::Drop),
        ("S17: egress to members", "10.0.0.2", "10.1.0.5", tcp(5432), Verdict::Allow),
        ("S17: egress to others", "10.0.0.2", "10.1.0.6", tcp(5432), Verdict::Drop),
        ("S18: no self rule", "10.1.0.1", "10.0.0.1", tcp(22), Verdict::Drop),
        ("S36: a pod to itself", "10.0.0.2", "10.0.0.2", tcp(22), Verdict::Allow),
        ("S36: neighbour solicitation", "fd00::9", "fd00::2", Payload::Icmp { kind: 135, code: 0 }, Verdict::Allow),
        ("S36: not redirects", "fd00::9", "fd00::2", Payload::Icmp { kind: 137, code: 0 }, Verdict::Drop),
        ("S36: ND types are IPv6's", "10.0.0.9", "10.0.0.2", Payload::Icmp { kind: 135, code: 0 }, Verdict::Drop),
        ("S36: DHCP", "10.0.0.2", "10.0.0.9", udp(68, 67), Verdict::Allow),
        ("S36: DHCP back", "10.0.0.9", "10.0.0.2", udp(67, 68), Verdict::Allow),
        ("S36: a port of DHCP alone is nothing", "10.0.0.9", "10.0.0.2", udp(67, 67), Verdict::Drop),
        ("S32: ping", "198.51.100.1", "10.0.0.1", PING, Verdict::Drop),
    ] {
        assert_eq!(verdict(&shop, &packet(source, destination, payload)), wanted, "{clause}");
    }
}

#[test]
fn s31_established_and_related_pass_whatever_the_rules_say() {
    for state in [ConnState::Established, ConnState::Related] {
        let packet = Packet { state, ..packet("198.51.100.1", "10.0.0.2", tcp(1)) };
        assert_eq!(verdict(&shop(), &packet), Verdict::Allow);
    }
}

#[test]
fn s37_invalid_is_dropped_for_members_only_and_after_the_exemptions() {
    let invalid =
        |destination, payload| verdict(&shop(), &Packet { state: ConnState::Invalid, ..packet("198.51.100.1", destination, payload) });
    assert_eq!(invalid("10.0.0.1", tcp(80)), Verdict::Drop);
    assert_eq!(invalid("10.0.0.9", tcp(80)), Verdict::Allow);
    let solicitation = Packet { state: ConnState::Invalid, ..packet("fd00::9", "fd00::1", Payload::Icmp { kind: 135, code: 0 }) };
    assert_eq!(verdict(&shop(), &solicitation), Verdict::Allow, "S36 comes first");
}

#[test]
fn s30_s36_the_node_and_its_pods() {
    let to_node = |source| verdict(&shop(), &Packet { path: Path::Input, ..packet(source, "10.0.0.254", tcp(53)) });
    assert_eq!(to_node("10.0.0.2"), Verdict::Drop, "what a pod sends to its node is judged by its egress");
    assert_eq!(to_node("10.0.0.1"), Verdict::Allow);
    assert_eq!(to_node("10.0.0.9"), Verdict::Allow);
    let from_node = Packet { path: Path::Output, ..packet("10.0.0.254", "10.0.0.2", tcp(1)) };
    assert_eq!(verdict(&shop(), &from_node), Verdict::Allow, "P46: probes");
}

#[test]
fn a_guarded_pod_without_groups_neither_sends_nor_receives() {
    let closed = Scenario::new().pod("shop/p", &["10.0.0.1"], &[]).policy();
    assert_eq!(verdict(&closed, &packet("10.0.0.1", "10.0.0.9", tcp(80))), Verdict::Drop);
    assert_eq!(verdict(&closed, &packet("10.0.0.9", "10.0.0.1", tcp(80))), Verdict::Drop);
}

#[test]
fn s32_reject_answers_what_no_rule_allows_but_not_what_is_invalid() {
    let loud = Scenario::new().pod("shop/p", &["10.0.0.1"], &["shop/g"]).rejecting().policy();
    let new = packet("10.0.0.9", "10.0.0.1", tcp(80));
    assert_eq!(verdict(&loud, &new), Verdict::Reject);
    assert_eq!(verdict(&loud, &Packet { state: ConnState::Invalid, ..new }), Verdict::Drop);
}

#[test]
fn a_closed_pod_is_exempt_like_others_and_allowed_nothing_by_its_groups() {
    let rules = ["ingress all from 0.0.0.0/0", "ingress all from ::/0", "egress all to 0.0.0.0/0"];
    let closed = Scenario::new().group("shop/g", &rules).pod("shop/p", &["10.0.0.1", "fd00::1"], &["shop/g"]).rejecting().closed().policy();
    let solicitation = Payload::Icmp { kind: 135, code: 0 };
    for (source, destination, payload, wanted) in [
        ("10.0.0.9", "10.0.0.1", tcp(80), Verdict::Drop),
        ("10.0.0.1", "10.0.0.9", tcp(80), Verdict::Drop),
        ("10.0.0.1", "10.0.0.1", tcp(80), Verdict::Drop),
        ("fd00::9", "fd00::1", tcp(80), Verdict::Drop),
        ("fd00::9", "fd00::1", solicitation, Verdict::Allow),
        ("10.0.0.1", "10.0.0.9", udp(68, 67), Verdict::Allow),
    ] {
        let packet = packet(source, destination, payload);
        assert_eq!(verdict(&closed, &packet), wanted, "{packet:?}");
        assert_eq!(verdict(&closed, &Packet { state: ConnState::Established, ..packet }), Verdict::Allow, "S31: {packet:?}");
        assert_eq!(verdict(&closed, &Packet { path: Path::Output, ..packet }), Verdict::Allow, "S36, probes: {packet:?}");
    }
}
