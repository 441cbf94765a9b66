//! What is said of prefix lists, and of the groups that name them.

use super::*;

impl World {
    fn list(&mut self, uid: &str, generation: i64, max: i32, entries: &[&str]) -> &mut World {
        let entries: Vec<Value> = entries.iter().map(|cidr| json!({"cidr": cidr})).collect();
        let spec = json!({"addressFamily": "IPv4", "maxEntries": max, "entries": entries});
        let _ = self.cluster.apply(Fact::prefix_list(&metadata("offices", uid, generation), &spec));
        self
    }

    fn has_list(&mut self, node: &str, uid: &str, generation: i64) {
        let applied = AppliedObject { namespace: "shop".into(), name: "offices".into(), uid: uid.into(), generation };
        self.reports.entry(NodeName(node.into())).or_default().prefix_lists = vec![applied];
    }

    fn list_status(&self) -> PrefixListStatus {
        let resolution = resolve(&self.cluster);
        let list = PrefixListRef { namespace: "shop".into(), name: "offices".into() };
        View::new(&self.cluster, &resolution, &self.reports).prefix_list(&list).expect("a list")
    }

    fn list_says(&self, type_: &str) -> String {
        let conditions = self.list_status().conditions;
        let condition = conditions.iter().find(|condition| condition.type_ == type_).expect("a condition");
        format!("{} {}", condition.status, condition.reason)
    }
}

fn naming() -> Value {
    json!({"ingress": [{"type": "SSH", "from": [{"prefixList": {"name": "offices"}}]}]})
}

#[test]
fn s21_a_list_is_programmed_where_its_generation_is_in_force_on_every_node_that_names_it() {
    let mut world = two_nodes();
    world.list("l", 3, 20, &["10.0.0.0/8", "10.1.2.3/8", "192.0.2.1"]);
    assert_eq!((world.list_status().entries, world.list_status().referenced_by), (2, 0), "one entry is there twice");
    assert_eq!(world.list_says(PROGRAMMED), "True NotNamed");
    assert_eq!(world.list_says(ACCEPTED), "True DuplicateEntries");

    world.group("web", "u", 1, naming()).group("idle", "i", 1, naming());
    assert_eq!(world.list_status().referenced_by, 2);
    assert_eq!(world.list_status().nodes.summary, "0/2");
    assert_eq!(world.list_says(READY), "Unknown Programming");
    world.has_list("n1", "l", 3);
    world.has_list("n2", "l", 2);
    assert_eq!(world.list_status().nodes.summary, "1/2");
    assert!(message(&world.list_status().conditions, PROGRAMMED).ends_with("n2 has generation 2"));
    world.has_list("n2", "another, of this name", 3);
    assert_eq!(world.list_says(PROGRAMMED), "False Programming");
    world.has_list("n2", "l", 3);
    assert_eq!(world.list_says(PROGRAMMED), "True Programmed");
    assert_eq!(world.list_says(READY), "True Ready");
}

#[test]
fn s20_a_rule_that_names_no_list_is_stale_until_the_list_appears() {
    let mut world = World::default();
    world.group("web", "u", 1, naming());
    assert_eq!(world.group_says("web", STALE_RULES), "True PeerNotFound");
    let said = message(&world.group_status("web").conditions, STALE_RULES);
    assert!(said.starts_with("ingress[0].from[0]: PrefixList shop/offices does not exist."), "{said}");
    world.list("l", 1, 20, &[]);
    assert_eq!(world.group_says("web", STALE_RULES), "False AllPeersExist");
}

#[test]
fn s24_a_list_weighs_what_it_may_grow_to() {
    let mut world = World::default();
    world.group("web", "u", 1, naming()).list("l", 1, 50, &["10.0.0.0/8"]);
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "True WithinQuota");
    world.list("l", 2, 51, &["10.0.0.0/8"]);
    assert_eq!(world.group_says("web", WITHIN_QUOTA), "False RulesPerSecurityGroupLimitExceeded");
    assert_eq!(world.group_status("web").rules.ingress, 1, "pairs are counted, not weighed");
}

#[test]
fn s38_an_entry_that_is_not_understood_is_named_and_the_others_are_in_force() {
    let mut world = World::default();
    world.list("l", 1, 20, &["10.0.0.0/8", "2001:db8::/32", "nowhere"]);
    assert_eq!(world.list_says(ACCEPTED), "False NotUnderstood");
    assert_eq!(world.list_status().entries, 1);
    let said = message(&world.list_status().conditions, ACCEPTED);
    assert!(said.contains("entries[1]: 2001:db8::/32 is not IPv4") && said.contains("entries[2]: `nowhere`"), "{said}");
}
