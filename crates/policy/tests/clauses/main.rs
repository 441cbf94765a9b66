//! The clauses of the semantics, one by one, on facts, rules and packets written by hand.

mod facts;
mod membership;
mod rows;
mod rules;
mod status;
mod verdicts;
