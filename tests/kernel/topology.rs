//! A node with its pods and everything elsewhere, as namespaces: the addresses of [`testkit::World`], dual-stack, wired in the two ways
//! that network plugins do it.
//!
//! ```text
//! routed:  pod ─ veth ─┐                      bridged: pod ─ veth ─┐
//!          pod ─ veth ─┤ node ─ veth ─ elsewhere       pod ─ veth ─┤ br0 (node) ─ veth ─ elsewhere
//! ```
//! On the bridge, packets from pod to pod are switched, not routed: the node's forward hook sees them only by br_netfilter.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use netlink::Nftables;
use policy::model::NodePolicy;
use ruleset::{Kernel, Ruleset, Transaction, diff, lower};
use testkit::World;

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Each by an interface of its own, as ptp, Calico and Cilium do it.
    Routed,
    /// All by one Linux bridge that has the pods' gateway, as the bridge plugin and Flannel do it.
    Bridged,
}

impl Wiring {
    /// Both.
    pub const ALL: [Wiring; 2] = [Wiring::Routed, Wiring::Bridged];

    /// The same test on both, one after the other.
    pub fn each(test: impl Fn(Topology) -> Result<()>) -> Result<()> {
        for wiring in Wiring::ALL {
            test(Topology::new(wiring)?).with_context(|| format!("{wiring:?}"))?;
        }
        Ok(())
    }
}

/// The namespaces, removed when dropped.
pub struct Topology {
    /// How the pods are joined to the node.
    pub wiring: Wiring,
    /// The node, which routes, switches and filters.
    pub node: Namespace,
    /// One for each pod of [`World::PODS`].
    pub pods: Vec<Namespace>,
    /// The one that has all addresses of [`World::ELSEWHERE`].
    pub elsewhere: Namespace,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether bridges show IP packets to the IP hooks; a setting of each network namespace.
const BRIDGE_CALLS: [&str; 2] = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];

impl Topology {
    /// Makes the namespaces. Fails where that needs root.
    pub fn new(wiring: Wiring) -> Result<Topology> {
        let prefix = format!("ksgk{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: &str| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let topology = Topology {
            wiring,
            node: create("node")?,
            pods: (0..World::PODS.len()).map(|i| create(&format!("pod{i}"))).collect::<Result<_>>()?,
            elsewhere: create("else")?,
        };
        topology.node.set(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Every denied packet is answered where it should be, also a thousand a second (S32).
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/icmp_ratemask", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv6/icmp/ratemask", "255"),
        ])?;
        match wiring {
            Wiring::Routed => topology.route()?,
            Wiring::Bridged => topology.bridge()?,
        }
        topology.link(&topology.elsewhere, "else", &World::elsewhere())?;
        Ok(topology)
    }

    fn route(&self) -> Result<()> {
        for address in World::node() {
            self.node.ip(&format!("addr add {address} dev lo"))?;
        }
        for (i, pod) in self.pods.iter().enumerate() {
            self.link(pod, &format!("pod{i}"), &World::addresses(&World::PODS[i]))?;
        }
        Ok(())
    }

    fn bridge(&self) -> Result<()> {
        self.node.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up")?;
        for address in World::node() {
            self.node.ip(&format!("addr add {} dev br0{}", on_link(address), nodad(address)))?;
        }
        for (i, pod) in self.pods.iter().enumerate() {
            self.node.ip(&format!("link add pod{i} type veth peer name eth0 netns {}\nlink set pod{i} master br0 up", pod.name()))?;
            pod.ip("link set eth0 up")?;
            for address in World::addresses(&World::PODS[i]) {
                pod.ip(&format!("addr add {} dev eth0{}", on_link(address), nodad(address)))?;
            }
            for gateway in World::node() {
                pod.ip(&format!("route add default via {gateway} dev eth0"))?;
            }
        }
        self.bridge_calls(true)
    }

    /// Lets the bridge show its packets to the forward hook, or not.
    pub fn bridge_calls(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.node
            .set(&BRIDGE_CALLS.map(|key| (key, value)))
            .context("packets on a bridge pass no filter without br_netfilter: sudo modprobe br_netfilter")
    }

    /// A veth pair between the node and a namespace that has some addresses and nothing but the node to send to.
    fn link(&self, to: &Namespace, device: &str, addresses: &[IpAddr]) -> Result<()> {
        self.node.ip(&format!("link add {device} type veth peer name eth0 netns {}", to.name()))?;
        self.node.ip(&format!("addr add 169.254.1.1/32 dev {device}"))?;
        self.node.ip(&format!("addr add fe80::1/64 dev {device} nodad"))?;
        self.node.ip(&format!("link set {device} up"))?;
        to.ip("link set eth0 up")?;
        for &address in addresses {
            to.ip(&format!("addr add {address} dev eth0{}", nodad(address)))?;
            self.node.ip(&format!("route add {address} dev {device}"))?;
        }
        to.ip("route add 169.254.1.1 dev eth0")?;
        to.ip("route add default via 169.254.1.1 dev eth0")?;
        to.ip("route add default via fe80::1 dev eth0")
    }

    /// Tells every neighbour the others' link addresses, so that no packet depends on their discovery, and lets the hosts take
    /// everything in without a word: what is answered is the node's doing alone.
    pub fn quiet(&self) -> Result<()> {
        for host in self.hosts() {
            let file = std::env::temp_dir().join(format!("{}.nft", host.name()));
            std::fs::write(&file, "table inet quiet { chain input { type filter hook input priority 0; policy drop; }; }\n")?;
            let loaded = host.command("nft").arg("-f").arg(&file).output();
            std::fs::remove_file(&file)?;
            let loaded = loaded?;
            ensure!(loaded.status.success(), "nft: {}", String::from_utf8_lossy(&loaded.stderr));
        }
        let on_bridge = |i: usize| self.wiring == Wiring::Bridged && i < self.pods.len();
        let device = |i: usize| if i < self.pods.len() { format!("pod{i}") } else { "else".into() };
        let hosts: Vec<&Namespace> = self.hosts().collect();
        for (i, host) in hosts.iter().enumerate() {
            let own = if on_bridge(i) { "br0".into() } else { device(i) };
            let (here, there) = (mac(&self.node, &own)?, mac(host, "eth0")?);
            for address in if i < self.pods.len() { World::addresses(&World::PODS[i]) } else { World::elsewhere() } {
                self.node.ip(&format!("neigh replace {address} lladdr {there} dev {own} nud permanent"))?;
                for other in hosts.iter().enumerate().filter(|(j, _)| on_bridge(i) && on_bridge(*j) && i != *j).map(|(_, other)| other) {
                    other.ip(&format!("neigh replace {address} lladdr {there} dev eth0 nud permanent"))?;
                }
            }
            let gateways = if on_bridge(i) { World::node() } else { World::addresses(&["169.254.1.1", "fe80::1"]) };
            for gateway in gateways {
                host.ip(&format!("neigh replace {gateway} lladdr {here} dev eth0 nud permanent"))?;
            }
        }
        Ok(())
    }

    /// The namespace that an address lives in.
    pub fn home(&self, address: IpAddr) -> &Namespace {
        if World::node().contains(&address) {
            return &self.node;
        }
        let pod = World::PODS.iter().position(|pod| World::addresses(pod).contains(&address));
        pod.map_or(&self.elsewhere, |i| &self.pods[i])
    }

    /// Every namespace but the node's.
    pub fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        self.pods.iter().chain([&self.elsewhere])
    }

    /// Puts a policy in force, by the difference from what is there.
    pub fn enforce(&self, policy: &NodePolicy) -> Result<()> {
        self.put(&lower(policy))
    }

    /// Puts a ruleset in the kernel, by the difference from what is there, as the agent does; what is read back must be what was sent.
    pub fn put(&self, wanted: &Ruleset) -> Result<()> {
        self.node.run(|| {
            let mut kernel = Nftables::open()?;
            let transaction = match kernel.load()? {
                Some(present) => diff(&present, wanted),
                None => Transaction::replace(wanted),
            };
            for (_, part) in transaction.phases() {
                kernel.commit(&part)?;
            }
            ensure!(kernel.load()?.as_ref() == Some(wanted), "the kernel has another ruleset than was sent");
            Ok(())
        })?
    }

    /// What `nft` prints of the node.
    pub fn nft(&self, arguments: &str) -> Result<String> {
        let output = self.node.command("nft").args(arguments.split_whitespace()).output()?;
        ensure!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The address with the prefix of its link.
fn on_link(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

/// The link address of a device.
fn mac(namespace: &Namespace, device: &str) -> Result<String> {
    let output = namespace.command("ip").args(["-json", "link", "show", device]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{device} in {}", namespace.name()))?;
    Ok(links[0]["address"].as_str().context("a link address")?.to_owned())
}
