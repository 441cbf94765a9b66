//! No packet notices a change: a thousand updates of every kind under ten thousand allowed and ten thousand denied packets a second.

use std::time::Duration;

use ::bench::blink::{Fault, Report, Trial, Update, run};
use anyhow::{Result, ensure};

/// A machine that has other things to do sends fewer; it must be a crowd all the same.
fn crowd(report: &Report) -> Result<()> {
    println!("{report}; {:.0} packets of each a second; {:?}", report.rate(), report.kinds());
    ensure!(report.rate() > 2_000.0, "only {:.0} packets a second", report.rate());
    Ok(())
}

fn undisturbed(trial: &Trial) -> Result<()> {
    let report = run(trial)?;
    crowd(&report)?;
    report.undisturbed()?;
    let kinds = report.kinds();
    ensure!(kinds.len() == trial.kinds.len() && kinds.values().all(|count| *count > 40), "{kinds:?}");
    Ok(())
}

/// S41, P07, P45: agents that end and start again are among the updates, and P12: tables that somebody has touched.
#[test]
fn s42_p17_a_thousand_updates_lose_no_allowed_packet_and_leak_no_denied_one() -> Result<()> {
    undisturbed(&Trial::default())
}

/// Most of all where that happens all the time.
#[test]
fn s42_p12_a_table_that_is_put_right_loses_and_leaks_no_packet() -> Result<()> {
    undisturbed(&Trial { updates: 300, kinds: &[Update::Peer, Update::ManyRules, Update::Repair], ..Trial::default() })
}

/// A table that nobody can read is made anew as a whole, under a second one that guards meanwhile; in the end there is one.
#[test]
fn s42_p12_a_table_that_is_made_anew_loses_and_leaks_no_packet() -> Result<()> {
    undisturbed(&Trial { updates: 300, kinds: &[Update::Peer, Update::ManyRules, Update::Replacement], ..Trial::default() })
}

/// What the tests above would say of an agent that needs two transactions for an update.
#[test]
fn an_update_in_two_steps_is_seen_by_packets() -> Result<()> {
    let run = |fault| {
        let kinds = &[Update::Member, Update::Pod];
        let report = run(&Trial { updates: 40, apart: Duration::from_millis(30), kinds, fault: Some(fault), ..Trial::default() })?;
        crowd(&report)?;
        report.sound()?;
        ensure!(report.undisturbed().is_err(), "{fault:?} is not seen: {report}");
        Ok(report)
    };
    let opens = run(Fault::Opens)?;
    ensure!(!opens.leaked.is_empty(), "a table that goes and comes back: {opens}");
    let closes = run(Fault::Closes)?;
    ensure!(!closes.lost.is_empty(), "rules that go and come back: {closes}");
    Ok(())
}
