//! Random policies and packets over one small [`World`], so that most packets meet a rule or miss it by one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::OnDeny;
use ipnet::IpNet;
use policy::model::{
    ConnState, Direction, Exemption, Family, GroupRef, NodePolicy, Packet, Path, Payload, Peer, PortRange, PrefixListRef, Traffic,
    Transport,
};
use policy::text::RuleText;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::World;
use crate::draft::{Draft, Guard};

const GROUPS: [&str; 5] = ["web", "app", "db", "bastion", "0-odd.name"];

fn group() -> impl Strategy<Value = GroupRef> {
    // Two namespaces with the same names: a group is never mistaken for its namesake (S19).
    (select(&["shop", "shop-2"][..]), select(&GROUPS[..]))
        .prop_map(|(namespace, name)| GroupRef { namespace: namespace.into(), name: name.into() })
}

fn list() -> impl Strategy<Value = PrefixListRef> {
    (select(&["shop", "shop-2"][..]), select(&["offices", "partners"][..]))
        .prop_map(|(namespace, name)| PrefixListRef { namespace: namespace.into(), name: name.into() })
}

/// Networks that contain each other, touch, or miss each other by one: of few addresses, with every length and with host bits.
pub fn entry() -> impl Strategy<Value = IpNet> {
    let addresses: Vec<IpAddr> = World::pods().into_iter().chain(World::elsewhere()).collect();
    let lengths = select(vec![0u8, 1, 7, 8, 15, 16, 24, 25, 30, 31, 32, 48, 64, 112, 113, 127, 128]);
    (select(addresses), lengths)
        .prop_map(|(address, length)| IpNet::new_assert(address, length.min(if address.is_ipv4() { 32 } else { 128 })))
}

fn exempt() -> impl Strategy<Value = BTreeSet<Exemption>> {
    let switched = prop_oneof![4 => Just(BTreeSet::new()), 2 => btree_set(select(&Exemption::ALL[..]), 1..4)];
    switched.prop_map(|switched| BTreeSet::from(Exemption::DEFAULT).symmetric_difference(&switched).copied().collect())
}

/// Ports at the edges of the ranges that rules use.
pub fn ports() -> impl Strategy<Value = u16> {
    select(vec![1u16, 22, 53, 79, 80, 81, 90, 91, 443, 5432, 8080, 65535])
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

/// The far end of a rule that is not in a group yet.
#[derive(Clone, Debug)]
enum Far {
    Itself,
    Peer(Peer),
}

fn peer() -> impl Strategy<Value = Far> {
    prop_oneof![
        4 => net().prop_map(|net| Far::Peer(Peer::Net(net))),
        3 => group().prop_map(|group| Far::Peer(Peer::Group(group))),
        3 => list().prop_map(|list| Far::Peer(Peer::PrefixList(list))),
        1 => Just(Far::Itself),
    ]
}

fn rule() -> impl Strategy<Value = (GroupRef, RuleText)> {
    (group(), select(vec![Direction::Ingress, Direction::Egress]), traffic(), peer()).prop_map(|(group, direction, traffic, peer)| {
        let peer = match peer {
            // S18.
            Far::Itself => Peer::Group(group.clone()),
            // S16: an ICMP rule names networks of its own family; admission refuses the other.
            Far::Peer(Peer::Net(net)) if matches!(traffic, Traffic::Icmp { family, .. } if Family::of(net.addr()) != family) => {
                Peer::Group(group.clone())
            }
            Far::Peer(peer) => peer,
        };
        (group, RuleText { direction, traffic, peer })
    })
}

fn guard() -> impl Strategy<Value = Guard> {
    (btree_set(group(), 0..4), any::<bool>()).prop_map(|(groups, reject)| {
        // S32: who is closed because a group is missing is dropped.
        let on_deny = if reject && !groups.is_empty() { OnDeny::Reject } else { OnDeny::Drop };
        Guard { groups, on_deny }
    })
}

fn member() -> impl Strategy<Value = (GroupRef, IpAddr)> {
    (group(), select(World::elsewhere()))
}

/// A policy for the pods of [`World`]: each is in some groups, in none that exists, or not guarded at all.
pub fn draft() -> impl Strategy<Value = Draft> {
    let guards = vec(prop::option::weighted(0.85, guard()), World::PODS.len());
    // Four lists in all: some do not exist, some are empty.
    let lists = btree_map(list(), vec(entry(), 0..6), 0..4);
    let dns = btree_set(select(World::pods().into_iter().chain(World::elsewhere()).collect::<Vec<_>>()), 0..4);
    (vec(rule(), 0..24), guards, vec(member(), 0..12), btree_set(group(), 0..3), lists, exempt(), dns).prop_map(
        |(rules, guards, members, absent, lists, exempt, dns)| {
            let guards = guards.into_iter().enumerate().filter_map(|(i, guard)| Some((i, guard?))).collect();
            Draft { rules, guards, members, absent, lists, exempt, dns }
        },
    )
}

/// A draft's policy.
pub fn node_policy() -> impl Strategy<Value = NodePolicy> {
    draft().prop_map(|draft| draft.policy())
}

/// A change such as a user makes, or a pod that comes and goes.
#[derive(Clone, Debug)]
pub enum Edit {
    /// One more rule.
    AddRule(GroupRef, RuleText),
    /// One rule less.
    RemoveRule(Index),
    /// A rule that says something else.
    ChangeRule(Index, GroupRef, RuleText),
    /// A pod whose groups change, or that is not guarded any more.
    Guard(usize, Option<Guard>),
    /// One more member elsewhere.
    AddMember(GroupRef, IpAddr),
    /// One member less.
    RemoveMember(Index),
    /// A group that comes or goes.
    Toggle(GroupRef),
    /// One more entry of a prefix list, which is made if it does not exist.
    AddEntry(PrefixListRef, IpNet),
    /// One entry less.
    RemoveEntry(PrefixListRef, Index),
    /// A prefix list that goes.
    RemoveList(PrefixListRef),
    /// An exemption that is switched.
    Switch(Exemption),
}

/// Any change.
pub fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => rule().prop_map(|(group, rule)| Edit::AddRule(group, rule)),
        3 => any::<Index>().prop_map(Edit::RemoveRule),
        2 => (any::<Index>(), rule()).prop_map(|(index, (group, rule))| Edit::ChangeRule(index, group, rule)),
        3 => (0..World::PODS.len(), prop::option::weighted(0.8, guard())).prop_map(|(pod, guard)| Edit::Guard(pod, guard)),
        2 => member().prop_map(|(group, address)| Edit::AddMember(group, address)),
        2 => any::<Index>().prop_map(Edit::RemoveMember),
        1 => group().prop_map(Edit::Toggle),
        3 => (list(), entry()).prop_map(|(list, entry)| Edit::AddEntry(list, entry)),
        3 => (list(), any::<Index>()).prop_map(|(list, index)| Edit::RemoveEntry(list, index)),
        1 => list().prop_map(Edit::RemoveList),
        1 => select(&Exemption::ALL[..]).prop_map(Edit::Switch),
    ]
}

impl Draft {
    /// The draft after a change; one of what is not there changes nothing.
    pub fn edited(mut self, edit: Edit) -> Draft {
        fn at<T>(pieces: &[T], index: Index) -> Option<usize> {
            (!pieces.is_empty()).then(|| index.index(pieces.len()))
        }
        match edit {
            Edit::AddRule(group, rule) => self.rules.push((group, rule)),
            Edit::RemoveRule(index) => drop(at(&self.rules, index).map(|i| self.rules.remove(i))),
            Edit::ChangeRule(index, group, rule) => drop(at(&self.rules, index).map(|i| self.rules[i] = (group, rule))),
            Edit::Guard(pod, Some(guard)) => drop(self.guards.insert(pod, guard)),
            Edit::Guard(pod, None) => drop(self.guards.remove(&pod)),
            Edit::AddMember(group, address) => self.members.push((group, address)),
            Edit::RemoveMember(index) => drop(at(&self.members, index).map(|i| self.members.remove(i))),
            Edit::AddEntry(list, entry) => self.lists.entry(list).or_default().push(entry),
            Edit::RemoveEntry(list, index) => {
                let entries = self.lists.get_mut(&list);
                let _ = entries.and_then(|entries| at(entries, index).map(|i| entries.remove(i)));
            }
            Edit::RemoveList(list) => drop(self.lists.remove(&list)),
            Edit::Switch(exemption) => drop(self.exempt.remove(&exemption) || self.exempt.insert(exemption)),
            Edit::Toggle(group) => drop(self.absent.remove(&group) || self.absent.insert(group)),
        }
        self
    }
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
            1 => (select(node.clone()), select(pods), Just(Path::Output)),
            1 => (select(node.clone()), select(node), Just(Path::Loopback)),
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
