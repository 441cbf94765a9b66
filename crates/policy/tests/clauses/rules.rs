//! From what is written to canonical rules (S10–S16, S22, S23, S38).

use super::facts::group;
use policy::index::{Object, SecurityGroup};
use policy::model::Direction;
use policy::text::RuleText;
use serde_json::{Value, json};

fn read(spec: Value) -> SecurityGroup {
    let Object::SecurityGroup(_, facts) = group("web", spec) else { panic!("a group") };
    facts
}

/// The rules as text, ingress first.
fn texts(facts: &SecurityGroup) -> Vec<String> {
    let of = |direction, rules: &std::collections::BTreeSet<policy::model::Rule>| {
        rules.iter().map(|r| RuleText { direction, traffic: r.traffic, peer: r.peer.clone() }.to_string()).collect::<Vec<_>>()
    };
    [of(Direction::Ingress, &facts.rules.ingress), of(Direction::Egress, &facts.rules.egress)].concat()
}

/// One ingress rule from 10.0.0.0/8 with these fields; `Err` is the problem's message.
fn one(mut rule: Value) -> Result<String, String> {
    if rule.get("from").is_none() {
        rule["from"] = json!([{"cidr": "10.0.0.0/8"}]);
    }
    let facts = read(json!({"ingress": [rule], "egress": []}));
    match (texts(&facts).as_slice(), facts.problems.as_slice()) {
        ([text], []) => Ok(text.clone()),
        ([], [problem]) => Err(problem.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s4_s5_nothing_in_and_everything_out_by_default() {
    assert_eq!(texts(&read(json!({}))), ["egress all to 0.0.0.0/0", "egress all to ::/0"]);
    assert_eq!(texts(&read(json!({"ingress": [], "egress": []}))), Vec::<String>::new());
}

#[test]
fn s11_to_s15_every_way_to_write_traffic() {
    for (rule, text) in [
        (json!({"protocol": "TCP", "port": 80}), "tcp 80"),
        (json!({"protocol": 6, "port": 80, "endPort": 90}), "tcp 80-90"),
        (json!({"protocol": "UDP"}), "udp"),
        (json!({"protocol": 132, "port": 1, "endPort": 65535}), "sctp 1-65535"),
        (json!({"protocol": "ICMP"}), "icmp"),
        (json!({"protocol": 1, "icmpType": 8, "icmpCode": 0}), "icmp 8/0"),
        (json!({"protocol": "ICMPv6", "icmpType": 128, "from": [{"cidr": "::/0"}]}), "icmpv6 128"),
        (json!({"protocol": "All"}), "all"),
        (json!({"protocol": 0}), "protocol-0"),
        (json!({"protocol": 47}), "protocol-47"),
        (json!({"type": "SSH"}), "tcp 22"),
        (json!({"type": "DNS-UDP"}), "udp 53"),
        (json!({"type": "AllTCP"}), "tcp"),
        (json!({"type": "AllICMP"}), "icmp"),
        (json!({"type": "AllTraffic"}), "all"),
    ] {
        let text = if text.starts_with("icmpv6") { format!("ingress {text} from ::/0") } else { format!("ingress {text} from 10.0.0.0/8") };
        assert_eq!(one(rule.clone()), Ok(text), "{rule}");
    }
}

#[test]
fn s38_what_is_wrong_allows_nothing_and_says_why() {
    for (rule, word) in [
        (json!({"protocol": "TCP", "port": 70000}), "70000"),
        (json!({"protocol": "TCP", "port": 0}), "port 0"),
        (json!({"protocol": "TCP", "port": 90, "endPort": 80}), "below"),
        (json!({"protocol": "TCP", "endPort": 80}), "needs port"),
        (json!({"protocol": "TCP", "icmpType": 8}), "icmpType"),
        (json!({"protocol": "ICMP", "port": 80}), "port"),
        (json!({"protocol": "ICMP", "icmpCode": 0}), "needs icmpType"),
        (json!({"protocol": "ICMP", "icmpType": 256}), "256"),
        (json!({"protocol": "All", "port": 80}), "all has neither"),
        (json!({"protocol": 47, "port": 80}), "neither"),
        (json!({"protocol": 256}), "256"),
        (json!({"protocol": "tcp"}), "unknown"),
        (json!({"protocol": "6"}), "unknown"),
        (json!({"type": "ssh"}), "unknown"),
        (json!({"type": "SSH", "port": 22}), "already"),
        (json!({"type": "SSH", "protocol": "TCP"}), "exactly one"),
        (json!({}), "exactly one"),
        (json!({"protocol": "TCP", "port": null}), "null"),
        (json!({"protocol": null}), ""),
        (json!({"protocol": "TCP", "ports": [80]}), "ports"),
        (json!({"protocol": "TCP", "from": []}), "no peer"),
        (json!({"protocol": "TCP", "from": [{}]}), "exactly one"),
        (json!({"protocol": "TCP", "from": [{"cidr": "10.0.0.0/8", "self": true}]}), "exactly one"),
        (json!({"protocol": "TCP", "from": [{"self": false}]}), "only be true"),
        (json!({"protocol": "TCP", "from": [{"prefixList": {"name": "", "namespace": "ops"}}]}), "empty"),
        (json!({"protocol": "TCP", "from": [{"prefixList": {"name": "x"}, "cidr": "10.0.0.0/8"}]}), "exactly one"),
        (json!({"protocol": "TCP", "from": [{"securityGroup": {"name": ""}}]}), "empty"),
        (json!({"protocol": "TCP", "from": [{"cidr": "10.0.0.0/33"}]}), "neither"),
        (json!({"protocol": "TCP", "from": [{"cidr": "10.0.0.0/0"}]}), "0.0.0.0/0"),
        (json!({"protocol": "TCP", "from": [{"cidr": "010.0.0.1"}]}), "neither"),
        (json!({"protocol": "TCP", "from": [{"cidr": "fe80::1%eth0"}]}), "neither"),
        (json!({"protocol": "TCP", "from": [{"cidr": "::ffff:10.0.0.1"}]}), "mapped"),
        (json!({"protocol": "ICMP", "from": [{"cidr": "::/0"}]}), "other family"),
        (json!({"protocol": "TCP", "from": [["by position", "10.0.0.0/8"]]}), "an object"),
        (json!({"protocol": "TCP", "from": [{"securityGroup": ["by position"]}]}), "not a list"),
        (json!(["by position", "SSH"]), "an object"),
        (json!("nonsense"), ""),
    ] {
        let spec = if rule.is_object() { one(rule.clone()) } else { one_raw(rule.clone()) };
        match spec {
            Err(message) => assert!(message.contains(word), "{rule}: {message}"),
            Ok(text) => panic!("{rule} became {text}"),
        }
    }
}

fn one_raw(rule: Value) -> Result<String, String> {
    let facts = read(json!({"ingress": [rule], "egress": []}));
    assert!(texts(&facts).is_empty());
    Err(facts.problems[0].message.clone())
}

#[test]
fn s38_the_neighbours_of_a_bad_rule_stay_in_force_and_a_bad_spec_allows_nothing() {
    let good = json!({"type": "SSH", "from": [{"cidr": "10.0.0.0/8"}, {"cidr": "bad"}]});
    let facts = read(json!({"ingress": [{"novelty": true, "from": []}, good], "egress": []}));
    assert_eq!(texts(&facts), ["ingress tcp 22 from 10.0.0.0/8"]);
    assert_eq!(facts.problems.iter().map(|p| p.rule.as_str()).collect::<Vec<_>>(), ["ingress[0]", "ingress[1].from[1]"]);
    for spec in [json!({"egress": null}), json!({"novelty": 1}), json!(null), json!([]), json!({"onDeny": "Shout"}), json!({"ingress": {}})]
    {
        let facts = read(spec.clone());
        assert_eq!(texts(&facts), Vec::<String>::new(), "{spec}: nothing, not the default egress");
        assert_eq!(facts.problems[0].reason, "NotUnderstood");
    }
}

#[test]
fn s16_host_bits_are_cleared_and_a_bare_address_is_one_address() {
    for (cidr, net) in [
        ("100.68.0.18/18", "100.68.0.0/18"),
        ("203.0.113.7", "203.0.113.7/32"),
        ("2001:DB8::7", "2001:db8::7/128"),
        ("64:ff9b::192.0.2.33/96", "64:ff9b::/96"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(one(json!({"protocol": "All", "from": [{"cidr": cidr}]})), Ok(format!("ingress all from {net}")));
    }
}

#[test]
fn s18_self_is_the_group_itself_and_s19_a_namespace_may_be_named() {
    assert_eq!(one(json!({"protocol": "All", "from": [{"self": true}]})), Ok("ingress all from sg/shop/web".into()));
    assert_eq!(
        one(json!({"protocol": "All", "from": [{"securityGroup": {"name": "x", "namespace": "y"}}]})),
        Ok("ingress all from sg/y/x".into())
    );
}

#[test]
fn s22_an_identical_pair_counts_once_and_is_named() {
    let facts = read(json!({"egress": [], "ingress": [
        {"type": "SSH", "from": [{"cidr": "10.0.0.0/8"}, {"self": true}]},
        {"protocol": 6, "port": 22, "from": [{"cidr": "10.9.9.9/8"}, {"securityGroup": {"name": "web", "namespace": "shop"}}, {"cidr": "10.0.0.0/9"}]},
    ]}));
    assert_eq!(facts.rules.ingress.len(), 3);
    assert_eq!(
        facts.problems.iter().map(|p| (p.rule.as_str(), p.reason)).collect::<Vec<_>>(),
        [("ingress[1].from[0]", "DuplicateRules"), ("ingress[1].from[1]", "DuplicateRules")]
    );
}

#[test]
fn s23_an_id_depends_on_what_the_rule_says_and_on_nothing_else() {
    let ids = |spec: Value| read(spec).rules.ingress.iter().map(|rule| rule.id.clone()).collect::<Vec<_>>();
    let ssh = json!({"type": "SSH", "from": [{"cidr": "10.0.0.0/8"}]});
    let described = json!({"description": "x", "protocol": "TCP", "port": 22, "from": [{"cidr": "10.0.0.1/8", "description": "y"}]});
    let http = json!({"type": "HTTP", "from": [{"cidr": "10.0.0.0/8"}]});
    let alone = ids(json!({"ingress": [ssh]}));
    assert_eq!(alone, ids(json!({"ingress": [described]})));
    assert!(ids(json!({"ingress": [http, ssh]})).contains(&alone[0]));
    assert!(alone[0].starts_with("sgr-") && alone[0].len() == 4 + 17);
    assert_eq!(policy::id::group("uid").len(), 3 + 17);
}
