//! Who has which address. The same in every cluster: each has namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// One place with an address in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dual {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// Both, IPv4 first.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The control plane, and the nodes' gateway to the world.
pub const CONTROL_PLANE: Dual = Dual { v4: Ipv4Addr::new(10, 99, 0, 1), v6: Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1) };
/// The port of kube-apiserver.
pub const API_PORT: u16 = 6443;
/// The world's gateway to the cluster.
pub const WORLD_GATEWAY: Dual = Dual { v4: Ipv4Addr::new(203, 0, 113, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1) };
/// How many addresses the world has.
pub const WORLD_CLIENTS: u8 = 6;
/// The services' addresses; the first one of each family is the API server's.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:96::/112";
/// All pods.
pub const POD_CIDRS: &str = "10.244.0.0/16,fd00:244::/32";

/// The address of node `index` (from 0).
pub fn node(index: u8) -> Dual {
    let last = 11 + index;
    Dual { v4: Ipv4Addr::new(10, 99, 0, last), v6: Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, hex_digits(last)) }
}

/// The address of client `index` (from 0) of the world: 203.0.113.10 and 2001:db8:113::10 are the first.
pub fn world(index: u8) -> Dual {
    let last = 10 + index;
    Dual { v4: Ipv4Addr::new(203, 0, 113, last), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, hex_digits(last)) }
}

/// The addresses of the pods of node `index` (from 0).
pub fn pods(index: u8) -> (Ipv4Net, Ipv6Net) {
    let number = index + 1;
    let v4 = Ipv4Addr::new(10, 244, number, 0);
    let v6 = Ipv6Addr::new(0xfd00, 0x244, u16::from(number), 0, 0, 0, 0, 0);
    (Ipv4Net::new_assert(v4, 24), Ipv6Net::new_assert(v6, 64))
}

/// 11 → 0x11: the last part of both addresses looks the same when printed.
fn hex_digits(decimal: u8) -> u16 {
    let decimal = u16::from(decimal);
    decimal / 10 * 16 + decimal % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_alike_in_both_families() {
        assert_eq!(format!("{} {}", node(0).v4, node(0).v6), "10.99.0.11 fd00:99::11");
        assert_eq!(format!("{} {}", world(5).v4, world(5).v6), "203.0.113.15 2001:db8:113::15");
        assert_eq!(format!("{} {}", pods(1).0, pods(1).1), "10.244.2.0/24 fd00:244:2::/64");
    }
}
