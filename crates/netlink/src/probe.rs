//! What of our rulesets this kernel takes: found out by trying, not by its version.
//!
//! A try is a dry run: a batch without its end, which the kernel checks like any other and then takes back (`nft --check` does the same).
//! Nothing of it is ever in force, listed, or told to those who listen.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};
use policy::model::Family;
use ruleset::{Action, Base, Counter, CounterMap, CtStates, Hook, Match, Op, PortMap, Rule, Side, Transaction};

use crate::Nftables;
use crate::commit;
use crate::error::Error;
use crate::owner::Owner;

/// The table of the tries; ours stays as it is.
pub(crate) const TABLE: &str = "k8s-sg-probe";

/// Something that our rulesets need and this kernel does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What it is.
    pub feature: &'static str,
    /// What the kernel said.
    pub error: String,
    /// What provides it.
    pub provided_by: &'static str,
}

impl Unsupported {
    /// Whether, without it, there can be no table at all, and none has to be removed.
    pub fn is_all_there_is(&self) -> bool {
        [SOCKET, TABLES].contains(&self.feature)
    }
}

/// What the kernel does not take of what our rulesets consist of, in the network namespace that the calling thread is in; empty where it
/// takes all. An error is no answer to that question.
pub fn unsupported() -> Result<Vec<Unsupported>, Error> {
    match Nftables::open() {
        Ok(mut kernel) => kernel.unsupported(),
        Err(error) => refusal(&error).map(|error| vec![Unsupported { feature: SOCKET, error, provided_by: SOCKET_BY }]).ok_or(error),
    }
}

impl Nftables {
    /// The same by a socket that is open.
    pub fn unsupported(&mut self) -> Result<Vec<Unsupported>, Error> {
        let table = CString::new(TABLE).unwrap_or_default();
        lacking(|transaction| commit::check(&mut self.socket, &table, Owner::Anybody, transaction))
    }
}

/// All at once; where that is refused, one by one.
fn lacking(mut check: impl FnMut(&Transaction) -> Result<(), Error>) -> Result<Vec<Unsupported>, Error> {
    let features = features();
    let all = features.iter().flat_map(|feature| feature.ops.clone());
    let mut refused = |ops: Vec<Op>| match check(&Transaction { ops }) {
        Ok(()) => Ok(None),
        Err(error) => match refusal(&error) {
            Some(text) => Ok(Some(text)),
            None => Err(error),
        },
    };
    if refused(frame().into_iter().chain(all).collect())?.is_none() {
        return Ok(Vec::new());
    }
    let mut unsupported = Vec::new();
    for Feature { name, provided_by, ops } in features {
        if let Some(error) = refused(frame().into_iter().chain(ops).collect())? {
            unsupported.push(Unsupported { feature: name, error, provided_by });
            // Whatever else there is stands in a table.
            if name == TABLES {
                break;
            }
        }
    }
    Ok(unsupported)
}

/// What the kernel has against a try; none where it is no verdict on what was tried: no permission, no memory, no answer.
pub(crate) fn refusal(error: &Error) -> Option<String> {
    let lasting = |errno: i32| !matches!(errno, libc::EPERM | libc::EACCES | libc::ENOMEM | libc::ENOBUFS | libc::EINTR | libc::EAGAIN);
    match error {
        Error::Refused { first, .. } => lasting(first.errno).then(|| first.text.clone()),
        // Of the whole: there is no nftables at all.
        Error::RefusedWhole(source) => source.raw_os_error().is_some_and(lasting).then(|| error.to_string()),
        // No such protocol, or options of its sockets that came with Linux 4.12.
        Error::Open(source) => {
            let old = |errno| matches!(errno, libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOPROTOOPT);
            source.raw_os_error().is_some_and(old).then(|| format!("{error}: {source}"))
        }
        _ => None,
    }
}

struct Feature {
    name: &'static str,
    provided_by: &'static str,
    ops: Vec<Op>,
}

const SOCKET: &str = "netfilter's netlink sockets";
const SOCKET_BY: &str = "the kernel module nfnetlink (CONFIG_NETFILTER_NETLINK) of Linux 5.10 or newer";
const TABLES: &str = "tables of the inet family";
const CHAIN: &str = "probe";
const OTHER: &str = "other";

fn frame() -> Vec<Op> {
    vec![Op::AddTable, Op::AddChain(CHAIN.into(), None), Op::AddChain(OTHER.into(), None)]
}

fn rule(matches: Vec<Match>, action: Action) -> Op {
    Op::AddRule(CHAIN.into(), Rule { matches, counter: None, action })
}

fn ports(map: &str, ranges: bool) -> Vec<Op> {
    let element = (1, (if ranges { 2 } else { 1 }, OTHER.to_owned()));
    vec![
        Op::AddPortMap(map.into(), ranges),
        Op::AddPorts(map.into(), PortMap { ranges, elements: [element].into() }),
        rule(vec![Match::L4Proto(6)], Action::PortLookup(map.into())),
    ]
}

fn counted(ranges: bool) -> impl Fn(Family, &str, IpAddr, Side) -> Vec<Op> {
    move |family, name, address, side| {
        let (map, counter) = (format!("counted{name}{ranges}"), format!("counted{name}{ranges}"));
        let elements = OrdMap::unit(address, (address, counter.as_str().into()));
        vec![
            Op::AddCounter(counter),
            Op::AddCounterMap(map.clone(), family, ranges),
            Op::AddCounted(map.clone(), CounterMap { family, ranges, elements }),
            rule(vec![Match::CountedIn { side, family, map }], Action::Accept),
        ]
    }
}

/// The same in both families.
fn both(ops: impl Fn(Family, &str, IpAddr, Side) -> Vec<Op>) -> Vec<Op> {
    let mut v4 = ops(Family::V4, "4", Ipv4Addr::LOCALHOST.into(), Side::Source);
    v4.extend(ops(Family::V6, "6", Ipv6Addr::LOCALHOST.into(), Side::Destination));
    v4
}

/// Every kind of object, and every kind of match and action, that a ruleset may have. Names differ: they are also tried together.
fn features() -> Vec<Feature> {
    let feature = |name, provided_by, ops| Feature { name, provided_by, ops };
    let base = |name: &str, hook| {
        let jump = Rule { matches: vec![], counter: None, action: Action::Jump(CHAIN.into()) };
        [Op::AddChain(name.into(), Some(Base { hook, priority: -5 })), Op::AddRule(name.into(), jump)]
    };
    let states = CtStates { established: true, related: true, new: true, invalid: true, untracked: true };
    let count = Rule { matches: vec![], counter: Some("counter".into()), action: Action::Continue };
    let nf_tables = "the kernel module nf_tables (CONFIG_NF_TABLES) of Linux 5.10 or newer";
    vec![
        feature(TABLES, "the kernel module nf_tables (CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET)", vec![]),
        feature(
            "filter chains at input, forward and output",
            "CONFIG_NF_TABLES_INET",
            [base("input", Hook::Input), base("forward", Hook::Forward), base("output", Hook::Output)].concat(),
        ),
        feature("verdicts", nf_tables, {
            let actions = [Action::Accept, Action::Drop, Action::Return, Action::Jump(OTHER.into()), Action::Goto(OTHER.into())];
            actions.into_iter().map(|action| rule(vec![], action)).collect()
        }),
        feature(
            "named counters",
            "the kernel modules nf_tables and, before 5.18, nft_counter and nft_objref (CONFIG_NFT_COUNTER, CONFIG_NFT_OBJREF)",
            vec![
                Op::AddCounter("counter".into()),
                Op::ContinueCounter("counter-on".into(), Counter { packets: 1, bytes: 1 }),
                Op::AddRule(CHAIN.into(), count),
            ],
        ),
        feature(
            "sets of addresses",
            nf_tables,
            both(|family, name, address, side| {
                let set = format!("set{name}");
                vec![
                    Op::AddSet(set.clone(), family),
                    Op::AddElements(set.clone(), OrdSet::unit(address)),
                    rule(vec![Match::InSet { side, family, set }], Action::Accept),
                ]
            }),
        ),
        feature(
            "sets of networks (interval)",
            nf_tables,
            both(|family, name, address, side| {
                let set = format!("intervals{name}");
                vec![
                    Op::AddIntervalSet(set.clone(), family),
                    Op::AddIntervals(set.clone(), OrdMap::unit(address, address)),
                    rule(vec![Match::InSet { side, family, set }], Action::Accept),
                ]
            }),
        ),
        feature(
            "verdict maps of addresses",
            nf_tables,
            both(|family, name, address, side| {
                let map = format!("map{name}");
                vec![
                    Op::AddMap(map.clone(), family),
                    Op::AddMapElements(map.clone(), OrdMap::unit(address, OTHER.to_owned())),
                    rule(vec![], Action::Lookup { side, family, map }),
                ]
            }),
        ),
        feature(
            "maps of addresses to counters",
            "the kernel module nft_objref (CONFIG_NFT_OBJREF) before 5.18, nf_tables since",
            both(counted(false)),
        ),
        feature(
            "maps of networks to counters (interval)",
            "the kernel module nft_objref (CONFIG_NFT_OBJREF) before 5.18, nf_tables since",
            both(counted(true)),
        ),
        feature("verdict maps of ports", nf_tables, ports("ports", false)),
        feature("verdict maps of port ranges (interval)", nf_tables, ports("ranges", true)),
        feature(
            "ct state",
            "the kernel modules nft_ct and nf_conntrack (CONFIG_NFT_CT)",
            vec![rule(vec![Match::CtState(states)], Action::Accept)],
        ),
        feature("matches on interfaces, protocols, addresses, ports and ICMP types", nf_tables, {
            let ports = Match::DestinationPorts { from: 1, to: 2 };
            let icmp = |family, protocol| vec![Match::L4Proto(protocol), Match::IcmpType(family, 1), Match::IcmpCode(family, 1)];
            let net = |side, net: &str| net.parse().map(|net| vec![Match::InNet { side, net }]).unwrap_or_default();
            let matches = [
                vec![Match::FromLoopback],
                vec![Match::ToLoopback],
                vec![Match::Family(Family::V4)],
                vec![Match::Family(Family::V6)],
                vec![Match::L4Proto(17), Match::SourcePort(1), ports.clone()],
                vec![Match::L4Proto(132), ports],
                icmp(Family::V4, 1),
                icmp(Family::V6, 58),
                net(Side::Source, "192.0.2.0/25"),
                net(Side::Destination, "2001:db8::/33"),
            ];
            matches.into_iter().map(|matches| rule(matches, Action::Accept)).collect()
        }),
        feature(
            "reject",
            "the kernel module nft_reject_inet (CONFIG_NFT_REJECT)",
            vec![rule(vec![Match::L4Proto(6)], Action::RejectTcpReset), rule(vec![], Action::RejectAdminProhibited)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::Refusal;

    fn refuse(index: usize, op: &Op, errno: i32) -> Result<(), Error> {
        let first = Box::new(Refusal::new(index, op, errno, None));
        Err(Error::Refused { first, others: Vec::new(), complete: true })
    }

    /// A kernel that refuses some ops.
    fn without(lacks: impl Fn(&Op) -> bool) -> impl FnMut(&Transaction) -> Result<(), Error> {
        move |transaction| match transaction.ops.iter().enumerate().find(|(_, op)| lacks(op)) {
            Some((index, op)) => refuse(index, op, libc::EOPNOTSUPP),
            None => Ok(()),
        }
    }

    fn names(found: Result<Vec<Unsupported>, Error>) -> Vec<&'static str> {
        found.expect("an answer").into_iter().map(|unsupported| unsupported.feature).collect()
    }

    #[test]
    fn what_is_missing_is_found_and_nothing_else() {
        let uses = |op: &Op, wanted: fn(&Match) -> bool| matches!(op, Op::AddRule(_, rule) if rule.matches.iter().any(wanted));
        assert_eq!(names(lacking(|_| Ok(()))), [""; 0]);
        assert_eq!(names(lacking(without(move |op| uses(op, |m| matches!(m, Match::CtState(_)))))), ["ct state"]);
        let some = |op: &Op| matches!(op, Op::AddPortMap(_, true) | Op::AddIntervalSet(..) | Op::AddCounterMap(_, _, true));
        let intervals =
            ["sets of networks (interval)", "maps of networks to counters (interval)", "verdict maps of port ranges (interval)"];
        assert_eq!(names(lacking(without(some))), intervals);
        assert_eq!(names(lacking(without(|op| matches!(op, Op::AddTable)))), [TABLES], "nothing else can be told");
        let found = lacking(without(|op| matches!(op, Op::AddRule(_, rule) if rule.action == Action::RejectTcpReset))).expect("an answer");
        assert_eq!(found.len(), 1);
        assert!(found[0].error.contains("EOPNOTSUPP") && found[0].provided_by.contains("nft_reject_inet"), "{found:?}");
    }

    #[test]
    fn no_nftables_at_all_is_an_answer_and_no_permission_is_none() {
        let whole = |errno| move |_: &Transaction| Err(Error::RefusedWhole(io::Error::from_raw_os_error(errno)));
        assert_eq!(names(lacking(whole(libc::EOPNOTSUPP))), [TABLES]);
        assert!(lacking(whole(libc::EPERM)).is_err());
        assert!(lacking(|_| Err(Error::NoAnswer)).is_err());
        assert!(lacking(|transaction| refuse(0, &transaction.ops[0], libc::ENOMEM)).is_err());
    }

    /// The tries would prove nothing if a ruleset could have what they leave out.
    #[test]
    fn every_kind_of_op_match_and_action_of_a_ruleset_is_tried() {
        // The variant's name: what stands before its fields.
        let kind = |text: String| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        let mut tried = std::collections::BTreeSet::new();
        for op in frame().into_iter().chain(features().into_iter().flat_map(|feature| feature.ops)) {
            if let Op::AddRule(_, rule) = &op {
                tried.extend(rule.matches.iter().map(|condition| kind(format!("{condition:?}"))));
                tried.insert(kind(format!("{:?}", rule.action)));
            }
            tried.insert(kind(format!("{op:?}")));
        }
        let wanted = "AddTable AddCounter ContinueCounter AddSet AddElements AddIntervalSet AddIntervals AddMap AddMapElements AddPortMap AddPorts AddCounterMap AddCounted \
                      AddChain AddRule CtState Family L4Proto FromLoopback ToLoopback InSet CountedIn InNet DestinationPorts SourcePort IcmpType IcmpCode \
                      Accept Drop RejectTcpReset RejectAdminProhibited Jump Goto Return Lookup PortLookup Continue";
        assert_eq!(tried, wanted.split_whitespace().map(str::to_owned).collect());
    }
}
