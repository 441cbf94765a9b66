//! Fuzzing: what is stored is changed at random, read, and taken through index, resolve, compile, lower and diff into the fake kernel.
//!
//! A case is a list of objects of every kind, as JSON. It begins with one of `corpus/`; a case that makes the programs say or do
//! something that no case before it did is kept and changed further. Without more it runs a fixed number of cases, the same every time;
//! `FUZZ_SECONDS=3600 cargo test -p testkit --test fuzz -- --nocapture` goes on for an hour, from another seed each time. A case that
//! fails is printed as small as it could be made: mend the fault and put the case into `corpus/`.

mod bounds;
mod mutate;
mod pipeline;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mutate::Random;
use pipeline::{Novelty, run};
use serde_json::Value;

const CASES: usize = 10_000;

fn corpus() -> Vec<(String, Vec<Value>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the corpus").flatten().map(|entry| entry.path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).expect("a case");
        (path.display().to_string(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    files.iter().map(read).collect()
}

/// What is wrong with a case; a panic is wrong as well.
fn fault(case: &[Value]) -> Result<Novelty, String> {
    catch_unwind(AssertUnwindSafe(|| run(case))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The case without the objects that it fails without.
fn smallest(mut case: Vec<Value>) -> Vec<Value> {
    let mut i = 0;
    while i < case.len() {
        let mut fewer = case.clone();
        fewer.remove(i);
        if fault(&fewer).is_err() { case = fewer } else { i += 1 }
    }
    case
}

/// S38, P33: whatever is stored, nothing panics, everything the kernel is told is legal, and what comes out is no larger than what goes in.
#[test]
fn s38_p33_whatever_is_stored() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random =
        Random(if until.is_some() { SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64) } else { 1 });
    let mut cases: Vec<Vec<Value>> = corpus().into_iter().map(|(_, case)| case).collect();
    let (mut seen, mut ran) = (BTreeSet::new(), 0);
    for case in &cases {
        seen.extend(fault(case).unwrap_or_else(|error| panic!("{error}\n{}", Value::from(case.clone()))));
    }
    let begun = (cases.len(), seen.len());
    while until.map_or(ran < CASES, |until| Instant::now() < until) {
        ran += 1;
        let (mut case, other) = (random.of(&cases).clone(), random.of(&cases).clone());
        for _ in 0..=random.below(4) {
            mutate::mutate(&mut case, &other, &mut random);
        }
        match fault(&case) {
            Ok(novelty) => {
                let before = seen.len();
                seen.extend(novelty);
                // Not the large ones: they would only grow.
                if seen.len() > before && Value::from(case.clone()).to_string().len() < 20_000 {
                    cases.push(case);
                }
            }
            Err(error) => panic!("case {ran}: {error}\n{}", Value::from(smallest(case))),
        }
    }
    println!("{ran} cases; from {} to {} seeds, from {} to {} things seen", begun.0, cases.len(), begun.1, seen.len());
    assert!(cases.len() > begun.0 + 30, "the mutations find nothing new: {} seeds from {}", cases.len(), begun.0);
}

/// Every case of the corpus stands for something: its objects are read, and all kinds are there.
#[test]
fn the_corpus_has_objects_of_every_kind() {
    let objects: Vec<Value> = corpus().into_iter().flat_map(|(_, case)| case).collect();
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    let wanted = ["Attachment", "EndpointSlice", "MemberSlice", "Namespace", "NodeReport", "Pod", "PrefixList", "SecurityGroup"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
}
