//! A node's forwarding path and nothing else: packets come in over a veth and leave for a bridge without ports, which forgets them.
//!
//! ```text
//! source ─ veth ─ node ─ forward hook ─ bridge
//! ```
//! All of it runs in the sender's own softirq, so the time that sending takes is the cost of the path. The median burst counts: one in which
//! the processor did something else as well is none of the middle ones.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lab::Namespace;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::table::median;

/// The address that every packet is for.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// AF_PACKET
pub(crate) const PACKET: i32 = 17;

/// Packets that one system call sends.
const BURST: usize = 16;
const FRAME: usize = 60;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The namespaces, removed when dropped.
pub struct Road {
    /// What filters.
    pub node: Namespace,
    source: Namespace,
    gateway: [u8; 6],
}

/// New UDP flows: one packet each, no two of one connection.
#[derive(Clone, Debug)]
pub struct Flows {
    /// From these, by turns; 50,000 flows of each at most.
    pub sources: Vec<Ipv4Addr>,
    /// To this port.
    pub port: u16,
}

impl Road {
    /// Makes the namespaces. Fails where that needs root.
    pub fn new() -> Result<Road> {
        let prefix = format!("ksgb{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: &str| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let (node, source) = (create("node")?, create("source")?);
        // Nothing but what is measured: no neighbour discovery of IPv6.
        node.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        node.ip(&format!(
            "link add in type veth peer name eth0 netns {}\nlink set in up\nlink add pod type bridge mcast_snooping 0\nlink set pod up",
            source.name()
        ))?;
        node.ip("addr add 10.255.0.1/30 dev in\nroute add 10.0.0.0/24 dev pod\nroute add default dev in")?;
        node.set(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/in/rp_filter", "0")])?;
        source.ip("link set eth0 up")?;
        // Nobody there would answer.
        node.ip(&format!("neigh add {POD} lladdr 02:00:00:00:00:01 dev pod nud permanent"))?;
        let gateway = mac(&node, "in")?;
        Ok(Road { node, source, gateway })
    }

    /// Sends so many flows, all of which should arrive, or none; what one of them costs, in microseconds.
    pub fn cost(&self, flows: &Flows, count: usize, arrive: bool) -> Result<f64> {
        self.node.forget_connections()?;
        let frames: Vec<[u8; FRAME]> = (0..count).map(|number| self.frame(flows, number)).collect();
        let before = self.passed()?;
        let wanted = if arrive { count as u64 } else { 0 };
        let took = self.source.run(|| send(&frames))??;
        let passed = self.passed()? - before;
        ensure!(passed == wanted, "{passed} of {count} packets have passed, {wanted} should");
        Ok(median(took) * 1e6)
    }

    /// Packets that have left for the pod.
    fn passed(&self) -> Result<u64> {
        let count = || -> Result<u64> {
            let output = self.node.command("ip").args(["-json", "-s", "link", "show", "pod"]).output()?;
            let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            links[0]["stats64"]["tx"]["packets"].as_u64().context("a packet count")
        };
        // What the other processor still had in hand.
        let mut last = count()?;
        for _ in 0..50 {
            let now = count()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        bail!("packets go on passing")
    }

    fn frame(&self, flows: &Flows, number: usize) -> [u8; FRAME] {
        let source = flows.sources[number % flows.sources.len()];
        let source_port = 10_000 + u16::try_from(number / flows.sources.len() % 50_000).unwrap_or_default();
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&self.gateway);
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 8, 0]);
        let (ip, udp) = frame[14..].split_at_mut(20);
        // Version and length, no fragments, a TTL, UDP.
        ip[..12].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&POD.octets());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        udp[..2].copy_from_slice(&source_port.to_be_bytes());
        udp[2..4].copy_from_slice(&flows.port.to_be_bytes());
        udp[4..6].copy_from_slice(&26u16.to_be_bytes());
        frame
    }
}

/// Keeps the calling thread on one processor, so that the way of what it sends is taken on it too.
pub fn pin() -> Result<()> {
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpu)?)
}

/// How many seconds a frame took, in each burst.
fn send(frames: &[[u8; FRAME]]) -> Result<Vec<f64>> {
    pin()?;
    let socket = Socket::new(Domain::from(PACKET), Type::RAW, Some(Protocol::from(0)))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &link("eth0")?)?;
    let mut headers = MultiHeaders::<()>::preallocate(BURST, None);
    let mut took = Vec::new();
    for burst in frames.chunks(BURST) {
        let slices: Vec<[std::io::IoSlice<'_>; 1]> = burst.iter().map(|frame| [std::io::IoSlice::new(frame)]).collect();
        let addresses = vec![None; slices.len()];
        let started = Instant::now();
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &addresses, [], MsgFlags::empty())?.count();
        took.push(started.elapsed().as_secs_f64() / burst.len() as f64);
        ensure!(sent == burst.len(), "{sent} of {} packets were sent", burst.len());
    }
    Ok(took)
}

/// A device of this thread's namespace.
pub(crate) fn link(name: &str) -> Result<LinkAddr> {
    let found =
        getifaddrs()?.find_map(|address| (address.interface_name == name).then(|| address.address?.as_link_addr().copied()).flatten());
    found.with_context(|| format!("a device {name}"))
}

/// The link address of a device.
pub(crate) fn mac(namespace: &Namespace, device: &str) -> Result<[u8; 6]> {
    namespace.run(|| link(device)?.addr().context("a link address"))?
}
