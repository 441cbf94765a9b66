//! Named scenarios as nft text.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::*;
use ruleset::{Bounds, Fingerprint, Lowering, Op, Transaction, diff, lower, lower_within};

use crate::build::*;

#[test]
fn nothing_guarded() {
    insta::assert_snapshot!(lower(&NodePolicy::default()));
}

#[test]
fn three_tiers() {
    insta::assert_snapshot!(lower(&three_tier()));
}

/// S10–S20, S32: one of each.
#[test]
fn every_kind_of_rule() {
    let policy = NodePolicy::default()
        .rejecting_pod("edge/proxy", &["10.2.0.7"], &["edge/proxy", "edge/spare"])
        .pod("edge/closed", &["fd00:2::8"], &[])
        .group(
            "edge/proxy",
            &[
                rule("01", Traffic::All, "edge/proxy"),
                rule("02", ports(Transport::Tcp, 8000, 8999), "192.168.0.0/16"),
                rule("03", Traffic::Transport(Transport::Udp, None), "fd00::/8"),
                rule("04", ports(Transport::Sctp, 38412, 38412), "203.0.113.9/32"),
                rule("05", icmp(Family::V4, Some(8), Some(0)), "0.0.0.0/0"),
                rule("06", icmp(Family::V4, Some(3), None), "edge/gone"),
                rule("07", icmp(Family::V6, None, None), "::/0"),
                rule("08", icmp(Family::V6, Some(128), None), "10.0.0.0/8"),
                rule("09", Traffic::Protocol(47), "fd00::1/128"),
            ],
            &[],
        )
        .group("edge/spare", &[], &[rule("0a", tcp(443), "Not a/DNS name")])
        .members("edge/proxy", &["10.2.0.7"]);
    insta::assert_snapshot!(lower(&policy));
}

/// S21: overlapping and touching entries are one range; the other family's set is there, empty.
#[test]
fn prefix_list() {
    let rules = [rule("01", tcp(443), "pl/shop/offices"), rule("02", tcp(22), "pl/shop/gone")];
    let policy = NodePolicy::default()
        .pod("shop/web-0", &["10.2.0.2"], &["shop/web"])
        .group("shop/web", &rules, &[])
        .prefix_list("shop/offices", &["198.51.100.0/24", "198.51.100.128/25", "198.51.101.0/24", "203.0.113.7/32"]);
    insta::assert_snapshot!(lower(&policy));
}

/// S36: nothing is exempt but cluster DNS.
#[test]
fn exemptions_switched() {
    let mut policy = NodePolicy::default().pod("shop/web-0", &["10.2.0.2"], &[]);
    policy.exempt = [Exemption::ClusterDns].into();
    policy.cluster_dns = addresses(&["10.2.9.9", "fd00:2::9"]);
    insta::assert_snapshot!(lower(&policy));
}

/// Two pods that the kernel takes no chains for, whatever their groups allow.
#[test]
fn closed() {
    let open = [rule("a1", Traffic::All, "0.0.0.0/0")];
    let mut policy = NodePolicy::default().group("shop/web", &open, &open);
    for (name, own) in [("shop/web-0", ["10.2.0.2", "fd00:2::2"]), ("shop/web-1", ["10.2.0.3", "fd00:2::3"])] {
        policy = policy.rejecting_pod(name, &own, &["shop/web"]);
        policy.endpoints.get_mut(&pod(name)).unwrap().closed = true;
    }
    insta::assert_snapshot!(lower(&policy));
}

/// S38: what the policy should not hold allows nothing, and the kernel is not asked for what it would refuse.
#[test]
fn s38_a_range_of_no_port_is_no_rule() {
    let policy = NodePolicy::default().group("shop/web", &[rule("01", ports(Transport::Tcp, 81, 80), "0.0.0.0/0")], &[]).pod(
        "shop/web-0",
        &["10.2.0.2"],
        &["shop/web"],
    );
    for few in [0, 1] {
        assert!(lower_within(&policy, Bounds { few, ..Bounds::default() }).chains["in/shop/web"].rules.is_empty());
    }
}

/// Ports one by one and in ranges that overlap, touch and repeat, more peers than are looked at one by one, and what has no ports.
#[test]
fn many_rules() {
    let mut ingress = vec![
        rule("01", tcp(443), "0.0.0.0/0"),
        rule("02", tcp(443), "shop/lb"),
        rule("03", ports(Transport::Tcp, 8000, 8100), "shop/lb"),
        rule("04", ports(Transport::Tcp, 8050, 8200), "pl/shop/offices"),
        rule("05", ports(Transport::Tcp, 8101, 8200), "192.0.2.0/24"),
        rule("06", ports(Transport::Tcp, 65000, 65535), "2001:db8::/32"),
        rule("07", Traffic::Transport(Transport::Tcp, None), "10.9.9.9/32"),
        rule("08", icmp(Family::V4, Some(8), None), "0.0.0.0/0"),
        rule("09", Traffic::All, "shop/web"),
    ];
    ingress.extend((0..9).map(|n| rule(&format!("1{n}"), tcp(5432), &format!("10.{n}.0.0/15"))));
    ingress.extend((0..9).map(|n| rule(&format!("2{n}"), ports(Transport::Udp, 53, 53), &format!("peers/g{n}"))));
    let mut policy = NodePolicy::default()
        .group("shop/web", &ingress, &[])
        .group("shop/ops", &[rule("31", tcp(443), "shop/lb")], &[])
        .pod("shop/web-0", &["10.2.0.2"], &["shop/web", "shop/ops"])
        .members("shop/lb", &["10.2.0.9"])
        .members("shop/web", &["10.2.0.2"])
        .prefix_list("shop/offices", &["198.51.100.0/24"]);
    for n in 0..9 {
        policy = policy.members(&format!("peers/g{n}"), &[&format!("10.3.{n}.1"), "10.3.9.9", "fd00::9"]);
    }
    insta::assert_snapshot!(lower(&policy));
}

#[test]
fn from_nothing() {
    insta::assert_snapshot!(Transaction::replace(&lower(&NodePolicy::default().pod("shop/web-0", &["10.2.0.2"], &[]))));
}

#[test]
fn a_pod_takes_over_an_address_and_a_rule_goes() {
    let mut after = three_tier();
    after.endpoints.remove(&pod("shop/app-0"));
    let mut after = after.pod("shop/web-1", &["10.2.0.3", "fd00:2::5"], &["shop/web"]).members("shop/app", &[]);
    Arc::make_mut(after.groups.get_mut(&group("shop/web")).unwrap()).ingress.remove(&rule("a2", tcp(443), "0.0.0.0/0"));
    insta::assert_snapshot!(diff(&lower(&three_tier()), &lower(&after)));
}

#[test]
fn the_fingerprint_is_stable_and_tells_rulesets_apart() {
    let of = |policy: NodePolicy| Fingerprint::of(&lower(&policy)).to_string();
    assert_eq!(of(NodePolicy::default()), "0db3733f36d6bb1e02335bb00486b832", "the same in every process and on every node");
    assert_eq!(of(three_tier()), of(three_tier()));
    assert_ne!(of(three_tier()), of(three_tier().members("shop/app", &[])));
}

#[test]
fn the_same_rules_are_merged_once_and_very_many_members_not_at_all() {
    let policy = |groups: u32, members: u32| {
        let peers = |port: u16| (0..groups).map(move |n| rule(&format!("{port}-{n}"), tcp(port), &format!("peers/g{n}")));
        let ingress: Vec<Rule> = [80, 443, 8080].into_iter().flat_map(peers).collect();
        let mut policy =
            NodePolicy::default().group("shop/web", &ingress, &[]).pod("shop/web-0", &["10.2.0.2", "fd00:2::2"], &["shop/web"]);
        for n in 0..groups {
            let addresses = (0..members).map(|place| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n * members + place)));
            policy.members.insert(group(&format!("peers/g{n}")), addresses.collect());
        }
        policy
    };
    let with = |groups: u32, members: u32| {
        let table = lower(&policy(groups, members));
        (table.counter_maps.len(), table.chains["in/shop/web/tcp/443"].rules.len())
    };
    assert_eq!(with(9, 40), (6, 2), "a map for each family and port, for each rule counts for itself");
    assert_eq!(with(3, 40), (6, 2), "three are looked for at once");
    assert_eq!(lower(&policy(2, 40)).counter_maps.len(), 0, "two are looked at one by one");
    assert_eq!(with(16, 2_560), (6, 2), "122,880 addresses in the maps of three ports");
    assert_eq!(with(16, 2_816).0, 4, "135,168: there is room for those of two ports");
    assert_eq!(with(16, 8_193), (0, 32), "131,088 on one port stand in the groups' own sets only");
    // A class of few rules has them in turn, but for peers that may the same.
    let mut few = policy(3, 40);
    Arc::make_mut(few.groups.get_mut(&group("shop/web")).unwrap())
        .ingress
        .retain(|rule| !matches!(rule.traffic, Traffic::Transport(_, Some(PortRange { from: 8080, .. }))));
    let few = lower(&few);
    assert_eq!((few.counter_maps.len(), few.port_maps.len(), few.chains["in/shop/web"].rules.len()), (4, 0, 4));
    // Also where they have become so many, or so few, one after another.
    let mut lowering = Lowering::default();
    for members in [40, 4_000, 6_000, 15_000, 4_000, 41, 40] {
        assert!(lowering.lower(&policy(9, members)) == lower(&policy(9, members)), "{members}");
    }
}

/// Where there is no room for all maps, those are made that take the place of most rules for an element.
#[test]
fn small_maps_for_many_rules_come_first() {
    let named = |port: u16, groups: std::ops::Range<u32>| {
        groups.map(move |n| rule(&format!("{port}-{n}"), tcp(port), &format!("peers/g{n}"))).collect::<Vec<Rule>>()
    };
    // Of 30 groups with a member each, and of 3 with 10.
    let rules = [named(80, 0..30), named(443, 30..33)].concat();
    let mut policy = NodePolicy::default().group("shop/web", &rules, &[]).pod("shop/web-0", &["10.2.0.2"], &["shop/web"]);
    let mut members = (0..).map(|n| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n)));
    for n in 0..33 {
        policy.members.insert(group(&format!("peers/g{n}")), members.by_ref().take(if n < 30 { 1 } else { 10 }).collect());
    }
    let ports = |most: usize| {
        let table = lower_within(&policy, Bounds { few: 2, peers: 2, most });
        ["80", "443"].map(|port| table.chains[&format!("in/shop/web/tcp/{port}")].rules.len())
    };
    assert_eq!(ports(60), [1, 1]);
    assert_eq!(ports(59), [1, 3]);
    assert_eq!(ports(30), [1, 3]);
    assert_eq!(ports(29), [30, 3]);
}

/// As many groups of many rules as there are to be, five on each of 100 pods, whose peers have 100,000 members together: all goes to the kernel
/// as one message.
#[test]
fn the_largest_table_there_is_to_be_holds_few_times_its_members() {
    let with_ports = |ports: u16| {
        let mut policy = NodePolicy::default();
        for n in 0..500 {
            let peer = |k: u16| format!("peers/g{}", (n + usize::from(k)) % 500);
            let rules: Vec<Rule> = (0..50).map(|k| rule(&format!("{k}"), tcp(1000 + k % ports), &peer(k))).collect();
            policy = policy.group(&format!("shop/g{n}"), &rules, &[]);
            let first = 0x0b00_0000 + u32::try_from(n).unwrap() * 200;
            let members = (first..first + 200).map(|bits| IpAddr::from(std::net::Ipv4Addr::from_bits(bits))).collect();
            policy.members.insert(group(&format!("peers/g{n}")), members);
        }
        for n in 0..100 {
            let groups: Vec<String> = (0..5).map(|place| format!("shop/g{}", n * 5 + place)).collect();
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            policy = policy.pod(&format!("shop/p{n}"), &[&format!("10.2.0.{n}")], &groups);
        }
        policy
    };
    for ports in [50, 10, 1] {
        let mut lowering = Lowering::default();
        let mut policy = with_ports(ports);
        let table = lowering.lower(&policy);
        let elements: usize = table.counter_maps.values().map(|map| map.elements.len()).sum();
        assert!((60_000..=131_072).contains(&elements), "{elements} elements in maps of {ports} ports");
        // A member more is an element in each map of its group, and no other map gives way.
        policy.members.get_mut(&group("peers/g0")).unwrap().insert("10.99.0.1".parse().unwrap());
        let change = diff(&table, &lowering.lower(&policy));
        let is_element = |op: &Op| matches!(op, Op::AddElements(..) | Op::AddCounted(..));
        assert!(change.ops.iter().all(is_element), "{change}");
    }
}

#[test]
fn what_has_no_ports_is_told_apart_and_stands_behind_one_test_where_it_is_much() {
    let kinds = |count: u8| -> Vec<Rule> {
        (0..count).map(|n| rule(&format!("{n:02}"), icmp(Family::V4, Some(n / 2), (n % 2 == 1).then_some(n)), "10.0.0.0/8")).collect()
    };
    let with = |count: u8, few: usize| {
        let all = [kinds(count), vec![rule("99", tcp(80), "10.0.0.0/8")]].concat();
        let policy = NodePolicy::default().group("shop/web", &all, &[]).pod("shop/web-0", &["10.2.0.2", "fd00:2::2"], &["shop/web"]);
        lower_within(&policy, Bounds { few, ..Bounds::default() })
    };
    // A look-up for the port, and the ICMP rules or a jump to them.
    let (eight, nine) = (with(8, 8), with(9, 8));
    assert_eq!((eight.chains["in/shop/web"].rules.len(), eight.chains.contains_key("in/shop/web/1")), (9, false));
    assert_eq!((nine.chains["in/shop/web"].rules.len(), nine.chains["in/shop/web/1"].rules.len()), (2, 9));
    // Where networks are merged, each kind counts for itself.
    let counted: Vec<String> =
        with(3, 0).counter_maps.values().flat_map(|map| map.elements.values()).map(|(_, name)| name.to_string()).collect();
    assert_eq!(counted.into_iter().collect::<BTreeSet<_>>(), ["00", "01", "02", "99"].map(|id| format!("in/shop/web/sgr-{id}")).into());
    assert_eq!(with(0, 1).chains["in/shop/web"].rules.len(), 1);

    // Eight networks on a port are looked at one by one, nine at once.
    let nets = |count: u8| {
        let ingress: Vec<Rule> = (0..count).map(|n| rule(&format!("{n}"), tcp(80), &format!("10.{n}.0.0/16"))).chain(kinds(9)).collect();
        let table =
            lower(&NodePolicy::default().group("shop/web", &ingress, &[]).pod("shop/web-0", &["10.2.0.2", "fd00:2::2"], &["shop/web"]));
        table.chains["in/shop/web/tcp/80"].rules.len()
    };
    assert_eq!((nets(8), nets(9)), (8, 2));
}

#[test]
fn what_no_packet_of_an_endpoint_can_be_costs_nothing() {
    let policy = |addresses: &[&str]| {
        let rules = [rule("a", tcp(80), "peers/web"), rule("b", tcp(81), "2001:db8::/32"), rule("c", icmp(Family::V6, None, None), "::/0")];
        NodePolicy::default()
            .group("shop/web", &rules, &[])
            .pod("shop/web-0", addresses, &["shop/web"])
            .members("peers/web", &["10.3.0.1", "fd00:3::1"])
    };
    let both = lower(&policy(&["10.2.0.2", "fd00:2::2"]));
    assert!(both.sets.contains_key("members6/peers/web") && both.chains["in/shop/web"].rules.len() == 4, "{both}");
    let one = lower(&policy(&["10.2.0.2"]));
    assert!(!one.sets.contains_key("members6/peers/web") && one.chains["in/shop/web"].rules.len() == 1, "{one}");

    // And back again, as pods come and go.
    let mut lowering = Lowering::default();
    for addresses in [&["10.2.0.2"][..], &["10.2.0.2", "fd00:2::2"], &["fd00:2::2"], &[], &["10.2.0.2"]] {
        assert_eq!(lowering.lower(&policy(addresses)), lower(&policy(addresses)), "{addresses:?}");
    }
}
