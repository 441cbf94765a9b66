//! Which bridge leads to an address, and whether it shows its packets to nftables (rtnetlink).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::attribute::{attribute, attributes, half, text, word};

// linux/if_link.h: IFLA_BR_*, which libc lacks.
const NF_CALL_IPTABLES: u16 = 36;
const NF_CALL_IP6TABLES: u16 = 37;

/// nlmsghdr, rtmsg and ifinfomsg, in bytes.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const LINK: usize = 16;
/// One device with all its statistics is a few KiB.
const BUFFER: usize = 64 * 1024;

/// The routes and devices of one network namespace.
#[derive(Debug)]
pub struct Devices {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
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
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        // The kernel answers within `send`: this is for a kernel that does not answer at all.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        Ok(Devices { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// The number of the device through which packets to an address leave; none where there is no way to it.
    pub fn towards(&mut self, address: IpAddr) -> io::Result<Option<u32>> {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
        };
        let mut body = vec![0; ROUTE];
        body[0] = family as u8;
        body[1] = (octets.len() * 8) as u8;
        attribute(&mut body, libc::RTA_DST, &octets);
        match self.ask(libc::RTM_GETROUTE, 0, &body) {
            Ok(answer) => Ok(attributes(answer.get(ROUTE..)).find(|(kind, _)| *kind == libc::RTA_OIF).map(|(_, value)| word(value))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The bridge that is the device of this number; none where that is something else, or gone.
    pub fn bridge(&mut self, index: u32) -> io::Result<Option<Bridge>> {
        let answer = match self.ask(libc::RTM_GETLINK, 0, &link(index)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answer => answer?,
        };
        let device = answer.get(LINK..);
        let Some(info) = attributes(device).find(|(kind, _)| *kind == libc::IFLA_LINKINFO).map(|(_, info)| info) else { return Ok(None) };
        if !attributes(Some(info)).any(|(kind, value)| kind == libc::IFLA_INFO_KIND && text(value) == "bridge") {
            return Ok(None);
        }
        let name = attributes(device).find(|(kind, _)| *kind == libc::IFLA_IFNAME).map_or_else(String::new, |(_, name)| text(name));
        let data = attributes(Some(info)).find(|(kind, _)| *kind == libc::IFLA_INFO_DATA).map(|(_, data)| data);
        let is_on = |switch: u16| attributes(data).any(|(kind, value)| kind == switch && value.first().is_some_and(|value| *value != 0));
        Ok(Some(Bridge { index, name, v4: is_on(NF_CALL_IPTABLES), v6: is_on(NF_CALL_IP6TABLES) }))
    }

    /// Makes a bridge show its packets of both families. Needs no more than CAP_NET_ADMIN, and concerns this bridge alone.
    pub fn show_packets(&mut self, bridge: &Bridge) -> io::Result<()> {
        let (mut switches, mut info, mut body) = (Vec::new(), Vec::new(), link(bridge.index));
        attribute(&mut switches, NF_CALL_IPTABLES, &[1]);
        attribute(&mut switches, NF_CALL_IP6TABLES, &[1]);
        attribute(&mut info, libc::IFLA_INFO_KIND, b"bridge");
        attribute(&mut info, libc::IFLA_INFO_DATA, &switches);
        attribute(&mut body, libc::IFLA_LINKINFO, &info);
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).map(drop)
    }

    /// Sends one message; what follows the header of the one that answers.
    fn ask(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            let (header, answer) = self.buffer[..length].split_at_checked(HEADER).ok_or(io::ErrorKind::UnexpectedEof)?;
            // What answers an earlier question that was given up.
            if word(&header[8..]) != self.sequence {
                continue;
            }
            if i32::from(half(&header[4..])) != libc::NLMSG_ERROR {
                return Ok(answer.to_vec());
            }
            return match word(answer) as i32 {
                0 => Ok(Vec::new()),
                error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
            };
        }
    }
}

/// The header of a message about one device.
fn link(index: u32) -> Vec<u8> {
    let mut body = vec![0; LINK];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}
