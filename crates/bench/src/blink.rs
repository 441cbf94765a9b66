//! What packets notice of changes: a stream that is allowed and one that is denied, while the agent's enforcement puts a long sequence of
//! updates in force that concern neither (S41, S42).
//!
//! *In:* a [`Trial`]. *Out:* a [`Report`] that names every packet that was lost or leaked, and the update that it met.
//!
//! Invariants
//! 1. No packet is sent twice, no two are of one connection: each is judged by rules, none by conntrack.
//! 2. What the machine itself drops (buffers, conntrack, queues) is counted where it is dropped. A run with any of it proves nothing, and
//!    says so: it is neither a loss of ours nor forgiven.

mod machine;
mod streams;
mod updates;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::enforce::Enforcement;
use agent::plan::Plan;
use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use netlink::Nftables;
use policy::model::{GroupRules, NodePolicy};
use ruleset::{Kernel, Op, Transaction, lower};

pub use updates::Update;

use crate::table::Line;
use streams::Lane;
use updates::State;

/// A fault that a run must notice: an update in two transactions instead of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The table goes, and comes back: for a moment nothing is denied.
    Opens,
    /// The groups lose their rules, and get them back: for a moment nothing is allowed.
    Closes,
}

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The same seed makes the same updates.
    pub seed: u64,
    /// How many.
    pub updates: usize,
    /// Of which kinds.
    pub kinds: &'static [Update],
    /// From one to the next.
    pub apart: Duration,
    /// Packets a second of each stream; what a busy machine misses is not made up for.
    pub rate: u64,
    /// What is done wrong.
    pub fault: Option<Fault>,
}

impl Default for Trial {
    fn default() -> Self {
        Trial { seed: 1, updates: 1_000, kinds: Update::ALL, apart: Duration::from_millis(15), rate: 10_000, fault: None }
    }
}

/// A packet that did not meet what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd {
    /// Its number in its stream.
    pub number: u64,
    /// The update that had begun last when it was sent.
    pub update: usize,
}

/// What became of the streams.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The updates, in order.
    pub updates: Vec<Update>,
    /// Packets of each stream.
    pub sent: u64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// Allowed packets that did not arrive.
    pub lost: Vec<Odd>,
    /// Denied packets that did.
    pub leaked: Vec<Odd>,
    /// Packets that nobody sent, or that came twice.
    pub strange: u64,
    /// What the machine dropped for reasons that are not rules, by place.
    pub dropped: BTreeMap<String, u64>,
}

impl Report {
    /// Packets a second of each stream.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// How many updates of each kind there were.
    pub fn kinds(&self) -> BTreeMap<Update, usize> {
        let mut kinds = BTreeMap::new();
        for update in &self.updates {
            *kinds.entry(*update).or_default() += 1;
        }
        kinds
    }

    /// Fails where the machine was not up to it, so that nothing is proven.
    pub fn sound(&self) -> Result<()> {
        ensure!(self.dropped.is_empty(), "the machine itself has dropped packets, which proves nothing: {:?}", self.dropped);
        ensure!(self.strange == 0, "{} packets came twice or were not ours", self.strange);
        Ok(())
    }

    /// Fails, with the packets and the updates they met, where any was lost or leaked, or where nothing is proven.
    pub fn undisturbed(&self) -> Result<()> {
        self.sound()?;
        ensure!(self.lost.is_empty() && self.leaked.is_empty(), "{self}");
        Ok(())
    }

    /// Packets by the update that they met, the first ones.
    fn met(&self, odd: &[Odd]) -> String {
        let mut by_update: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for odd in odd {
            by_update.entry(odd.update).or_default().push(odd.number);
        }
        let line = |(update, numbers): (&usize, &Vec<u64>)| {
            let kind = update.checked_sub(1).and_then(|at| self.updates.get(at));
            format!("\n  update {update} ({kind:?}): {} from number {}", numbers.len(), numbers[0])
        };
        by_update.iter().take(10).map(line).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} updates, {} packets of each stream in {:.1} s", self.updates.len(), self.sent, self.seconds)?;
        write!(f, "; {} allowed ones lost{}", self.lost.len(), self.met(&self.lost))?;
        write!(f, "; {} denied ones leaked{}", self.leaked.len(), self.met(&self.leaked))
    }
}

/// The node's side: what the agent does with a plan.
struct Agent {
    enforcement: Enforcement<Nftables>,
}

impl Agent {
    fn start(lane: &Lane) -> Result<Agent> {
        Ok(Agent { enforcement: Enforcement::new(lane.node.run(Nftables::open)??) })
    }

    /// It ends, and another takes over what it has left.
    fn restart(self, lane: &Lane) -> Result<Agent> {
        drop(self);
        Agent::start(lane)
    }

    /// Puts a policy in force; how many steps it took.
    fn enforce(&mut self, policy: &NodePolicy) -> Result<usize> {
        let plan = Plan { ruleset: lower(policy), ..Plan::default() };
        Ok(self.enforcement.enforce(plan, || Time(Timestamp::UNIX_EPOCH)).map_err(|failure| anyhow!("{failure}"))?.ops)
    }

    /// Somebody puts something into the table that allows and denies nothing, and the agent looks at it (P12): what it can read it puts
    /// right, what it cannot read it makes anew as a whole.
    fn touched(&mut self, lane: &Lane, readable: bool) -> Result<()> {
        self.enforcement.kernel().commit(&Transaction { ops: vec![Op::AddChain("stray".into(), None)] })?;
        if !readable {
            let added =
                lane.node.command("nft").args(["add", "rule", "inet", "k8s-sg", "stray", "meta", "mark", "1", "accept"]).status()?;
            ensure!(added.success(), "nft adds no rule");
        }
        ensure!(self.enforcement.recheck().map_err(|failure| anyhow!("{failure}"))?, "the stray chain is not noticed");
        Ok(())
    }

    /// The first of two transactions, where one would have been right.
    fn spoil(&mut self, fault: Fault, policy: &NodePolicy) -> Result<()> {
        let first = match fault {
            Fault::Opens => Transaction { ops: vec![Op::AddTable, Op::DeleteTable] },
            Fault::Closes => {
                let mut closed = policy.clone();
                let without = |rules: &GroupRules| Arc::new(GroupRules { egress: rules.egress.clone(), ..GroupRules::default() });
                closed.groups = closed.groups.iter().map(|(group, rules)| (group.clone(), without(rules))).collect();
                Transaction::replace(&lower(&closed))
            }
        };
        self.enforcement.kernel().commit(&first)?;
        Ok(())
    }
}

/// Runs it.
pub fn run(trial: &Trial) -> Result<Report> {
    let lane = Lane::new()?;
    let mut state = State::new(trial.seed, trial.kinds);
    let mut agent = Agent::start(&lane)?;
    agent.enforce(&state.policy())?;
    // Not before rules have asked for conntrack are its settings there.
    lane.forget_soon()?;

    let before = lane.drops()?;
    let traffic = lane.start(trial.rate)?;
    let started = Instant::now();
    let mut updates = Vec::new();
    for number in 1..=trial.updates {
        let due = started + trial.apart * u32::try_from(number)?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let update = state.change();
        updates.push(update);
        traffic.met(number);
        let policy = state.policy();
        let fault = trial.fault;
        if let Some(fault) = fault {
            agent.spoil(fault, &policy)?;
        }
        if update == Update::Restart || fault.is_some() {
            agent = agent.restart(&lane)?;
        }
        if matches!(update, Update::Repair | Update::Replacement) && fault.is_none() {
            agent.touched(&lane, update == Update::Repair)?;
        }
        let ops = agent.enforce(&policy).with_context(|| format!("update {number} ({update:?})"))?;
        let changes = update != Update::Restart || fault.is_some();
        ensure!((ops > 0) == changes, "update {number} ({update:?}) took {ops} steps");
    }
    let mut report = Report { updates, seconds: started.elapsed().as_secs_f64(), ..Report::default() };
    traffic.stop(&mut report)?;
    report.dropped = machine::since(before, lane.drops()?);
    ensure!(
        agent.enforcement.kernel().load()?.as_ref() == Some(&lower(&state.policy())),
        "in the end the kernel has another ruleset than was sent"
    );
    Ok(report)
}

/// All figures. Tables that are made anew as a whole are counted by themselves, too: they are other steps than changes.
pub fn measure(tell: &mut impl FnMut(Line)) -> Result<()> {
    let trials: [(&str, &'static [Update]); 2] = [
        ("changes, restarts and repairs", Update::CHANGES),
        ("changes, a third of them tables made anew", &[Update::Peer, Update::ManyRules, Update::Replacement]),
    ];
    for (what, kinds) in trials {
        let report = run(&Trial { kinds, ..Trial::default() })?;
        report.sound()?;
        let updates = report.updates.len();
        tell(Line::none(format!("blink, {updates} {what}: allowed lost"), report.lost.len() as f64, "pkt"));
        tell(Line::none(format!("blink, {updates} {what}: denied leaked"), report.leaked.len() as f64, "pkt"));
        tell(Line::figure(format!("blink, {what}: packets of each, a second"), report.rate(), "pkt"));
    }
    Ok(())
}
