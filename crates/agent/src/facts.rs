//! What this node knows, and when it knows enough to act.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use policy::index::{Changed, Kind};
use policy::model::{Exemption, NodeName};
use policy::{Cluster, Since};
use runtime::watch::Change;

use crate::enforce::Failure;
use crate::plan::{Plan, Planner};
use crate::slices::{Epoch, Slices, concerns_slices};

/// What the watches say.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A change of pods, groups, attachments or namespaces.
    Fact(Change),
    /// A change of member slices, from the watch of this epoch; and when the operator saw what made it write, where it says so.
    Slices(Epoch, Change, Option<Timestamp>),
}

impl Message {
    /// How long ago the change was first seen by a program of ours. Clocks of two nodes may differ: never less than nothing.
    pub fn age(&self, now: Timestamp) -> Duration {
        match self {
            Message::Slices(_, _, Some(changed_at)) => now.duration_since(*changed_at).try_into().unwrap_or_default(),
            Message::Slices(_, _, None) | Message::Fact(_) => Duration::ZERO,
        }
    }
}

/// The kinds whose first lists must be in; member slices come after them, since only they say which slices to ask for.
pub const FIRST: [Kind; 5] = [Kind::Pod, Kind::SecurityGroup, Kind::Attachment, Kind::PrefixList, Kind::Namespace];

/// All facts of this node.
#[derive(Debug)]
pub struct Facts<W> {
    /// Where cluster DNS is exempt (S36), it has to be known where it answers.
    exempts_dns: bool,
    planner: Planner,
    /// What has changed since the last plan.
    since: Since,
    cluster: Cluster,
    listed: BTreeSet<Kind>,
    slices: Slices<W>,
}

impl<W> Facts<W> {
    /// Nothing known yet but what the administrator exempts (S36).
    pub fn new(node: NodeName, exempt: BTreeSet<Exemption>) -> Facts<W> {
        Facts {
            exempts_dns: exempt.contains(&Exemption::ClusterDns),
            planner: Planner::new(node, exempt),
            since: Since::Anything,
            cluster: Cluster::default(),
            listed: BTreeSet::new(),
            slices: Slices::default(),
        }
    }

    /// Takes a message; whether it calls for another plan.
    pub fn take(&mut self, message: Message) -> Changed {
        match message {
            Message::Slices(epoch, change, _) => self.slices.take(epoch, change, &mut self.cluster),
            Message::Fact(change) if concerns_slices(&change) => Changed::No,
            Message::Fact(change) => {
                let first = match &change {
                    Change::Reset(kind, _) => self.listed.insert(*kind),
                    _ => false,
                };
                let mut since = Since::Slices;
                match &change {
                    Change::Apply(object) => since.applied(object),
                    Change::Delete(key) => since.deleted(key),
                    Change::Reset(kind, _) => since.listed(*kind),
                }
                let changed = change.apply_to(&mut self.cluster);
                // A status that was written is none.
                if changed == Changed::Yes {
                    self.since.join(since);
                }
                // An empty first list is news as well.
                if first { Changed::Yes } else { changed }
            }
        }
    }

    /// The last plan is in force, by so many steps. Whether the next one is due at once, since this one held back more than is known to be refused.
    pub fn committed(&mut self, steps: usize) -> bool {
        self.planner.committed(steps)
    }

    /// The kernel refused the last plan; whether the next one, which is due at once, leaves out what it may be about.
    pub fn refused(&mut self, failure: &Failure) -> bool {
        self.planner.refused(failure)
    }

    /// The table has been looked at: what was refused long ago is tried again.
    pub fn looked(&mut self) {
        self.planner.looked();
    }

    /// How many member slices are known.
    #[cfg(test)]
    pub fn slices(&self) -> usize {
        self.cluster.slices.all().len()
    }

    /// What should be in force now; `None` as long as a first list is missing, since a table made from half the facts would open what is
    /// closed and close what is open. Asks for the member slices that the plan names by `open`.
    pub fn plan(&mut self, mut open: impl FnMut(Epoch, &BTreeSet<String>) -> W) -> Option<Plan> {
        let dns = self.exempts_dns.then_some(&Kind::Dns);
        if !FIRST.iter().chain(dns).all(|kind| self.listed.contains(kind)) {
            return None;
        }
        let mut planned = self.planner.plan(&self.cluster, std::mem::replace(&mut self.since, Since::Slices));
        let before = self.slices.listed();
        self.slices.want(planned.scope.named.clone(), &mut self.cluster, &mut open);
        if !before && self.slices.listed() {
            planned = self.planner.plan(&self.cluster, Since::Slices);
        }
        self.slices.listed().then_some(planned)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use policy::index::Object;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_that_was_written_makes_nothing_be_worked_out_again() {
        let mut facts = Facts::new(NodeName("n1".into()), BTreeSet::new());
        let metadata = ObjectMeta { namespace: Some("shop".into()), name: Some("web".into()), ..ObjectMeta::default() };
        let group = |spec| Message::Fact(Change::Apply(Object::security_group(&metadata, &spec)));
        for kind in FIRST {
            let _ = facts.take(Message::Fact(Change::Reset(kind, Vec::new())));
        }
        assert!(facts.plan(|_, _| ()).is_some());
        assert_eq!((facts.take(group(json!({}))), &facts.since), (Changed::Yes, &Since::Anything));
        assert!(facts.plan(|_, _| ()).is_some());
        assert_eq!((facts.take(group(json!({}))), &facts.since), (Changed::No, &Since::Slices));
    }
}
