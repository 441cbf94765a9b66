//! The histories that hurt others, by name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::model::{ConnState, Packet, Path, Payload, Transport, Verdict};
use policy::verdict;
use serde_json::json;
use testkit::history::{State, TELLINGS, tell};
use testkit::manifest::{group_ref, pod_ref};
use testkit::{Manifest, Program, from_scratch};

const CREATED: &str = "/metadata/creationTimestamp";

/// `web` may be reached by everybody on port 80, `db` by web alone; each is the group of the pods of its label.
fn shop() -> State {
    let http = json!({"ingress": [{"type": "HTTP", "from": [{"cidr": "0.0.0.0/0"}]}]});
    let from_web = json!({"ingress": [{"type": "PostgreSQL", "from": [{"securityGroup": {"name": "web"}}]}]});
    State::of(&[
        Manifest::group("shop/web", http),
        Manifest::group("shop/db", from_web),
        Manifest::attachment("shop/web", "web", &["web"]),
        Manifest::attachment("shop/db", "db", &["db"]),
        Manifest::slice("shop/web-head", "uid-web", true, &[]),
        Manifest::pod("shop/db-0", "n1", "db").at(&["10.0.0.9"]),
    ])
}

/// The last state told in every way ends in the same rules, which are handed to the check.
fn however_told(states: &[State], check: impl Fn(&Program)) {
    for telling in TELLINGS {
        for seed in 1..20 {
            let mut program = Program::new("n1");
            let mut batches = tell(states, telling, seed);
            batches.extend(
                tell(states.last().map(std::slice::from_ref).unwrap_or_default(), testkit::history::Telling::Restarted, seed).pop(),
            );
            for batch in batches {
                if batch.restart {
                    program.restart();
                }
                batch.events.iter().for_each(|event| program.take(event));
                program.sync().unwrap_or_else(|error| panic!("{telling:?}: {error}"));
            }
            check(&program);
        }
    }
}

fn tcp(program: &Program, source: &str, destination: &str, port: u16) -> Verdict {
    let address = |text: &str| text.parse().expect("an address");
    let packet = Packet {
        source: address(source),
        destination: address(destination),
        payload: Payload::Transport { protocol: Transport::Tcp, source: 40000, destination: port },
        state: ConnState::New,
        path: Path::Forward,
    };
    let (compiled, _) = from_scratch(&program.cluster, &program.node);
    let judged = verdict(&compiled.policy, &packet);
    let table = program.kernel.table().expect("a table");
    assert_eq!(ruleset::trace(table, &packet), judged, "the kernel and the oracle agree");
    judged
}

fn members(program: &Program, group: &str) -> BTreeSet<IpAddr> {
    let (compiled, _) = from_scratch(&program.cluster, &program.node);
    compiled.policy.members.get(&group_ref(group)).into_iter().flatten().copied().collect()
}

/// A finished job's address goes to an unrelated pod: that one is neither guarded as the job was, nor let in as a peer.
#[test]
fn s8_s35_p10_the_address_of_a_completed_pod_is_the_next_pods() {
    let job = Manifest::pod("shop/job", "n1", "web").at(&["10.0.0.1"]);
    let running = shop().with(&job);
    let other = Manifest::pod("shop/other", "n1", "other").at(&["10.0.0.1"]).set(CREATED, "2026-01-01T00:10:00Z");
    for phase in ["Succeeded", "Failed"] {
        let finished = running.clone().with(&job.clone().set("/status/phase", phase));
        let reused = finished.clone().with(&other);
        however_told(&[running.clone(), finished.clone(), reused], |program| {
            assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 22), Verdict::Allow, "the new pod is in no group");
            assert_eq!(tcp(program, "10.0.0.1", "10.0.0.9", 5432), Verdict::Drop, "and no member of web");
        });
        // The other way about: the job's pod object is the one that comes to be read last.
        however_told(&[shop().with(&other), finished.clone().with(&other)], |program| {
            assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 22), Verdict::Allow);
            assert!(members(program, "shop/web").is_empty());
        });
    }
}

/// A pod that hangs in its end still shows the address that a newer pod has.
#[test]
fn s8_p10_the_newest_pod_that_is_not_finished_owns_the_address() {
    let old = Manifest::pod("shop/old", "n1", "db").at(&["10.0.0.1"]);
    let new = Manifest::pod("shop/new", "n1", "web").at(&["10.0.0.1"]).set(CREATED, "2026-01-01T00:10:00Z");
    let before = shop().with(&old);
    let leaving = before.clone().with(&old.clone().set("/metadata/deletionTimestamp", "2026-01-01T00:09:00Z"));
    let both = leaving.clone().with(&new);
    however_told(&[before.clone(), leaving.clone(), both.clone()], |program| {
        assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 80), Verdict::Allow, "judged as web");
        assert_eq!(tcp(program, "10.0.0.1", "10.0.0.9", 5432), Verdict::Allow, "a member of web");
    });
    // While it ends and nobody else has its address, it is guarded and a member (S8).
    however_told(&[before, leaving.clone()], |program| {
        assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 80), Verdict::Drop, "judged as db");
    });
    // The newer one ends first: the address is the older one's again.
    let back = both.clone().with(&new.set("/status/phase", "Succeeded"));
    however_told(&[both, back], |program| assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 80), Verdict::Drop));
}

/// A slice still says that the address is a member's, and on this node it is by now a pod's that is in no group: the node knows first.
#[test]
fn s7_p10_an_address_that_a_slice_lists_is_no_members_once_it_is_another_pods_here() {
    let listed = shop().with(&Manifest::slice("shop/web-1", "uid-web", false, &["10.0.0.1"]));
    let free = listed.clone().with(&Manifest::pod("shop/free", "n1", "free").at(&["10.0.0.1"]));
    let says = |wanted: Verdict| move |program: &Program| assert_eq!(tcp(program, "10.0.0.1", "10.0.0.9", 5432), wanted);
    however_told(&[listed.clone(), free.clone()], says(Verdict::Drop));
    however_told(&[free.clone(), listed.clone()], says(Verdict::Allow));
    however_told(&[listed.clone(), free, listed], says(Verdict::Allow));
}

/// Same name, other pod: nothing is inherited.
#[test]
fn p11_a_pod_made_again_under_its_name_is_judged_by_its_own_labels() {
    let first = Manifest::pod("shop/job", "n1", "db").at(&["10.0.0.1"]);
    let again = Manifest::pod("shop/job", "n1", "other").at(&["10.0.0.1"]).set("/metadata/uid", "another");
    let elsewhere = Manifest::pod("shop/job", "n2", "web").at(&["10.0.1.1"]).set("/metadata/uid", "a third");
    however_told(&[shop().with(&first), shop(), shop().with(&again)], |program| {
        assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 22), Verdict::Allow, "in no group");
    });
    however_told(&[shop().with(&first), shop().with(&again)], |program| {
        assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 22), Verdict::Allow, "in no group");
    });
    however_told(&[shop().with(&first), shop().with(&elsewhere)], |program| {
        assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 22), Verdict::Allow, "the address is nobody's on this node");
        let (compiled, _) = from_scratch(&program.cluster, &program.node);
        assert!(!compiled.policy.endpoints.contains_key(&pod_ref("shop/job")));
    });
}

/// Attachment, group, pod and its address, in all 24 orders.
#[test]
fn s6_p08_an_attachment_before_after_and_with_its_pod() {
    let parts = [
        Manifest::group("shop/closed", json!({"egress": []})),
        Manifest::attachment("shop/closed", "job", &["closed"]),
        Manifest::pod("shop/job", "n1", "job"),
        Manifest::pod("shop/job", "n1", "job").at(&["10.0.0.1"]),
    ];
    for order in 0..24 {
        let mut left: Vec<usize> = (0..4).collect();
        let order: Vec<usize> = [order / 6, order / 2 % 3, order % 2, 0].map(|choice| left.remove(choice)).into();
        let (mut state, mut states, mut addressed) = (shop(), Vec::new(), false);
        for part in order.iter().copied() {
            addressed |= part == 3;
            // A pod never loses an address that it has.
            state = state.with(&parts[if part == 2 && addressed { 3 } else { part }]);
            states.push(state.clone());
        }
        however_told(&states, |program| {
            assert_eq!(tcp(program, "10.0.0.1", "203.0.113.1", 80), Verdict::Drop, "{order:?}");
            assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 80), Verdict::Drop, "{order:?}");
        });
    }
}

/// Labels, selectors, rules and the namespace's label turn a running pod's verdicts both ways, and back again.
#[test]
fn s6_p09_everything_takes_effect_on_running_pods_and_back_again() {
    let pod = Manifest::pod("shop/pod", "n1", "web").at(&["10.0.0.1"]);
    let open = shop().with(&pod);
    let says = |wanted: Verdict| move |program: &Program| assert_eq!(tcp(program, "203.0.113.1", "10.0.0.1", 80), wanted);
    let changes = [
        pod.clone().set("/metadata/labels/app", "db"),
        Manifest::attachment("shop/web", "web", &["db"]).set("/metadata/generation", 2),
        Manifest::attachment("shop/web", "web", &["web-of-old"]),
        Manifest::group("shop/web", json!({"ingress": []})),
    ];
    for change in changes {
        however_told(&[open.clone(), open.clone().with(&change)], says(Verdict::Drop));
        however_told(&[open.clone(), open.clone().with(&change), open.clone()], says(Verdict::Allow));
    }
    // S3: pods in no other group follow the namespace's label.
    let free = shop().with(&Manifest::pod("shop/pod", "n1", "free").at(&["10.0.0.1"]));
    let by_default = |group| free.clone().with(&Manifest::namespace("shop", group));
    however_told(&[free.clone(), by_default(Some("db"))], says(Verdict::Drop));
    however_told(&[by_default(Some("db")), by_default(Some("web"))], says(Verdict::Allow));
    however_told(&[by_default(Some("web")), by_default(Some("nobody"))], says(Verdict::Drop));
    however_told(&[by_default(Some("nobody")), by_default(None)], says(Verdict::Allow));
    however_told(&[by_default(Some("db")), free], says(Verdict::Allow));
}
