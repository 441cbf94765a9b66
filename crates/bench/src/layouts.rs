//! What changes cost in other layouts, loaded and changed by the programs that others use for it.
//!
//! All stand on nodes of their own at the same size, and go through the same changes in every round. *Ours* is what the agent does with
//! a policy: lower, difference, batches. The others' texts are written beforehand, and are as small as they can be: elements alone for a member,
//! the chain that changes, rules appended to the list for a pod; what is measured is the program that loads them, its start included (it has
//! a line of its own). iptables-restore gets the whole table, as kube-router gives it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use netlink::Nftables;
use policy::model::NodePolicy;
use ruleset::{Kernel, Lowering, Ruleset, diff};
use testkit::Scenario;

use crate::layout::{self, IPSET, IPTABLES, Layout, feed};
use crate::table::{Line, median, number};
use crate::{kube_router, rival};

/// Pods of the node, each in groups of its own.
const PODS: usize = 20;
const GROUPS: usize = 5;
/// Of each group.
const RULES: usize = 50;
/// Groups that rules name, and the members of each.
const PEERS: usize = 500;
const MEMBERS: usize = 20;

/// What changes. The way back is not measured: of a list it would be another change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Member,
    Rule,
    Pod,
}

impl Change {
    const ALL: [Change; 3] = [Change::Member, Change::Rule, Change::Pod];

    fn name(self) -> &'static str {
        match self {
            Change::Member => "a member joins",
            Change::Rule => "a rule goes",
            Change::Pod => "a pod comes",
        }
    }
}

/// The policy, with a change or without.
fn policy(change: Option<Change>) -> NodePolicy {
    let mut scenario = Scenario::new();
    for group in 0..PODS * GROUPS {
        let rule = |number| format!("ingress tcp {} from sg/peers/p{:03}", 1_000 + number, (group * RULES + number) % PEERS);
        let rules: Vec<String> = (0..RULES).map(rule).collect();
        scenario = scenario.group(&format!("shop/g{group:03}"), &rules.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for peer in 0..PEERS {
        let more = usize::from(change == Some(Change::Member) && peer == 7);
        let members: Vec<String> =
            (0..MEMBERS + more).map(|member| format!("10.{}.{}.{}", 16 + peer / 250, peer % 250, 1 + member)).collect();
        scenario = scenario.members(&format!("peers/p{peer:03}"), &members.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for pod in 0..PODS + usize::from(change == Some(Change::Pod)) {
        let groups: Vec<String> = (0..GROUPS).map(|group| format!("shop/g{:03}", (pod * GROUPS + group) % (PODS * GROUPS))).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        scenario = scenario.pod(&format!("shop/p{pod:02}"), &[&format!("10.200.0.{}", 1 + pod)], &groups);
    }
    let mut policy = scenario.policy();
    if change == Some(Change::Rule)
        && let Some(group) = policy.groups.get_min().map(|(group, _)| group.clone())
        && let Some(rules) = policy.groups.get_mut(&group).map(std::sync::Arc::make_mut)
    {
        // The last one, so that nobody's numbers move.
        rules.ingress.pop_last();
    }
    policy
}

/// A node with one layout.
struct Node {
    layout: Layout,
    namespace: Namespace,
    /// Of ours.
    kernel: Nftables,
    lowering: Lowering,
    held: Ruleset,
}

impl Node {
    fn new(layout: Layout, number: usize) -> Result<Node> {
        let namespace = Namespace::create(&format!("ksgb{}-layout{number}", std::process::id()))?;
        let kernel = namespace.run(Nftables::open)??;
        Ok(Node { layout, namespace, kernel, lowering: Lowering::default(), held: Ruleset::default() })
    }

    /// Milliseconds until the policy is in force where nothing is.
    fn load(&mut self, policy: &NodePolicy) -> Result<f64> {
        layout::clear(&self.namespace)?;
        self.lowering = Lowering::default();
        let started = Instant::now();
        if self.layout == Layout::Ours {
            self.held = self.lowering.lower(policy);
            self.kernel.commit(&ruleset::Transaction::replace(&self.held))?;
        } else {
            self.layout.load(&self.namespace, policy)?;
        }
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// Milliseconds until the second policy is in force instead of the first.
    fn change(&mut self, from: &NodePolicy, to: &NodePolicy) -> Result<f64> {
        match self.layout {
            Layout::Ours => {
                let started = Instant::now();
                let wanted = self.lowering.lower(to);
                for (_, part) in diff(&self.held, &wanted).phases() {
                    self.kernel.commit(&part)?;
                }
                self.held = wanted;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            }
            Layout::KubeRouter => {
                let steps = kube_router::change(&kube_router::text(from), &kube_router::text(to));
                let started = Instant::now();
                feed(&self.namespace, IPSET, &["restore"], &steps.before)?;
                if let Some(rules) = &steps.rules {
                    feed(&self.namespace, IPTABLES, &[], rules)?;
                }
                // As soon as the kernel has let go of the rules; no time of the change's.
                let took = started.elapsed().as_secs_f64() * 1e3;
                layout::patiently(|| feed(&self.namespace, IPSET, &["restore"], &steps.after))?;
                Ok(took)
            }
            _ => {
                let text = rival::change(&self.layout.text(from), &self.layout.text(to));
                let started = Instant::now();
                feed(&self.namespace, "nft", &["-f", "-"], &text)?;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            }
        }
    }
}

/// All figures: those of the others against ours.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    layout::check()?;
    let layouts: Vec<Layout> = [Layout::Ours].into_iter().chain(Layout::NAIVE).chain([Layout::PeerFirst, Layout::PortFirst]).collect();
    let mut nodes: Vec<Node> = layouts.iter().enumerate().map(|(number, layout)| Node::new(*layout, number)).collect::<Result<_>>()?;
    let base = policy(None);
    let changed = Change::ALL.map(|change| (change.name(), policy(Some(change))));
    // A full load, and each change.
    let mut took = vec![vec![Vec::new(); 1 + changed.len()]; nodes.len()];
    let mut starts = Vec::new();
    for _ in 0..rounds {
        for (node, took) in nodes.iter_mut().zip(&mut took) {
            took[0].push(node.load(&base).with_context(|| node.layout.name())?);
        }
        for (number, (what, changed)) in changed.iter().enumerate() {
            for (node, took) in nodes.iter_mut().zip(&mut took) {
                took[1 + number].push(node.change(&base, changed).with_context(|| format!("{}: {what}", node.layout.name()))?);
                node.change(changed, &base).with_context(|| format!("{}: {what}, and back", node.layout.name()))?;
            }
        }
        let started = Instant::now();
        feed(&nodes[0].namespace, "nft", &["-f", "-"], "")?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
    }
    ensure!(nodes[0].kernel.load()?.as_ref() == Some(&nodes[0].held), "ours is not what it should be in the end");
    let count = |count: usize| u32::try_from(count).map_or_else(|_| count.to_string(), |count| number(f64::from(count)));
    let size = format!("{} rules, {} members", count(PODS * GROUPS * RULES), count(PEERS * MEMBERS));
    let whats = ["full load"].into_iter().chain(changed.iter().map(|(what, _)| *what));
    for (place, what) in whats.enumerate() {
        let ours = median(took[0][place].clone());
        tell(Line::figure(format!("{what}, {size}: ours"), ours, "ms"));
        for (layout, took) in layouts.iter().zip(&took).skip(1) {
            tell(Line::new(format!("{what}, {size}: {}", layout.name()), median(took[place].clone()), ours, "ms", None));
        }
    }
    tell(Line::figure("starting nft for nothing", median(starts), "ms"));
    Ok(())
}
