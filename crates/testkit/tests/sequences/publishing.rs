//! What the operator follows from change to change, against what it makes of the present facts alone.

use std::collections::BTreeMap;

use policy::index::{Key, Object};
use policy::slices::{SliceOp, plan};
use policy::{Cluster, Publisher, Reach, resolve};
use proptest::prelude::*;
use testkit::Event;
use testkit::history::{TELLINGS, tell};
use testkit::steps::history;

#[derive(Default)]
struct Operator {
    cluster: Cluster,
    publisher: Publisher,
}

impl Operator {
    fn take(&mut self, event: &Event) {
        let reach = match event {
            Event::Apply(object) => Reach::of_object(&self.cluster, object),
            Event::Delete(key) => Reach::of_deletion(&self.cluster, key),
            Event::Reset(kind, _) => Reach::of_list(*kind),
        };
        let changed = match event.clone() {
            Event::Apply(object) => self.cluster.apply(object),
            Event::Delete(key) => self.cluster.delete(&key),
            Event::Reset(kind, objects) => self.cluster.reset(kind, objects),
        };
        if changed == policy::index::Changed::Yes {
            self.publisher.changed(reach);
        }
    }

    /// What is due, which is what follows from the facts and nothing else.
    fn follow(&mut self) -> Result<Vec<SliceOp>, String> {
        self.publisher.follow(&self.cluster);
        let resolution = resolve(&self.cluster);
        if *self.publisher.resolution() != resolution {
            return Err(format!("followed: {:#?}\nfrom nothing: {resolution:#?}", self.publisher.resolution()));
        }
        let planned = plan(&self.cluster, &resolution);
        let (followed, wanted) = (by_group(self.publisher.due().values().flatten()), by_group(&planned));
        if followed != wanted {
            return Err(format!("followed: {followed:#?}\nfrom nothing: {wanted:#?}"));
        }
        Ok(self.publisher.due().values().flatten().cloned().collect())
    }
}

/// Writes of different groups have no order.
fn by_group<'a>(ops: impl IntoIterator<Item = &'a SliceOp>) -> BTreeMap<(&'a str, &'a str), Vec<&'a SliceOp>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for op in ops {
        groups.entry((op.key().0.as_str(), op.group_id())).or_default().push(op);
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// S6, S7, P05, P34: whatever the operator hears, in whatever order, with slices of others' making and with its own, of which some
    /// are written and some are not.
    #[test]
    fn s7_p34_what_is_due_does_not_depend_on_what_was(states in history(), seed in any::<u64>()) {
        for telling in TELLINGS {
            let (mut operator, mut turn) = (Operator::default(), seed);
            for batch in tell(&states, telling, seed) {
                if batch.restart {
                    operator = Operator::default();
                }
                batch.events.iter().for_each(|event| operator.take(event));
                for op in operator.follow().map_err(TestCaseError::fail)? {
                    turn = turn.rotate_left(1);
                    let event = match op.outcome() {
                        _ if turn & 1 == 0 => continue,
                        Some(slice) => Event::Apply(Object::MemberSlice(op.key().clone(), slice.clone())),
                        None => Event::Delete(Key::MemberSlice(op.key().clone())),
                    };
                    operator.take(&event);
                }
                operator.follow().map_err(TestCaseError::fail)?;
            }
        }
    }
}
