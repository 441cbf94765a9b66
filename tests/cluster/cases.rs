//! What packets should find, from many places at the same time.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::Cluster;
use probe::{Outcome, Probe, Target};

/// Where probes start.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A pod, by namespace and name.
    Pod(&'a str, &'a str),
    /// The network of a node.
    Node(usize),
    /// A client outside, by its number.
    World(usize),
}

/// What is expected of a probe, in words for when it does not hold.
pub struct Case<'a> {
    from: Source<'a>,
    what: String,
    probe: Probe,
    answered: bool,
}

/// Expects a TCP port of each address to answer, or not to.
pub fn tcp<'a>(from: Source<'a>, to: &[IpAddr], port: u16, answered: bool) -> Vec<Case<'a>> {
    let probe = |target| Probe::Tcp { target, port };
    cases(from, to, &format!("TCP {port}"), probe, answered)
}

/// Expects a UDP port of each address to answer, or not to.
pub fn udp<'a>(from: Source<'a>, to: &[IpAddr], port: u16, answered: bool) -> Vec<Case<'a>> {
    let probe = |target| Probe::Udp { target, port };
    cases(from, to, &format!("UDP {port}"), probe, answered)
}

/// Expects a ping of each address to be answered, or not to be.
pub fn ping<'a>(from: Source<'a>, to: &[IpAddr], answered: bool) -> Vec<Case<'a>> {
    cases(from, to, "ping", |target| Probe::Ping { target }, answered)
}

fn cases<'a>(from: Source<'a>, to: &[IpAddr], what: &str, probe: impl Fn(Target) -> Probe, answered: bool) -> Vec<Case<'a>> {
    let case = |&address: &IpAddr| Case {
        from,
        what: format!("{from:?} to {address} {what}"),
        probe: probe(Target::new(address).within_ms(700)),
        answered,
    };
    to.iter().map(case).collect()
}

/// Tries all of them at the same time; those that did not hold, in words.
pub fn differences(cluster: &Cluster, cases: Vec<Case>) -> Result<Vec<String>> {
    let mut places: Vec<(Source, Vec<Case>)> = Vec::new();
    for case in cases {
        match places.iter_mut().find(|(from, _)| format!("{from:?}") == format!("{:?}", case.from)) {
            Some((_, cases)) => cases.push(case),
            None => places.push((case.from, vec![case])),
        }
    }
    let outcomes = std::thread::scope(|scope| {
        let rows: Vec<_> = places.iter().map(|(from, cases)| scope.spawn(|| run(cluster, *from, cases))).collect();
        rows.into_iter().map(|row| row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Result<Vec<_>>>()
    })?;
    let tried = places.iter().flat_map(|(_, cases)| cases).zip(outcomes.into_iter().flatten());
    Ok(tried
        .filter(|(case, outcome)| outcome.ok != case.answered)
        .map(|(case, outcome)| format!("{} {}: {outcome:?}", case.what, if case.answered { "should be answered" } else { "should not be" }))
        .collect())
}

/// The same, as an error if there are any.
pub fn hold(cluster: &Cluster, cases: Vec<Case>) -> Result<()> {
    let tried = cases.len();
    let differences = differences(cluster, cases)?;
    ensure!(differences.is_empty(), "{} of {tried}: {differences:#?}", differences.len());
    Ok(())
}

fn run(cluster: &Cluster, from: Source, cases: &[Case]) -> Result<Vec<Outcome>> {
    let mut probes: Vec<Probe> = cases.iter().map(|case| case.probe.clone()).collect();
    match from {
        Source::Pod(namespace, pod) => exec_probes(cluster, namespace, pod, &probes),
        Source::Node(node) => cluster.node(node).netns().run(|| probe::run_all(&probes)),
        Source::World(client) => {
            for probe in &mut probes {
                let target = probe.target_mut();
                let own = cluster.world().clients()[client].both().into_iter().find(|own| own.is_ipv4() == target.address.is_ipv4());
                target.source = own;
            }
            cluster.world().netns().run(|| probe::run_all(&probes))
        }
    }
}

fn exec_probes(cluster: &Cluster, namespace: &str, pod: &str, probes: &[Probe]) -> Result<Vec<Outcome>> {
    let answer = cluster.exec(namespace, pod, &["/bin/probe", "many", &serde_json::to_string(probes)?])?;
    serde_json::from_str(&answer).with_context(|| format!("what probe said: {answer}"))
}
