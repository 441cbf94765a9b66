//! Random policies and packets over one small [`World`], so that most packets meet a rule or miss it by one.

use std::net::IpAddr;

use api::OnDeny;
use ipnet::IpNet;
use policy::model::{
    ConnState, Direction, Family, GroupRef, NodePolicy, Packet, Path, Payload, Peer, PodRef, PortRange, Traffic, Transport,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::World;
use crate::scenario::Scenario;

const GROUPS: [&str; 5] = ["web", "app", "db", "bastion", "0-odd.name"];

fn group() -> impl Strategy<Value = GroupRef> {
    // Two namespaces with the same names: a group is never mistaken for its namesake (S19).
    (select(&["shop", "shop-2"][..]), select(&GROUPS[..]))
        .prop_map(|(namespace, name)| GroupRef { namespace: namespace.into(), name: name.into() })
}

/// Ports at the edges of the ranges that rules use.
pub fn ports() -> impl Strategy<Value = u16> {
    select(vec![1u16, 22, 79, 80, 81, 90, 91, 443, 5432, 8080, 65535])
}

fn port_range() -> impl Strategy<Value = Option<PortRange>> {
    prop_oneof![
        2 => Just(None),
        5 => ports().prop_map(|port| Some(PortRange { from: port, to: port })),
        3 => (ports(), ports()).prop_map(|(a, b)| Some(PortRange { from: a.min(b), to: a.max(b) })),
    ]
}

fn transport() -> impl Strategy<Value = Transport> {
    select(vec![Transport::Tcp, Transport::Udp, Transport::Sctp])
}

/// ICMP types that open a connection in conntrack, by family.
pub fn icmp_kinds(family: Family) -> &'static [u8] {
    match family {
        Family::V4 => &[8, 13],
        Family::V6 => &[128],
    }
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let icmp = select(vec![Family::V4, Family::V6]).prop_flat_map(|family| {
        let mut kinds = icmp_kinds(family).to_vec();
        kinds.extend([0, 3, 135, 255]);
        (Just(family), prop::option::of(select(kinds)), prop::option::of(0u8..3)).prop_map(|(family, kind, code)| Traffic::Icmp {
            family,
            kind,
            code: kind.and(code),
        })
    });
    prop_oneof![
        2 => Just(Traffic::All),
        8 => (transport(), port_range()).prop_map(|(transport, ports)| Traffic::Transport(transport, ports)),
        3 => icmp,
        1 => select(vec![Traffic::Protocol(47), Traffic::Protocol(99), Traffic::Protocol(0)]),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    let addresses: Vec<IpAddr> = World::pods().into_iter().chain(World::elsewhere()).collect();
    (select(addresses), select(vec![0u8, 1, 8, 9, 24, 25, 31, 32, 64, 113, 127, 128])).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new_assert(address, length.min(most)).trunc()
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![net().prop_map(Peer::Net), group().prop_map(Peer::Group)]
}

fn rule() -> impl Strategy<Value = (GroupRef, Direction, Traffic, Peer)> {
    (group(), select(vec![Direction::Ingress, Direction::Egress]), traffic(), peer()).prop_map(|(group, direction, traffic, peer)| {
        // S16: an ICMP rule names networks of its own family; admission refuses the other.
        let peer = match (&peer, traffic) {
            (Peer::Net(net), Traffic::Icmp { family, .. }) if Family::of(net.addr()) != family => Peer::Group(group.clone()),
            _ => peer,
        };
        (group, direction, traffic, peer)
    })
}

/// A policy for the pods of [`World`]: each is in some groups, in none that exists, or not guarded at all.
pub fn node_policy() -> impl Strategy<Value = NodePolicy> {
    let pods = vec(prop::option::weighted(0.85, (btree_set(group(), 0..4), any::<bool>())), World::PODS.len());
    let remote = vec((group(), select(World::ELSEWHERE.to_vec())), 0..12);
    (vec(rule(), 0..24), pods, remote).prop_map(|(rules, pods, remote)| {
        let mut scenario = Scenario::new();
        for (group, direction, traffic, peer) in rules {
            scenario.add_rule(&group, direction, traffic, peer);
        }
        let mut rejecting = Vec::new();
        for (i, pod) in pods.into_iter().enumerate() {
            let Some((groups, reject)) = pod else { continue };
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            scenario = scenario.pod(&format!("shop/pod-{i}"), &World::PODS[i], &groups);
            if reject && !groups.is_empty() {
                rejecting.push(PodRef { namespace: "shop".into(), name: format!("pod-{i}") });
            }
        }
        for (group, address) in remote {
            scenario = scenario.members(&group.to_string(), &[address]);
        }
        let mut policy = scenario.policy();
        for pod in rejecting {
            if let Some(endpoint) = policy.endpoints.get_mut(&pod) {
                endpoint.on_deny = OnDeny::Reject;
            }
        }
        // As `compile` leaves it: only groups that an endpoint is in, only members that a rule names.
        let used: Vec<GroupRef> = policy.endpoints.values().flat_map(|endpoint| endpoint.groups.iter().cloned()).collect();
        policy.groups.retain(|group, _| used.contains(group));
        let named = policy.named();
        policy.members.retain(|group, _| named.contains(group));
        policy
    })
}

fn payload(family: Family) -> impl Strategy<Value = Payload> {
    let kinds = icmp_kinds(family).iter().copied().chain([0, 3, 130, 135, 137, 255]).collect::<Vec<u8>>();
    prop_oneof![
        8 => (transport(), prop_oneof![4 => 30000u16..60000, 1 => select(vec![67u16, 68, 546, 547])], prop_oneof![8 => ports(), 1 => select(vec![67u16, 68, 546, 547])])
            .prop_map(|(protocol, source, destination)| Payload::Transport { protocol, source, destination }),
        3 => (select(kinds), 0u8..3).prop_map(|(kind, code)| Payload::Icmp { kind, code }),
        1 => select(vec![47u8, 99, 0]).prop_map(Payload::Protocol),
    ]
}

/// A packet between addresses of [`World`], on the path that it would take.
pub fn packet() -> impl Strategy<Value = Packet> {
    let state = prop_oneof![
        8 => Just(ConnState::New),
        1 => Just(ConnState::Established),
        1 => Just(ConnState::Related),
        1 => Just(ConnState::Invalid),
    ];
    select(vec![Family::V4, Family::V6]).prop_flat_map(move |family| {
        let of_family = |addresses: Vec<IpAddr>| addresses.into_iter().filter(|a| Family::of(*a) == family).collect::<Vec<_>>();
        let (pods, elsewhere, node) = (of_family(World::pods()), of_family(World::elsewhere()), of_family(World::node()));
        let ends = prop_oneof![
            4 => (select(pods.clone()), select(pods.clone()), Just(Path::Forward)),
            3 => (select(pods.clone()), select(elsewhere.clone()), Just(Path::Forward)),
            3 => (select(elsewhere.clone()), select(pods.clone()), Just(Path::Forward)),
            1 => (select(pods.clone()), select(node.clone()), Just(Path::Input)),
            1 => (select(elsewhere), select(node.clone()), Just(Path::Input)),
            1 => (select(node), select(pods), Just(Path::Output)),
        ];
        (ends, payload(family), state.clone()).prop_map(|((source, destination, path), payload, state)| Packet {
            source,
            destination,
            payload,
            state,
            path,
        })
    })
}

/// A policy and a packet.
pub fn case() -> impl Strategy<Value = (NodePolicy, Packet)> {
    (node_policy(), packet())
}
