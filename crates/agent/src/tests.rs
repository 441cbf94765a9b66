//! The loop without its clock and its API server: messages in, tables of the fake kernel and reports out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use api::NodeReportStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use policy::index::{Changed, Kind, Object};
use policy::model::{Exemption, NodeName};
use ruleset::{FakeKernel, Kernel, Ruleset, Transaction};
use runtime::watch::{Change, Name, Step};
use serde_json::{Value, json};

use crate::enforce::{Enforcement, Failure};
use crate::facts::{Facts, Message};
use crate::report::Report;
use crate::slices::Epoch;

mod bridging;
mod counting;
mod enforcement;
mod histories;
mod isolated;
mod membership;
mod pacing;
mod passage;
mod prefix_lists;
mod refused;
mod searching;
mod support;
mod tallying;
mod unremembered;

fn metadata(name: &str, generation: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("shop".into()),
        uid: Some(format!("uid-{name}")),
        generation: Some(generation),
        ..ObjectMeta::default()
    }
}

/// A pod of this node with the label `app`.
fn pod(name: &str, app: &str, address: &str) -> Object {
    pod_with(name, app, &[address])
}

/// The same with several addresses.
fn pod_with(name: &str, app: &str, addresses: &[&str]) -> Object {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIPs": addresses},
    }))
    .unwrap();
    Object::pod(&pod)
}

/// A group that lets these groups in by SSH.
fn group(name: &str, generation: i64, peers: &[&str]) -> Object {
    let from: Vec<Value> = peers.iter().map(|peer| json!({"securityGroup": {"name": peer}})).collect();
    let ingress = if from.is_empty() { json!([]) } else { json!([{"type": "SSH", "from": from}]) };
    Object::security_group(&metadata(name, generation), &json!({ "ingress": ingress }))
}

/// Attaches a group to the pods with the label `app` of its name.
fn attachment(group: &str) -> Object {
    Object::attachment(&metadata(group, 1), &json!({"securityGroups": [group], "podSelector": {"matchLabels": {"app": group}}}))
}

fn id_of(group: &str) -> String {
    policy::id::group(&format!("uid-{group}"))
}

fn slice(group: &str, addresses: &[&str]) -> Object {
    let labels = json!({"securitygroups.dev/group-id": id_of(group), "securitygroups.dev/head": "true"});
    let slice = json!({
        "apiVersion": "securitygroups.dev/v1alpha1", "kind": "MemberSlice",
        "metadata": {"name": format!("{group}-0"), "namespace": "shop", "labels": labels},
        "addresses": addresses,
    });
    Object::member_slice(&serde_json::from_value(slice).unwrap())
}

fn reset(kind: Kind, objects: &[Object]) -> Message {
    Message::Fact(Change::Reset(kind, objects.to_vec()))
}

fn apply(object: Object) -> Message {
    Message::Fact(Change::Apply(object))
}

fn delete(kind: Kind, name: &str) -> Message {
    Message::Fact(Change::of(kind, Step::Delete(Name { namespace: "shop".into(), name: name.into() })))
}

/// The fake kernel, which refuses on demand and remembers what it took.
#[derive(Default)]
struct Flaky {
    inner: FakeKernel,
    refuse: usize,
    /// So many commits it takes without an answer.
    silent: usize,
    unreadable: usize,
    /// It refuses steps that say this, a line each.
    dislikes: String,
    /// And whole transactions, without a word of steps, where one says this.
    dreads: String,
    taken: Vec<Transaction>,
    settled: usize,
    unsettled: bool,
}

/// What it says then.
#[derive(Debug, thiserror::Error)]
enum Says {
    #[error("step 3 (AddSet \"x\"): ENOMEM")]
    NoMemory,
    #[error("step {}: EINVAL", .0[0])]
    Steps(Vec<usize>),
    #[error("no answer")]
    Nothing,
}

impl Flaky {
    /// What it dislikes, and what cannot be done without that: a kernel goes on to the end.
    fn refusals(&self, transaction: &Transaction) -> Vec<usize> {
        let mut inner = self.inner.clone();
        let mut refuses =
            |op: &ruleset::Op| format!("{op}\n").contains(&self.dislikes) || inner.commit(&Transaction { ops: vec![op.clone()] }).is_err();
        transaction.ops.iter().enumerate().filter(|(_, op)| refuses(op)).map(|(step, _)| step).collect()
    }
}

impl Kernel for Flaky {
    type Error = Says;

    fn load(&mut self) -> Result<Option<Ruleset>, Says> {
        if self.unreadable > 0 {
            self.unreadable -= 1;
            return Err(Says::NoMemory);
        }
        Ok(self.inner.table().cloned())
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Says> {
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(Says::NoMemory);
        }
        let says = |words: &String| transaction.ops.iter().position(|op| !words.is_empty() && format!("{op}\n").contains(words));
        if says(&self.dislikes).is_some() {
            return Err(Says::Steps(self.refusals(transaction)));
        }
        if says(&self.dreads).is_some() {
            return Err(Says::NoMemory);
        }
        self.inner.commit(transaction).expect("what the loop sends is legal");
        self.taken.push(transaction.clone());
        if self.silent > 0 {
            self.silent -= 1;
            return Err(Says::Nothing);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Says> {
        self.settled += 1;
        if self.unsettled {
            return Err(Says::NoMemory);
        }
        Ok(())
    }

    fn refused(error: &Says) -> Option<Vec<usize>> {
        match error {
            Says::NoMemory => Some(Vec::new()),
            Says::Steps(steps) => Some(steps.clone()),
            Says::Nothing => None,
        }
    }

    fn counters(&mut self) -> Result<BTreeMap<String, ruleset::Counter>, Says> {
        Ok(self.inner.counters().expect("counters"))
    }
}

type Watched = Rc<RefCell<BTreeMap<u64, BTreeSet<String>>>>;

/// An open watch; it is forgotten when it is closed.
#[derive(Debug)]
struct OpenWatch(u64, Watched);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.1.borrow_mut().remove(&self.0);
    }
}

/// A node with everything but clock and network.
struct Node {
    facts: Facts<OpenWatch>,
    enforcement: Enforcement<Flaky>,
    report: Report,
    /// The rules in force.
    rules: policy::model::RulesOf,
    watched: Watched,
    /// Another sync is due at once, to find out what is refused.
    searching: bool,
    epochs: RefCell<Vec<Epoch>>,
    seconds: Cell<i64>,
}

impl Node {
    fn on(kernel: Flaky) -> Node {
        Node {
            facts: Facts::new(NodeName("n1".into()), Exemption::DEFAULT.into()),
            enforcement: Enforcement::new(kernel),
            report: Report::default(),
            rules: Default::default(),
            watched: Watched::default(),
            searching: false,
            epochs: RefCell::default(),
            seconds: Cell::new(0),
        }
    }

    fn new() -> Node {
        Node::on(Flaky::default())
    }

    /// One that has listed these objects, and the slices of what they name.
    fn with(objects: &[Object], slices: &[Object]) -> Node {
        let mut node = Node::new();
        node.list(objects);
        assert!(node.sync().is_none() || slices.is_empty(), "slices are waited for");
        if !slices.is_empty() {
            node.slices(0, Change::Reset(Kind::MemberSlice, slices.to_vec()));
            node.sync();
        }
        node
    }

    fn list(&mut self, objects: &[Object]) {
        for kind in crate::facts::FIRST {
            let _ = self.facts.take(reset(kind, objects));
        }
    }

    fn take(&mut self, message: Message) {
        let _ = self.facts.take(message);
    }

    /// What the `n`th watch of slices that was opened says; whether it calls for another plan.
    fn slices(&mut self, n: usize, change: Change) -> bool {
        let epoch = self.epochs.borrow()[n];
        self.facts.take(Message::Slices(epoch, change, None)) == Changed::Yes
    }

    fn now(&self) -> Time {
        self.seconds.set(self.seconds.get() + 1);
        Time(Timestamp::from_second(self.seconds.get()).unwrap())
    }

    /// A sync; none where it is too early.
    fn sync(&mut self) -> Option<Result<NodeReportStatus, Failure>> {
        let (watched, epochs) = (&self.watched, &self.epochs);
        let plan = self.facts.plan(|epoch, ids| {
            let n = epochs.borrow().len();
            epochs.borrow_mut().push(epoch);
            watched.borrow_mut().insert(n as u64, ids.clone());
            OpenWatch(n as u64, watched.clone())
        })?;
        let now = self.now();
        Some(match self.enforcement.enforce(plan, || now.clone()) {
            Ok(committed) => {
                self.searching = self.facts.committed(committed.ops);
                self.rules.clone_from(&committed.value().rules);
                Ok(self.report.committed(&committed, &now))
            }
            Err(failure) => {
                self.searching = self.facts.refused(&failure);
                self.report.failed(&failure, &now);
                Err(failure)
            }
        })
    }

    /// A sync that must succeed.
    fn synced(&mut self) -> NodeReportStatus {
        self.sync().expect("the first lists are in").expect("the kernel takes it")
    }

    /// Syncs until there is nothing more to be found out.
    fn settled(&mut self) -> NodeReportStatus {
        let mut tries = (0..50).map(|_| self.sync().expect("the first lists are in").map(|status| (status, self.searching)));
        tries.find_map(|tried| tried.ok().filter(|(_, searching)| !searching)).expect("it does not end").0
    }

    /// So many minutes of tries, and a look at the table after each: how often the kernel refused, and what is said in the end.
    fn minutes(&mut self, looks: usize) -> (usize, NodeReportStatus) {
        let (mut refused, mut last) = (0, None);
        for _ in 0..looks {
            for _ in 0..60 {
                match self.sync().expect("the first lists are in") {
                    Ok(status) => last = Some(status),
                    Err(_) => refused += 1,
                }
            }
            self.facts.looked();
        }
        (refused, last.expect("the kernel takes something"))
    }

    /// The chain that judges what comes to this address.
    fn chain_of(&mut self, address: &str) -> Option<String> {
        let address: std::net::IpAddr = address.parse().unwrap();
        let map = if address.is_ipv4() { "in4" } else { "in6" };
        self.table()?.maps[map].elements.get(&address).cloned()
    }

    fn table(&mut self) -> Option<Ruleset> {
        self.enforcement.kernel().inner.table().cloned()
    }

    /// The groups that watches are open for, by watch.
    fn open(&self) -> Vec<BTreeSet<String>> {
        self.watched.borrow().values().cloned().collect()
    }
}

fn ids<const N: usize>(groups: [&str; N]) -> BTreeSet<String> {
    groups.into_iter().map(id_of).collect()
}

fn generations(status: &NodeReportStatus) -> Vec<(String, i64)> {
    status.groups.iter().map(|group| (group.name.clone(), group.generation)).collect()
}

#[test]
fn s36_exemptions_are_read_by_name() {
    assert_eq!(crate::exempt("Node,ClusterDNS").unwrap().0, [Exemption::Node, Exemption::ClusterDns].into());
    assert_eq!(crate::exempt("").unwrap().0, [].into());
    assert!(crate::exempt("Node,Nodes").unwrap_err().contains("there are: Node, NeighbourDiscovery"));
    assert!(crate::service("kube-dns").is_err() && crate::service("kube-system/kube-dns").is_ok());
}

#[test]
fn s36_the_default_of_the_option_is_the_default_of_the_policy() {
    let options = <crate::Options as clap::Parser>::parse_from(["agent", "--node-name=n1"]);
    assert_eq!(options.exempt.0, Exemption::DEFAULT.into());
}

#[test]
fn a_capability_is_read_from_its_bit() {
    let status = "Name:\tagent\nCapInh:\t0000000000000000\nCapEff:\t0000000000001000\n";
    assert!(crate::has_capability(status, 12));
    assert!(!crate::has_capability(status, 13));
    assert!(!crate::has_capability("CapPrm:\t0000000000001000\n", 12));
}
