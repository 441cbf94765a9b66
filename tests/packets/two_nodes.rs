//! The pods of [`tests::conformance::World`] as namespaces, on two node namespaces that route, dual-stack.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use netlink::Nftables;
use policy::model::{NodeName, NodePolicy};
use probe::serve;
use ruleset::{Kernel, Transaction, diff, lower};
use tests::conformance::World;

/// The namespaces, removed when dropped.
pub struct TwoNodes {
    nodes: BTreeMap<NodeName, Namespace>,
    pods: BTreeMap<String, Namespace>,
    windows: AtomicU32,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Forwarding; and connections that are over are forgotten soon.
const SETTINGS: [&str; 7] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.netfilter.nf_conntrack_udp_timeout=1",
    "net.netfilter.nf_conntrack_udp_timeout_stream=1",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1",
    "net.netfilter.nf_conntrack_sctp_timeout_cookie_wait=1",
    "net.netfilter.nf_conntrack_sctp_timeout_closed=1",
];

impl TwoNodes {
    /// Makes the namespaces; every pod answers on these ports of every protocol. Fails where that needs root.
    pub fn new(world: &World, ports: &[u16]) -> Result<TwoNodes> {
        let prefix = format!("ksgc{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: String| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let [one, two] = world.nodes.as_slice() else { anyhow::bail!("there are two nodes") };
        let mut made = TwoNodes { nodes: BTreeMap::new(), pods: BTreeMap::new(), windows: AtomicU32::new(0) };
        for node in [one, two] {
            made.nodes.insert(NodeName(node.clone()), create(node.clone())?);
        }
        made.join(one, two)?;
        for (i, (pod, place)) in world.pods.iter().enumerate() {
            let namespace = create(pod.replace('/', "-"))?;
            made.link(&namespace, &format!("pod{i}"), &place.node, &place.addresses)?;
            let (tcp, udp, sctp) = (ports.to_vec(), ports.to_vec(), ports.to_vec());
            namespace.run(|| serve::start(&serve::Ports { tcp, udp, sctp, ..Default::default() }))??;
            made.pods.insert(pod.clone(), namespace);
        }
        for node in made.nodes.values() {
            let sysctl = node.command("sysctl").arg("-qw").args(SETTINGS).output()?;
            ensure!(sysctl.status.success(), "sysctl: {}", String::from_utf8_lossy(&sysctl.stderr));
        }
        Ok(made)
    }

    fn node(&self, name: &str) -> Result<&Namespace> {
        self.nodes.get(&NodeName(name.into())).with_context(|| format!("there is no node {name}"))
    }

    /// The wire between the nodes.
    fn join(&self, one: &str, two: &str) -> Result<()> {
        self.node(one)?.ip(&format!("link add other type veth peer name other netns {}", self.node(two)?.name()))?;
        for (own, name) in [(1, one), (2, two)] {
            let batch = format!("addr add 192.168.0.{own}/24 dev other\naddr add fe80:1::{own}/64 dev other nodad\nlink set other up");
            self.node(name)?.ip(&batch)?;
        }
        Ok(())
    }

    /// A pod's wire to its node, and the way to it from the other.
    fn link(&self, pod: &Namespace, device: &str, home: &str, addresses: &[IpAddr]) -> Result<()> {
        self.node(home)?.ip(&format!(
            "link add {device} type veth peer name eth0 netns {}\naddr add 169.254.1.1/32 dev {device}\n\
             addr add fe80::1/64 dev {device} nodad\nlink set {device} up",
            pod.name()
        ))?;
        pod.ip("link set eth0 up")?;
        for address in addresses {
            let is_v6 = address.is_ipv6();
            pod.ip(&format!("addr add {address} dev eth0 {}", if is_v6 { "nodad" } else { "" }))?;
            for (i, (name, node)) in self.nodes.iter().enumerate() {
                // The first is 1 on the wire, the second 2: the way leads to the other one.
                let via = if is_v6 { format!("fe80:1::{}", 2 - i) } else { format!("192.168.0.{}", 2 - i) };
                let way = if name.0 == home { format!("dev {device}") } else { format!("via {via} dev other") };
                node.ip(&format!("route add {address} {way}"))?;
            }
        }
        pod.ip("route add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1 dev eth0\nroute add default via fe80::1 dev eth0")
    }

    /// A pod's namespace.
    pub fn pod(&self, name: &str) -> Result<&Namespace> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    /// Gives the pods other source ports than they had of late: a connection must not be taken for one of the step before (S34). Of SCTP the
    /// prober itself chooses them.
    pub fn fresh_ports(&self) -> Result<()> {
        let from = 10_000 + self.windows.fetch_add(1, Ordering::Relaxed) % 100 * 500;
        let range = format!("{from} {}", from + 499);
        self.pods.values().try_for_each(|pod| pod.set(&[("ipv4/ip_local_port_range", &range)]))
    }

    /// Puts a policy in force on a node, by the difference from what is there.
    pub fn enforce(&self, node: &NodeName, policy: &NodePolicy) -> Result<()> {
        let wanted = lower(policy);
        self.node(&node.0)?.run(|| -> Result<()> {
            let mut kernel = Nftables::open()?;
            let held = kernel.load()?;
            kernel.commit(&held.map_or_else(|| Transaction::replace(&wanted), |held| diff(&held, &wanted)))?;
            ensure!(kernel.load()?.as_ref() == Some(&wanted), "the kernel of node {} has another ruleset than was sent", node.0);
            Ok(())
        })?
    }
}
