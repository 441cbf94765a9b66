//! Whether packets of the guarded pods pass this node's forwarding path, where the rules are: how each address is reached tells.
//!
//! A pod behind a Linux bridge, or behind a veth of its own to which one route leads, does; what is reached otherwise does not (macvlan,
//! ipvlan, SR-IOV, Open vSwitch). eBPF programs may send packets past netfilter, and whether they do cannot be read off them: theirs pass once
//! conntrack knows a forwarded connection of one of their pods, and until then nobody can tell. Two are known to forward some connections and
//! not others, so that one proves nothing: they are told by the devices that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use api::ReportedProblem;
use netlink::{Connections, Device, Devices, Route};
use policy::model::PodRef;
use runtime::condition::{Status, Wanted};

/// What makes eBPF programs forward packets themselves, and a device of the node that says that they are there.
const DATAPATHS: [(&str, Datapath); 3] =
    [("bpfin.cali", Datapath::Calico), ("bpfnatin", Datapath::Calico), ("cilium_host", Datapath::Cilium)];

/// A dataplane of eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// Redirects between pods, and forwards only what is to be masqueraded.
    Calico,
    /// Redirects between pods; with a route to each pod it may be set to forward instead (legacy host routing).
    Cilium,
}

/// How an address is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The way to it.
    pub route: Option<Route>,
    /// The device at its beginning.
    pub device: Option<Device>,
    /// What that is a port of.
    pub master: Option<Device>,
    /// The eBPF programs on that device.
    pub programs: BTreeSet<String>,
    /// Who else forwards on this node.
    pub datapath: Option<Datapath>,
}

/// What that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its packets pass the forwarding path.
    Forwarded,
    /// They do not.
    Past(Cause, String),
    /// Some do, if any.
    Perhaps(Cause, String),
    /// They do once one has been seen that did; what would be proven thereby of all that are reached like this.
    Unproven(String),
}

/// Why packets may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// No device of this node leads to the pod and to nobody else.
    NotForwardedHere,
    /// Open vSwitch switches packets itself.
    OpenVSwitch,
    /// eBPF programs forward packets themselves.
    EbpfForwarding,
    /// Something is on the way of which it is not known what it does.
    CannotTell,
}

/// From what was found to what it means.
pub fn judge(found: &Found) -> Way {
    let Found { route, device, master, programs, datapath } = found;
    let ours = route.is_some_and(|route| route.single && !route.gateway && !route.local);
    match datapath {
        Some(Datapath::Calico) => return Way::Past(Cause::EbpfForwarding, "Calico's eBPF dataplane redirects between pods".into()),
        Some(Datapath::Cilium) if ours => {
            let why = "Cilium's programs are on its device, and whether they forward by eBPF or by the kernel (legacy host routing) cannot be seen";
            return Way::Perhaps(Cause::EbpfForwarding, why.into());
        }
        Some(Datapath::Cilium) => return Way::Past(Cause::EbpfForwarding, "Cilium's programs redirect between pods".into()),
        None => {}
    }
    let (Some(route), Some(device)) = (route, device) else {
        return Way::Past(Cause::NotForwardedHere, "this node has no way to it".into());
    };
    let name = &device.name;
    if [Some(device), master.as_ref()].into_iter().flatten().any(|device| device.kind == "openvswitch") {
        return Way::Past(Cause::OpenVSwitch, format!("it is reached by {name} of Open vSwitch, which switches packets without nftables"));
    }
    match device.kind.as_str() {
        // What its ports send each other is another matter: see `bridge`.
        "bridge" if !route.gateway && !route.local => Way::Forwarded,
        "veth" if ours && programs.is_empty() && !device.xdp => Way::Forwarded,
        "veth" if ours && device.xdp => Way::Unproven("an XDP program".into()),
        "veth" if ours => Way::Unproven(format!("eBPF programs ({})", Vec::from_iter(programs.iter().map(String::as_str)).join(", "))),
        // Made by a program, and none that hides its peers.
        kind if ours && !["", "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan"].contains(&kind) => {
            Way::Unproven(format!("a device of the kind {kind}"))
        }
        _ => Way::Past(Cause::NotForwardedHere, format!("packets to it leave this node by {name}")),
    }
}

/// A guarded address whose packets may not meet the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Astray {
    /// They do not, rather than that it is not known.
    pub sure: bool,
    /// Why.
    pub cause: Cause,
    /// The same for people.
    pub why: String,
    /// The pod.
    pub pod: PodRef,
    /// Its address.
    pub address: IpAddr,
}

/// The guarded pods of this node, as far as the forwarding path is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Those whose packets may not meet the rules, one address each; those that surely do not first.
    pub astray: Vec<Astray>,
    /// It could not be found out.
    pub error: Option<String>,
}

/// Looks at how guarded addresses are reached.
#[derive(Debug)]
pub struct Ways {
    devices: Devices,
    known: BTreeMap<IpAddr, Way>,
    /// What lies on the way of pods of which a connection was forwarded.
    proven: BTreeSet<String>,
}

impl Ways {
    /// Of the network namespace that the calling thread is in.
    pub fn open() -> io::Result<Ways> {
        Ok(Ways { devices: Devices::open()?, known: BTreeMap::new(), proven: BTreeSet::new() })
    }

    /// How these are reached. Looks at those that are new or were astray, and with `again` at all of them.
    pub fn look(&mut self, guarded: &BTreeMap<IpAddr, PodRef>, again: bool) -> Passage {
        self.known.retain(|address, way| guarded.contains_key(address) && (again || *way == Way::Forwarded));
        match self.find_out(guarded, again) {
            Ok(astray) => Passage { astray, error: None },
            Err(error) => Passage { astray: Vec::new(), error: Some(error.to_string()) },
        }
    }

    fn find_out(&mut self, guarded: &BTreeMap<IpAddr, PodRef>, again: bool) -> io::Result<Vec<Astray>> {
        let mut datapath = None;
        for (name, known) in DATAPATHS {
            if datapath.is_none() && !guarded.is_empty() && self.devices.named(name)?.is_some() {
                datapath = Some(known);
            }
        }
        let mut found = BTreeMap::new();
        for address in guarded.keys() {
            let before = self.known.get(address).cloned();
            let way = match before.clone() {
                Some(way) if !again && datapath.is_none() => way,
                _ => judge(&self.found(*address, datapath)?),
            };
            // A pod does not move: one that was here and to which no way leads any more is about to go.
            let going = before == Some(Way::Forwarded) && matches!(way, Way::Past(Cause::NotForwardedHere, _));
            found.insert(*address, if going { Way::Forwarded } else { way });
        }
        self.prove(&found);
        let mut astray = BTreeMap::new();
        for (address, way) in &mut found {
            let (sure, cause, why) = match way {
                Way::Forwarded => continue,
                Way::Unproven(what) if self.proven.contains(what) => {
                    *way = Way::Forwarded;
                    continue;
                }
                Way::Past(cause, why) => (true, *cause, why.clone()),
                Way::Perhaps(cause, why) => (false, *cause, why.clone()),
                Way::Unproven(what) => {
                    (false, Cause::CannotTell, format!("{what} on its way, and no connection of such a pod has been forwarded yet"))
                }
            };
            let pod = guarded[address].clone();
            astray.entry(pod.clone()).or_insert(Astray { sure, cause, why, pod, address: *address });
        }
        self.known = found;
        let mut astray: Vec<_> = astray.into_values().collect();
        astray.sort_by(|a, b| (!a.sure, a).cmp(&(!b.sure, b)));
        Ok(astray)
    }

    /// Looks for connections of what is not proven yet. What cannot be found out is not proven.
    fn prove(&mut self, found: &BTreeMap<IpAddr, Way>) {
        let unproven = |(address, way): (&IpAddr, &Way)| match way {
            Way::Unproven(what) => Some((*address, what.clone())),
            _ => None,
        };
        for (address, what) in found.iter().filter_map(unproven) {
            if !self.proven.contains(&what)
                && self.has_been_forwarded(address).unwrap_or_else(|error| {
                    tracing::warn!(%error, "whether packets are forwarded cannot be read from conntrack");
                    false
                })
            {
                tracing::info!(%address, "{what}: packets are forwarded all the same");
                self.proven.insert(what);
            }
        }
    }

    /// A connection with this node itself is not forwarded.
    fn has_been_forwarded(&mut self, address: IpAddr) -> io::Result<bool> {
        for partner in Connections::open()?.partners(address)? {
            if partner != address && self.devices.route(partner)?.is_some_and(|route| !route.local) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn found(&mut self, address: IpAddr, datapath: Option<Datapath>) -> io::Result<Found> {
        let Some(route) = self.devices.route(address)? else { return Ok(Found { datapath, ..Found::default() }) };
        let device = self.devices.device(route.device)?;
        let master = device.as_ref().and_then(|device| device.master).map(|master| self.devices.device(master)).transpose()?.flatten();
        let programs = self.devices.programs(route.device)?;
        Ok(Found { route: Some(route), device, master, programs, datapath })
    }
}

/// How many a text names, and how many a report.
const NAMED: usize = 3;
const TOLD: usize = 20;

impl Passage {
    /// Whether rules may be in the kernel and yet not in force.
    pub fn escapes(&self) -> bool {
        !self.astray.is_empty() || self.error.is_some()
    }

    /// Whether it may be found out by waiting.
    pub fn is_open(&self) -> bool {
        self.astray.iter().any(|astray| !astray.sure) || self.error.is_some()
    }

    fn reason(&self) -> &'static str {
        match self.astray.first() {
            Some(astray) => reason(astray.cause),
            None if self.error.is_some() => reason(Cause::CannotTell),
            None => "Filtered",
        }
    }

    /// What is so.
    pub fn message(&self) -> String {
        if let Some(error) = &self.error {
            return format!("whether packets of guarded pods pass this node's forwarding path cannot be found out: {error}");
        }
        let Some(first) = self.astray.first() else {
            return "packets of all guarded pods pass this node's forwarding path, by all that can be seen from here".into();
        };
        let names: Vec<String> = self.astray.iter().take(NAMED).map(|astray| format!("{} ({})", astray.pod, astray.why)).collect();
        let more = if self.astray.len() > NAMED { format!(" and {} more", self.astray.len() - NAMED) } else { String::new() };
        let may = if first.sure { "pass beside the rules" } else { "may pass beside the rules" };
        format!("packets of these pods {may}: {}{more}", names.join(", "))
    }

    /// The condition of the node's report.
    pub fn condition(&self) -> Wanted {
        let status = match self.astray.first() {
            Some(astray) if astray.sure => Status::False,
            None if self.error.is_none() => Status::True,
            _ => Status::Unknown,
        };
        Wanted { type_: api::condition::TRAFFIC_FILTERED, status, reason: self.reason().into(), message: self.message() }
    }

    /// Puts what it has to say among the problems, in place of what an earlier look said.
    pub fn tell(&self, problems: &mut Vec<ReportedProblem>) {
        let ours = [Cause::NotForwardedHere, Cause::OpenVSwitch, Cause::EbpfForwarding, Cause::CannotTell].map(reason);
        problems.retain(|problem| !(problem.object.starts_with("Pod ") && ours.contains(&problem.reason.as_str())));
        problems.extend(self.astray.iter().take(TOLD).map(|astray| ReportedProblem {
            object: format!("Pod {}", astray.pod),
            rule: String::new(),
            reason: reason(astray.cause).into(),
            message: format!("{}: {}", astray.address, astray.why),
        }));
        problems.sort();
    }
}

fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::NotForwardedHere => "NotForwardedHere",
        Cause::OpenVSwitch => "OpenVSwitch",
        Cause::EbpfForwarding => "EbpfForwarding",
        Cause::CannotTell => "CannotTell",
    }
}
