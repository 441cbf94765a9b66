//! Whatever comes and goes on a node whose kernel does not take some things, restarts and removals of the table among it.

use policy::index::Object;
use proptest::prelude::*;
use serde_json::json;

use super::refused::problems;
use super::*;

/// What is refused by name, wherever it stands.
const REFUSED: [&str; 14] = [
    "th dport 666",
    "add chain inet k8s-sg in-pod/shop/p1",
    "in-pod/shop/p2",
    "members4/shop/g2",
    "10.6.6.6",
    "prefixes4/shop/l0",
    "10.7.6.0",
    "add map inet k8s-sg members4/",
    "in/shop/g0_shop/g1",
    "fd00:6::6",
    "add rule inet k8s-sg in/shop/g1",
    "denied-in/shop/g0",
    "shop/p3",
    "vmap @in/shop/",
];
/// Which groups the pods with a label are in.
const APPS: [(&str, &[&str]); 6] =
    [("a", &["g0"]), ("b", &["g1"]), ("c", &["g0", "g1"]), ("d", &["g2"]), ("e", &["g1", "g2", "g3"]), ("f", &["g3"])];
const PORTS: [u16; 7] = [80, 81, 82, 83, 443, 8080, 666];
const MEMBERS: [&str; 6] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.6.6.6", "fd00:1::1", "fd00:6::6"];

#[derive(Clone, Debug)]
enum Step {
    Group(usize, Vec<(u16, Vec<usize>)>),
    Pod(usize, usize, bool),
    PodGone(usize),
    Members(usize, BTreeSet<usize>),
    List(usize, bool),
    Restart,
    Removed,
    Looked,
}

fn step() -> impl Strategy<Value = Step> {
    let rule = || (prop::sample::select(&PORTS[..]), prop::collection::vec(0..10_usize, 1..4));
    let rules = prop_oneof![4 => prop::collection::vec(rule(), 0..4), 1 => prop::collection::vec(rule(), 9..14)];
    prop_oneof![
        3 => (0..4_usize, rules).prop_map(|(group, rules)| Step::Group(group, rules)),
        3 => (0..8_usize, 0..APPS.len(), prop::bool::weighted(0.3)).prop_map(|(pod, app, dual)| Step::Pod(pod, app, dual)),
        1 => (0..8_usize).prop_map(Step::PodGone),
        2 => (0..6_usize, prop::collection::btree_set(0..MEMBERS.len(), 0..4)).prop_map(|(group, members)| Step::Members(group, members)),
        1 => (0..2_usize, any::<bool>()).prop_map(|(list, other)| Step::List(list, other)),
        1 => Just(Step::Restart),
        1 => Just(Step::Removed),
        2 => Just(Step::Looked),
    ]
}

/// What the API server has.
#[derive(Clone, Default)]
struct World {
    objects: BTreeMap<(Kind, String), Object>,
    members: BTreeMap<String, Vec<&'static str>>,
    generation: i64,
}

impl World {
    fn new() -> World {
        let mut world = World::default();
        for (app, groups) in APPS {
            let spec = json!({"securityGroups": groups, "podSelector": {"matchLabels": {"app": app}}});
            world.put(app, Object::attachment(&metadata(app, 1), &spec));
        }
        (0..6).for_each(|n| drop(world.take(&Step::Group(n, vec![(80, vec![0, n])]))));
        (0..6).for_each(|n| drop(world.take(&Step::Members(n, [n % 3].into()))));
        (0..2).for_each(|n| drop(world.take(&Step::List(n, false))));
        (0..4).for_each(|n| drop(world.take(&Step::Pod(n, n, false))));
        world
    }

    fn put(&mut self, name: &str, object: Object) -> Option<Message> {
        self.objects.insert((object.kind(), name.into()), object.clone());
        Some(apply(object))
    }

    /// What the node learns by that.
    fn take(&mut self, step: &Step) -> Option<Message> {
        self.generation += 1;
        match step {
            Step::Group(n, rules) => {
                let peer = |n: &usize| match n {
                    0 => json!({"cidr": "0.0.0.0/0"}),
                    1 => json!({"cidr": "::/0"}),
                    2 => json!({"cidr": "10.9.0.0/16"}),
                    3 => json!({"prefixList": {"name": "l0"}}),
                    n => json!({"securityGroup": {"name": format!("g{}", n - 4)}}),
                };
                let rule = |(port, peers): &(u16, Vec<usize>)| {
                    let from: Vec<Value> = peers.iter().map(peer).collect();
                    json!({"protocol": "TCP", "port": port, "from": from})
                };
                let ingress: Vec<Value> = rules.iter().map(rule).collect();
                let name = format!("g{n}");
                self.put(&name, Object::security_group(&metadata(&name, self.generation), &json!({"ingress": ingress, "egress": []})))
            }
            Step::Pod(n, app, dual) => {
                let addresses = [format!("10.0.0.{n}"), format!("fd00::{n}")];
                let addresses: Vec<&str> = addresses.iter().map(String::as_str).take(1 + usize::from(*dual)).collect();
                self.put(&format!("p{n}"), pod_with(&format!("p{n}"), APPS[*app].0, &addresses))
            }
            Step::PodGone(n) => {
                self.objects.remove(&(Kind::Pod, format!("p{n}")));
                Some(delete(Kind::Pod, &format!("p{n}")))
            }
            Step::List(n, other) => {
                let (name, cidr) = (format!("l{n}"), if *other { "10.7.6.0/24" } else { "10.7.0.0/24" });
                let spec = json!({"addressFamily": "IPv4", "maxEntries": 5, "entries": [{"cidr": cidr}]});
                self.put(&name, Object::prefix_list(&metadata(&name, self.generation), &spec))
            }
            Step::Members(n, members) => {
                self.members.insert(format!("g{n}"), members.iter().map(|n| MEMBERS[*n]).collect());
                None
            }
            Step::Restart | Step::Removed | Step::Looked => None,
        }
    }

    fn list(&self, node: &mut Node) {
        node.list(&self.objects.values().cloned().collect::<Vec<_>>());
    }

    /// Until nothing changes any more, with the slices that the node asks for.
    fn settle(&self, node: &mut Node) -> NodeReportStatus {
        let (mut told, mut quiet, mut last) = (usize::MAX, 0, None);
        for _ in 0..120 {
            let watches = node.epochs.borrow().len();
            if told != watches && watches > 0 {
                let slices = self.members.iter().map(|(group, members)| slice(group, members)).collect();
                node.slices(watches - 1, Change::Reset(Kind::MemberSlice, slices));
            }
            told = watches;
            last = node.sync().map(|outcome| outcome.ok());
            let rests = !node.searching && node.epochs.borrow().len() == told;
            quiet = if rests { quiet + 1 } else { 0 };
            if quiet > 8 {
                break;
            }
        }
        assert!(quiet > 8, "it does not come to rest");
        last.flatten().expect("what is not refused comes into force")
    }
}

/// All pods are guarded, it rests after every step, and once the kernel takes everything all is as on a node that never saw a refusal.
fn live(refused: &str, steps: &[Step]) {
    let mut world = World::new();
    let mut node = Node::new();
    node.enforcement.kernel().dislikes = refused.into();
    world.list(&mut node);
    world.settle(&mut node);
    for step in steps {
        if let Some(message) = world.take(step) {
            node.take(message);
        }
        match step {
            Step::Restart => {
                node = Node::on(std::mem::take(node.enforcement.kernel()));
                world.list(&mut node);
            }
            Step::Removed => {
                node.enforcement.kernel().inner = FakeKernel::default();
                assert_eq!(node.enforcement.recheck(), Ok(true));
            }
            Step::Looked => node.facts.looked(),
            _ => {}
        }
        world.settle(&mut node);
        for (kind, name) in world.objects.keys().filter(|(kind, _)| *kind == Kind::Pod) {
            let address = name.replace('p', "10.0.0.");
            assert!(node.chain_of(&address).is_some(), "{:?} {} is open", kind, name);
        }
    }
    node.enforcement.kernel().dislikes = String::new();
    let mut status = world.settle(&mut node);
    for _ in 0..7 {
        node.facts.looked();
        status = world.settle(&mut node);
    }
    assert!(problems(&status).iter().all(|(_, reason)| *reason != "RefusedByKernel"), "{:?}", problems(&status));
    let mut fresh = Node::new();
    world.list(&mut fresh);
    world.settle(&mut fresh);
    assert_eq!(node.table(), fresh.table());
}

proptest! {
    #[test]
    fn whatever_happens_where_some_things_are_refused(
        refused in prop::sample::select(&REFUSED[..]),
        steps in prop::collection::vec(step(), 1..14),
    ) {
        live(refused, &steps);
    }
}

/// Rules, and members whom they name, each of which would be held back because it is of no help to hold back the other.
#[test]
fn two_that_may_be_the_reason_do_not_take_turns() {
    let rule = |port, peer| (port, vec![peer]);
    let more = [rule(8080, 0), rule(8080, 7), rule(81, 8), rule(80, 0), rule(80, 0), rule(80, 0), rule(82, 6), rule(81, 0)];
    let rules = [(8080, vec![6, 4])].into_iter().chain(more).collect();
    live("add rule inet k8s-sg in/shop/g1", &[Step::Group(1, rules), Step::Pod(1, 4, false)]);
}
