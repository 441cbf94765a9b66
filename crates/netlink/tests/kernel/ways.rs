//! How addresses are reached, and whether connections of theirs are forwarded.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use netlink::{Connections, Device, Devices, Route};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::unistd::gettid;

use crate::bridges::{ip, set};
use crate::namespace::{in_namespace, nft_file};

const SERVER: [&str; 2] = ["10.9.1.1", "fd00:9::1"];
const CLIENT: [&str; 2] = ["10.9.1.2", "fd00:9::2"];
const NODE: [&str; 2] = ["10.9.0.254", "fd00:9::fe"];

fn reached(devices: &mut Devices, address: &str) -> (Route, Device) {
    let route = devices.route(address.parse().unwrap()).unwrap().expect("a route");
    (route, devices.device(route.device).unwrap().expect("a device"))
}

#[test]
fn a_cable_a_network_a_gateway_and_macvlan_are_told_apart() {
    in_namespace(|| {
        set("ipv6/conf/default/accept_dad", "0");
        ip("link set lo up");
        ip("link add eth0 type veth peer name far");
        ip("link set far up");
        ip("link set eth0 up");
        ip("addr add 10.9.5.1/24 dev eth0");
        ip("addr add fd00:5::1/64 dev eth0");
        ip("route add default via 10.9.5.2");
        ip("-6 route add default via fd00:5::2");
        ip("link add pod0 type veth peer name pod1");
        ip("link set pod1 up");
        ip("link set pod0 up");
        ip("route add 10.9.1.1/32 dev pod0");
        ip("-6 route add fd00:9::1/128 dev pod0");
        ip("link add shim link eth0 type macvlan mode bridge");
        ip("link set shim up");
        ip("route add 10.9.5.9/32 dev shim");
        ip("link add cni0 type bridge");
        ip("link set cni0 up");
        ip("addr add 10.9.6.1/24 dev cni0");

        let mut devices = Devices::open().unwrap();
        for (address, kind, single, gateway, local) in [
            // A pod's own cable.
            ("10.9.1.1", "veth", true, false, false),
            ("fd00:9::1", "veth", true, false, false),
            // A pod with macvlan, ipvlan or a card of its own: a neighbour of this node.
            ("10.9.5.7", "veth", false, false, false),
            ("fd00:5::7", "veth", false, false, false),
            // The same with another network than the node's.
            ("192.0.2.7", "veth", false, true, false),
            ("2001:db8::7", "veth", false, true, false),
            ("10.9.5.9", "macvlan", true, false, false),
            ("10.9.6.7", "bridge", false, false, false),
            ("10.9.5.1", "", true, false, true),
        ] {
            let (route, device) = reached(&mut devices, address);
            assert_eq!((device.kind.as_str(), route.single, route.gateway, route.local), (kind, single, gateway, local), "{address}");
            assert_eq!(devices.named(&device.name).unwrap().map(|named| named.index), Some(route.device));
        }
        assert_eq!(devices.named("cilium_host").unwrap(), None);
        ip("link set pod0 master cni0");
        let (_, pod) = reached(&mut devices, "10.9.1.1");
        let master = devices.device(pod.master.expect("it is a port")).unwrap().expect("a bridge");
        assert_eq!((master.name.as_str(), master.kind.as_str()), ("cni0", "bridge"));
    });
}

/// `struct bpf_insn`.
fn instruction(code: u8, registers: u8, immediate: i32) -> [u8; 8] {
    let [a, b, c, d] = immediate.to_ne_bytes();
    [code, registers, 0, 0, a, b, c, d]
}

/// Loads an eBPF program.
fn load(kind: u32, instructions: &[[u8; 8]]) -> OwnedFd {
    const PROG_LOAD: libc::c_int = 5;
    let license = c"Apache-2.0";
    let mut attributes = [0u8; 128];
    attributes[0..4].copy_from_slice(&kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(instructions.len() as u32).to_ne_bytes());
    attributes[8..16].copy_from_slice(&(instructions.as_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    // SAFETY: bpf(2) reads the attributes, the instructions and the license, all of which live until it returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_ptr(), attributes.len()) };
    assert!(fd >= 0, "loading a program: {}", Errno::last());
    // SAFETY: the call has just opened it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Sends a message of rtnetlink, which must be taken.
fn rtnetlink(kind: u16, flags: i32, body: &[u8]) {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).unwrap();
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(netlink.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
    let mut answer = [0; 4096];
    recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(error, 0, "rtnetlink: {}", Errno::from_raw(-error));
}

/// Runs a program on what a device receives, by traffic control.
fn filter(device: u32, program: &OwnedFd, name: &str) {
    const SCHED_CLS_DIRECT: u32 = 1;
    let mut body = vec![0; 20];
    body[4..8].copy_from_slice(&device.to_ne_bytes());
    body[12..16].copy_from_slice(&0xffff_fff2u32.to_ne_bytes());
    let all_protocols = u32::from((libc::ETH_P_ALL as u16).to_be());
    body[16..20].copy_from_slice(&(1 << 16 | all_protocols).to_ne_bytes());
    let mut options = Vec::new();
    attribute(&mut options, 6, &program.as_raw_fd().to_ne_bytes());
    attribute(&mut options, 7, format!("{name}\0").as_bytes());
    attribute(&mut options, 8, &SCHED_CLS_DIRECT.to_ne_bytes());
    attribute(&mut body, libc::TCA_KIND, b"bpf\0");
    attribute(&mut body, libc::TCA_OPTIONS, &options);
    rtnetlink(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
}

fn tc(arguments: &[&str]) {
    let output = std::process::Command::new("tc").args(arguments).output().expect("tc; apt-get install iproute2");
    assert!(output.status.success(), "tc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const EXIT: u8 = 0x95;
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;

#[test]
fn programs_on_a_device_are_listed_and_what_redirects_nothing_is_not() {
    in_namespace(|| {
        ip("link add pod0 type veth peer name pod1");
        let mut devices = Devices::open().unwrap();
        let pod = devices.named("pod0").unwrap().expect("a device");
        assert_eq!(devices.programs(pod.index).unwrap(), [].into());
        // As the bandwidth plugin shapes, and a classic filter.
        tc(&["qdisc", "add", "dev", "pod0", "root", "tbf", "rate", "1mbit", "burst", "4kb", "latency", "10ms"]);
        tc(&["qdisc", "add", "dev", "pod0", "clsact"]);
        tc(&["filter", "add", "dev", "pod0", "egress", "bpf", "bytecode", "1,6 0 0 0"]);
        assert_eq!(devices.programs(pod.index).unwrap(), [].into());

        filter(pod.index, &load(SCHED_CLS, &[instruction(MOVE, 0, -1), instruction(EXIT, 0, 0)]), "handle_ingress");
        assert_eq!(devices.programs(pod.index).unwrap(), ["handle_ingress".to_owned()].into());
        tc(&["qdisc", "delete", "dev", "pod0", "clsact"]);
        assert_eq!(devices.programs(pod.index).unwrap(), [].into());
        assert_eq!(devices.programs(4711).unwrap(), [].into(), "there is no such device");

        assert!(!pod.xdp);
        let program = load(XDP, &[instruction(MOVE, 0, 2), instruction(EXIT, 0, 0)]);
        let (mut xdp, mut body) = (Vec::new(), vec![0; 16]);
        body[4..8].copy_from_slice(&pod.index.to_ne_bytes());
        attribute(&mut xdp, 1, &program.as_raw_fd().to_ne_bytes());
        attribute(&mut body, libc::IFLA_XDP | libc::NLA_F_NESTED as u16, &xdp);
        rtnetlink(libc::RTM_SETLINK, 0, &body);
        assert!(devices.device(pod.index).unwrap().expect("a device").xdp);
    });
}

/// A pod's end of a cable, with everything else behind its node.
fn pod(cable: &str, addresses: [&str; 2], to: nix::unistd::Pid) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    set("ipv6/conf/default/accept_dad", "0");
    ip(&format!("link add eth0 address 02:00:00:00:00:fe type veth peer name {cable} address 02:00:00:00:00:fe netns {to}"));
    ip("link set eth0 up");
    for (own, node) in addresses.into_iter().zip(NODE) {
        let bits = if own.contains(':') { 128 } else { 32 };
        ip(&format!("addr add {own}/{bits} dev eth0"));
        ip(&format!("route add {node} dev eth0"));
        ip(&format!("neigh add {node} lladdr 02:00:00:00:00:fe dev eth0"));
        ip(&format!("route add default via {node}"));
    }
}

#[test]
fn a_forwarded_connection_is_known_and_a_redirected_one_is_not() {
    in_namespace(|| {
        set("ipv6/conf/default/accept_dad", "0");
        set("ipv4/ip_forward", "1");
        set("ipv6/conf/all/forwarding", "1");
        ip("link set lo up");
        for node in NODE {
            ip(&format!("addr add {node} dev lo"));
        }
        nft_file("table inet t { chain c { type filter hook forward priority 0; ct state established accept; }; }");
        let here = gettid();
        let (listening, is_listening) = mpsc::channel();
        std::thread::spawn(move || {
            pod("server", SERVER, here);
            let listener = TcpListener::bind("[::]:80").unwrap();
            listening.send(()).unwrap();
            let _open: Vec<_> = listener.incoming().collect();
        });
        is_listening.recv().unwrap();
        let (ask, asked) = mpsc::channel::<IpAddr>();
        let (answer, answers) = mpsc::channel();
        std::thread::spawn(move || {
            pod("client", CLIENT, here);
            answer.send(true).unwrap();
            for address in asked {
                answer.send(TcpStream::connect_timeout(&SocketAddr::new(address, 80), Duration::from_secs(2)).is_ok()).unwrap();
            }
        });
        answers.recv().unwrap();
        for (cable, addresses) in [("server", SERVER), ("client", CLIENT)] {
            ip(&format!("link set {cable} up"));
            for address in addresses {
                ip(&format!("route add {address} dev {cable}"));
                ip(&format!("neigh add {address} lladdr 02:00:00:00:00:fe dev {cable}"));
            }
        }
        let reaches = |address: &str| {
            ask.send(address.parse().unwrap()).unwrap();
            answers.recv().unwrap()
        };
        let mut devices = Devices::open().unwrap();
        let partners = |address: &str| -> Vec<String> {
            Connections::open().unwrap().partners(address.parse().unwrap()).unwrap().iter().map(IpAddr::to_string).collect()
        };
        let (server, client) = (devices.named("server").unwrap().unwrap().index, devices.named("client").unwrap().unwrap().index);

        // With this namespace itself: known, and not forwarded.
        assert!(TcpStream::connect_timeout(&SocketAddr::new(SERVER[0].parse().unwrap(), 80), Duration::from_secs(2)).is_ok());
        let [partner] = &partners(SERVER[0])[..] else { panic!("{:?}", partners(SERVER[0])) };
        assert!(devices.route(partner.parse().unwrap()).unwrap().expect("a way").local);

        // Each end's program sends everything to the other: the connection works, and netfilter does not see it.
        for (from, to) in [(server, client), (client, server)] {
            let device = devices.device(from).unwrap().unwrap().name;
            tc(&["qdisc", "add", "dev", &device, "clsact"]);
            let redirect = [instruction(MOVE, 1, to as i32), instruction(MOVE, 2, 0), instruction(CALL, 0, 23), instruction(EXIT, 0, 0)];
            filter(from, &load(SCHED_CLS, &redirect), "redirect");
        }
        for address in SERVER {
            assert!(reaches(address), "{address}");
        }
        assert_eq!(CLIENT.map(&partners), [vec![], vec![]] as [Vec<String>; 2]);

        for device in ["server", "client"] {
            tc(&["qdisc", "delete", "dev", device, "clsact"]);
        }
        for (server, client) in SERVER.into_iter().zip(CLIENT) {
            assert!(reaches(server), "{server}");
            assert_eq!(partners(client), [server]);
            assert!(partners(server).contains(&client.to_owned()));
            let route = devices.route(server.parse().unwrap()).unwrap().expect("a way");
            assert!(route.single && !route.local);
        }
    });
}
