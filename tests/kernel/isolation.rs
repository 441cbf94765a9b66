//! The kernel refuses what one object asks for: that object stays as it was, everything else comes into force.

use std::collections::BTreeMap;

use agent::enforce::Enforcement;
use agent::plan::Planner;
use anyhow::{Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use netlink::{Error, Nftables};
use policy::index::Object;
use policy::model::{Exemption, NodeName};
use policy::{Cluster, Since};
use ruleset::{Action, Counter, Kernel, Match, Op, Ruleset, Transaction};
use serde_json::json;
use testkit::Manifest;

use super::topology::{Topology, Wiring};

/// The real kernel, to which a rule for port 666 is sent as one that no kernel takes.
struct Superstitious(Nftables);

impl Kernel for Superstitious {
    type Error = Error;

    fn load(&mut self) -> Result<Option<Ruleset>, Error> {
        self.0.load()
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let mut transaction = transaction.clone();
        for op in &mut transaction.ops {
            if let Op::AddRule(_, rule) = op
                && rule.matches.contains(&Match::DestinationPorts { from: 666, to: 666 })
            {
                rule.action = Action::Jump("nowhere".into());
            }
        }
        self.0.commit(&transaction)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.0.settle()
    }

    fn refused(error: &Error) -> Option<Vec<usize>> {
        Nftables::refused(error)
    }

    fn counters(&mut self) -> Result<BTreeMap<String, Counter>, Error> {
        self.0.counters()
    }
}

fn group(name: &str, ports: &[u16]) -> Object {
    let rules: Vec<_> = ports.iter().map(|port| json!({"protocol": "TCP", "port": port, "from": [{"cidr": "192.0.2.0/24"}]})).collect();
    Manifest::group(&format!("shop/{name}"), json!({"ingress": rules})).fact()
}

#[test]
fn a_group_that_the_kernel_refuses_stays_as_it_was_while_others_go_on() -> Result<()> {
    let topology = Topology::new(Wiring::Routed)?;
    let mut enforcement = Enforcement::new(Superstitious(topology.node.run(Nftables::open)??));
    let mut planner = Planner::new(NodeName("n1".into()), Exemption::DEFAULT.into());
    let mut cluster = Cluster::default();
    let mut put = |objects: Vec<Object>| -> (usize, Vec<String>) {
        for object in objects {
            let _ = cluster.apply(object);
        }
        for refusals in 0..5 {
            let plan = planner.plan(&cluster, Since::Anything);
            let problems = plan.scope.problems.iter().map(|problem| format!("{}: {}", problem.object, problem.message)).collect();
            match enforcement.enforce(plan, || Time(Timestamp::UNIX_EPOCH)) {
                Ok(committed) => {
                    planner.committed(committed.ops);
                    return (refusals, problems);
                }
                Err(failure) => drop(planner.refused(&failure)),
            }
        }
        panic!("the kernel takes nothing")
    };
    let pod = |app, ip| Manifest::pod(&format!("shop/{app}-0"), "n1", app).set("/status/podIPs", json!([{"ip": ip}])).fact();
    let pods = [pod("web", "10.0.0.1"), pod("app", "10.0.0.2")];
    let attachments = ["web", "app"].map(|app| Manifest::attachment(&format!("shop/{app}"), app, &[app]).fact());
    let (refusals, problems) = put([pods, attachments, [group("web", &[80]), group("app", &[80])]].into_iter().flatten().collect());
    ensure!(refusals == 0 && problems.is_empty(), "{refusals}: {problems:?}");

    let (refusals, problems) = put(vec![group("web", &[81, 666]), group("app", &[8080])]);
    ensure!(refusals == 2, "by what we believed to be there, and by what is: {refusals}");
    let words = ["SecurityGroup shop/web", "in/shop/web", "ENOENT"];
    ensure!(problems.len() == 1 && words.iter().all(|word| problems[0].contains(word)), "{problems:?}");
    let table = topology.nft("list table inet k8s-sg")?;
    ensure!(table.contains("dport 8080") && table.contains("dport 80 ") && !table.contains("dport 81 "), "{table}");

    let (refusals, problems) = put(vec![group("web", &[81])]);
    ensure!(refusals == 0 && problems.is_empty(), "{refusals}: {problems:?}");
    ensure!(topology.nft("list table inet k8s-sg")?.contains("dport 81 "));
    Ok(())
}
