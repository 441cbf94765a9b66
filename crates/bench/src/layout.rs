//! Who filters on the node, and how its rules get there.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::Namespace;
use netlink::Nftables;
use policy::model::NodePolicy;
use ruleset::{Bounds, Kernel, Ruleset, Transaction, lower, lower_within};

use crate::{kube_router, rival};

/// The rules on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// None, and no conntrack.
    Nothing,
    /// Those that everybody has who filters by connection.
    Conntrack,
    /// What the agent would put there.
    Ours,
    /// The same, with every rule one after another, however many.
    InTurn,
    /// The same, with every rule found by maps, however few.
    Mapped,
    /// A chain for each group, a rule for each peer.
    OneRuleAPeer,
    /// All rules of all pods one after another.
    OneList,
    /// A map from the peer to what it may do.
    PeerFirst,
    /// A map from the port to who may use it.
    PortFirst,
    /// The same as a map that takes port ranges.
    PortFirstIntervals,
    /// iptables with ipset, as kube-router writes them.
    KubeRouter,
}

impl Layout {
    /// What others do without much thought.
    pub const NAIVE: [Layout; 3] = [Layout::OneRuleAPeer, Layout::OneList, Layout::KubeRouter];
    /// What others could do with nftables; they know one direction only.
    pub const CLEVER: [Layout; 3] = [Layout::PeerFirst, Layout::PortFirst, Layout::PortFirstIntervals];

    /// What it is called in a line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Nothing => "no rules at all",
            Layout::Conntrack => "conntrack alone",
            Layout::Ours => "ours",
            Layout::InTurn => "ours, in turn",
            Layout::Mapped => "ours, by maps",
            Layout::OneRuleAPeer => "one rule a peer",
            Layout::OneList => "one list",
            Layout::PeerFirst => "peer first",
            Layout::PortFirst => "port first",
            Layout::PortFirstIntervals => "port first, intervals",
            Layout::KubeRouter => "iptables + ipset",
        }
    }

    /// Whether it denies anything.
    pub fn filters(self) -> bool {
        !matches!(self, Layout::Nothing | Layout::Conntrack)
    }

    /// Puts it on a node, in place of what was there.
    pub fn put(self, node: &Namespace, policy: &NodePolicy) -> Result<()> {
        clear(node)?;
        self.load(node, policy).with_context(|| self.name())?;
        // The kernel goes on taking apart what was there before; that is not what this one costs.
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Of a layout that is written for nft.
    pub(crate) fn text(self, policy: &NodePolicy) -> String {
        match self {
            Layout::OneRuleAPeer => rival::one_rule_a_peer(policy),
            Layout::OneList => rival::one_list(policy),
            Layout::PeerFirst => rival::peer_first(policy),
            Layout::PortFirst => rival::port_first(policy, ""),
            Layout::PortFirstIntervals => rival::port_first(policy, "flags interval;"),
            Layout::Nothing | Layout::Conntrack | Layout::Ours | Layout::InTurn | Layout::Mapped | Layout::KubeRouter => String::new(),
        }
    }

    pub(crate) fn load(self, node: &Namespace, policy: &NodePolicy) -> Result<()> {
        let text = match self {
            Layout::Nothing => return Ok(()),
            Layout::Ours => return commit(node, &lower(policy)),
            Layout::InTurn => {
                return commit(node, &lower_within(policy, Bounds { few: usize::MAX, peers: usize::MAX, ..Bounds::default() }));
            }
            Layout::Mapped => return commit(node, &lower_within(policy, Bounds { few: 0, peers: 0, ..Bounds::default() })),
            Layout::KubeRouter => {
                let kube_router::Text { sets, rules } = kube_router::text(policy);
                feed(node, IPSET, &["restore"], &sets)?;
                return feed(node, IPTABLES, &[], &rules);
            }
            Layout::Conntrack => rival::CONNTRACK.into(),
            _ => self.text(policy),
        };
        feed(node, "nft", &["-f", "-"], &text)
    }
}

fn commit(node: &Namespace, ruleset: &Ruleset) -> Result<()> {
    let transaction = Transaction::replace(ruleset);
    Ok(node.run(|| Nftables::open()?.commit(&transaction))??)
}

/// Debian's iptables by default: xtables matches in nftables rules.
pub(crate) const IPTABLES: &str = "iptables-nft-restore";
pub(crate) const IPSET: &str = "ipset";

/// Says which program is missing, and what provides it.
pub fn check() -> Result<()> {
    match ["nft", IPTABLES, IPSET].iter().find(|program| !there(program)) {
        Some(program) => bail!("{program} is missing: tests/setup bench installs it"),
        None => Ok(()),
    }
}

fn there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
}

pub(crate) fn clear(node: &Namespace) -> Result<()> {
    feed(node, "nft", &["flush", "ruleset"], "")?;
    // Without the program nobody has made a set.
    if !there(IPSET) {
        return Ok(());
    }
    patiently(|| feed(node, IPSET, &["destroy"], ""))
}

/// The kernel takes rules apart in the background; until then their sets are in use.
pub(crate) fn patiently(mut destroy: impl FnMut() -> Result<()>) -> Result<()> {
    let mut patience = 200;
    while let Err(error) = destroy() {
        ensure!(patience > 0, error);
        patience -= 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a program on the node with a text on its standard input.
pub(crate) fn feed(node: &Namespace, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut command = node.command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    // One that ends early closes the pipe; what it says is worth more.
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", says.lines().take(5).collect::<Vec<_>>().join("\n"));
    fed.with_context(|| format!("writing to {program}"))
}

#[cfg(test)]
mod tests {
    use policy::model::Transport;

    use super::*;
    use crate::workload::{Worst, many_groups};

    /// Needs root, as every test that makes a namespace. What iptables loads is looked at where it is written; the measuring loads it.
    #[test]
    fn every_layout_loads_in_place_of_another() -> Result<()> {
        let node = Namespace::create(&format!("ksgb{}-layout", std::process::id()))?;
        let one_end = Worst::of(10);
        let both_ends = Worst { both_ends: true, ..one_end }.workload().policy;
        let policies = [Worst { nets: true, ..one_end }.workload().policy, many_groups(Transport::Tcp, 7, 20).policy, both_ends.clone()];
        for policy in &policies {
            let clever = Layout::CLEVER.into_iter().filter(|_| *policy != both_ends);
            for layout in [Layout::Conntrack, Layout::Ours, Layout::OneRuleAPeer, Layout::OneList].into_iter().chain(clever) {
                layout.put(&node, policy)?;
                let tables = node.command("nft").args(["list", "tables"]).output()?.stdout;
                assert_eq!(String::from_utf8_lossy(&tables).lines().count(), 1, "{}", layout.name());
            }
        }
        Layout::Nothing.put(&node, &policies[0])?;
        assert!(node.command("nft").args(["list", "tables"]).output()?.stdout.is_empty());
        Ok(())
    }
}
