//! Our table, as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::Duration;

use policy::model::Family;
use ruleset::{Base, Counter, Hook, Ruleset};

use crate::contents::{counted_of, intervals_of, map_of, ports_of, set_of};
use crate::element::Element;
use crate::encode::{OBJECT_MAP, PORT_TYPE, hook_number, key_type, table_name};
use crate::error::Error;
use crate::expression::OBJECT_COUNTER;
use crate::message::{Body, Message};
use crate::object::{self, Chain, Flowtable, Object, Rule, Table};
use crate::owner::Owner;
use crate::recognize::recognize;
use crate::socket::{Reply, Socket};

/// `NFT_MSG_GETFLOWTABLE`, which libc does not have.
const GET_FLOWTABLE: i32 = 23;
/// `NFT_CHAIN_BASE`
const CHAIN_IS_BASE: u32 = 1;
/// How often the whole table is read before giving up.
const ATTEMPTS: usize = 20;
/// What the kernel is given to end a rehash.
const REHASH: Duration = Duration::from_millis(2);

/// What every counter has counted, in one dump.
pub(crate) fn counters(socket: &mut Socket) -> Result<BTreeMap<String, Counter>, Error> {
    let mut filter = Object::new();
    filter.set_text(Object::TABLE, &table_name());
    filter.set_number(Object::TYPE, OBJECT_COUNTER);
    let listing = list(socket, "counters", libc::NFT_MSG_GETOBJ, Body::Object(filter), |reply| {
        let object = Object::parse(reply).filter(|object| object.number(Object::TYPE) == OBJECT_COUNTER)?;
        let counter = Counter { packets: object.long(Object::PACKETS), bytes: object.long(Object::BYTES) };
        Some((ours(object.text(Object::TABLE))?, string(object.text(Object::NAME)?)?, counter))
    })?;
    Ok(listing.into_iter().flatten().map(|((), name, counter)| (name, counter)).collect())
}

/// The table; none where there is none, or where anything in it is not ours.
///
/// It takes several listings. They belong together where nobody committed anything meanwhile, or where two readings in a row agree (on a
/// node where others commit all the time).
pub(crate) fn load(socket: &mut Socket, owner: Owner) -> Result<Option<Ruleset>, Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let before = generation(socket)?;
        let reading = match read(socket, owner) {
            // A set went away between two listings.
            Err(error) if error.is_not_found() => continue,
            reading => reading?,
        };
        if before == generation(socket)? || last.as_ref() == Some(&reading) {
            return Ok(reading);
        }
        last = Some(reading);
    }
    Err(Error::Unsettled { attempts: ATTEMPTS })
}

fn generation(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let request = Message::new(libc::NFT_MSG_GETGEN, libc::NLM_F_ACK, Body::Empty);
    let answer = socket.ask("generation", &request, object::generation)?;
    Ok(answer.into_iter().flatten().next())
}

fn list<T>(socket: &mut Socket, what: &'static str, kind: i32, body: Body, read: impl Fn(Reply<'_>) -> T) -> Result<Vec<T>, Error> {
    socket.ask(what, &Message::new(kind, libc::NLM_F_DUMP, body), read)
}

fn read(socket: &mut Socket, owner: Owner) -> Result<Option<Ruleset>, Error> {
    let plain = |table: &Table| table.number(Table::FLAGS) == owner.flags() && !table.is_set(Table::USERDATA);
    if table(socket, &table_name(), plain)? != Some(true) || has_flowtables(socket)? {
        return Ok(None);
    }
    let mut ruleset = Ruleset::default();
    let fine = read_counters(socket, &mut ruleset)?
        && read_chains(socket, &mut ruleset)?
        && read_sets(socket, &mut ruleset)?
        && read_rules(socket, &mut ruleset)?;
    Ok(fine.then_some(ruleset))
}

/// What a listing says of one object: of another's table (the kernel filters some listings only), or of ours.
enum Item<T> {
    Elsewhere,
    Ours(T),
    /// In our table, but nothing that we write; or not to be understood.
    Foreign,
}

impl<T> Item<T> {
    fn new(table: Option<CString>, read: impl FnOnce() -> Option<T>) -> Item<T> {
        match (table, read) {
            (Some(table), _) if table != table_name() => Item::Elsewhere,
            (Some(_), read) => read().map_or(Item::Foreign, Item::Ours),
            (None, _) => Item::Foreign,
        }
    }
}

/// Ours of a listing; none where something in it is foreign.
fn ours_only<T>(items: Vec<Item<T>>) -> Option<Vec<T>> {
    let items = items.into_iter().filter_map(|item| match item {
        Item::Elsewhere => None,
        Item::Ours(item) => Some(Some(item)),
        Item::Foreign => Some(None),
    });
    items.collect()
}

/// Whether a table is such a one; none where there is none of that name.
pub(crate) fn table(socket: &mut Socket, name: &CStr, is_such: impl Fn(&Table) -> bool) -> Result<Option<bool>, Error> {
    let tables = list(socket, "tables", libc::NFT_MSG_GETTABLE, Body::Empty, |reply| {
        let table = Table::parse(reply)?;
        (table.text(Table::NAME)?.as_c_str() == name).then(|| is_such(&table))
    })?;
    Ok(tables.into_iter().flatten().next())
}

fn has_flowtables(socket: &mut Socket) -> Result<bool, Error> {
    let mut filter = Flowtable::new();
    filter.set_text(Flowtable::TABLE, &table_name());
    let flowtables = list(socket, "flow tables", GET_FLOWTABLE, Body::Flowtable(filter), |reply| {
        Flowtable::parse(reply).is_some_and(|flowtable| ours(flowtable.text(Flowtable::TABLE)).is_some())
    });
    match flowtables {
        // A kernel without flow tables has none.
        Err(Error::Listing { source, .. }) if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(false),
        flowtables => Ok(flowtables?.into_iter().any(|ours| ours)),
    }
}

fn read_counters(socket: &mut Socket, ruleset: &mut Ruleset) -> Result<bool, Error> {
    let mut filter = Object::new();
    filter.set_text(Object::TABLE, &table_name());
    let objects = list(socket, "objects", libc::NFT_MSG_GETOBJ, Body::Object(filter), |reply| {
        let Some(object) = Object::parse(reply) else { return Item::Foreign };
        Item::new(object.text(Object::TABLE), || {
            let plain = object.number(Object::TYPE) == OBJECT_COUNTER && !object.is_set(Object::USERDATA);
            string(object.text(Object::NAME)?).filter(|_| plain)
        })
    })?;
    let Some(counters) = ours_only(objects) else { return Ok(false) };
    ruleset.counters.extend(counters);
    Ok(true)
}

fn read_chains(socket: &mut Socket, ruleset: &mut Ruleset) -> Result<bool, Error> {
    let chains = list(socket, "chains", libc::NFT_MSG_GETCHAIN, Body::Empty, |reply| {
        let Some(chain) = Chain::parse(reply) else { return Item::Foreign };
        Item::new(chain.text(Chain::TABLE), || {
            let foreign = chain.is_set(Chain::DEVICE)
                || chain.is_set(Chain::DEVICES)
                || chain.is_set(Chain::BYTES)
                || chain.is_set(Chain::USERDATA)
                || chain.number(Chain::FLAGS) & !CHAIN_IS_BASE != 0;
            if foreign {
                return None;
            }
            let base = match chain.is_set(Chain::HOOK) {
                true => Some(base(&chain)?),
                false => None,
            };
            Some((string(chain.text(Chain::NAME)?)?, base))
        })
    })?;
    let Some(chains) = ours_only(chains) else { return Ok(false) };
    ruleset.chains.extend(chains.into_iter().map(|(name, base)| (name, ruleset::Chain { base, rules: Vec::new() })));
    Ok(true)
}

fn base(chain: &Chain) -> Option<Base> {
    let ours = chain.text(Chain::TYPE)?.as_c_str() == c"filter" && chain.number(Chain::POLICY) == libc::NF_ACCEPT as u32;
    let hook = [Hook::Input, Hook::Forward, Hook::Output].into_iter().find(|hook| hook_number(*hook) == chain.number(Chain::HOOK))?;
    ours.then_some(Base { hook, priority: chain.number(Chain::PRIORITY) as i32 })
}

fn read_sets(socket: &mut Socket, ruleset: &mut Ruleset) -> Result<bool, Error> {
    let mut filter = object::Set::new();
    filter.set_text(object::Set::TABLE, &table_name());
    let sets = list(socket, "sets", libc::NFT_MSG_GETSET, Body::Set(filter), |reply| {
        let Some(set) = object::Set::parse(reply) else { return Item::Foreign };
        Item::new(set.text(object::Set::TABLE), || set_kind(&set))
    })?;
    let Some(sets) = ours_only(sets) else { return Ok(false) };
    for (raw_name, kind) in sets {
        let Some(elements) = read_elements(socket, &raw_name)? else { return Ok(false) };
        let Some(name) = string(raw_name) else { return Ok(false) };
        let fits = match kind {
            SetKind::Hash(family) => set_of(family, elements).map(|set| ruleset.sets.insert(name, set)).is_some(),
            SetKind::Interval(family) => intervals_of(family, elements).map(|set| ruleset.intervals.insert(name, set)).is_some(),
            SetKind::Map(family) => map_of(family, elements).map(|map| ruleset.maps.insert(name, map)).is_some(),
            SetKind::Counters { family, ranges } => {
                counted_of(family, ranges, elements).map(|map| ruleset.counter_maps.insert(name, map)).is_some()
            }
            SetKind::Ports { ranges } => ports_of(ranges, elements).map(|map| ruleset.port_maps.insert(name, map.into())).is_some(),
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the kernel calls a set.
enum SetKind {
    Hash(Family),
    Interval(Family),
    Map(Family),
    Ports { ranges: bool },
    Counters { family: Family, ranges: bool },
}

/// Name and kind. What `nft` keeps for itself in user data does not matter to us.
fn set_kind(set: &object::Set) -> Option<(CString, SetKind)> {
    use object::Set;
    let foreign = set.is_set(Set::SIZE)
        || set.is_set(Set::CONCATENATION)
        || set.is_set(Set::TIMEOUT)
        || set.is_set(Set::GC_INTERVAL)
        || set.is_set(Set::EXPRESSION)
        || set.is_set(Set::EXPRESSIONS)
        || set.is_set(Set::OBJECT_TYPE) != (set.number(Set::FLAGS) & OBJECT_MAP != 0);
    let key = (set.number(Set::KEY_TYPE), set.number(Set::KEY_LENGTH));
    let family = [Family::V4, Family::V6].into_iter().find(|family| key_type(*family) == key);
    let (intervals, map) = (libc::NFT_SET_INTERVAL as u32, libc::NFT_SET_MAP as u32);
    let flags = set.number(Set::FLAGS);
    let counters = set.number(Set::OBJECT_TYPE) == OBJECT_COUNTER;
    let verdicts = flags & map != 0 && set.number(Set::DATA_TYPE) == libc::NFT_DATA_VERDICT;
    let kind = match (flags, family) {
        (0, Some(family)) => SetKind::Hash(family),
        (flags, Some(family)) if flags == intervals => SetKind::Interval(family),
        (flags, Some(family)) if verdicts && flags == map => SetKind::Map(family),
        (flags, Some(family)) if counters && flags & !intervals == OBJECT_MAP => {
            SetKind::Counters { family, ranges: flags & intervals != 0 }
        }
        (flags, None) if verdicts && key == PORT_TYPE && flags & !(map | intervals) == 0 => {
            SetKind::Ports { ranges: flags & intervals != 0 }
        }
        _ => return None,
    };
    (!foreign).then_some((set.text(Set::NAME)?, kind))
}

/// None where one of them is not ours.
///
/// A set that has grown is rehashed in the background, which is no change of the tables: pieces of a listing before and after it come in
/// another order. Then as many elements are missing as come twice, and the listing is begun anew.
fn read_elements(socket: &mut Socket, set: &CString) -> Result<Option<Vec<Element>>, Error> {
    for attempt in 0..ATTEMPTS {
        let mut filter = object::Set::new();
        filter.set_text(object::Set::TABLE, &table_name());
        filter.set_text(object::Set::NAME, set);
        let pieces = list(socket, "elements", libc::NFT_MSG_GETSETELEM, Body::Elements(filter), object::Set::parse_elements)?;
        let pieces: Option<Vec<Vec<Element>>> = pieces.into_iter().collect();
        let Some(pieces) = pieces else { return Ok(None) };
        let elements: Vec<Element> = pieces.into_iter().flatten().collect();
        if each_once(&elements) {
            return Ok(Some(elements));
        }
        tracing::debug!(?set, attempt, "the kernel is rehashing; listing again");
        std::thread::sleep(REHASH);
    }
    Err(Error::Unsettled { attempts: ATTEMPTS })
}

/// Whether no key stands here twice. Where one range ends and the next begins, the same key is an end and a beginning.
fn each_once(elements: &[Element]) -> bool {
    let mut seen = BTreeSet::new();
    elements.iter().all(|element| seen.insert((element.key.as_slice(), element.end)))
}

fn read_rules(socket: &mut Socket, ruleset: &mut Ruleset) -> Result<bool, Error> {
    let mut filter = Rule::new();
    filter.set_text(Rule::TABLE, &table_name());
    let rules = list(socket, "rules", libc::NFT_MSG_GETRULE, Body::Rule(filter), |reply| {
        let Some(rule) = Rule::parse(reply) else { return Item::Foreign };
        Item::new(rule.text(Rule::TABLE), || {
            let foreign = rule.is_set(Rule::USERDATA) || rule.is_set(Rule::COMPAT);
            let chain = string(rule.text(Rule::CHAIN)?)?;
            Some((chain, recognize(&rule.expressions()?)?)).filter(|_| !foreign)
        })
    })?;
    let Some(rules) = ours_only(rules) else { return Ok(false) };
    for (chain, rule) in rules {
        // A chain that appeared after the listing of chains: this reading is discarded, for the generation has changed.
        let Some(chain) = ruleset.chains.get_mut(&chain) else { return Ok(false) };
        Arc::make_mut(chain).rules.push(rule);
    }
    Ok(true)
}

fn ours(table: Option<CString>) -> Option<()> {
    (table? == table_name()).then_some(())
}

fn string(name: CString) -> Option<String> {
    name.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_shows_that_something_is_missing() {
        let (first, end) = (Element::port(80), Element { end: true, ..Element::port(80) });
        assert!(each_once(&[first.clone(), end.clone(), Element::port(81)]));
        assert!(!each_once(&[first.clone(), end, first]));
    }
}
