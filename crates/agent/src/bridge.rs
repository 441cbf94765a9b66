//! Pods of one node on one Linux bridge: what they send each other passes nftables' forward hook only by br_netfilter.
//!
//! Looked at when the addresses of guarded pods change, and when the table is read again. The remedy is the bridge's own switch, which needs
//! nothing but CAP_NET_ADMIN and concerns that bridge alone; the sysctls of the node concern all its bridges and are the administrator's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api::ReportedProblem;
use netlink::{Bridge, Devices};
use policy::model::PodRef;
use runtime::condition::{Status, Wanted};

/// Where the sysctls are; absent without br_netfilter.
const SYSCTLS: &str = "/proc/sys/net/bridge";
const V4: &str = "bridge-nf-call-iptables";
const V6: &str = "bridge-nf-call-ip6tables";

/// Same-node traffic of guarded pods, as far as bridges are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bridging {
    /// Not looked at yet, or no guarded pod is on a bridge.
    #[default]
    None,
    /// These bridges show their packets to the rules.
    Filtered(BTreeSet<String>),
    /// These do not, for this reason.
    Escapes(BTreeSet<String>, Cause),
    /// It could not be found out.
    Unknown(String),
}

/// Why packets on a bridge meet no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel has no br_netfilter (loaded).
    NoModule,
    /// It has, and it is off.
    Off,
}

/// What the kernel says of all bridges: the sysctls, IPv4 first; none without br_netfilter.
pub type Sysctls = Option<(bool, bool)>;

/// From what was found to what it means.
pub fn judge(bridges: &BTreeSet<Bridge>, sysctls: Sysctls) -> Bridging {
    let names = |bridges: Vec<&Bridge>| bridges.into_iter().map(|bridge| bridge.name.clone()).collect::<BTreeSet<String>>();
    if bridges.is_empty() {
        return Bridging::None;
    }
    let Some((v4, v6)) = sysctls else { return Bridging::Escapes(names(bridges.iter().collect()), Cause::NoModule) };
    let open: Vec<&Bridge> = bridges.iter().filter(|bridge| !(bridge.v4 || v4) || !(bridge.v6 || v6)).collect();
    if open.is_empty() { Bridging::Filtered(names(bridges.iter().collect())) } else { Bridging::Escapes(names(open), Cause::Off) }
}

/// The sysctls below this folder.
fn sysctls(folder: &Path) -> io::Result<Sysctls> {
    if !folder.exists() {
        return Ok(None);
    }
    let is_on = |name| std::fs::read_to_string(folder.join(name)).map(|text| text.trim() != "0");
    Ok(Some((is_on(V4)?, is_on(V6)?)))
}

/// Looks at this node's bridges, and switches them where it may.
#[derive(Debug)]
pub struct Bridges {
    devices: Devices,
    sysctls: PathBuf,
    /// Whether to switch them, or only to say that they are off.
    set: bool,
    seen: BTreeMap<IpAddr, PodRef>,
    bridging: Bridging,
}

impl Bridges {
    /// Of the network namespace that the calling thread is in.
    pub fn open(set: bool) -> io::Result<Bridges> {
        let devices = Devices::open()?;
        Ok(Bridges { devices, sysctls: SYSCTLS.into(), set, seen: BTreeMap::new(), bridging: Bridging::None })
    }

    /// Where the guarded pods with these addresses are. Looks anew if they are others than last time, or with `again`.
    pub fn look(&mut self, addresses: &BTreeMap<IpAddr, PodRef>, again: bool) -> Bridging {
        if again || self.seen != *addresses || matches!(self.bridging, Bridging::Unknown(_)) {
            self.bridging = self.find_out(addresses).unwrap_or_else(|error| Bridging::Unknown(error.to_string()));
            self.seen.clone_from(addresses);
        }
        self.bridging.clone()
    }

    fn find_out(&mut self, addresses: &BTreeMap<IpAddr, PodRef>) -> io::Result<Bridging> {
        let found = self.bridges(addresses)?;
        let bridging = judge(&found, sysctls(&self.sysctls)?);
        let Bridging::Escapes(names, Cause::Off) = &bridging else { return Ok(bridging) };
        if !self.set {
            return Ok(bridging);
        }
        for bridge in found.iter().filter(|bridge| names.contains(&bridge.name)) {
            self.devices.show_packets(bridge)?;
            tracing::info!(
                bridge = bridge.name,
                "its packets are shown to the rules from now on: {V4} and {V6} of this node are not both on"
            );
        }
        // A kernel built without br_netfilter takes the switch and ignores it.
        Ok(judge(&self.bridges(addresses)?, sysctls(&self.sysctls)?))
    }

    /// The bridges that lead to these addresses.
    fn bridges(&mut self, addresses: &BTreeMap<IpAddr, PodRef>) -> io::Result<BTreeSet<Bridge>> {
        let mut devices = BTreeSet::new();
        for address in addresses.keys() {
            devices.extend(self.devices.route(*address)?.map(|route| route.device));
        }
        let mut bridges = BTreeSet::new();
        for device in devices {
            bridges.extend(self.devices.bridge(device)?);
        }
        Ok(bridges)
    }
}

/// Of what kind of object a problem is that this module reports.
const BRIDGE: &str = "Bridge";

impl Bridging {
    /// Whether rules may be in the kernel and yet not in force between pods of this node.
    pub fn escapes(&self) -> bool {
        matches!(self, Bridging::Escapes(..) | Bridging::Unknown(_))
    }

    /// How many bridges let packets pass unseen.
    pub fn escaping(&self) -> usize {
        if let Bridging::Escapes(names, _) = self { names.len() } else { 0 }
    }

    fn reason(&self) -> &'static str {
        match self {
            Bridging::None => "NoBridge",
            Bridging::Filtered(_) => "Filtered",
            Bridging::Escapes(_, Cause::NoModule) => "BridgeNetfilterMissing",
            Bridging::Escapes(_, Cause::Off) => "BridgeNetfilterOff",
            Bridging::Unknown(_) => "CannotTell",
        }
    }

    /// What is so, and what to do about it.
    pub fn message(&self) -> String {
        let listed = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Bridging::None => "no guarded pod of this node is on a Linux bridge".into(),
            Bridging::Filtered(names) => format!("what pods of this node send each other over {} meets the rules", listed(names)),
            Bridging::Escapes(names, cause) => {
                let remedy = match cause {
                    Cause::NoModule => {
                        format!(
                            "load br_netfilter on the node (modprobe br_netfilter) and see that net.bridge.{V4} and net.bridge.{V6} are 1"
                        )
                    }
                    Cause::Off => format!(
                        "set both on the node (sysctl -w net.bridge.{V4}=1 net.bridge.{V6}=1), or let the agent do it for its pods' bridges alone \
                         (--set-bridge-netfilter=true)"
                    ),
                };
                format!("what pods of this node send each other over {} passes without meeting a rule: {remedy}", listed(names))
            }
            Bridging::Unknown(error) => {
                format!("whether what pods of this node send each other meets the rules cannot be found out: {error}")
            }
        }
    }

    /// The condition of the node's report.
    pub fn condition(&self) -> Wanted {
        let status = match self {
            Bridging::None | Bridging::Filtered(_) => Status::True,
            Bridging::Escapes(..) => Status::False,
            Bridging::Unknown(_) => Status::Unknown,
        };
        Wanted { type_: api::condition::BRIDGE_TRAFFIC_FILTERED, status, reason: self.reason().into(), message: self.message() }
    }

    /// Puts what it has to say among the problems, in place of what an earlier look said.
    pub fn tell(&self, problems: &mut Vec<ReportedProblem>) {
        problems.retain(|problem| problem.object.split(' ').next() != Some(BRIDGE));
        let names = match self {
            Bridging::Escapes(names, _) => names.iter().map(|name| format!("{BRIDGE} {name}")).collect(),
            Bridging::Unknown(_) => vec![BRIDGE.into()],
            _ => vec![],
        };
        problems.extend(names.into_iter().map(|object| ReportedProblem {
            object,
            rule: String::new(),
            reason: self.reason().into(),
            message: self.message(),
        }));
        problems.sort();
    }
}
