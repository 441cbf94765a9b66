//! `reading.txt`, `ids.txt` and `quotas.txt`.

use std::collections::BTreeMap;

use policy::index::{Cluster, Object, SecurityGroup};
use policy::model::Direction;
use policy::status::View;
use policy::text::RuleText;
use policy::{id, resolve};
use serde_json::{Value, json};
use testkit::Manifest;
use testkit::manifest::group_ref;

use super::Row;

pub fn reading() -> Vec<Row> {
    super::rows("reading.txt", include_str!("reading.txt"), 2)
}

pub fn ids() -> Vec<Row> {
    super::rows("ids.txt", include_str!("ids.txt"), 3)
}

pub fn quotas() -> Vec<Row> {
    super::rows("quotas.txt", include_str!("quotas.txt"), 2)
}

fn read(spec: Value) -> SecurityGroup {
    let Object::SecurityGroup(_, facts) = Manifest::group("shop/web", spec).fact() else { panic!("a group") };
    facts
}

/// What is understood of it, as the table writes it.
fn understood(facts: &SecurityGroup, wanted: &str) -> Vec<String> {
    let ingress = facts.rules.ingress.iter().map(|rule| (Direction::Ingress, rule));
    let rules = ingress.chain(facts.rules.egress.iter().map(|rule| (Direction::Egress, rule)));
    let text = |(direction, rule): (Direction, &policy::model::Rule)| {
        let text = RuleText { direction, traffic: rule.traffic, peer: rule.peer.clone() }.to_string();
        let text = text.strip_prefix("ingress ").unwrap_or(&text).to_string();
        if wanted.contains(" from ") { text } else { text.trim_end_matches(" from 10.0.0.0/8").to_string() }
    };
    let problems = facts.problems.iter().map(|problem| match problem.reason {
        policy::DUPLICATE => "duplicate".to_string(),
        // The table says one word of the message.
        _ => {
            match wanted.split(';').map(str::trim).find(|want| want.strip_prefix("refused: ").is_some_and(|w| problem.message.contains(w)))
            {
                Some(want) => want.to_string(),
                None => format!("refused: {}", problem.message),
            }
        }
    });
    rules.map(text).chain(problems).collect()
}

#[test]
fn what_is_written_is_understood_as_was_decided_by_hand() {
    for Row { place, clause, columns } in reading() {
        let [written, wanted] = columns[..] else { unreachable!() };
        let facts = match serde_json::from_str::<Value>(written).unwrap_or_else(|error| panic!("{place}: {error}")) {
            Value::String(_) => read(json!({})),
            rules => {
                let mut rules = if rules.is_array() { rules } else { json!([rules]) };
                for rule in rules.as_array_mut().into_iter().flatten().filter(|rule| rule.get("from").is_none()) {
                    rule["from"] = json!([{"cidr": "10.0.0.0/8"}]);
                }
                read(json!({"ingress": rules, "egress": []}))
            }
        };
        let mut said = understood(&facts, wanted);
        let mut wanted: Vec<&str> = wanted.split(';').map(str::trim).collect();
        said.sort();
        wanted.sort_unstable();
        assert_eq!(said, wanted, "{place}, {clause}: {written}");
    }
}

#[test]
fn ids_are_the_same_or_others_as_was_decided_by_hand() {
    for Row { place, clause, columns } in ids() {
        let id = |text: &str| {
            let (group, rule) = text.split_once(", ").unwrap_or_else(|| panic!("{place}: `{text}`"));
            let RuleText { direction, traffic, peer } = rule.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
            id::rule(group, direction, traffic, &peer)
        };
        let wanted = columns[2] == "same";
        assert!(wanted || columns[2] == "other", "{place}");
        assert_eq!(id(columns[0]) == id(columns[1]), wanted, "{place}, {clause}: {columns:?}");
    }
}

#[test]
fn quotas_are_exceeded_where_it_was_decided_by_hand() {
    for Row { place, clause, columns } in quotas() {
        let numbers: Vec<usize> = columns[0].split(',').map(|n| n.trim().parse().expect("a number")).collect();
        let [ingress, egress, groups] = numbers[..] else { panic!("{place}") };
        let peers = |count: usize| (0..count).map(|n| json!({"cidr": format!("10.0.0.{n}")})).collect::<Vec<_>>();
        let rule = |list: &str, count: usize| if count == 0 { json!([]) } else { json!([{"protocol": "All", list: peers(count)}]) };
        let spec = json!({"ingress": rule("from", ingress), "egress": rule("to", egress)});
        let mut cluster = Cluster::default();
        let names: Vec<String> = (0..groups).map(|n| format!("g{n}")).collect();
        for name in &names {
            let spec = if name == "g0" { spec.clone() } else { json!({}) };
            let _ = cluster.apply(Manifest::group(&format!("shop/{name}"), spec).fact());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let _ = cluster.apply(Manifest::attachment("shop/a", "web", &names).fact());
        let _ = cluster.apply(Manifest::pod("shop/p", "n1", "web").at(&["10.1.0.1"]).fact());
        let (resolution, reports) = (resolve(&cluster), BTreeMap::new());
        let status = View::new(&cluster, &resolution, &reports).group(&group_ref("shop/g0")).expect("the group");
        let within = status.conditions.iter().find(|condition| condition.type_ == "WithinQuota").expect("the condition");
        let said = if within.status == "True" { "within" } else { within.reason.as_str() };
        assert_eq!(said, columns[1], "{place}, {clause}: {}", within.message);
    }
}
