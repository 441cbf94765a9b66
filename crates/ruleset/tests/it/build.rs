//! Policies in few words.

use std::net::IpAddr;
use std::sync::Arc;

use api::OnDeny;
use policy::model::*;

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn addresses<T: FromIterator<IpAddr>>(texts: &[&str]) -> T {
    texts.iter().copied().map(address).collect()
}

/// `shop/web`
pub fn group(text: &str) -> GroupRef {
    let (namespace, name) = text.split_once('/').unwrap();
    GroupRef { namespace: namespace.into(), name: name.into() }
}

/// `shop/web-0`
pub fn pod(text: &str) -> PodRef {
    let (namespace, name) = text.split_once('/').unwrap();
    PodRef { namespace: namespace.into(), name: name.into() }
}

/// `pl/shop/offices`, a network, or else a group.
pub fn peer(text: &str) -> Peer {
    match text.strip_prefix("pl/") {
        Some(name) => Peer::PrefixList(list(name)),
        None => text.parse().map_or_else(|_| Peer::Group(group(text)), Peer::Net),
    }
}

/// `shop/offices`
pub fn list(text: &str) -> PrefixListRef {
    let GroupRef { namespace, name } = group(text);
    PrefixListRef { namespace, name }
}

pub fn rule(id: &str, traffic: Traffic, far: &str) -> Rule {
    Rule { traffic, peer: peer(far), id: format!("sgr-{id}") }
}

pub const fn tcp(port: u16) -> Traffic {
    ports(Transport::Tcp, port, port)
}

pub const fn ports(transport: Transport, from: u16, to: u16) -> Traffic {
    Traffic::Transport(transport, Some(PortRange { from, to }))
}

pub const fn icmp(family: Family, kind: Option<u8>, code: Option<u8>) -> Traffic {
    Traffic::Icmp { family, kind, code }
}

/// Adds to a policy and hands it back.
pub trait Build {
    fn pod(self, name: &str, addresses: &[&str], groups: &[&str]) -> Self;
    fn rejecting_pod(self, name: &str, addresses: &[&str], groups: &[&str]) -> Self;
    fn group(self, name: &str, ingress: &[Rule], egress: &[Rule]) -> Self;
    fn members(self, name: &str, addresses: &[&str]) -> Self;
    fn prefix_list(self, name: &str, entries: &[&str]) -> Self;
}

impl Build for NodePolicy {
    fn pod(mut self, name: &str, own: &[&str], groups: &[&str]) -> Self {
        let groups = groups.iter().copied().map(group).collect();
        self.endpoints.insert(pod(name), Endpoint { addresses: addresses(own), groups, on_deny: OnDeny::Drop, closed: false });
        self
    }

    fn rejecting_pod(self, name: &str, own: &[&str], groups: &[&str]) -> Self {
        let mut policy = self.pod(name, own, groups);
        policy.endpoints.get_mut(&pod(name)).unwrap().on_deny = OnDeny::Reject;
        policy
    }

    fn group(mut self, name: &str, ingress: &[Rule], egress: &[Rule]) -> Self {
        let set = |rules: &[Rule]| rules.iter().cloned().collect();
        self.groups.insert(group(name), GroupRules { ingress: set(ingress), egress: set(egress) }.into());
        self
    }

    fn members(mut self, name: &str, of: &[&str]) -> Self {
        self.members.insert(group(name), addresses(of));
        self
    }

    fn prefix_list(mut self, name: &str, entries: &[&str]) -> Self {
        self.prefix_lists.insert(list(name), Arc::new(entries.iter().map(|net| net.parse().unwrap()).collect()));
        self
    }
}

/// The AWS article's picture on one node: the world reaches web, web reaches app, both reach db, bastion reaches app and db by SSH.
pub fn three_tier() -> NodePolicy {
    let anywhere = [rule("e4", Traffic::All, "0.0.0.0/0"), rule("e6", Traffic::All, "::/0")];
    let ssh = rule("55", tcp(22), "shop/bastion");
    NodePolicy::default()
        .pod("shop/web-0", &["10.2.0.2", "fd00:2::2"], &["shop/web"])
        .pod("shop/app-0", &["10.2.0.3", "fd00:2::3"], &["shop/app"])
        .pod("shop/db-0", &["10.2.0.4", "fd00:2::4"], &["shop/db"])
        .group("shop/web", &[rule("a1", tcp(80), "0.0.0.0/0"), rule("a2", tcp(443), "0.0.0.0/0"), rule("a3", tcp(80), "::/0")], &anywhere)
        .group("shop/app", &[rule("b1", tcp(8080), "shop/web"), ssh.clone()], &anywhere)
        .group("shop/db", &[rule("c1", tcp(5432), "shop/web"), rule("c2", tcp(5432), "shop/app"), ssh], &anywhere)
        .members("shop/web", &["10.2.0.2", "fd00:2::2", "10.3.0.2", "fd00:3::2"])
        .members("shop/app", &["10.2.0.3", "fd00:2::3"])
        .members("shop/bastion", &["10.3.0.9", "fd00:3::9"])
}
