//! TCP through a node, between real sockets.
//!
//! ```text
//! client ─ veth ─ node ─ forward hook ─ veth ─ pod
//! ```
//! Both ends run on one processor, so the time that passes is the cost of the whole: two kernels' ends and the path between them. The median
//! connection and the median piece count, as with bursts of packets.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use crate::road::{POD, pin};
use crate::table::median;
use crate::workload::PORT;

/// Bytes of a request and of its answer.
const REQUEST: usize = 100;
/// What must come does so in less.
const PATIENCE: Duration = Duration::from_secs(5);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The namespaces, removed when dropped.
pub struct Stream {
    /// What filters.
    pub node: Namespace,
    client: Namespace,
    pod: Namespace,
    /// Connections so far: none has the addresses and ports of another that the kernel still remembers.
    connections: usize,
}

impl Stream {
    /// Makes the namespaces; the client has these addresses.
    pub fn new(sources: &BTreeSet<Ipv4Addr>) -> Result<Stream> {
        let prefix = format!("ksgb{}-s{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let create =
            |name: &str| Namespace::create(&format!("{prefix}-{name}")).context("making network namespaces needs root: run it with sudo");
        let (node, client, pod) = (create("node")?, create("client")?, create("pod")?);
        for namespace in [&node, &client, &pod] {
            namespace.set(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        node.set(&[("ipv4/ip_forward", "1")])?;
        let veth =
            |name: &str, far: &Namespace| format!("link add {name} type veth peer name eth0 netns {}\nlink set {name} up", far.name());
        node.ip(&[veth("in", &client), veth("out", &pod)].join("\n"))?;
        node.ip(&format!("addr add 10.255.0.1/30 dev in\naddr add 10.255.0.5/30 dev out\nroute add {POD} dev out"))?;
        pod.ip(&format!("link set eth0 up\naddr add {POD} dev eth0\nroute add 10.255.0.5 dev eth0\nroute add default via 10.255.0.5"))?;
        client.ip("link set eth0 up\naddr add 10.255.0.2/30 dev eth0\nroute add default via 10.255.0.1")?;
        node.ip("route add default via 10.255.0.2")?;
        client.ip(&sources.iter().map(|source| format!("addr add {source} dev lo\n")).collect::<String>())?;
        // A port may be taken again while its last connection is in TIME_WAIT, should so many be made; no connection learns from another.
        client.set(&[("ipv4/tcp_tw_reuse", "1"), ("ipv4/tcp_no_metrics_save", "1")])?;
        pod.set(&[("ipv4/tcp_no_metrics_save", "1")])?;
        // Of one size, so that no connection runs in another gear than the others.
        client.set(&[("ipv4/tcp_wmem", "4096 1048576 1048576")])?;
        pod.set(&[("ipv4/tcp_rmem", "4096 1048576 1048576")])?;
        Ok(Stream { node, client, pod, connections: 0 })
    }

    /// Makes every packet an Ethernet frame of its own, as without any offload, or lets the sender join them.
    pub fn join_packets(&self, join: bool) -> Result<()> {
        let segments = if join { 65_535 } else { 1 };
        self.client.ip(&format!("link set eth0 gso_max_segs {segments}"))
    }

    /// So many connections one after another from these addresses by turns: connect, ask, get the answer, close. How many as long as the
    /// median one there are in a second.
    pub fn connections(&mut self, sources: &[Ipv4Addr], count: usize) -> Result<f64> {
        let first = self.connections;
        self.connections += count;
        let ask = || -> Result<f64> {
            pin()?;
            let mut took = Vec::new();
            for number in first..first + count {
                let port = u16::try_from(5_000 + number / sources.len() % 60_000)?;
                let started = Instant::now();
                let mut socket = connect(SocketAddrV4::new(sources[number % sources.len()], port), PATIENCE)?;
                socket.write_all(&[1; REQUEST])?;
                socket.read_exact(&mut [0; REQUEST])?;
                drop(socket);
                took.push(started.elapsed().as_secs_f64());
            }
            Ok(1.0 / median(took))
        };
        let answer = |listener: &TcpListener| -> Result<()> {
            for _ in 0..count {
                let (mut socket, _) = listener.accept()?;
                socket.read_exact(&mut [0; REQUEST])?;
                socket.write_all(&[2; REQUEST])?;
                // The client closes first, as most do.
                ensure!(socket.read(&mut [0])? == 0, "a client says more than it should");
            }
            Ok(())
        };
        self.both(answer, ask)
    }

    /// So many pieces of so many KiB over one connection, each acknowledged; how many MiB there are in a second at the pace of the median one.
    pub fn throughput(&self, source: Ipv4Addr, pieces: usize, size: usize) -> Result<f64> {
        let source = SocketAddrV4::new(source, 0);
        let send = || -> Result<f64> {
            pin()?;
            let mut socket = connect(source, PATIENCE)?;
            let piece = vec![3; size << 10];
            let mut took = Vec::new();
            for _ in 0..pieces {
                let started = Instant::now();
                socket.write_all(&piece)?;
                // The other end says when it has all.
                socket.read_exact(&mut [0])?;
                took.push(started.elapsed().as_secs_f64());
            }
            Ok(size as f64 / 1024.0 / median(took))
        };
        let receive = |listener: &TcpListener| -> Result<()> {
            let (mut socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            let mut piece = vec![0; size << 10];
            for _ in 0..pieces {
                socket.read_exact(&mut piece)?;
                socket.write_all(&[4])?;
            }
            Ok(())
        };
        self.both(receive, send)
    }

    /// Whether somebody at another address of the client's can connect.
    pub fn lets_in(&self, stranger: Ipv4Addr) -> Result<bool> {
        self.client.ip(&format!("addr add {stranger} dev lo"))?;
        let outcome = self.both(|_| Ok(()), || Ok(connect(SocketAddrV4::new(stranger, 0), Duration::from_millis(200)).is_ok()));
        self.client.ip(&format!("addr del {stranger} dev lo"))?;
        outcome
    }

    /// Runs a server in the pod and a client beside it.
    fn both<T: Send>(&self, serve: impl FnOnce(&TcpListener) -> Result<()> + Send, ask: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.node.forget_connections()?;
        let listener = self.pod.run(|| TcpListener::bind((POD, PORT)))??;
        std::thread::scope(|scope| {
            let server = scope.spawn(|| pin().and_then(|()| serve(&listener)));
            let outcome = self.client.run(ask).and_then(|outcome| outcome);
            if outcome.is_err() {
                // Nobody else will ask, and the server still waits.
                socket2::SockRef::from(&listener).shutdown(Shutdown::Both)?;
            }
            let served = server.join().map_err(|_| anyhow!("the server has panicked"))?;
            let outcome = outcome?;
            served.map(|()| outcome)
        })
    }
}

/// A connection to the pod from an address of the client's, in whose namespace the calling thread is.
fn connect(from: SocketAddrV4, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // This limits the connecting too.
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.bind(&from.into())?;
    socket.connect(&SocketAddrV4::new(POD, PORT).into())?;
    Ok(socket)
}
