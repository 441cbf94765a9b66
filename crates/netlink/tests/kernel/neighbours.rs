//! Others' tables and ours, and others' hands in ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netlink::Nftables;
use policy::model::Family;
use ruleset::{Kernel, Op, Ruleset, TABLE, Transaction};

use crate::namespace::{in_namespace, list, nft, nft_file};
use crate::rulesets::{addresses, everything, frame};

/// What others have on a node, with everything that we have not; one of the tables has our name in another family.
const OTHERS: &str = r#"
table inet other {
  counter c { packets 7 bytes 700 }
  set s {
    type ipv4_addr
    flags interval
    elements = { 10.0.0.0/8, 192.168.0.0-192.168.0.9 }
  }
  map m {
    type ipv4_addr . inet_service : verdict
    flags interval
    elements = { 10.0.0.1 . 80 : jump target }
  }
  chain target {
    limit rate 5/second counter accept comment "slowly"
  }
  chain forward {
    type filter hook forward priority -6; policy drop;
    ct state established accept
    ip daddr . tcp dport vmap @m
  }
}
table ip k8s-sg {
  chain forward {
    type filter hook forward priority -6; policy accept;
    tcp dport { 80, 443 } log prefix "x" drop
  }
}
table ip6 nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    masquerade
  }
}
table netdev ingress {
  chain lo {
    type filter hook ingress device "lo" priority 0; policy accept;
  }
}
table arp filter {
  chain in {
    type filter hook input priority 0; policy accept;
  }
}
table bridge filter {
  chain forward {
    type filter hook forward priority 0; policy accept;
  }
}
"#;
const OTHERS_TABLES: [&str; 6] = ["inet other", "ip k8s-sg", "ip6 nat", "netdev ingress", "arp filter", "bridge filter"];

/// With handles, which change where an object is made anew.
fn others() -> String {
    OTHERS_TABLES
        .iter()
        .map(|table| nft(&[&["-n", "-a", "list", "table"], table.split(' ').collect::<Vec<_>>().as_slice()].concat()))
        .collect()
}

fn open() -> Nftables {
    Nftables::open().expect("a netlink socket")
}

#[test]
fn others_tables_stay_byte_identical() {
    in_namespace(|| {
        nft_file(OTHERS);
        let before = others();
        let mut kernel = open();
        assert_eq!(kernel.load().expect("a listing"), None, "a table of our name in another family is not ours");
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        assert_eq!(others(), before);
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        assert_eq!(others(), before);
        let ops = vec![Op::AddElements("s4".into(), addresses(&["10.9.9.9"])), Op::FlushChain("forward".into())];
        kernel.commit(&Transaction { ops }).expect("a legal transaction");
        kernel.commit(&Transaction { ops: vec![Op::DeleteCounter("absent".into())] }).expect_err("not there");
        assert_eq!(others(), before);
        kernel.commit(&Transaction { ops: vec![Op::DeleteTable] }).expect("a legal transaction");
        assert_eq!(others(), before);
        assert_eq!(kernel.load().expect("a listing"), None);
        assert!(kernel.counters().expect("a listing").is_empty(), "others' counters are not ours");
    });
}

#[test]
fn ours_stays_when_others_are_flushed_or_deleted() {
    in_namespace(|| {
        nft_file(OTHERS);
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        let before = nft(&["-n", "-a", "list", "table", "inet", TABLE]);
        for table in OTHERS_TABLES {
            let table: Vec<&str> = table.split(' ').collect();
            nft(&[["flush", "table"].as_slice(), &table].concat());
            nft(&[["delete", "table"].as_slice(), &table].concat());
        }
        assert_eq!(nft(&["-n", "-a", "list", "table", "inet", TABLE]), before);
        assert_eq!(kernel.load().expect("a listing"), Some(everything()));
    });
}

#[test]
fn a_flush_of_the_whole_ruleset_is_seen_and_mended() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        nft(&["flush", "ruleset"]);
        assert_eq!(kernel.load().expect("a listing"), None);
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        assert_eq!(kernel.load().expect("a listing"), Some(everything()));
    });
}

/// Anything in our table that this crate would not write: it cannot be told from what another version wrote, so the table can only be
/// replaced as a whole (S41).
#[test]
fn a_foreign_hand_in_our_table_is_noticed() {
    const RULES: [&str; 21] = [
        "limit rate 5/second accept",
        "accept comment \"mine\"",
        "counter accept",
        "counter name c",
        "log accept",
        "continue",
        "tcp dport { 80, 443 } accept",
        "tcp dport != 80 accept",
        "tcp dport < 80 accept",
        "tcp flags syn accept",
        "th dport 80 accept",
        "udplite dport 80 accept",
        "ip saddr != @s4 accept",
        "ip saddr != 10.0.0.0/8 accept",
        "ip saddr & 255.0.255.0 == 10.0.1.0 accept",
        "ip ttl 1 accept",
        "iifname lo accept",
        "ct state untracked accept",
        "ct state new ct direction original accept",
        "ct mark set 1 accept",
        "reject with icmpx port-unreachable",
    ];
    let rules = RULES.map(|rule| format!("add rule inet {TABLE} a {rule}"));
    let others = [
        "add table inet k8s-sg { flags dormant; }",
        "add chain inet k8s-sg x { type filter hook forward priority 0; policy drop; }",
        "add chain inet k8s-sg x { type filter hook prerouting priority 0; policy accept; }",
        "add chain inet k8s-sg x { type nat hook input priority 0; policy accept; }",
        "add chain inet k8s-sg x { type filter hook ingress device lo priority 0; policy accept; }",
        "add chain inet k8s-sg x { comment \"mine\"; }",
        "add set inet k8s-sg x { type ipv4_addr; flags interval; elements = { 10.9.9.0/25 comment \"mine\" } }",
        "add set inet k8s-sg x { type ipv4_addr; flags interval, timeout; }",
        "add set inet k8s-sg x { type ipv4_addr . inet_service; flags interval; }",
        "add set inet k8s-sg x { type ipv4_addr; timeout 1h; }",
        "add set inet k8s-sg x { type ipv4_addr; flags dynamic; }",
        "add set inet k8s-sg x { type ipv4_addr; size 100; }",
        "add set inet k8s-sg x { type ipv4_addr; counter; }",
        "add set inet k8s-sg x { type mark; }",
        "add set inet k8s-sg x { type inet_service; }",
        "add set inet k8s-sg x { type ipv4_addr . inet_service; }",
        "add map inet k8s-sg x { type ipv4_addr : mark; }",
        "add map inet k8s-sg x { type inet_service : verdict; }",
        "add map inet k8s-sg x { type ipv4_addr : counter; }",
        "add element inet k8s-sg s4 { 10.9.9.9 comment \"mine\" }",
        "add element inet k8s-sg m4 { 10.9.9.9 : jump a }",
        "add element inet k8s-sg m4 { 10.9.9.9 : drop }",
        "add quota inet k8s-sg x { over 10 mbytes }",
        "add limit inet k8s-sg x { rate 5/second }",
        "add counter inet k8s-sg x { comment \"mine\"; }",
    ];
    in_namespace(move || {
        let mut kernel = open();
        for edit in rules.iter().map(String::as_str).chain(others) {
            kernel.commit(&Transaction::replace(&frame())).expect("whatever is there can be replaced");
            assert_eq!(kernel.load().expect("a listing"), Some(frame()), "before: {edit}");
            nft_file(edit);
            assert_ne!(kernel.load().expect("a listing"), Some(frame()), "{edit}");
        }
        kernel.commit(&Transaction::replace(&frame())).expect("whatever is there can be replaced");
        assert_eq!(kernel.load().expect("a listing"), Some(frame()));
    });
}

#[test]
fn a_foreign_edit_that_we_could_have_written_is_read() {
    in_namespace(|| {
        let mut kernel = open();
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        nft_file("add element inet k8s-sg s4 { 10.9.9.9 }");
        let mut expected = frame();
        let _ = expected.sets.entry("s4".into()).and_modify(|set| set.elements.extend(addresses::<Vec<_>>(&["10.9.9.9"])));
        assert_eq!(kernel.load().expect("a listing"), Some(expected));
    });
}

#[test]
fn others_commit_all_the_time() {
    in_namespace(|| {
        nft_file(OTHERS);
        let mut kernel = open();
        let mut large = frame();
        let set = ruleset::Set { family: Family::V4, elements: (0..20_000_u32).map(|n| std::net::IpAddr::from(n.to_be_bytes())).collect() };
        large.sets.insert("large".into(), set);
        let (large, stop) = (large, Arc::new(AtomicBool::new(false)));
        let others = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut commits = 0;
                while !stop.load(Ordering::Relaxed) {
                    nft_file("add element inet other s { 172.16.0.0/12 }; delete element inet other s { 172.16.0.0/12 }");
                    commits += 1;
                }
                commits
            }
        });
        let mut compare = |ruleset: &Ruleset| {
            kernel.commit(&Transaction::replace(ruleset)).expect("others do not disturb");
            assert!(kernel.load().expect("a listing").as_ref() == Some(ruleset), "the kernel has another table");
        };
        for _ in 0..10 {
            compare(&large);
            compare(&everything());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(others.join().expect("nft runs") > 10, "others did commit meanwhile");
        assert!(!list().is_empty());
    });
}

/// The kernel tells at once of what somebody else does to our table, and of nothing else.
#[test]
fn p12_who_touches_our_table_is_heard_of_and_nobody_else() {
    in_namespace(|| {
        let mut kernel = open();
        let mut changes = kernel.changes().expect("a netlink socket");
        let (heard, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || while changes.wait().is_ok() && heard.send(()).is_ok() {});
        let said = |within| hears.recv_timeout(std::time::Duration::from_millis(within)).is_ok();
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        nft_file("add table inet other\nadd chain inet other a\nadd rule inet other a accept");
        nft_file("add table ip k8s-sg\nadd chain ip k8s-sg a");
        assert!(!said(100), "our own commit, and others' own tables");
        for edit in ["add rule inet k8s-sg a accept", "add element inet k8s-sg s4 { 10.7.7.7 }", "delete table inet k8s-sg"] {
            nft_file(edit);
            assert!(said(2_000), "{edit}");
            while said(50) {}
        }
        kernel.commit(&Transaction::replace(&frame())).expect("a legal transaction");
        assert!(!said(100), "that was us again");
        nft_file("flush ruleset");
        assert!(said(2_000));
    });
}
