//! Random histories of a small cluster: pods come, get addresses, change their labels, finish, go and come again under their names and
//! with others' addresses, while groups, attachments, namespaces and slices are written and deleted.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::history::State;
use crate::manifest::Manifest;

/// The nodes of the histories.
pub const NODES: [&str; 2] = ["n1", "n2"];
const NAMESPACES: [&str; 2] = ["shop", "shop-2"];
const PODS: [&str; 4] = ["shop/a", "shop/b", "shop/c", "shop-2/a"];
const APPS: [&str; 3] = ["web", "db", "other"];
const GROUPS: [&str; 4] = ["web", "db", "base", "common"];
/// Few addresses, so that they are used again at once; the first of each pair is IPv4.
const ADDRESSES: [[&str; 2]; 3] = [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00::3"]];

/// One thing that happens. Numbers choose among the few names above.
#[derive(Clone, Debug)]
enum Step {
    /// A pod is created on a node; where one of its name is there, that one goes first.
    PodCreated { pod: usize, app: usize, node: usize, host_network: bool, address: Option<usize> },
    /// A pod gets an address, both families or one.
    PodAddressed { pod: usize, address: usize, families: usize },
    /// A pod's label changes.
    PodRelabelled { pod: usize, app: usize },
    /// A pod ends; its address stays in the object.
    PodFinished { pod: usize, failed: bool },
    /// A pod is asked to end; it still runs.
    PodTerminating { pod: usize },
    /// A pod is gone.
    PodDeleted { pod: usize },
    /// A namespace gets a default group, another one, or none.
    NamespaceLabelled { namespace: usize, group: Option<usize> },
    /// A namespace is gone.
    NamespaceDeleted { namespace: usize },
    /// An attachment is written or edited.
    AttachmentWritten { attachment: usize, namespace: usize, groups: Vec<usize>, selector: usize },
    /// An attachment is gone.
    AttachmentDeleted { attachment: usize, namespace: usize },
    /// A group is written or edited.
    GroupWritten { group: usize, namespace: usize, spec: usize },
    /// A group is deleted and made again at once.
    GroupRecreated { group: usize, namespace: usize, spec: usize },
    /// A group is gone.
    GroupDeleted { group: usize, namespace: usize },
    /// A slice is written, of the group as it is or of an earlier one of its name.
    SliceWritten { slice: usize, group: usize, namespace: usize, stale: bool, head: bool, addresses: Vec<usize> },
    /// A slice is gone.
    SliceDeleted { slice: usize, namespace: usize },
    /// A prefix list is written or edited.
    PrefixListWritten { namespace: usize, spec: usize },
    /// A prefix list is gone.
    PrefixListDeleted { namespace: usize },
    /// Cluster DNS answers at these addresses, or at none.
    DnsWritten { addresses: Vec<usize> },
}

/// What is written of groups: peers of every kind, overlaps, defaults, and what this version cannot read.
fn group_specs() -> Vec<Value> {
    let from = |peers: Value| json!([{"protocol": "TCP", "port": 80, "endPort": 90, "from": peers}]);
    vec![
        json!({}),
        json!({"ingress": [], "egress": []}),
        json!({"ingress": from(json!([{"self": true}])), "onDeny": "Reject"}),
        json!({"ingress": from(json!([{"securityGroup": {"name": "db"}}, {"cidr": "10.0.0.0/8"}]))}),
        json!({"ingress": from(json!([{"securityGroup": {"name": "web", "namespace": "shop-2"}}, {"cidr": "10.0.0.0/9"}])), "egress": []}),
        json!({"ingress": [{"type": "AllTraffic", "from": [{"cidr": "fd00::/8"}, {"cidr": "fd00::1"}]}], "onDeny": "Reject"}),
        json!({"egress": [{"protocol": "ICMP", "icmpType": 8, "to": [{"securityGroup": {"name": "common"}}, {"self": true}]}]}),
        json!({"ingress": [{"novelty": 1}, {"type": "SSH", "from": [{"cidr": "10.0.0.1"}, {"cidr": "10.0.0.1/32"}]}]}),
        json!({"ingress": from(json!([{"prefixList": {"name": "list"}}, {"prefixList": {"name": "list", "namespace": "shop-2"}}]))}),
        json!({"egress": [{"type": "AllTraffic", "to": [{"prefixList": {"name": "list"}}, {"cidr": "10.0.0.0/24"}]}]}),
        json!({"novelty": true}),
    ]
}

/// Prefix lists: empty, overlapping and adjacent, of the other family, with an entry that cannot be read, and not to be read at all.
fn prefix_list_specs() -> Vec<Value> {
    let of = |cidrs: &[&str]| {
        let entries: Vec<Value> = cidrs.iter().map(|cidr| json!({"cidr": cidr})).collect();
        json!({"addressFamily": "IPv4", "maxEntries": 10, "entries": entries})
    };
    vec![
        json!({"addressFamily": "IPv6", "maxEntries": 1}),
        of(&["10.0.0.0/24", "10.0.0.0/25", "10.0.1.0/24"]),
        of(&["10.0.0.1", "10.0.0.2/31", "0.0.0.0/0"]),
        of(&["bad", "10.0.0.3"]),
        json!({"addressFamily": "IPv6", "maxEntries": 2, "entries": [{"cidr": "fd00::/64"}, {"cidr": "fd00::1"}]}),
        json!({"novelty": 1}),
    ]
}

fn selectors() -> Vec<Value> {
    vec![
        json!({"matchLabels": {"app": "web"}}),
        json!({"matchLabels": {"app": "db"}}),
        json!({}),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "Near"}]}),
    ]
}

/// A random step.
fn step() -> impl Strategy<Value = Step> {
    let (pod, app, node) = (0..PODS.len(), 0..APPS.len(), 0..NODES.len());
    let (group, namespace) = (0..GROUPS.len(), 0..NAMESPACES.len());
    let spec = 0..group_specs().len();
    let some_groups = proptest::collection::vec(group.clone(), 1..4);
    let some_addresses = proptest::collection::vec(0..ADDRESSES.len(), 0..3);
    prop_oneof![
        4 => (pod.clone(), app.clone(), node, prop::bool::weighted(0.1), prop::option::of(0..ADDRESSES.len()))
            .prop_map(|(pod, app, node, host_network, address)| Step::PodCreated { pod, app, node, host_network, address }),
        4 => (pod.clone(), 0..ADDRESSES.len(), select(vec![1usize, 2, 2])).prop_map(|(pod, address, families)| Step::PodAddressed { pod, address, families }),
        2 => (pod.clone(), app).prop_map(|(pod, app)| Step::PodRelabelled { pod, app }),
        1 => (pod.clone(), any::<bool>()).prop_map(|(pod, failed)| Step::PodFinished { pod, failed }),
        1 => pod.clone().prop_map(|pod| Step::PodTerminating { pod }),
        1 => pod.prop_map(|pod| Step::PodDeleted { pod }),
        1 => (namespace.clone(), prop::option::of(group.clone())).prop_map(|(namespace, group)| Step::NamespaceLabelled { namespace, group }),
        1 => namespace.clone().prop_map(|namespace| Step::NamespaceDeleted { namespace }),
        3 => (0..3usize, namespace.clone(), some_groups, 0..selectors().len())
            .prop_map(|(attachment, namespace, groups, selector)| Step::AttachmentWritten { attachment, namespace, groups, selector }),
        1 => (0..3usize, namespace.clone()).prop_map(|(attachment, namespace)| Step::AttachmentDeleted { attachment, namespace }),
        4 => (group.clone(), namespace.clone(), spec.clone()).prop_map(|(group, namespace, spec)| Step::GroupWritten { group, namespace, spec }),
        1 => (group.clone(), namespace.clone(), spec).prop_map(|(group, namespace, spec)| Step::GroupRecreated { group, namespace, spec }),
        1 => (group.clone(), namespace.clone()).prop_map(|(group, namespace)| Step::GroupDeleted { group, namespace }),
        2 => (0..4usize, group, namespace.clone(), any::<bool>(), any::<bool>(), some_addresses).prop_map(
            |(slice, group, namespace, stale, head, addresses)| Step::SliceWritten { slice, group, namespace, stale, head, addresses }),
        1 => (0..4usize, namespace.clone()).prop_map(|(slice, namespace)| Step::SliceDeleted { slice, namespace }),
        2 => (namespace.clone(), 0..prefix_list_specs().len()).prop_map(|(namespace, spec)| Step::PrefixListWritten { namespace, spec }),
        1 => namespace.prop_map(|namespace| Step::PrefixListDeleted { namespace }),
        1 => proptest::collection::vec(0..ADDRESSES.len(), 0..2).prop_map(|addresses| Step::DnsWritten { addresses }),
    ]
}

/// A random history: what the API server holds after each step.
pub fn history() -> impl Strategy<Value = Vec<State>> {
    proptest::collection::vec(step(), 1..40).prop_map(|steps| states(&[beginning(), steps].concat()))
}

/// Something to begin with: two groups that name each other and themselves, and who is in them.
fn beginning() -> Vec<Step> {
    vec![
        Step::GroupWritten { group: 0, namespace: 0, spec: 3 },
        Step::GroupWritten { group: 1, namespace: 0, spec: 2 },
        Step::AttachmentWritten { attachment: 0, namespace: 0, groups: vec![0], selector: 0 },
        Step::AttachmentWritten { attachment: 1, namespace: 0, groups: vec![1, 2], selector: 1 },
    ]
}

/// What the API server holds after each step.
fn states(steps: &[Step]) -> Vec<State> {
    let mut stored = Stored::default();
    steps
        .iter()
        .enumerate()
        .map(|(number, step)| {
            stored.take(number, step);
            State::of(&stored.objects)
        })
        .collect()
}

/// The objects, and the number of their makers in their UIDs: an object that is made again is another.
#[derive(Default)]
struct Stored {
    objects: Vec<Manifest>,
}

impl Stored {
    fn find(&self, kind: &str, name: &str) -> Option<usize> {
        let wanted = Manifest::new(kind, name);
        let same = |object: &Manifest| {
            object.0["kind"] == kind
                && object.0["metadata"]["name"] == wanted.0["metadata"]["name"]
                && object.0["metadata"]["namespace"] == wanted.0["metadata"]["namespace"]
        };
        self.objects.iter().position(same)
    }

    fn delete(&mut self, kind: &str, name: &str) {
        if let Some(found) = self.find(kind, name) {
            self.objects.remove(found);
        }
    }

    fn edit(&mut self, kind: &str, name: &str, edit: impl FnOnce(Manifest) -> Manifest) {
        if let Some(found) = self.find(kind, name) {
            let object = self.objects.remove(found);
            self.objects.push(edit(object));
        }
    }

    /// An edit where there is one of this name, otherwise a new one.
    fn write(&mut self, number: usize, kind: &str, name: &str, spec: Value) {
        match self.find(kind, name) {
            Some(_) => self.edit(kind, name, |object| object.edited(spec)),
            None => self.objects.push(Manifest::new(kind, name).set("/metadata/uid", uid(number)).set("/spec", spec)),
        }
    }

    fn take(&mut self, number: usize, step: &Step) {
        match step {
            Step::PodCreated { pod, app, node, host_network, address } => {
                self.delete("Pod", PODS[*pod]);
                let mut made = Manifest::pod(PODS[*pod], NODES[*node], APPS[*app]).set("/metadata/uid", uid(number));
                made = made.set("/spec/hostNetwork", *host_network);
                // Two steps a second: some pods are of one age, and their UIDs decide (S8).
                made = made.set("/metadata/creationTimestamp", format!("2026-01-01T00:00:{:02}Z", number / 2));
                self.objects.push(if let Some(address) = address { made.at(&ADDRESSES[*address]) } else { made });
            }
            Step::PodAddressed { pod, address, families } => self.edit("Pod", PODS[*pod], |pod| pod.at(&ADDRESSES[*address][..*families])),
            Step::PodRelabelled { pod, app } => self.edit("Pod", PODS[*pod], |pod| pod.set("/metadata/labels/app", APPS[*app])),
            Step::PodFinished { pod, failed } => {
                self.edit("Pod", PODS[*pod], |pod| pod.set("/status/phase", if *failed { "Failed" } else { "Succeeded" }));
            }
            Step::PodTerminating { pod } => {
                self.edit("Pod", PODS[*pod], |pod| pod.set("/metadata/deletionTimestamp", "2026-01-01T01:00:00Z"));
            }
            Step::PodDeleted { pod } => self.delete("Pod", PODS[*pod]),
            Step::NamespaceLabelled { namespace, group } => {
                self.delete("Namespace", NAMESPACES[*namespace]);
                self.objects.push(Manifest::namespace(NAMESPACES[*namespace], group.map(|group| GROUPS[group])));
            }
            Step::NamespaceDeleted { namespace } => self.delete("Namespace", NAMESPACES[*namespace]),
            Step::AttachmentWritten { attachment, namespace, groups, selector } => {
                let groups: Vec<&str> = groups.iter().map(|group| GROUPS[*group]).collect();
                let spec = json!({"securityGroups": groups, "podSelector": selectors()[*selector]});
                self.write(number, "Attachment", &attachment_name(*attachment, *namespace), spec);
            }
            Step::AttachmentDeleted { attachment, namespace } => self.delete("Attachment", &attachment_name(*attachment, *namespace)),
            Step::GroupWritten { group, namespace, spec } => {
                self.write(number, "SecurityGroup", &group_name(*group, *namespace), group_specs().swap_remove(*spec));
            }
            Step::GroupRecreated { group, namespace, spec } => {
                self.delete("SecurityGroup", &group_name(*group, *namespace));
                self.write(number, "SecurityGroup", &group_name(*group, *namespace), group_specs().swap_remove(*spec));
            }
            Step::GroupDeleted { group, namespace } => self.delete("SecurityGroup", &group_name(*group, *namespace)),
            Step::SliceWritten { slice, group, namespace, stale, head, addresses } => {
                let current = self.find("SecurityGroup", &group_name(*group, *namespace));
                let of = current.filter(|_| !stale).and_then(|found| self.objects[found].0["metadata"]["uid"].as_str());
                let addresses: Vec<&str> = addresses.iter().flat_map(|address| ADDRESSES[*address]).collect();
                let slice_name = slice_name(*slice, *namespace);
                let made = Manifest::slice(&slice_name, of.unwrap_or("uid-of-another"), *head, &addresses);
                self.delete("MemberSlice", &slice_name);
                self.objects.push(made);
            }
            Step::SliceDeleted { slice, namespace } => self.delete("MemberSlice", &slice_name(*slice, *namespace)),
            Step::PrefixListWritten { namespace, spec } => {
                self.write(number, "PrefixList", &list_name(*namespace), prefix_list_specs().swap_remove(*spec));
            }
            Step::PrefixListDeleted { namespace } => self.delete("PrefixList", &list_name(*namespace)),
            Step::DnsWritten { addresses } => {
                self.delete("EndpointSlice", "kube-system/dns");
                let addresses: Vec<&str> = addresses.iter().map(|address| ADDRESSES[*address][0]).collect();
                self.objects.push(Manifest::dns("kube-system/dns", &addresses));
            }
        }
    }
}

fn uid(number: usize) -> String {
    format!("uid-{number:04}")
}

fn group_name(group: usize, namespace: usize) -> String {
    format!("{}/{}", NAMESPACES[namespace], GROUPS[group])
}

fn attachment_name(attachment: usize, namespace: usize) -> String {
    format!("{}/attachment-{attachment}", NAMESPACES[namespace])
}

fn slice_name(slice: usize, namespace: usize) -> String {
    format!("{}/slice-{slice}", NAMESPACES[namespace])
}

fn list_name(namespace: usize) -> String {
    format!("{}/list", NAMESPACES[namespace])
}
