//! A node with its pods and everything elsewhere, as namespaces: the addresses of [`testkit::World`], routed, dual-stack.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use netlink::Nftables;
use policy::model::NodePolicy;
use ruleset::{Kernel, Transaction, diff, lower};
use testkit::World;

/// The namespaces, removed when dropped.
pub struct Topology {
    /// The node, which routes and filters.
    pub node: Namespace,
    /// One for each pod of [`World::PODS`].
    pub pods: Vec<Namespace>,
    /// The one that has all addresses of [`World::ELSEWHERE`].
    pub elsewhere: Namespace,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Topology {
    /// Makes the namespaces. Fails where that needs root.
    pub fn new() -> Result<Topology> {
        let prefix = format!("ksgk{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: &str| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let topology = Topology {
            node: create("node")?,
            pods: (0..World::PODS.len()).map(|i| create(&format!("pod{i}"))).collect::<Result<_>>()?,
            elsewhere: create("else")?,
        };
        let settings = [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            // Every denied packet is answered where it should be, also a thousand a second (S32).
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
        ];
        let sysctl = topology.node.command("sysctl").arg("-qw").args(settings).output()?;
        ensure!(sysctl.status.success(), "sysctl: {}", String::from_utf8_lossy(&sysctl.stderr));
        for address in World::node() {
            topology.node.ip(&format!("addr add {address} dev lo"))?;
        }
        for (i, pod) in topology.pods.iter().enumerate() {
            topology.link(pod, &format!("pod{i}"), &World::addresses(&World::PODS[i]))?;
        }
        topology.link(&topology.elsewhere, "else", &World::elsewhere())?;
        Ok(topology)
    }

    /// A veth pair between the node and a namespace that has some addresses and nothing but the node to send to.
    fn link(&self, to: &Namespace, device: &str, addresses: &[IpAddr]) -> Result<()> {
        self.node.ip(&format!("link add {device} type veth peer name eth0 netns {}", to.name()))?;
        self.node.ip(&format!("addr add 169.254.1.1/32 dev {device}"))?;
        self.node.ip(&format!("addr add fe80::1/64 dev {device} nodad"))?;
        self.node.ip(&format!("link set {device} up"))?;
        to.ip("link set eth0 up")?;
        for address in addresses {
            to.ip(&format!("addr add {address} dev eth0 {}", if address.is_ipv6() { "nodad" } else { "" }))?;
            self.node.ip(&format!("route add {address} dev {device}"))?;
        }
        to.ip("route add 169.254.1.1 dev eth0")?;
        to.ip("route add default via 169.254.1.1 dev eth0")?;
        to.ip("route add default via fe80::1 dev eth0")
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
        let wanted = lower(policy);
        self.node.run(|| {
            let mut kernel = Nftables::open()?;
            let transaction = match kernel.load()? {
                Some(present) => diff(&present, &wanted),
                None => Transaction::replace(&wanted),
            };
            kernel.commit(&transaction)?;
            ensure!(kernel.load()?.as_ref() == Some(&wanted), "the kernel has another ruleset than was sent");
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
