//! A difference between the oracle and the kernel, made as small as it gets: the few lines that somebody has to understand.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use policy::model::{Packet, Payload, Verdict};
use testkit::Draft;

use super::bench::Bench;
use super::oracle::visible;

/// Where the kernel does something else than the oracle says.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What was in force before, where it takes a change to see it.
    pub before: Option<Draft>,
    /// What was in force.
    pub draft: Draft,
    /// The packet.
    pub packet: Packet,
    /// What the oracle says.
    pub wanted: Verdict,
    /// What was seen.
    pub seen: Verdict,
    /// Whether it came back when only this was done again.
    pub again: bool,
    /// What nft says that the kernel has.
    pub ruleset: String,
}

/// Finds the smallest change, policy and packet that still differ, by leaving out one piece after the other on the kernel itself.
pub fn shrink(bench: &mut Bench, before: Option<Draft>, draft: Draft, packet: Packet, first: (Verdict, Verdict)) -> Result<Difference> {
    // What should come and does not is the rule now, and every try waits for it.
    bench.patience = Duration::from_millis(100);
    let mut small = Small { bench, packet, verdicts: first };
    let (mut before, mut draft) = (before, draft);
    let mut again = small.differs(None, &draft)?;
    if again {
        before = None;
    } else if before.is_some() {
        again = small.differs(before.as_ref(), &draft)?;
    }
    if again {
        while let Some(smaller) = small.smaller(before.as_ref(), &draft)? {
            (before, draft) = smaller;
        }
        // The last try need not have been the smallest one.
        small.differs(before.as_ref(), &draft)?;
    }
    let (wanted, seen) = small.verdicts;
    let ruleset = bench.topology.nft("--stateless list table inet k8s-sg")?;
    Ok(Difference { before, draft, packet, wanted, seen, again, ruleset })
}

struct Small<'a> {
    bench: &'a mut Bench,
    packet: Packet,
    verdicts: (Verdict, Verdict),
}

impl Small<'_> {
    /// The first that has one piece less and still differs.
    fn smaller(&mut self, before: Option<&Draft>, draft: &Draft) -> Result<Option<(Option<Draft>, Draft)>> {
        for (before, draft) in candidates(before, draft) {
            if self.differs(before.as_ref(), &draft)? {
                return Ok(Some((before, draft)));
            }
        }
        Ok(None)
    }

    fn differs(&mut self, before: Option<&Draft>, draft: &Draft) -> Result<bool> {
        let policy = draft.policy();
        match before {
            Some(before) => {
                self.bench.replace(&before.policy())?;
                self.bench.enforce(&policy)?;
            }
            None => self.bench.replace(&policy)?,
        }
        let wanted = visible(&policy, &self.packet);
        let seen = self.bench.send(&[self.packet], &[wanted])?[0].seen;
        if seen != wanted {
            self.verdicts = (wanted, seen);
        }
        Ok(seen != wanted)
    }
}

/// Everything that has one piece less, before or after the change or both.
fn candidates(before: Option<&Draft>, draft: &Draft) -> Vec<(Option<Draft>, Draft)> {
    let Some(before) = before else { return draft.pieces().iter().map(|piece| (None, draft.without(piece))).collect() };
    let mut pieces = before.pieces();
    pieces.extend(draft.pieces().into_iter().filter(|piece| !before.pieces().contains(piece)));
    let mut all = Vec::new();
    for piece in &pieces {
        let (less_before, less) = (before.without(piece), draft.without(piece));
        all.push((Some(less_before.clone()), less.clone()));
        all.push((Some(less_before), draft.clone()));
        all.push((Some(before.clone()), less));
    }
    all.retain(|(b, d)| (b.as_ref(), d) != (Some(before), draft));
    all
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the oracle says {:?}, the kernel {:?}", self.wanted, self.seen)?;
        if !self.again {
            writeln!(f, "(and not again when only this was done again)")?;
        }
        if let Some(before) = &self.before {
            write!(f, "after a change from\n{before}to\n")?;
        }
        writeln!(f, "{}{}\n{}", self.draft, describe(&self.packet), self.ruleset)
    }
}

/// A packet in a few words.
pub fn describe(packet: &Packet) -> String {
    let Packet { source, destination, payload, state, path } = packet;
    let what = match payload {
        Payload::Transport { protocol, source, destination } => format!("{protocol}, port {source} to {destination}"),
        Payload::Icmp { kind, code } => format!("ICMP {kind}/{code}"),
        Payload::Protocol(number) => format!("protocol {number}"),
    };
    format!("packet: {source} to {destination}, {what}, {state:?}, {path:?}")
}
