//! Which way leads to an address, and what is on it: whether nftables sees the packets that go there (rtnetlink).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use crate::attribute::{attribute, attributes, text, word};
use crate::plain::Plain;

// What libc lacks. linux/if_link.h: IFLA_BR_* and IFLA_XDP_ATTACHED.
const NF_CALL_IPTABLES: u16 = 36;
const NF_CALL_IP6TABLES: u16 = 37;
const XDP_ATTACHED: u16 = 2;
// linux/pkt_sched.h: TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS; a qdisc of the kind ingress answers to the first as well.
const FILTERS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
// linux/pkt_cls.h: TCA_BPF_NAME, TCA_BPF_TAG, TCA_BPF_ID. What has none of them is a classic BPF program, which redirects nothing.
const BPF_NAME: u16 = 7;
const EBPF: [u16; 3] = [BPF_NAME, 10, 11];
// linux/rtnetlink.h
const FIB_MATCH: u32 = 0x2000;

/// rtmsg, ifinfomsg and tcmsg, in bytes.
const ROUTE: usize = 12;
const LINK: usize = 16;
const FILTER: usize = 20;

/// The routes and devices of one network namespace.
#[derive(Debug)]
pub struct Devices {
    netlink: Plain,
}

/// The way on which packets to an address leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The number of the device.
    pub device: u32,
    /// By way of another machine.
    pub gateway: bool,
    /// It leads to this one address and to no network.
    pub single: bool,
    /// The address is one of this namespace.
    pub local: bool,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `openvswitch` …; empty where it is none that a program has made.
    pub kind: String,
    /// The number of the device that it is a port of.
    pub master: Option<u32>,
    /// An XDP program is attached to it.
    pub xdp: bool,
    /// Of a bridge: by its own switches it shows its IPv4 and its IPv6 packets to nftables.
    pub shows: (bool, bool),
}

/// A Linux bridge, and which packets between its ports it shows to nftables' inet tables by its own switches. `net.bridge.*` of the
/// namespace does the same for all bridges; either suffices, where the kernel has br_netfilter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// IPv4 packets: `nf_call_iptables`.
    pub v4: bool,
    /// IPv6 packets: `nf_call_ip6tables`.
    pub v6: bool,
}

impl Devices {
    /// Opens a socket, in the network namespace that the calling thread is in; it stays with that namespace.
    pub fn open() -> io::Result<Devices> {
        Ok(Devices { netlink: Plain::open(SockProtocol::NetlinkRoute)? })
    }

    /// The way to an address; none where there is no way to it.
    pub fn route(&mut self, address: IpAddr) -> io::Result<Option<Route>> {
        let found = |answer: &[u8]| {
            let has = |wanted: u16| attributes(answer.get(ROUTE..)).any(|(kind, _)| kind == wanted);
            let device = attributes(answer.get(ROUTE..)).find(|(kind, _)| *kind == libc::RTA_OIF).map(|(_, value)| word(value))?;
            let gateway = has(libc::RTA_GATEWAY) || has(libc::RTA_VIA);
            Some(Route { device, gateway, single: false, local: answer.get(7) == Some(&libc::RTN_LOCAL) })
        };
        let Some(route) = self.look_up(address, 0)?.and_then(|answer| found(&answer)) else { return Ok(None) };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let single = self.look_up(address, FIB_MATCH)?.is_some_and(|answer| answer.get(1) == Some(&bits));
        Ok(Some(Route { single, ..route }))
    }

    fn look_up(&mut self, address: IpAddr, flags: u32) -> io::Result<Option<Vec<u8>>> {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
        };
        let mut body = vec![0; ROUTE];
        body[0] = family as u8;
        body[1] = (octets.len() * 8) as u8;
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        attribute(&mut body, libc::RTA_DST, &octets);
        match self.netlink.ask(libc::RTM_GETROUTE, 0, &body) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The device of this number; none where it is gone.
    pub fn device(&mut self, index: u32) -> io::Result<Option<Device>> {
        self.ask_device(&link(index))
    }

    /// The device of this name.
    pub fn named(&mut self, name: &str) -> io::Result<Option<Device>> {
        let mut body = link(0);
        attribute(&mut body, libc::IFLA_IFNAME, name.as_bytes());
        self.ask_device(&body)
    }

    fn ask_device(&mut self, body: &[u8]) -> io::Result<Option<Device>> {
        let answer = match self.netlink.ask(libc::RTM_GETLINK, 0, body) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answer => answer?,
        };
        let mut device = Device { index: answer.get(4..).map_or(0, word), ..Device::default() };
        for (kind, value) in attributes(answer.get(LINK..)) {
            match kind {
                libc::IFLA_IFNAME => device.name = text(value),
                libc::IFLA_MASTER => device.master = Some(word(value)),
                libc::IFLA_XDP => device.xdp = is_on(Some(value), XDP_ATTACHED),
                libc::IFLA_LINKINFO => {
                    let of = |wanted: u16| attributes(Some(value)).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                    device.kind = of(libc::IFLA_INFO_KIND).map_or_else(String::new, text);
                    let data = of(libc::IFLA_INFO_DATA).filter(|_| device.kind == "bridge");
                    device.shows = (is_on(data, NF_CALL_IPTABLES), is_on(data, NF_CALL_IP6TABLES));
                }
                _ => {}
            }
        }
        Ok(Some(device))
    }

    /// The bridge that is the device of this number; none where that is something else, or gone.
    pub fn bridge(&mut self, index: u32) -> io::Result<Option<Bridge>> {
        let device = self.device(index)?.filter(|device| device.kind == "bridge");
        Ok(device.map(|Device { index, name, shows: (v4, v6), .. }| Bridge { index, name, v4, v6 }))
    }

    /// The names of the eBPF programs that traffic control runs on packets of a device (`tc filter show`). Those that are attached by tcx
    /// (Linux 6.6) are not among them: only bpf(2) tells of these, which a container without CAP_BPF may not call.
    pub fn programs(&mut self, index: u32) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for parent in FILTERS {
            let mut body = vec![0; FILTER];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            body[12..16].copy_from_slice(&parent.to_ne_bytes());
            self.netlink.list(libc::RTM_GETTFILTER, &body, |filter| {
                let options = attributes(filter.get(FILTER..)).find(|(kind, _)| *kind == libc::TCA_OPTIONS).map(|(_, value)| value);
                let is_bpf = attributes(filter.get(FILTER..)).any(|(kind, value)| kind == libc::TCA_KIND && text(value) == "bpf");
                if is_bpf && attributes(options).any(|(kind, _)| EBPF.contains(&kind)) {
                    let name = attributes(options).find(|(kind, _)| *kind == BPF_NAME);
                    names.insert(name.map_or_else(|| "without a name".into(), |(_, name)| text(name)));
                }
            })?;
        }
        Ok(names)
    }

    /// Makes a bridge show its packets of both families. Needs no more than CAP_NET_ADMIN, and concerns this bridge alone.
    pub fn show_packets(&mut self, bridge: &Bridge) -> io::Result<()> {
        let (mut switches, mut info, mut body) = (Vec::new(), Vec::new(), link(bridge.index));
        attribute(&mut switches, NF_CALL_IPTABLES, &[1]);
        attribute(&mut switches, NF_CALL_IP6TABLES, &[1]);
        attribute(&mut info, libc::IFLA_INFO_KIND, b"bridge");
        attribute(&mut info, libc::IFLA_INFO_DATA, &switches);
        attribute(&mut body, libc::IFLA_LINKINFO, &info);
        self.netlink.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).map(drop)
    }
}

/// Whether a byte among these attributes is there and not zero.
fn is_on(attributes_: Option<&[u8]>, switch: u16) -> bool {
    attributes(attributes_).any(|(kind, value)| kind == switch && value.first().is_some_and(|value| *value != 0))
}

/// The header of a message about one device.
fn link(index: u32) -> Vec<u8> {
    let mut body = vec![0; LINK];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}
