//! Whether packets between the ports of a bridge meet the rules.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use netlink::{Bridge, Devices};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};

use crate::namespace::{in_namespace, nft_file};

const SERVER: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
const CLIENT: [&str; 2] = ["10.9.0.2", "fd00:9::2"];

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip; apt-get install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn set(parameter: &str, value: &str) {
    let path = format!("/proc/sys/net/{parameter}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}; modprobe br_netfilter"));
}

/// Puts the calling thread into a namespace of its own, with a cable to that of another thread.
fn unshare_with_cable(to: Pid, cable: &str, addresses: [&str; 2]) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    set("ipv6/conf/default/accept_dad", "0");
    ip(&format!("link add eth0 type veth peer name {cable} netns {to}"));
    ip(&format!("addr add {}/24 dev eth0", addresses[0]));
    ip(&format!("addr add {}/64 dev eth0", addresses[1]));
    ip("link set eth0 up");
}

/// A bridge with a server and a client on it, in the namespace of this thread.
struct Bridged {
    _server: TcpListener,
    ask: mpsc::Sender<IpAddr>,
    answers: mpsc::Receiver<bool>,
}

impl Bridged {
    fn new() -> Bridged {
        set("ipv6/conf/default/accept_dad", "0");
        ip("link set lo up");
        ip("link add cni0 type bridge");
        ip("addr add 10.9.0.254/24 dev cni0");
        ip("addr add fd00:9::fe/64 dev cni0");
        ip("link set cni0 up");
        let here = gettid();
        // A socket keeps its namespace, so the thread need not stay.
        let server = std::thread::spawn(move || {
            unshare_with_cable(here, "server", SERVER);
            TcpListener::bind("[::]:80").unwrap()
        });
        let server = server.join().unwrap();
        let (ask, asked) = mpsc::channel::<IpAddr>();
        let (answer, answers) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            unshare_with_cable(here, "client", CLIENT);
            ready.send(()).unwrap();
            for address in asked {
                let connected = TcpStream::connect_timeout(&SocketAddr::new(address, 80), Duration::from_millis(400));
                answer.send(connected.is_ok()).unwrap();
            }
        });
        is_ready.recv().unwrap();
        ip("link set server master cni0 up");
        ip("link set client master cni0 up");
        let bridged = Bridged { _server: server, ask, answers };
        // A port that was just put on a bridge may take a moment (linkwatch).
        let settled = (0..10).any(|_| bridged.reaches() == [true, true]);
        assert!(settled, "without rules packets pass");
        bridged
    }

    /// Whether the client reaches the server's addresses, IPv4 first.
    fn reaches(&self) -> [bool; 2] {
        SERVER.map(|address| {
            self.ask.send(address.parse().unwrap()).unwrap();
            self.answers.recv().unwrap()
        })
    }
}

#[test]
fn a_bridge_shows_its_packets_once_told_so() {
    in_namespace(|| {
        let bridged = Bridged::new();
        set("bridge/bridge-nf-call-iptables", "0");
        set("bridge/bridge-nf-call-ip6tables", "0");
        nft_file("table inet t { chain c { type filter hook forward priority 0; tcp dport 80 drop; }; }");
        assert_eq!(bridged.reaches(), [true, true], "no rule sees it");

        let mut devices = Devices::open().unwrap();
        let [v4, v6] = SERVER.map(|address| devices.route(address.parse().unwrap()).unwrap().expect("a route").device);
        assert_eq!(v4, v6);
        let bridge = devices.bridge(v4).unwrap().expect("a bridge");
        assert_eq!(bridge, Bridge { index: v4, name: "cni0".into(), v4: false, v6: false });
        devices.show_packets(&bridge).unwrap();
        assert_eq!(devices.bridge(v4).unwrap(), Some(Bridge { v4: true, v6: true, ..bridge }));
        assert_eq!(bridged.reaches(), [false, false], "the rule sees it, in both families");
    });
}

#[test]
fn each_family_has_a_switch_of_its_own() {
    in_namespace(|| {
        let bridged = Bridged::new();
        set("bridge/bridge-nf-call-iptables", "0");
        set("bridge/bridge-nf-call-ip6tables", "0");
        nft_file("table inet t { chain c { type filter hook forward priority 0; tcp dport 80 drop; }; }");
        ip("link set cni0 type bridge nf_call_ip6tables 1");
        let mut devices = Devices::open().unwrap();
        let index = devices.route(SERVER[0].parse().unwrap()).unwrap().unwrap().device;
        let bridge = devices.bridge(index).unwrap().unwrap();
        assert_eq!((bridge.v4, bridge.v6), (false, true));
        assert_eq!(bridged.reaches(), [true, false]);
    });
}

#[test]
fn what_is_no_bridge_is_none() {
    in_namespace(|| {
        set("ipv6/conf/default/accept_dad", "0");
        ip("link set lo up");
        ip("link add pod0 type veth peer name pod1");
        ip("link set pod0 up");
        ip("route add 10.9.1.1/32 dev pod0");
        ip("route add unreachable 10.9.2.0/24");
        ip("route add blackhole 10.9.3.0/24");
        ip("route add prohibit 10.9.4.0/24");
        let mut devices = Devices::open().unwrap();
        let veth = devices.route("10.9.1.1".parse().unwrap()).unwrap().expect("a route").device;
        assert_eq!(devices.bridge(veth).unwrap(), None);
        for nowhere in ["10.9.2.1", "10.9.3.1", "10.9.4.1", "192.0.2.1"] {
            assert_eq!(devices.route(nowhere.parse().unwrap()).unwrap(), None, "{nowhere}");
        }
        // IPv6 answers with a route that leads nowhere, over a device that is no bridge either.
        if let Some(route) = devices.route("fd00:9::1".parse().unwrap()).unwrap() {
            assert_eq!(devices.bridge(route.device).unwrap(), None);
        }
        assert_eq!(devices.bridge(4711).unwrap(), None, "there is no such device");
    });
}
