//! What a change costs the agent, from the fact to the kernel's answer: plan, difference, commit; and the operator before it writes.

use std::time::{Duration, Instant};

use agent::enforce::Enforcement;
use agent::plan::Planner;
use anyhow::{Result, anyhow, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lab::Namespace;
use netlink::Nftables;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use policy::index::{MemberSlice, Object};
use policy::model::{Exemption, NodeName};
use policy::slices::{self as planned, SliceOp};
use policy::{Cluster, Publisher, Reach, Since, resolve};
use ruleset::{Kernel, Transaction};
use serde_json::json;
use testkit::Manifest;

use crate::table::{Line, median};

/// Addresses in one slice.
const SLICE: usize = 32;

/// Kinds of pods.
const APPS: usize = 100;

/// A node with everything but watches.
struct Node {
    cluster: Cluster,
    planner: Planner,
    since: Since,
    enforcement: Enforcement<Nftables>,
    /// As long as this is there, so is the kernel.
    _namespace: Namespace,
}

fn member(number: usize) -> std::net::IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a10_0000 + u32::try_from(number).unwrap_or_default()).into()
}

fn pod(number: usize) -> Object {
    let app = format!("app-{}", number % APPS);
    let ip = format!("10.200.{}.{}", number / 250, 1 + number % 250);
    Manifest::pod(&format!("shop/pod-{number}"), "n1", &app).set("/status/podIPs", json!([{"ip": ip}])).fact()
}

/// One of so many groups, with so many rules, each with a port and a peer of its own.
fn group(number: usize, groups: usize, rules: usize, peers: usize) -> Object {
    // Spread over all peers.
    let first = number * peers / groups;
    let rule = |n: usize| json!({"protocol": "TCP", "port": 1000 + n, "from": [{"securityGroup": {"name": format!("peer-{}", (first + n) % peers)}}]});
    Manifest::group(&format!("shop/app-{number}"), json!({"ingress": (0..rules).map(rule).collect::<Vec<_>>()})).fact()
}

/// The slices of a peer group that has these members.
fn slices(peer: usize, members: std::ops::Range<usize>) -> Vec<Object> {
    let group_id = policy::id::group(&format!("uid-peer-{peer}"));
    let numbers: Vec<usize> = members.collect();
    let mut slices: Vec<&[usize]> = numbers.chunks(SLICE).collect();
    if slices.is_empty() {
        slices.push(&[]);
    }
    let slice = |(place, numbers): (usize, &[usize])| {
        let addresses = numbers.iter().map(|number| member(*number)).collect();
        let slice = MemberSlice { group_id: group_id.clone(), head: place == 0, addresses };
        Object::MemberSlice(("shop".into(), format!("peer-{peer}-{place}")), slice)
    };
    slices.into_iter().enumerate().map(slice).collect()
}

impl Node {
    /// Pods that share so many groups, each with so many rules, whose peers have so many members together.
    fn new(pods: usize, groups: usize, rules: usize, peers: usize, members: usize) -> Result<Node> {
        let namespace = Namespace::create(&format!("ksgb{}-commits-{members}", std::process::id()))?;
        let kernel = namespace.run(Nftables::open)??;
        let mut cluster = Cluster::default();
        let mut objects: Vec<Object> = (0..pods).map(pod).collect();
        objects.extend((0..groups).map(|number| group(number, groups, rules, peers)));
        objects.extend((0..peers).map(|peer| Manifest::group(&format!("shop/peer-{peer}"), json!({})).fact()));
        // Five groups a pod at most, as AWS has it.
        let names: Vec<String> = (0..groups).map(|number| format!("app-{number}")).collect();
        for (app, names) in names.chunks(groups.div_ceil(APPS)).enumerate() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            objects.push(Manifest::attachment(&format!("shop/app-{app}"), &format!("app-{app}"), &names).fact());
        }
        let each = members / peers;
        objects.extend((0..peers).flat_map(|peer| slices(peer, peer * each..(peer + 1) * each)));
        for object in objects {
            let _ = cluster.apply(object);
        }
        let planner = Planner::new(NodeName("n1".into()), Exemption::DEFAULT.into());
        Ok(Node { cluster, planner, since: Since::Anything, enforcement: Enforcement::new(kernel), _namespace: namespace })
    }

    /// One whose rules, in force, name 10,000 groups that have 100,000 members together.
    fn naming_many() -> Result<Node> {
        let mut node = Node::new(20, 200, 50, 10_000, 100_000)?;
        node.load()?;
        Ok(node)
    }

    /// Seconds until one more pod than so many is guarded, in an even round, or is no more.
    fn comes_or_goes(&mut self, pods: usize, round: usize) -> Result<f64> {
        // One that is in a group.
        let added = pod(pods.next_multiple_of(APPS));
        let started = Instant::now();
        self.since.applied(&added);
        let _ = if round.is_multiple_of(2) { self.cluster.apply(added) } else { self.cluster.delete(&testkit::manifest::key(&added)) };
        self.sync()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds from an agent's first lists until all is in force: it knows of no member before it knows which groups its rules name.
    fn load(&mut self) -> Result<f64> {
        let slices = std::mem::take(&mut self.cluster.slices);
        let started = Instant::now();
        self.planner.plan(&self.cluster, std::mem::replace(&mut self.since, Since::Slices));
        self.cluster.slices = slices;
        self.sync()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds until what the facts say is in force.
    fn sync(&mut self) -> Result<f64> {
        let started = Instant::now();
        let plan = self.planner.plan(&self.cluster, std::mem::replace(&mut self.since, Since::Slices));
        let committed = self.enforcement.enforce(plan, || Time(Timestamp::UNIX_EPOCH)).map_err(|failure| anyhow!("{failure}"))?;
        let took = started.elapsed().as_secs_f64();
        ensure!(committed.ops > 0, "nothing has changed, so nothing was measured");
        Ok(took)
    }

    /// The same after a change.
    fn after(&mut self, change: Object) -> Result<f64> {
        let started = Instant::now();
        self.since.applied(&change);
        let _ = self.cluster.apply(change);
        self.sync()?;
        Ok(started.elapsed().as_secs_f64())
    }
}

/// What a process has used: seconds of processor time, and the most memory since the last reset.
struct Used {
    cpu: f64,
}

impl Used {
    /// From now on.
    fn reset() -> Result<Used> {
        // 5: the peak starts anew (proc_pid_clear_refs(5)).
        std::fs::write("/proc/self/clear_refs", "5")?;
        Ok(Used { cpu: Used::cpu()? })
    }

    fn cpu() -> Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let seconds = |time: nix::sys::time::TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default());
        Ok((seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64())
    }

    /// Says what it was; facts and everything else that this program holds are in it, as they are in an agent.
    fn tell(&self, what: &str, times: usize, tell: &mut impl FnMut(Line)) -> Result<()> {
        let cpu = (Used::cpu()? - self.cpu) / f64::from(u32::try_from(times)?);
        let status = std::fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        tell(Line::figure(format!("{what}: processor time"), cpu * 1e3, "ms"));
        tell(Line::figure(format!("{what}: peak memory"), peak.ok_or_else(|| anyhow!("a peak"))? / 1024.0, "MiB"));
        Ok(())
    }
}

/// All figures.
pub fn measure(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    members(rounds, tell)?;
    pods(rounds, tell)?;
    published(rounds, tell)?;
    at_full_size(rounds, tell)
}

/// The last slice of the first peer, which has so many members before it, in an even round with one more, in an odd one without.
fn one_more_or_less(members: usize, round: usize) -> Result<Object> {
    let slice = slices(0, members / SLICE * SLICE..members + 1 - round % 2).pop().ok_or_else(|| anyhow!("a slice"))?;
    let Object::MemberSlice((namespace, _), slice) = slice else { unreachable!() };
    Ok(Object::MemberSlice((namespace, "peer-0-last".into()), MemberSlice { head: false, ..slice }))
}

/// A member that joins or leaves a group that a rule here names.
fn members(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    const SIZES: [usize; 3] = [100, 10_000, 100_000];
    let node = |members| {
        let mut node = Node::new(20, 10, 5, 1, members)?;
        node.sync().map(|_| (members, node))
    };
    // What each uses by itself.
    for members in SIZES {
        let (_, mut node) = node(members)?;
        let used = Used::reset()?;
        let took = InTurn::measure(usize::from(rounds) * 10, |round| node.after(one_more_or_less(members, round)?))?;
        used.tell(&format!("a member joins or leaves, of {members}"), took.times(), tell)?;
    }
    // How long they take, by turns.
    let mut nodes = SIZES.into_iter().map(node).collect::<Result<Vec<_>>>()?;
    let mut took: Vec<InTurn> = SIZES.iter().map(|_| InTurn::default()).collect();
    for round in 0..usize::from(rounds) * 10 {
        for ((members, node), took) in nodes.iter_mut().zip(&mut took) {
            took.add(round, node.after(one_more_or_less(*members, round)?)?);
        }
    }
    drop(nodes);
    let (joins, leaves): (Vec<f64>, Vec<f64>) = took.into_iter().map(InTurn::medians).unzip();
    for (way, took) in [("joins", joins), ("leaves", leaves)] {
        let [few, many, most] = [took[0], took[1], took[2]];
        tell(Line::limit(format!("a member {way}, of 10,000"), many, 1.0, "ms"));
        tell(Line::new(format!("a member {way}, of 10,000 against of 100"), many, few, "ms", Some(1.5)));
        tell(Line::new(format!("a member {way}, of 100,000 against of 100"), most, few, "ms", None));
    }
    let mut node = Node::naming_many()?;
    let took = InTurn::measure(usize::from(rounds) * 10, |round| node.after(one_more_or_less(10, round)?))?;
    let (join, leave) = took.medians();
    tell(Line::limit("a member joins a group, one of 10,000 that are named", join, 1.0, "ms"));
    tell(Line::limit("a member leaves a group, one of 10,000 that are named", leave, 1.0, "ms"));
    Ok(())
}

/// Times of two changes that take turns, in milliseconds.
#[derive(Default)]
struct InTurn {
    even: Vec<f64>,
    odd: Vec<f64>,
}

impl InTurn {
    /// Makes one in rounds with an even number, the other in those with an odd one; each tells the seconds that it took.
    fn measure(rounds: usize, mut change: impl FnMut(usize) -> Result<f64>) -> Result<InTurn> {
        let mut took = InTurn::default();
        for round in 0..rounds {
            took.add(round, change(round)?);
        }
        Ok(took)
    }

    fn add(&mut self, round: usize, seconds: f64) {
        let of = if round.is_multiple_of(2) { &mut self.even } else { &mut self.odd };
        of.push(seconds * 1e3);
    }

    fn times(&self) -> usize {
        self.even.len() + self.odd.len()
    }

    fn medians(self) -> (f64, f64) {
        (median(self.even), median(self.odd))
    }
}

/// A pod of this node that comes or goes.
fn pods(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    for (pods, elsewhere) in [(10, 0), (110, 0), (250, 0), (110, 10_000)] {
        let mut node = Node::new(pods, 10, 5, 5, 1_000)?;
        for number in 0..elsewhere {
            let namespace = format!("other-{}", number / 100);
            let name = format!("{namespace}/group-{number}");
            for object in [Manifest::group(&name, json!({})), Manifest::attachment(&name, "web", &[&format!("group-{number}")])] {
                let _ = node.cluster.apply(object.fact());
            }
        }
        node.sync()?;
        let used = Used::reset()?;
        let took = InTurn::measure(usize::from(rounds) * 4, |round| node.comes_or_goes(pods, round))?;
        let others = if elsewhere > 0 { format!(", {elsewhere} groups and attachments elsewhere") } else { String::new() };
        used.tell(&format!("a pod comes or goes, {pods} pods on the node{others}"), took.times(), tell)?;
        let (comes, goes) = took.medians();
        tell(Line::figure(format!("a pod comes, {pods} pods on the node{others}"), comes, "ms"));
        tell(Line::figure(format!("a pod goes, {pods} pods on the node{others}"), goes, "ms"));
    }
    let mut node = Node::naming_many()?;
    let (comes, goes) = InTurn::measure(usize::from(rounds) * 4, |round| node.comes_or_goes(20, round))?.medians();
    tell(Line::figure("a pod comes, 10,000 groups named", comes, "ms"));
    tell(Line::figure("a pod goes, 10,000 groups named", goes, "ms"));
    Ok(())
}

/// What the operator works out before it writes slices: a pod gets another label, among 10,000 pods in 200 groups that name each other.
fn published(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    const GROUPS: usize = 200;
    let app = |number: usize| format!("app-{}", number % GROUPS);
    let pod = |number: usize, turn: usize| {
        let ip = member(number).to_string();
        Manifest::pod(&format!("shop/pod-{number}"), "n1", &app(number + turn)).set("/status/podIPs", json!([{"ip": ip}])).fact()
    };
    let (mut cluster, mut publisher) = (Cluster::default(), Publisher::default());
    let mut take = |object: Object, compare: bool| {
        publisher.changed(Reach::of_object(&cluster, &object));
        let _ = cluster.apply(object);
        let started = Instant::now();
        publisher.follow(&cluster);
        let followed = started.elapsed().as_secs_f64() * 1e3;
        let due: Vec<SliceOp> = publisher.due().values().flatten().cloned().collect();
        for op in &due {
            if let Some(slice) = op.outcome() {
                let slice = Object::MemberSlice(op.key().clone(), slice.clone());
                publisher.changed(Reach::of_object(&cluster, &slice));
                let _ = cluster.apply(slice);
            }
        }
        let started = Instant::now();
        let left = if compare { planned::plan(&cluster, &resolve(&cluster)).len() } else { 0 };
        (followed, started.elapsed().as_secs_f64() * 1e3, due.len(), left)
    };
    for number in 0..GROUPS {
        let rule = json!({"ingress": [{"protocol": "TCP", "port": 80, "from": [{"securityGroup": {"name": app(number + 1)}}]}]});
        let name = format!("shop/{}", app(number));
        take(Manifest::group(&name, rule).fact(), false);
        take(Manifest::attachment(&name, &app(number), &[&app(number)]).fact(), false);
    }
    for number in 0..10_000 {
        take(pod(number, 0), false);
    }
    let (mut followed, mut anew) = (Vec::new(), Vec::new());
    for number in 0..usize::from(rounds) * 10 {
        let (one, other, writes, left) = take(pod(number * 7, 1), true);
        // It leaves one group and joins another.
        ensure!(writes == 2 && left == 0, "{writes} writes are due, and {left} after them");
        followed.push(one);
        anew.push(other);
    }
    let name = "operator: a pod of 10,000 changes its group, what slices are due, against worked out anew";
    tell(Line::new(name, median(followed), median(anew), "ms", Some(0.1)));
    Ok(())
}

/// The largest table there is to be.
fn at_full_size(rounds: u16, tell: &mut impl FnMut(Line)) -> Result<()> {
    const SIZE: &str = "500 groups × 50 rules × 100,000 members";
    let used = Used::reset()?;
    let mut node = Node::new(100, 500, 50, 500, 100_000)?;
    let mut full = vec![node.load()?];
    used.tell(&format!("full load, {SIZE}, facts included"), 1, tell)?;
    for _ in 1..rounds {
        // One goes before the next comes: they would be slower side by side.
        drop(node);
        node = Node::new(100, 500, 50, 500, 100_000)?;
        full.push(node.load()?);
    }
    tell(Line::limit(format!("full load, {SIZE}"), median(full), 1.0, "s"));

    let whole = Transaction::replace(&node.planner.plan(&node.cluster, Since::Slices).ruleset);
    let used = Used::reset()?;
    let mut replaced = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        node.enforcement.kernel().commit(&whole)?;
        replaced.push(started.elapsed().as_secs_f64());
    }
    used.tell("full replacement", replaced.len(), tell)?;
    tell(Line::figure("full replacement under a guard, commit alone", median(replaced), "s"));

    let used = Used::reset()?;
    let mut edits = Vec::new();
    for round in 0..usize::from(rounds) {
        edits.push(node.after(group(7, 500, 49 + round % 2, 500))? * 1e3);
    }
    used.tell("a rule is edited there", edits.len(), tell)?;
    tell(Line::figure("a rule is edited there", median(edits), "ms"));

    let used = Used::reset()?;
    let took = InTurn::measure(usize::from(rounds) * 4, |round| node.after(one_more_or_less(100_000, round)?))?;
    used.tell("a member joins or leaves there", took.times(), tell)?;
    let (join, leave) = took.medians();
    tell(Line::limit("a member joins there", join, 1.0, "ms"));
    tell(Line::limit("a member leaves there", leave, 1.0, "ms"));
    Ok(())
}
