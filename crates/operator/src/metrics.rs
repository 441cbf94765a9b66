//! What `/metrics` says of the operator.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use runtime::health::Registry;

use crate::due::Lane;
use crate::facts::Facts;
use crate::outbox::{Ending, Outbox};

type Labels = Vec<(&'static str, &'static str)>;

/// Counters, gauges and histograms.
#[derive(Debug)]
pub struct Metrics {
    leading: Gauge,
    objects: Family<Labels, Gauge>,
    writes: Family<Labels, Counter>,
    write_seconds: Histogram,
    round_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    under_way: Gauge,
    waiting: Gauge,
    events: Counter,
    events_lost: Counter,
}

impl Metrics {
    /// Registers all.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            leading: Gauge::default(),
            objects: Family::default(),
            writes: Family::default(),
            write_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            round_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_1, 2.0, 16))),
            under_way: Gauge::default(),
            waiting: Gauge::default(),
            events: Counter::default(),
            events_lost: Counter::default(),
        };
        registry.register("leading", "1 where this process holds the lease and writes", metrics.leading.clone());
        registry.register("objects", "Objects known, by kind", metrics.objects.clone());
        registry.register("writes", "Writes to the API server, by what and by how they ended", metrics.writes.clone());
        registry.register("write_seconds", "Duration of a write, all slices of one group together", metrics.write_seconds.clone());
        registry.register(
            "round_seconds",
            "Duration of working out what is due, by part: slices or statuses",
            metrics.round_seconds.clone(),
        );
        registry.register("writes_under_way", "Writes under way", metrics.under_way.clone());
        registry.register("writes_waiting", "Writes that are due and wait for their turn", metrics.waiting.clone());
        registry.register("events", "Turns of a status that were told", metrics.events.clone());
        registry.register("events_lost", "Those of them that were too many to be written as events", metrics.events_lost.clone());
        metrics
    }

    /// Whether we lead.
    pub fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    /// How long it took to work out a part of what is due.
    pub fn round(&self, part: &'static str, duration: Duration) {
        self.round_seconds.get_or_create_owned(&vec![("part", part)]).observe(duration.as_secs_f64());
    }

    /// What is known.
    pub fn known(&self, facts: &Facts) {
        let cluster = &facts.cluster;
        let counts = [
            ("Pod", cluster.pods.len()),
            ("Namespace", cluster.namespaces.len()),
            ("SecurityGroup", cluster.groups.len()),
            ("Attachment", cluster.attachments.len()),
            ("PrefixList", cluster.prefix_lists.len()),
            ("MemberSlice", cluster.slices.all().len()),
            ("NodeReport", facts.reports.len()),
        ];
        for (kind, count) in counts {
            self.objects.get_or_create_owned(&vec![("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A write has ended.
    pub fn write(&self, lane: &Lane, ending: Ending, duration: Duration) {
        let what = match lane {
            Lane::Slices(_) => "slices",
            Lane::Finalizer(..) => "finalizer",
            Lane::Group(..) => "group_status",
            Lane::Attachment(..) => "attachment_status",
            Lane::PrefixList(..) => "prefix_list_status",
        };
        let result = match ending {
            Ending::Done => "done",
            Ending::Conflict => "conflict",
            Ending::Failed => "failed",
        };
        self.writes.get_or_create_owned(&vec![("what", what), ("result", result)]).inc();
        self.write_seconds.observe(duration.as_secs_f64());
    }

    /// What there was to tell, and what was lost of it.
    pub fn events(&self, told: u64, lost: u64) {
        self.events.inc_by(told);
        self.events_lost.inc_by(lost);
    }

    /// How much is going on.
    pub fn outbox(&self, outbox: &Outbox) {
        self.under_way.set(i64::try_from(outbox.under_way()).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(outbox.waiting()).unwrap_or(i64::MAX));
    }
}
