//! Two streams of new UDP flows through a node, both families. Every packet is numbered.
//!
//! ```text
//! source ─ veth ─ node ─ forward hook ─ veth ─ pods
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use lab::Namespace;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::machine::{Drops, drops};
use super::{Odd, Report};
use crate::road::{PACKET, link, mac};

/// The pods that packets are for. The first lets the members in on [`OPEN`]; the second lets nobody in.
pub(super) const PODS: [[&str; 2]; 2] = [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"]];
/// The port that the members may reach.
const OPEN: u16 = 7;
/// One that nobody may.
const SHUT: u16 = 9;
/// Members that send, in each family: 10.1.0.1 to 10.1.0.16, and fd01::1 to fd01::10. Strangers send from 10.2 and fd02.
pub(super) const MEMBERS: u8 = 16;

/// Packets that one system call sends, half of them of each stream.
const BURST: u64 = 64;
/// What is behind more than so many packets is not made up for: a longer burst would overrun the machine's queues.
const BEHIND: u64 = 200;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Who a member or stranger is.
pub(super) fn sender(network: u8, number: u8, v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(10, network, 0, number).into(),
        false => Ipv6Addr::new(0xfd00 + u16::from(network), 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// The namespaces, removed when dropped.
pub(super) struct Lane {
    pub(super) node: Namespace,
    source: Namespace,
    pods: Namespace,
    gateway: [u8; 6],
}

impl Lane {
    /// Makes them. Fails where that needs root.
    pub(super) fn new() -> Result<Lane> {
        let prefix = format!("ksgb{}-blink{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: &str| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let (node, source, pods) = (create("node")?, create("source")?, create("pods")?);
        for namespace in [&node, &source, &pods] {
            namespace.set(&[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/all/accept_dad", "0")])?;
        }
        node.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        node.ip(&format!("link add in type veth peer name eth0 netns {}\nlink set in up", source.name()))?;
        node.ip(&format!("link add pods type veth peer name eth0 netns {}\nlink set pods up", pods.name()))?;
        node.set(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/in/rp_filter", "0")])?;
        for end in [&source, &pods] {
            end.ip("link set eth0 up")?;
        }
        node.ip("addr add 10.255.0.1/30 dev in\naddr add fd0f::1/64 dev in\nroute add 10.0.0.0/24 dev pods\nroute add fd00::/64 dev pods")?;
        // Nobody asks for a neighbour: a packet that waits for one may be dropped.
        let (theirs, back) = (text(mac(&pods, "eth0")?), text(mac(&source, "eth0")?));
        for address in PODS.concat() {
            pods.ip(&format!("addr add {address} dev eth0"))?;
            node.ip(&format!("neigh add {address} lladdr {theirs} dev pods nud permanent"))?;
        }
        // What is denied may be answered.
        for (network, via) in [("default", "10.255.0.2"), ("default", "fd0f::2")] {
            node.ip(&format!("neigh add {via} lladdr {back} dev in nud permanent\nroute add {network} via {via} dev in"))?;
        }
        let gateway = mac(&node, "in")?;
        Ok(Lane { node, source, pods, gateway })
    }

    /// Makes conntrack forget a flow after a second: each is one packet, and the table must not fill.
    pub(super) fn forget_soon(&self) -> Result<()> {
        self.node.set(&[("netfilter/nf_conntrack_udp_timeout", "1")])
    }

    /// What the machine has dropped so far, on the packets' way.
    pub(super) fn drops(&self) -> Result<Drops> {
        let namespaces = [("source", &self.source), ("node", &self.node), ("pods", &self.pods)];
        namespaces.into_iter().try_fold(Drops::new(), |mut all, (role, namespace)| {
            all.extend(drops(namespace, role)?);
            Ok(all)
        })
    }

    /// Starts both streams, so many packets a second each.
    pub(super) fn start(&self, rate: u64) -> Result<Traffic> {
        let sockets = self.pods.run(|| [OPEN, SHUT].map(listen))?;
        let [open, shut] = sockets;
        let sockets = [open?, shut?];
        let (ended, stop, met) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ending, stopping, meets, gateway) = (ended.clone(), stop.clone(), met.clone(), self.gateway);
        let sending = self.source.spawn(move || send(gateway, rate, &stopping, &meets))?;
        let receiving = std::thread::spawn(move || receive(&sockets, &ending));
        Ok(Traffic { stop, ended, met, sending, receiving })
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A socket of both families that takes in all that comes while its thread does not run.
fn listen(port: u16) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(false)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket.into())
}

/// Both streams, on their way.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    met: Arc<AtomicUsize>,
    sending: JoinHandle<Result<Result<Sent>>>,
    receiving: JoinHandle<std::io::Result<Seen>>,
}

impl Traffic {
    /// What is sent from now on meets the update of this number.
    pub(super) fn met(&self, update: usize) {
        self.met.store(update, Ordering::SeqCst);
    }

    /// Ends them; who arrived.
    pub(super) fn stop(self, report: &mut Report) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        // What is under way arrives.
        std::thread::sleep(Duration::from_millis(300));
        self.ended.store(true, Ordering::SeqCst);
        let seen = self.receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        report.sent = sent.packets;
        let arrived = |stream: usize, number: u64| usize::try_from(number).is_ok_and(|at| seen.packets[stream].get(at) == Some(&true));
        let odd = |number: u64| Odd { number, update: sent.met(number) };
        report.lost = (0..sent.packets).filter(|number| !arrived(0, *number)).map(odd).collect();
        report.leaked = (0..sent.packets).filter(|number| arrived(1, *number)).map(odd).collect();
        report.strange = seen.strange;
        Ok(())
    }
}

/// What was sent of each stream.
struct Sent {
    packets: u64,
    /// From which packet on they met which update.
    met: Vec<(u64, usize)>,
}

impl Sent {
    fn met(&self, number: u64) -> usize {
        let next = self.met.partition_point(|(first, _)| *first <= number);
        next.checked_sub(1).map_or(0, |at| self.met[at].1)
    }
}

fn send(gateway: [u8; 6], rate: u64, stop: &AtomicBool, met: &AtomicUsize) -> Result<Sent> {
    let socket = Socket::new(Domain::from(PACKET), Type::RAW, Some(Protocol::from(0)))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &link("eth0")?)?;
    let mut headers = MultiHeaders::<()>::preallocate(usize::try_from(BURST)?, None);
    let mut sent = Sent { packets: 0, met: Vec::new() };
    let (started, mut missed) = (Instant::now(), 0);
    while !stop.load(Ordering::SeqCst) {
        let due = u64::try_from(started.elapsed().as_micros())? * rate / 1_000_000 - missed;
        let behind = due - sent.packets;
        if behind == 0 {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        missed += behind.saturating_sub(BEHIND);
        let update = met.load(Ordering::SeqCst);
        if sent.met.last().is_none_or(|(_, last)| *last != update) {
            sent.met.push((sent.packets, update));
        }
        let numbers = sent.packets..sent.packets + behind.min(BURST / 2);
        let frames = numbers.clone().flat_map(|number| [frame(gateway, 0, number), frame(gateway, 1, number)]);
        let frames = frames.collect::<Result<Vec<Vec<u8>>>>()?;
        let slices: Vec<[std::io::IoSlice<'_>; 1]> = frames.iter().map(|frame| [std::io::IoSlice::new(frame)]).collect();
        let gone = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, vec![None; slices.len()], [], MsgFlags::empty());
        let gone = gone.context("the machine does not take more packets")?.count();
        ensure!(gone == frames.len(), "{gone} of {} packets were sent", frames.len());
        sent.packets = numbers.end;
    }
    Ok(sent)
}

/// Packet `number` of the allowed stream (0) or of the denied one (1): the families by turns, and of the denied one by turns a stranger,
/// a port that is not open, and a pod that is not.
fn frame(gateway: [u8; 6], stream: u8, number: u64) -> Result<Vec<u8>> {
    let (v4, flow) = (number.is_multiple_of(2), number / 2);
    let (network, port, pod) = match (stream, flow % 3) {
        (1, 0) => (2, OPEN, 0),
        (1, 1) => (1, SHUT, 0),
        (1, _) => (1, OPEN, 1),
        _ => (1, OPEN, 0),
    };
    let flow = flow / if stream == 1 { 3 } else { 1 };
    let (from, source_port) = (flow % u64::from(MEMBERS), 10_000 + flow / u64::from(MEMBERS) % 50_000);
    let from = sender(network, 1 + u8::try_from(from)?, v4);
    let to: IpAddr = PODS[pod][usize::from(!v4)].parse()?;
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], gateway);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are of two families"),
    };
    let mut payload = vec![stream];
    payload.extend(number.to_be_bytes());
    let mut bytes = Vec::with_capacity(80);
    ip.udp(u16::try_from(source_port)?, port).write(&mut bytes, &payload)?;
    Ok(bytes)
}

/// What arrived of each stream.
#[derive(Default)]
struct Seen {
    packets: [Vec<bool>; 2],
    strange: u64,
}

impl Seen {
    fn note(&mut self, payload: &[u8]) {
        let number = payload.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let stream = payload.first().and_then(|stream| self.packets.get_mut(usize::from(*stream)));
        let (Some(stream), Some(at)) = (stream, number.and_then(|number| usize::try_from(number).ok()).filter(|at| *at < 1 << 32)) else {
            self.strange += 1;
            return;
        };
        if stream.len() <= at {
            stream.resize(at + 1, false);
        }
        self.strange += u64::from(std::mem::replace(&mut stream[at], true));
    }
}

fn receive(sockets: &[UdpSocket], ended: &AtomicBool) -> std::io::Result<Seen> {
    let mut seen = Seen::default();
    let mut buffer = [0; 64];
    loop {
        // Asked before the look: what came before the end is still seen.
        let last = ended.load(Ordering::SeqCst);
        for socket in sockets {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => seen.note(&buffer[..length]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        if last {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::SlicedPacket;

    use super::*;

    #[test]
    fn no_two_packets_are_of_one_flow() {
        let mut flows = HashSet::new();
        let numbers = (0..20_000).chain(2_990_000..3_000_000);
        for (number, stream) in numbers.flat_map(|number| [(number, 0), (number, 1)]) {
            let frame = frame([2; 6], stream, number).expect("a frame");
            let sliced = SlicedPacket::from_ethernet(&frame).expect("well-formed");
            let Some(etherparse::TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
            let addresses = match &sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => [ip.header().source_addr().into(), ip.header().destination_addr().into()],
                Some(etherparse::NetSlice::Ipv6(ip)) => [ip.header().source_addr().into(), ip.header().destination_addr().into()],
                _ => panic!("no IP"),
            };
            let addresses: [IpAddr; 2] = addresses;
            assert!(flows.insert((addresses, udp.source_port(), udp.destination_port())), "{stream}: {number}");
        }
    }

    #[test]
    fn a_packet_belongs_to_the_update_that_had_begun() {
        let sent = Sent { packets: 100, met: vec![(0, 0), (10, 1), (30, 3)] };
        assert_eq!([0, 9, 10, 29, 30, 99].map(|number| sent.met(number)), [0, 0, 1, 1, 3, 3]);
    }

    #[test]
    fn what_comes_twice_or_is_not_ours_is_strange() {
        let mut seen = Seen::default();
        let packet = |stream: u8, number: u64| [&[stream][..], &number.to_be_bytes()].concat();
        for payload in [packet(0, 3), packet(1, 0), packet(0, 3), packet(7, 0), vec![1, 2]] {
            seen.note(&payload);
        }
        assert_eq!((seen.packets, seen.strange), ([vec![false, false, false, true], vec![true]], 3));
    }
}
