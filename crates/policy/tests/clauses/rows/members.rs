//! `members.txt`: what happens, and who is where after it.

use policy::index::{Cluster, Key};
use policy::model::PodRef;
use policy::resolve;
use serde_json::json;
use testkit::Manifest;
use testkit::manifest::{attachment_ref, group_ref, pod_ref};

use super::Row;

pub fn table() -> Vec<Row> {
    super::rows("members.txt", include_str!("members.txt"), 2)
}

fn pod(words: &[&str]) -> Manifest {
    let [name, app, addresses, more @ ..] = words else { panic!("`{words:?}` is no pod") };
    let namespace = if more.contains(&"elsewhere") { "elsewhere" } else { "shop" };
    let addresses: Vec<&str> = addresses.split(',').collect();
    let mut pod = Manifest::pod(&format!("{namespace}/{name}"), "n1", app).at(&addresses);
    for word in more {
        pod = match *word {
            "host" => pod.set("/spec/hostNetwork", true),
            "succeeded" => pod.set("/status/phase", "Succeeded"),
            "failed" => pod.set("/status/phase", "Failed"),
            "terminating" => pod.set("/metadata/deletionTimestamp", "2026-01-02T00:00:00Z"),
            "newer" => pod.set("/metadata/creationTimestamp", "2026-01-01T00:00:09Z"),
            "elsewhere" => pod,
            other => panic!("`{other}` is nothing of a pod"),
        };
    }
    pod
}

fn happens(cluster: &mut Cluster, what: &str) {
    let words: Vec<&str> = what.split_whitespace().collect();
    let shop = |name: &str| format!("shop/{name}");
    let _ = match words.as_slice() {
        ["group", name] => cluster.apply(Manifest::group(&shop(name), json!({})).fact()),
        ["attach", groups, "to", app] => {
            let groups: Vec<&str> = groups.split(',').collect();
            cluster.apply(Manifest::attachment(&shop(app), app, &groups).fact())
        }
        ["detach", app] => cluster.delete(&Key::Attachment(attachment_ref(&shop(app)))),
        ["default", "none"] => cluster.apply(Manifest::namespace("shop", None).fact()),
        ["default", group] => cluster.apply(Manifest::namespace("shop", Some(group)).fact()),
        ["pod", rest @ ..] => cluster.apply(pod(rest).fact()),
        ["remade", rest @ ..] => {
            let _ = cluster.delete(&Key::Pod(pod_ref(&shop(rest[0]))));
            cluster.apply(pod(rest).set("/metadata/uid", "another").fact())
        }
        ["delete", "pod", name] => cluster.delete(&Key::Pod(pod_ref(&shop(name)))),
        ["delete", "group", name] => cluster.delete(&Key::SecurityGroup(group_ref(&shop(name)))),
        _ => panic!("`{what}` cannot happen"),
    };
}

/// Says again what was expected, as it is.
fn is(cluster: &Cluster, expected: &str) -> String {
    let resolution = resolve(cluster);
    let words: Vec<&str> = expected.split_whitespace().collect();
    // Pods of one name in two namespaces are one row's subject at most.
    let find = |name: &str| cluster.pods.keys().find(|pod: &&PodRef| pod.name == name).cloned().unwrap_or_else(|| panic!("no pod {name}"));
    match words.as_slice() {
        ["skipped", name] => {
            let skipped = resolution.skipped.values().flatten().any(|pod| pod.name == *name);
            if skipped { expected.into() } else { format!("{name} not skipped") }
        }
        [group, ..] if group.ends_with(':') => {
            let name = group.trim_end_matches(':');
            let addresses: Vec<String> =
                resolution.addresses(&group_ref(&format!("shop/{name}"))).iter().map(ToString::to_string).collect();
            format!("{group} {}", if addresses.is_empty() { "nobody".into() } else { addresses.join(" ") })
        }
        [name, ..] => match resolution.endpoints.get(&find(name)) {
            None => format!("{name} free"),
            Some(endpoint) if endpoint.groups.is_empty() => format!("{name} closed"),
            Some(endpoint) => {
                let groups: Vec<&str> = endpoint.groups.iter().map(|group| group.name.as_str()).collect();
                format!("{name} in {}", groups.join(","))
            }
        },
        [] => panic!("nothing is expected"),
    }
}

#[test]
fn who_is_in_which_group_is_what_was_decided_by_hand() {
    for Row { place, clause, columns } in table() {
        let [story, expected] = columns[..] else { unreachable!() };
        let mut cluster = Cluster::default();
        story.split(';').for_each(|what| happens(&mut cluster, what));
        for expected in expected.split(';').map(str::trim) {
            assert_eq!(is(&cluster, expected), expected, "{place}, {clause}: {story}");
        }
    }
}
