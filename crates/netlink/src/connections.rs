//! Whether the kernel has forwarded a connection of an address: conntrack knows only what passed netfilter.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockProtocol;

use crate::attribute::{attribute, attributes};
use crate::plain::Plain;

// linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK, and CTA_*.
const GET: u16 = 0x0100 | 1;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ADDRESSES: u16 = 1;
const V4_SOURCE: u16 = 1;
const V6_SOURCE: u16 = 3;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// Of the filter: the source alone, in the tuple of this number.
const SOURCE_ALONE: u32 = 1;
/// nfgenmsg, in bytes.
const GENERIC: usize = 4;

/// The connections of one network namespace.
#[derive(Debug)]
pub struct Connections {
    netlink: Plain,
}

impl Connections {
    /// Opens a socket, in the network namespace that the calling thread is in.
    pub fn open() -> io::Result<Connections> {
        Ok(Connections { netlink: Plain::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// With whom this address has a connection, whoever opened it. The kernel keeps an entry only once its first packet has left netfilter's
    /// last hook: if the other end is another machine or pod, it has been forwarded. Entries of a zone are somebody else's, as Open vSwitch's.
    pub fn partners(&mut self, address: IpAddr) -> io::Result<Vec<IpAddr>> {
        let mut partners = Vec::new();
        for tuple in [ORIGINAL, REPLY] {
            // Where a Service was asked, the reply's source is who answered.
            let other = if tuple == ORIGINAL { REPLY } else { ORIGINAL };
            self.netlink.list(GET, &request(address, tuple), |entry| {
                let entry = entry.get(GENERIC..);
                // Older kernels than 5.8 ignore the filter.
                if source(entry, tuple) == Some(address) && !attributes(entry).any(|(kind, _)| kind == ZONE) {
                    partners.extend(source(entry, other));
                }
            })?;
        }
        Ok(partners)
    }
}

/// For the entries that have this source in this tuple, or more. Of IPv6 for all of them: there the kernel's filter lets pass what does not
/// match, and nothing else (seen on 6.18).
fn request(address: IpAddr, tuple: u16) -> Vec<u8> {
    let IpAddr::V4(v4) = address else { return vec![libc::AF_INET6 as u8, 0, 0, 0] };
    let (mut source, mut addresses, mut flags, mut body) = (Vec::new(), Vec::new(), Vec::new(), vec![libc::AF_INET as u8, 0, 0, 0]);
    attribute(&mut source, V4_SOURCE, &v4.octets());
    attribute(&mut addresses, ADDRESSES | libc::NLA_F_NESTED as u16, &source);
    attribute(&mut flags, tuple, &SOURCE_ALONE.to_ne_bytes());
    attribute(&mut body, tuple | libc::NLA_F_NESTED as u16, &addresses);
    attribute(&mut body, FILTER | libc::NLA_F_NESTED as u16, &flags);
    body
}

fn source(entry: Option<&[u8]>, tuple: u16) -> Option<IpAddr> {
    let within = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let addresses = within(within(entry, tuple), ADDRESSES);
    attributes(addresses).find_map(|(kind, value)| match kind {
        V4_SOURCE => value.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        V6_SOURCE => value.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()),
        _ => None,
    })
}
