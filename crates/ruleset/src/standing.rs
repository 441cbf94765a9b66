//! What of a policy is in force by a table that is there, whoever made it: a program that has just started knows no other past.

use std::collections::BTreeSet;

use policy::model::{Direction, Family, GroupRef, NodePolicy, PodRef};

use crate::blame::{Part, Thing, touched};
use crate::lower::{CLOSED, FAMILIES, members_name, own_chain, prefixes_name, rule_counters};
use crate::lowering::{Class, Lowering};
use crate::piece::Piece;
use crate::{Op, Ruleset};

impl Lowering {
    /// The parts of the last policy that a table has just as the last ruleset has them.
    pub fn standing_in(&self, table: &Ruleset) -> NodePolicy {
        let wanted = self.ruleset();
        self.standing(&|thing| match thing {
            Thing::Chain(name) => table.chains.get(name) == wanted.chains.get(name),
            Thing::Counter(name) => table.counters.contains(name),
            Thing::Set(name) => {
                table.sets.get(name) == wanted.sets.get(name)
                    && table.intervals.get(name) == wanted.intervals.get(name)
                    && table.port_maps.get(name) == wanted.port_maps.get(name)
                    && table.counter_maps.get(name) == wanted.counter_maps.get(name)
            }
            Thing::Element(map, address) => {
                let to = |ruleset: &Ruleset| ruleset.maps.get(map).and_then(|map| map.elements.get(&address).cloned());
                to(table) == to(wanted)
            }
        })
    }

    /// Those that the kernel would have taken where it refused these steps alone of all that make the last ruleset.
    pub fn standing_without(&self, refused: &[Op]) -> NodePolicy {
        let touched = touched(refused);
        self.standing(&|thing| !touched.contains(&thing))
    }

    fn standing(&self, stands: &dyn Fn(Thing<'_>) -> bool) -> NodePolicy {
        let chains = |piece: &Piece| piece.chains.iter().all(|(name, _)| stands(Thing::Chain(name)));
        let ports = |piece: &Piece| piece.port_maps.iter().all(|(name, _)| stands(Thing::Set(name)));
        let counters = |piece: &Piece| piece.counters.iter().all(|name| stands(Thing::Counter(name)));
        let elements = |piece: &Piece| piece.elements.iter().all(|(map, address, _)| stands(Thing::Element(map, *address)));
        let whole = |piece: &Piece| chains(piece) && ports(piece) && counters(piece) && elements(piece);
        let classes: BTreeSet<&Class> = self.classes().filter(|(_, piece)| whole(piece)).map(|(class, _)| class).collect();
        let said: BTreeSet<(Direction, &GroupRef)> = classes.iter().flat_map(|(way, groups)| groups.iter().map(|it| (*way, it))).collect();
        let both_ways = |group: &GroupRef| [Direction::Ingress, Direction::Egress].iter().all(|way| said.contains(&(*way, group)));
        let sets = |names: &dyn Fn(Family) -> String| FAMILIES.into_iter().all(|family| stands(Thing::Set(&names(family))));
        let policy = self.policy();
        let endpoint = |pod: &PodRef| {
            self.pieces_of(pod).is_some_and(|(piece, needs)| whole(piece) && needs.iter().all(|class| classes.contains(class)))
        };
        NodePolicy {
            endpoints: policy.endpoints.iter().filter(|(pod, _)| endpoint(pod)).map(cloned).collect(),
            groups: policy.groups.iter().filter(|(group, _)| both_ways(group)).map(cloned).collect(),
            members: policy.members.iter().filter(|(group, _)| sets(&|family| members_name(group, family))).map(cloned).collect(),
            prefix_lists: policy.prefix_lists.iter().filter(|(list, _)| sets(&|family| prefixes_name(list, family))).map(cloned).collect(),
            ..policy.clone()
        }
    }
}

fn cloned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

impl Part {
    /// Whether a table has something of it, be it in another form.
    pub fn is_known_to(&self, table: &Ruleset, policy: &NodePolicy) -> bool {
        match self {
            // A rule that it had, and not only that somebody was in it.
            Part::Rules(group) => [Direction::Ingress, Direction::Egress].iter().any(|way| {
                let prefix = rule_counters(*way, group);
                table.counters.range(prefix.clone()..).next().is_some_and(|counter| counter.starts_with(&prefix))
            }),
            Part::Members(group) => FAMILIES.iter().any(|family| table.sets.contains_key(&members_name(group, *family))),
            Part::PrefixList(list) => FAMILIES.iter().any(|family| table.intervals.contains_key(&prefixes_name(list, *family))),
            Part::Endpoint(pod) => {
                let addresses = policy.endpoints.get(pod).map(|endpoint| &endpoint.addresses);
                let guarded = |address| {
                    table.maps.values().any(|map| map.elements.get(address).is_some_and(|chain| !CLOSED.contains(&chain.as_str())))
                };
                let own = [Direction::Ingress, Direction::Egress].iter().any(|way| table.chains.contains_key(&own_chain(pod, *way)));
                own || addresses.into_iter().flatten().any(guarded)
            }
        }
    }
}
