//! `packets.txt`: judged by the oracle and by the ruleset that is made from the same policy.

use policy::index::{Cluster, Object};
use policy::model::{ConnState, Direction, Exemption, Packet, Path, Payload, Rule, Transport, Verdict};
use policy::text::RuleText;
use policy::{id, verdict};
use serde_json::json;
use testkit::manifest::group_ref;
use testkit::{Manifest, from_scratch};

use super::Row;

pub fn table() -> Vec<Row> {
    super::rows("packets.txt", include_str!("packets.txt"), 3)
}

/// The addresses of the places, IPv4 and IPv6.
const PLACES: [(&str, [&str; 2]); 8] = [
    ("me", ["10.0.0.1", "fd00::1"]),
    ("neighbour", ["10.0.0.2", "fd00::2"]),
    ("stranger", ["10.0.0.3", "fd00::3"]),
    ("node", ["10.0.0.254", "fd00::fe"]),
    ("twin", ["10.1.0.1", "fd01::1"]),
    ("member", ["10.1.0.2", "fd01::2"]),
    ("namesake", ["10.1.0.3", "fd01::3"]),
    ("outside", ["203.0.113.1", "2001:db8::1"]),
];

fn at(place: &str) -> [&'static str; 2] {
    PLACES.iter().find(|(name, _)| *name == place).unwrap_or_else(|| panic!("there is no place `{place}`")).1
}

/// A pod of the node, selected by its own name.
fn pod(name: &str) -> Manifest {
    Manifest::pod(&format!("shop/{name}"), "n1", name).at(&at(name))
}

fn group(name: &str, rules: &[&str], reject: bool) -> Object {
    let spec = json!({"egress": [], "onDeny": if reject { "Reject" } else { "Drop" }});
    let Object::SecurityGroup(group, mut facts) = Manifest::group(name, spec).set("/metadata/uid", name).fact() else { panic!("a group") };
    for text in rules {
        let RuleText { direction, traffic, peer } = text.parse().unwrap_or_else(|error| panic!("{error}"));
        let id = id::rule(&facts.uid, direction, traffic, &peer);
        let rules = std::sync::Arc::make_mut(&mut facts.rules);
        let list = if direction == Direction::Ingress { &mut rules.ingress } else { &mut rules.egress };
        list.insert(Rule { traffic, peer, id });
    }
    Object::SecurityGroup(group, facts)
}

/// The facts that the text of a policy stands for.
fn cluster(policy: &str) -> Cluster {
    let words: Vec<&str> = policy.split(';').map(str::trim).collect();
    let said = |word: &str| words.contains(&word);
    let mut groups = vec!["own"];
    let mut rules: Vec<(&str, &str)> = Vec::new();
    for word in &words {
        match word.strip_prefix('@').map(|rest| rest.split_once(' ').unwrap_or((rest, ""))) {
            Some((name, rule)) => {
                groups.push(name);
                rules.extend((!rule.is_empty()).then_some((name, rule)));
            }
            None if ["none", "free", "closed", "missing", "reject", "exempt-dns"].contains(word) => {}
            None => rules.push(("own", word)),
        }
    }
    let mut cluster = Cluster::default();
    let mut add = |object: Object| {
        let _ = cluster.apply(object);
    };
    for name in groups.iter().chain(&["peer"]) {
        let own: Vec<&str> = rules.iter().filter(|(of, _)| of == name).map(|(_, rule)| *rule).collect();
        add(group(&format!("shop/{name}"), &own, said("reject")));
    }
    add(group("other/peer", &[], false));
    for (slice, uid, place) in [("shop/a", "shop/own", "twin"), ("shop/b", "shop/peer", "member"), ("other/c", "other/peer", "namesake")] {
        add(Manifest::slice(slice, uid, true, &at(place)).fact());
    }
    add(Manifest::prefix_list("shop/offices", &["203.0.113.0/25", "203.0.113.0/24"]).fact());
    if said("exempt-dns") {
        add(Manifest::dns("kube-system/dns", &["10.96.0.10"]).fact());
    }
    for name in ["me", "neighbour", "stranger"] {
        add(pod(name).fact());
    }
    let missing = if said("missing") { vec!["gone"] } else { vec![] };
    let mine: Vec<&str> = groups.iter().copied().filter(|name| *name != "peer").chain(missing).collect();
    if !said("free") {
        add(Manifest::attachment("shop/me", "me", if said("closed") { &["gone"] } else { &mine }).fact());
    }
    if groups.contains(&"peer") {
        add(Manifest::attachment("shop/neighbour", "neighbour", &["peer"]).fact());
    }
    cluster
}

/// `me6:80` is an address and a port.
fn end(text: &str) -> (std::net::IpAddr, Option<u16>) {
    let (place, port) = text.split_once(':').map_or((text, None), |(place, port)| (place, Some(port.parse().expect("a port"))));
    let address = match place.strip_suffix('6').filter(|name| PLACES.iter().any(|(place, _)| place == name)) {
        Some(name) => at(name)[1],
        None if place.starts_with(|c: char| c.is_ascii_digit()) => place,
        None => at(place)[0],
    };
    (address.parse().expect("an address"), port)
}

fn packet(text: &str) -> Packet {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, from, ">", to, rest @ ..] = words.as_slice() else { panic!("`{text}` is no packet") };
    let ((source, source_port), (destination, port)) = (end(from), end(to));
    let mut rest = rest.to_vec();
    let transport = |protocol| Payload::Transport {
        protocol,
        source: source_port.unwrap_or(40000),
        destination: port.unwrap_or_else(|| panic!("`{text}` has no port")),
    };
    let payload = match *protocol {
        "tcp" => transport(Transport::Tcp),
        "udp" => transport(Transport::Udp),
        "sctp" => transport(Transport::Sctp),
        "icmp" => {
            let (kind, code) = rest.remove(0).split_once('/').expect("type/code");
            Payload::Icmp { kind: kind.parse().expect("a type"), code: code.parse().expect("a code") }
        }
        other => Payload::Protocol(other.strip_prefix("protocol-").and_then(|n| n.parse().ok()).expect("a protocol")),
    };
    let state = match rest.as_slice() {
        [] => ConnState::New,
        ["established"] => ConnState::Established,
        ["related"] => ConnState::Related,
        ["invalid"] => ConnState::Invalid,
        other => panic!("`{other:?}` is no state"),
    };
    let is_node = |end: &str| end.starts_with("node");
    let path = if is_node(to) {
        Path::Input
    } else if is_node(from) {
        Path::Output
    } else {
        Path::Forward
    };
    Packet { source, destination, payload, state, path }
}

#[test]
fn the_oracle_and_the_ruleset_say_what_was_decided_by_hand() {
    for Row { place, clause, columns } in table() {
        let [policy, text, wanted] = columns[..] else { unreachable!() };
        let wanted = match wanted {
            "allow" => Verdict::Allow,
            "drop" => Verdict::Drop,
            "reject" => Verdict::Reject,
            other => panic!("{place}: `{other}` is no verdict"),
        };
        let (mut compiled, _) = from_scratch(&cluster(policy), &policy::model::NodeName("n1".into()));
        if policy.contains("exempt-dns") {
            compiled.policy.exempt.insert(Exemption::ClusterDns);
        }
        let (packet, ruleset) = (packet(text), ruleset::lower(&compiled.policy));
        assert_eq!(verdict(&compiled.policy, &packet), wanted, "{place}, {clause}, the oracle: {policy} | {text}");
        assert_eq!(ruleset::trace(&ruleset, &packet), wanted, "{place}, {clause}, the ruleset: {policy} | {text}\n{ruleset}");
    }
}

/// The words of a policy do what the head of the table says.
#[test]
fn the_policies_of_the_table_are_what_they_say() {
    let compiled = |policy: &str| from_scratch(&cluster(policy), &policy::model::NodeName("n1".into())).0.policy;
    let mine = |policy: &str| {
        let me = compiled(policy).endpoints.get(&testkit::manifest::pod_ref("shop/me")).cloned();
        me.map(|me| me.groups.into_iter().map(|group| group.name).collect::<Vec<_>>())
    };
    assert_eq!(mine("none; @common; @peer"), Some(vec!["common".into(), "own".into()]));
    assert_eq!(mine("free"), None);
    assert_eq!(mine("closed"), Some(vec![]));
    assert_eq!(compiled("none").endpoints.len(), 1);
    assert_eq!(compiled("none; @peer").endpoints.len(), 2);
    assert!(compiled("ingress all from sg/shop/peer").members[&group_ref("shop/peer")].contains(&end("member6").0));
}
