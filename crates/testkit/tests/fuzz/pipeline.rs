//! One case from JSON to the kernel, and back to nothing object by object.

use std::collections::{BTreeMap, BTreeSet};

use api::NodeReportStatus;
use policy::model::NodeName;
use policy::status::View;
use policy::{Problem, missing_default_group, missing_groups, resolve, slices};
use ruleset::Ruleset;
use serde_json::Value;
use testkit::{Event, Manifest, Program, from_scratch};

/// What a case made the programs say and do; numbers in it are rounded to powers of two.
pub type Novelty = BTreeSet<String>;

/// # Errors
/// Says what no object may do.
pub fn run(case: &[Value]) -> Result<Novelty, String> {
    let mut program = Program::new("n1");
    let mut reports = BTreeMap::new();
    let mut keys = Vec::new();
    for object in case {
        if object["kind"] == "NodeReport" {
            let status = serde_json::from_value::<NodeReportStatus>(object["status"].clone()).unwrap_or_default();
            reports.insert(NodeName(object["metadata"]["name"].as_str().unwrap_or_default().into()), status);
        } else if let Ok(object) = Manifest(object.clone()).read() {
            keys.push(testkit::manifest::key(&object));
            program.take(&Event::Apply(object));
        }
    }
    let bytes = case.iter().map(|object| object.to_string().len()).sum::<usize>();
    let novelty = look(&program, &reports, bytes)?;
    program.sync()?;
    // And every object goes again, one by one: each change is one that a kernel takes.
    for key in keys.into_iter().take(12) {
        program.take(&Event::Delete(key));
        program.sync()?;
    }
    Ok(novelty)
}

fn look(program: &Program, reports: &BTreeMap<NodeName, NodeReportStatus>, bytes: usize) -> Result<Novelty, String> {
    let resolution = resolve(&program.cluster);
    let (compiled, ruleset) = from_scratch(&program.cluster, &program.node);
    let pods = compiled.policy.endpoints.len();
    let groups = compiled.policy.groups.len();
    // Each byte that is stored makes a rule at most, and each pod is led to each of its groups.
    let (size, limit) = (size(&ruleset), 200 + bytes + 4 * pods * (groups + 10));
    if size > limit {
        return Err(format!("{bytes} bytes became a ruleset of {size} rules and elements, more than {limit}"));
    }
    let view = View::new(&program.cluster, &resolution, reports);
    let mut novelty = Novelty::new();
    let mut problems: Vec<Problem> = compiled.problems.clone();
    problems.extend(program.cluster.attachments.keys().flat_map(|attachment| missing_groups(&program.cluster, attachment)));
    problems.extend(program.cluster.namespaces.keys().filter_map(|namespace| missing_default_group(&program.cluster, namespace)));
    for (group, facts) in &program.cluster.groups {
        problems.extend(facts.problems.clone());
        let status = view.group(group).ok_or("a group without a status")?;
        for condition in status.conditions {
            if condition.message.chars().count() > 1100 {
                return Err(format!("a message of {} characters", condition.message.chars().count()));
            }
            novelty.insert(format!("{} {} {}", condition.type_, condition.status, condition.reason));
        }
    }
    for attachment in program.cluster.attachments.keys() {
        for condition in view.attachment(attachment).ok_or("an attachment without a status")?.conditions {
            novelty.insert(format!("attachment {} {} {}", condition.type_, condition.status, condition.reason));
        }
    }
    // Words, without what was written: names, numbers and quotations differ from case to case.
    let words =
        |text: &str| text.split_whitespace().filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())).collect::<Vec<_>>().join(" ");
    novelty.extend(problems.iter().map(|problem| format!("{} {}", problem.reason, words(&problem.message))));
    let scale = |what: &str, n: usize| format!("{what} {}", n.next_power_of_two());
    novelty.insert(scale("endpoints", pods));
    novelty.insert(scale("rules", size));
    novelty.insert(scale("skipped", resolution.skipped.len()));
    novelty.insert(scale("members", compiled.policy.members.values().map(|members| members.len()).sum()));
    novelty.insert(scale("networks", compiled.policy.prefix_lists.values().map(|entries| entries.len()).sum()));
    novelty.insert(scale("slices", slices::plan(&program.cluster, &resolution).len()));
    for rule in compiled.policy.groups.values().flat_map(|rules| rules.all()) {
        novelty.insert(rule.traffic.to_string().split_whitespace().next().unwrap_or_default().to_string());
    }
    Ok(novelty)
}

/// Everything that the kernel has to keep.
pub fn size(ruleset: &Ruleset) -> usize {
    ruleset.chains.values().map(|chain| chain.rules.len()).sum::<usize>()
        + ruleset.sets.values().map(|set| set.elements.len()).sum::<usize>()
        + ruleset.maps.values().map(|map| map.elements.len()).sum::<usize>()
        + ruleset.intervals.values().map(|set| set.ranges.len()).sum::<usize>()
        + ruleset.counters.len()
}
