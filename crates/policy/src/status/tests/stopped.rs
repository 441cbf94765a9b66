//! A status that does not stick, and agents that stand still (P31).

use super::*;

/// P31: a rule that allows nothing, or whose peer is missing, is reported, and taking it out again leaves nothing behind in the status.
#[test]
fn p31_a_status_does_not_stick_when_an_ineffective_rule_goes() {
    let mut world = two_nodes();
    let reports = |world: &mut World, generation| {
        for node in ["n1", "n2"] {
            world.reports(node, &[("web", "u", generation)], &[]);
        }
    };
    let good = json!({"type": "HTTP", "from": [{"cidr": "10.0.0.0/8"}]});
    let missing = json!({"type": "SSH", "from": [{"securityGroup": {"name": "gone"}}, {"prefixList": {"name": "gone"}}]});
    let broken = json!({"type": "NoSuchPreset", "from": [{"cidr": "::/0"}]});
    world.group("web", "u", 5, json!({"ingress": [good]}));
    reports(&mut world, 5);
    let before = world.group_status("web");
    world.group("web", "u", 6, json!({"ingress": [good, missing, broken]}));
    assert_eq!(world.group_says("web", PROGRAMMED), "False Programming");
    reports(&mut world, 6);
    assert_eq!(world.group_says("web", PROGRAMMED), "True Programmed", "what is in force of it is in force everywhere");
    assert_eq!(world.group_says("web", ACCEPTED), "False NotUnderstood");
    assert_eq!(world.group_says("web", STALE_RULES), "True PeerNotFound");
    assert_eq!(world.group_status("web").rules.stale, 2);
    world.group("web", "u", 7, json!({"ingress": [good]}));
    reports(&mut world, 7);
    let mut after = world.group_status("web");
    assert_eq!((after.observed_generation, after.nodes.summary.as_str()), (Some(7), "2/2"));
    // But for the generation that they speak of, it is what it was.
    after.observed_generation = before.observed_generation;
    for (now, then) in after.conditions.iter_mut().zip(&before.conditions) {
        now.observed_generation = then.observed_generation;
        now.message = now.message.replace("Generation 7", "Generation 5");
    }
    assert_eq!(after, before);
}

/// P31: an agent that has stopped is named, with what it still has, and the time since when.
#[test]
fn p31_a_stopped_agent_is_named_and_since_when() {
    let at = |seconds| Timestamp::from_second(seconds).expect("a time");
    let mut world = two_nodes();
    world.reports("n1", &[("web", "u", 4)], &[]).reports("n2", &[("web", "u", 4)], &[]);
    let mut conditions = world.group_status("web").conditions;
    stamp(&mut conditions, &[], at(100));
    // n2 has stopped: of the next two generations it reports nothing.
    for (generation, now) in [(5, 200), (6, 300)] {
        world.group("web", "u", generation, json!({"ingress": []})).reports("n1", &[("web", "u", generation)], &[]);
        let mut next = world.group_status("web").conditions;
        stamp(&mut next, &conditions, at(now));
        conditions = next;
    }
    let programmed = find(&conditions, PROGRAMMED);
    assert_eq!(programmed.status, "False");
    assert_eq!(programmed.message, "Generation 6 is in force on 1 of 2 nodes: n2 has generation 4");
    assert_eq!(programmed.last_transition_time, Time(at(200)), "since it was first behind");
}
