//! `operator run`: one task owns the facts; watches, leadership and ended writes come to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::{Api, Client};
use policy::index::Changed;
use runtime::calls::Calls;
use runtime::health::{self, Heartbeat, Readiness, Served};
use runtime::lease::Candidate;
use runtime::shutdown::{self, CancellationToken};
use runtime::watch::{self, Config, Watch, Watches};
use runtime::{client, logs};
use tokio::sync::{mpsc, watch as state};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::due::{Of, Part, rest_due, slices_due};
use crate::events::{Events, Notice, Told, turns};
use crate::facts::{Facts, Message, RECOUNT, With, limits};
use crate::metrics::Metrics;
use crate::outbox::{Ending, Outbox};
use crate::write::{Ended, write};

/// After a round in which a membership changed: those that change along with it, as in a rollout, are written together with the next.
const MEMBERS_INTERVAL: Duration = Duration::from_millis(20);
/// After any other round: a pod that gets its address just after it was made does not wait.
const ROUND_INTERVAL: Duration = Duration::from_millis(2);
/// Messages taken before anything else is looked at.
const MESSAGES_AT_ONCE: usize = 1024;

/// How `operator run` runs.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Namespace of the Lease and of the ConfigMap with the limits: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-security-groups")]
    namespace: String,
    /// Who we are among candidates for the Lease; unique. Left out: made up of the host name and the process id.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "[::]:8081")]
    health_address: SocketAddr,
    /// text or json.
    #[arg(long, default_value = "text")]
    log_format: logs::Format,
    /// What is logged, in the syntax of RUST_LOG.
    #[arg(long, default_value = "info")]
    log: String,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    logs::start(args.log_format, &args.log).map_err(|error| anyhow!(error))?;
    let shutdown = shutdown::on_signal()?;
    let mut registry = health::registry("securitygroups_operator", env!("CARGO_PKG_VERSION"));
    let client = client::connect(&Calls::new(&mut registry)).await?;
    let (readiness, heartbeat) = (Readiness::default(), Heartbeat::default());
    let metrics = Metrics::new(&mut registry);
    let (watches, messages) = Watches::new(client.clone(), readiness.clone(), &mut registry);
    let configs = Api::namespaced(client.clone(), &args.namespace);
    let open = open(&watches, configs);
    let serving = CancellationToken::new();
    let served = Served { readiness, heartbeat: heartbeat.clone(), registry: Arc::new(registry) };
    let (address, server) = served
        .serve(args.health_address, serving.clone())
        .await
        .with_context(|| format!("cannot serve health and metrics at {}", args.health_address))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, "operator starts");

    let identity = args.identity.unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id()));
    let candidacy = CancellationToken::new();
    let candidate = Candidate::new(args.namespace, "operator", identity);
    let (leads, candidate) = candidate.run(client.clone(), candidacy.clone());

    let events = Events::new(client.clone(), leads.clone());
    Operator::new(client, metrics, events, heartbeat).run(messages, leads, shutdown).await;

    // Only when nothing of ours is under way any more may another write.
    candidacy.cancel();
    candidate.await.context("the candidacy for the lease")?;
    drop(open);
    serving.cancel();
    server.await.context("the health server")??;
    Ok(())
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "operator".to_string(), |name| name.trim().to_string())
}

fn open(watches: &Watches<Message>, configs: Api<ConfigMap>) -> [Watch; 8] {
    let group = |object: DynamicObject| Ok(With::status(&object, watch::security_group(&object)));
    let attachment = |object: DynamicObject| Ok(With::status(&object, watch::attachment(&object)));
    let list = |object: DynamicObject| Ok(With::status(&object, watch::prefix_list(&object)));
    let slice = |object: DynamicObject| watch::typed(object).map(|slice| With::version(&slice));
    [
        watches.pods(Message::Fact),
        watches.namespaces(Message::Fact),
        watches.open("securitygroups", watches.stored::<api::SecurityGroup>(), Config::default(), group, Message::Group),
        watches.open("attachments", watches.stored::<api::Attachment>(), Config::default(), attachment, Message::Attachment),
        watches.open("prefixlists", watches.stored::<api::PrefixList>(), Config::default(), list, Message::PrefixList),
        watches.open("memberslices", watches.stored::<api::MemberSlice>(), Config::default(), slice, Message::Slice),
        watches.typed(Message::Report),
        // By its name: that is all the operator may read.
        watches.open("configmaps", configs, only(api::quota::CONFIG_MAP), |map| Ok(limits(&map)), Message::Limits),
    ]
}

fn only(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}

/// Writes under way, with the time of their start and what to tell when they have succeeded. Tasks of their own: they go on while we count.
type Writes = JoinSet<(Ended, Instant, Vec<Notice>)>;

/// A part of what is due: when to work it out again.
#[derive(Debug)]
struct Turn {
    /// Something may differ from what the last time saw.
    due: bool,
    /// Not before.
    not_before: Instant,
}

impl Turn {
    fn new() -> Turn {
        Turn { due: true, not_before: Instant::now() }
    }

    /// It has been worked out, since then. However large the cluster is, half of the time is left for taking messages.
    fn ended(&mut self, started: Instant, interval: Duration) -> Duration {
        let took = started.elapsed();
        *self = Turn { due: false, not_before: Instant::now() + took.max(interval) };
        took
    }
}

/// The loop and what it owns.
struct Operator {
    client: Client,
    metrics: Metrics,
    facts: Facts,
    outbox: Outbox,
    events: Events,
    heartbeat: Heartbeat,
    told: Told,
    slices: Turn,
    rest: Turn,
    /// When the first change was seen that slices may have to answer and the last round did not know.
    changed_at: Option<Timestamp>,
}

impl Operator {
    fn new(client: Client, metrics: Metrics, events: Events, heartbeat: Heartbeat) -> Operator {
        Operator {
            client,
            metrics,
            facts: Facts::default(),
            outbox: Outbox::default(),
            events,
            heartbeat,
            told: Told::default(),
            slices: Turn::new(),
            rest: Turn::new(),
            changed_at: None,
        }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut leads: state::Receiver<bool>, shutdown: CancellationToken) {
        let mut writes = Writes::new();
        let mut recount = interval(RECOUNT);
        recount.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = Heartbeat::pulse();
        loop {
            self.heartbeat.beat();
            let leading = *leads.borrow_and_update();
            self.metrics.leading(leading);
            let look_at = if leading { self.work(&mut writes, &leads) } else { self.pause() };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = leads.changed() => if changed.is_err() { break },
                Some(done) = writes.join_next() => match done {
                    Ok((ended, started, notices)) => self.ended(ended, started, notices),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = pulse.tick() => {}
                _ = recount.tick(), if leading && self.facts.are_complete() => self.rest.due |= self.facts.recount() == Changed::Yes,
                message = messages.recv() => match message {
                    Some(message) => self.take(message, &mut messages),
                    None => break,
                },
                () = until(look_at) => self.look_again(),
            }
        }
        // What is under way may end: a write that is cut off may or may not have happened.
        let rest = async { while writes.join_next().await.is_some() {} };
        if timeout(client::WRITE_TIMEOUT, rest).await.is_err() {
            tracing::warn!("gave up on writes that were under way");
        }
    }

    /// Takes a message and those that have come with it.
    fn take(&mut self, message: Message, messages: &mut mpsc::Receiver<Message>) {
        let come_with_it = std::iter::from_fn(|| messages.try_recv().ok()).take(MESSAGES_AT_ONCE);
        for message in std::iter::once(message).chain(come_with_it) {
            if self.facts.apply(message) == Changed::Yes {
                self.look_again();
            }
            // Statuses that turn, and slices that we see because we have written them, are no change to answer.
            if self.facts.publisher().is_behind() {
                self.changed_at.get_or_insert_with(Timestamp::now);
            }
        }
    }

    /// Does what can be done now; says when to look again although nothing has happened.
    fn work(&mut self, writes: &mut Writes, leads: &state::Receiver<bool>) -> Option<Instant> {
        // A list that has not come yet is not an empty list.
        if !self.facts.are_complete() {
            return None;
        }
        let now = Instant::now();
        if self.slices.due && now >= self.slices.not_before {
            self.publish(now);
        }
        self.write(writes, leads);
        // Packets wait for slices, and statuses take long to work out.
        let rest_at = self.outbox.slices_first_until(now).map_or(self.rest.not_before, |until| until.max(self.rest.not_before));
        if self.rest.due && now >= rest_at {
            self.judge(now);
            self.write(writes, leads);
        }
        self.metrics.outbox(&self.outbox);
        let at = |turn: &Turn, not_before, part| if turn.due { Some(not_before) } else { self.outbox.wake_at(part, Instant::now()) };
        let slices_at = at(&self.slices, self.slices.not_before, Part::Slices);
        slices_at.into_iter().chain(at(&self.rest, rest_at, Part::Rest)).min()
    }

    /// Starts what may be written now, worked out from all that is known.
    fn write(&mut self, writes: &mut Writes, leads: &state::Receiver<bool>) {
        let (slices, rest) = (!self.slices.due, !self.rest.due);
        let up_to_date = |part| if part == Part::Slices { slices } else { rest };
        while let Some((lane, work, since)) = self.outbox.next(Instant::now(), up_to_date) {
            let (client, leads, started) = (self.client.clone(), leads.clone(), Instant::now());
            let notices = turns(&self.facts, &lane, &work);
            writes.spawn(async move { (write(client, leads, lane, work, since).await, started, notices) });
        }
    }

    /// Works out what slices are due.
    fn publish(&mut self, started: Instant) {
        self.facts.follow();
        self.outbox.look(Part::Slices, &self.facts, started);
        let due = slices_due(&self.facts);
        let interval = if due.is_empty() { ROUND_INTERVAL } else { MEMBERS_INTERVAL };
        self.outbox.offer(Part::Slices, due, self.changed_at.take().unwrap_or_else(Timestamp::now));
        let took = self.slices.ended(started, interval);
        self.metrics.round("slices", took);
    }

    /// Works out what statuses and finalizers are due.
    fn judge(&mut self, started: Instant) {
        // A status speaks of the attachment that was read and of whom that one selects.
        self.facts.follow();
        self.outbox.look(Part::Rest, &self.facts, started);
        let (blockers, now) = (self.facts.blockers(), Timestamp::now());
        let due = rest_due(&self.facts, &blockers, now);
        let news = self.told.news(&self.facts.cluster, &self.facts.said);
        self.tell(news);
        self.outbox.offer(Part::Rest, due, now);
        let took = self.rest.ended(started, ROUND_INTERVAL);
        self.metrics.round("statuses", took);
        self.metrics.known(&self.facts);
    }

    fn look_again(&mut self) {
        (self.slices.due, self.rest.due) = (true, true);
    }

    fn pause(&mut self) -> Option<Instant> {
        self.outbox.clear();
        self.look_again();
        None
    }

    fn tell(&mut self, notices: Vec<Notice>) {
        let (told, lost) = self.events.tell(notices);
        self.metrics.events(told, lost);
    }

    fn ended(&mut self, ended: Ended, started: Instant, notices: Vec<Notice>) {
        let ending = ended.ending();
        self.metrics.write(&ended.lane, ending, started.elapsed());
        if ending == Ending::Done {
            self.tell(notices);
        }
        let Of { kind, namespace, name } = ended.lane.of();
        match (&ended.error, ending) {
            (None, _) => tracing::debug!(kind, namespace, name, lane = %ended.lane, "written"),
            (Some(error), Ending::Conflict) => {
                tracing::debug!(kind, namespace, name, lane = %ended.lane, %error, "not as we thought; planning again");
            }
            (Some(error), _) => tracing::warn!(kind, namespace, name, lane = %ended.lane, %error, "write failed; trying again"),
        }
        if self.outbox.ended(&ended.lane, ended.written, ending, Instant::now()) {
            self.look_again();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
