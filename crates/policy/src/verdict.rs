//! The oracle: `semantics.md` in code, written for reading. The compiled ruleset is tested against it.

use std::net::IpAddr;

use api::OnDeny;

use crate::model::{
    ConnState, Direction, Endpoint, Exemption, Family, NodePolicy, Packet, Path, Payload, Peer, Rule, Traffic, Transport, Verdict,
};

/// What becomes of a packet on the node that has this policy.
pub fn verdict(policy: &NodePolicy, packet: &Packet) -> Verdict {
    // S31: what belongs to an allowed connection passes, in both directions, whatever the rules say.
    if matches!(packet.state, ConnState::Established | ConnState::Related) {
        return Verdict::Allow;
    }
    // S36: what a node sends to itself.
    let exempt = |exemption| policy.exempt.contains(&exemption);
    if packet.path == Path::Loopback && exempt(Exemption::Loopback) {
        return Verdict::Allow;
    }
    // S30: the sender's egress and the receiver's ingress are judged both, also on one node; what is for the node itself, by egress alone,
    // and what is from it, by ingress alone. S36: what a node sends to its own pods (kubelet's probes) is not judged.
    let probes = matches!(packet.path, Path::Output | Path::Loopback) && exempt(Exemption::Node);
    let sender = if packet.path == Path::Output { Verdict::Allow } else { judge(policy, Direction::Egress, packet) };
    let receiver = if packet.path == Path::Input || probes { Verdict::Allow } else { judge(policy, Direction::Ingress, packet) };
    // What a node sends to itself is met as sent by it first, and then as arriving.
    let (first, second) = if packet.path == Path::Loopback { (receiver, sender) } else { (sender, receiver) };
    match first {
        Verdict::Allow => second,
        denied => denied,
    }
}

fn judge(policy: &NodePolicy, direction: Direction, packet: &Packet) -> Verdict {
    let (own, far) = match direction {
        Direction::Ingress => (packet.destination, packet.source),
        Direction::Egress => (packet.source, packet.destination),
    };
    // S3: an endpoint in no group is not filtered.
    let Some(endpoint) = policy.endpoints.values().find(|endpoint| endpoint.addresses.contains(&own)) else { return Verdict::Allow };
    if exempt(policy, endpoint, far, packet) {
        return Verdict::Allow;
    }
    if endpoint.closed {
        return Verdict::Drop;
    }
    let denied = match endpoint.on_deny {
        OnDeny::Drop => Verdict::Drop,
        OnDeny::Reject => Verdict::Reject,
    };
    // S37: what belongs to no connection and opens none is dropped where it concerns a member; there is nobody to answer.
    if packet.state == ConnState::Invalid {
        return Verdict::Drop;
    }
    // S1, S2: the union of all rules of all its groups.
    let allowed = endpoint.groups.iter().filter_map(|group| policy.groups.get(group)).any(|group| {
        let rules = match direction {
            Direction::Ingress => &group.ingress,
            Direction::Egress => &group.egress,
        };
        rules.iter().any(|rule| allows(policy, rule, far, packet))
    });
    if allowed { Verdict::Allow } else { denied }
}

/// S36: always allowed, before anything else; each exemption has its switch.
fn exempt(policy: &NodePolicy, endpoint: &Endpoint, far: IpAddr, packet: &Packet) -> bool {
    let dhcp = |source, destination| matches!((source, destination), (68, 67) | (67, 68) | (546, 547) | (547, 546));
    policy.exempt.iter().any(|exemption| match (exemption, packet.payload) {
        // A pod to itself through a Service.
        (Exemption::Hairpin, _) => !endpoint.closed && endpoint.addresses.contains(&far),
        (Exemption::NeighbourDiscovery, Payload::Icmp { kind: 133..=136, .. }) => family(packet) == Family::V6,
        (Exemption::ListenerDiscovery, Payload::Icmp { kind: 130..=132 | 143, .. }) => family(packet) == Family::V6,
        (Exemption::Dhcp, Payload::Transport { protocol: Transport::Udp, source, destination }) => dhcp(source, destination),
        (Exemption::ClusterDns, Payload::Transport { protocol: Transport::Udp | Transport::Tcp, destination: 53, .. }) => {
            policy.cluster_dns.contains(&packet.destination)
        }
        // These two are about the way of the packet, not about the endpoint.
        (Exemption::Node | Exemption::Loopback, _) => false,
        _ => false,
    })
}

fn allows(policy: &NodePolicy, rule: &Rule, far: IpAddr, packet: &Packet) -> bool {
    is_peer(policy, &rule.peer, far) && is_traffic(rule.traffic, packet)
}

fn is_peer(policy: &NodePolicy, peer: &Peer, far: IpAddr) -> bool {
    match peer {
        // S16: a network of one family never matches the other.
        Peer::Net(net) => net.contains(&far),
        // S21, S20: the list's current entries; a list that does not exist has none.
        Peer::PrefixList(list) => policy.prefix_lists.get(list).is_some_and(|entries| entries.iter().any(|net| net.contains(&far))),
        // S17, S20: exactly its members' addresses; a group that does not exist has none.
        Peer::Group(group) => policy.members.get(group).is_some_and(|members| members.contains(&far)),
    }
}

fn is_traffic(traffic: Traffic, packet: &Packet) -> bool {
    match (traffic, packet.payload) {
        (Traffic::All, _) => true,
        // S12: only the destination port.
        (Traffic::Transport(wanted, ports), Payload::Transport { protocol, destination, .. }) => {
            wanted == protocol && ports.is_none_or(|range| (range.from..=range.to).contains(&destination))
        }
        // S13, S16: ICMP is IPv4's, ICMPv6 is IPv6's.
        (Traffic::Icmp { family: wanted, kind, code }, Payload::Icmp { kind: has_kind, code: has_code }) => {
            wanted == family(packet) && kind.is_none_or(|kind| kind == has_kind) && code.is_none_or(|code| code == has_code)
        }
        (Traffic::Protocol(wanted), Payload::Protocol(number)) => wanted == number,
        _ => false,
    }
}

fn family(packet: &Packet) -> Family {
    Family::of(packet.source)
}
