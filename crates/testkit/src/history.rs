//! State sequences: one sequence of what the cluster holds, told to a program in every way in which watches may tell it.

use std::collections::BTreeMap;

use policy::Cluster;
use policy::index::{Key, Object};

use crate::manifest::{KINDS, Manifest, key, kind};
use crate::program::Event;

/// What the API server holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(BTreeMap<Key, Object>);

impl State {
    /// With these objects.
    pub fn of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> State {
        State(manifests.into_iter().map(|manifest| (manifest.key(), manifest.fact())).collect())
    }

    /// With this object, or with it as it is now.
    pub fn with(mut self, manifest: &Manifest) -> State {
        self.0.insert(manifest.key(), manifest.fact());
        self
    }

    /// Without this object.
    pub fn without(mut self, key: &Key) -> State {
        self.0.remove(key);
        self
    }

    /// With every object as this makes it; none: left out.
    pub fn map(&self, make: impl Fn(&Object) -> Option<Object>) -> State {
        State(self.0.iter().filter_map(|(key, object)| Some((key.clone(), make(object)?))).collect())
    }

    /// The facts of a program that has read it at once.
    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for object in self.0.values() {
            let _ = cluster.apply(object.clone());
        }
        cluster
    }

    /// What a watch tells of the way from here to there. An object that was made again is told as gone and new.
    pub fn events_to(&self, to: &State) -> Vec<Event> {
        let gone = self.0.keys().filter(|key| !to.0.contains_key(key)).cloned().map(Event::Delete);
        let mut events: Vec<Event> = gone.collect();
        for (key, object) in to.0.iter().filter(|(key, object)| self.0.get(*key) != Some(object)) {
            if self.0.get(key).is_some_and(|old| uid(old) != uid(object)) {
                events.push(Event::Delete(key.clone()));
            }
            events.push(Event::Apply(object.clone()));
        }
        events
    }

    /// The full lists of all kinds.
    pub fn lists(&self) -> Vec<Event> {
        KINDS.map(|wanted| Event::Reset(wanted, self.0.values().filter(|object| kind(object) == wanted).cloned().collect())).into()
    }
}

fn uid(object: &Object) -> &str {
    match object {
        Object::Pod(_, facts) => &facts.uid,
        Object::SecurityGroup(_, facts) => &facts.uid,
        Object::Attachment(_, facts) => &facts.uid,
        Object::PrefixList(_, facts) => &facts.uid,
        _ => "",
    }
}

/// A way to tell a sequence of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// State by state.
    Straight,
    /// From the last to the first.
    Reversed,
    /// With a moment between any two in which there is nothing.
    Empties,
    /// Event by event, those between two states in another order.
    Split,
    /// Only every third state, as a program sees it that was busy or cut off.
    Squashed,
    /// Everything twice, and as full lists once more.
    Duplicated,
    /// With a restart of the program after every state.
    Restarted,
}

/// Every way.
pub const TELLINGS: [Telling; 7] =
    [Telling::Straight, Telling::Reversed, Telling::Empties, Telling::Split, Telling::Squashed, Telling::Duplicated, Telling::Restarted];

/// What happens between two syncs.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The program starts anew before it hears.
    pub restart: bool,
    /// What it hears.
    pub events: Vec<Event>,
    /// What the API server holds after it; none where it is on the way.
    pub state: Option<State>,
}

/// A sequence of states as told. `seed` decides what order is another.
pub fn tell(states: &[State], telling: Telling, seed: u64) -> Vec<Batch> {
    let nothing = State::default();
    let mut path: Vec<&State> = states.iter().collect();
    match telling {
        Telling::Reversed => path.reverse(),
        Telling::Empties => path = path.into_iter().flat_map(|state| [state, &nothing]).chain(states.last()).collect(),
        Telling::Squashed => path = path.chunks(3).filter_map(|three| three.last().copied()).collect(),
        _ => {}
    }
    let mut random = Shuffle(seed);
    let mut batches = Vec::new();
    let mut before = &nothing;
    for state in path {
        let mut events = before.events_to(state);
        match telling {
            Telling::Split => {
                random.shuffle(&mut events);
                let last = events.pop();
                let alone = |event| Batch { restart: false, events: vec![event], state: None };
                batches.extend(events.into_iter().map(alone));
                batches.push(Batch { restart: false, events: last.into_iter().collect(), state: Some(state.clone()) });
            }
            Telling::Duplicated => {
                events = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
                batches.push(Batch { restart: false, events: events.clone(), state: Some(state.clone()) });
                batches.push(Batch { restart: false, events, state: Some(state.clone()) });
                batches.push(Batch { restart: false, events: state.lists(), state: Some(state.clone()) });
            }
            Telling::Restarted => {
                batches.push(Batch { restart: false, events, state: Some(state.clone()) });
                batches.push(Batch { restart: true, events: state.lists(), state: Some(state.clone()) });
            }
            _ => batches.push(Batch { restart: false, events, state: Some(state.clone()) }),
        }
        before = state;
    }
    batches
}

/// An order that depends on the seed alone (xorshift).
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Of one object, its deletion stays before its return.
    fn shuffle(&mut self, events: &mut [Event]) {
        for i in (1..events.len()).rev() {
            let j = self.below(i + 1);
            events.swap(i, j);
        }
        for i in 1..events.len() {
            let Event::Delete(gone) = &events[i] else { continue };
            let back = |event: &Event| matches!(event, Event::Apply(object) if key(object) == *gone);
            if let Some(j) = events[..i].iter().position(back) {
                events.swap(i, j);
            }
        }
    }
}
