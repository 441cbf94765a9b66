//! Against the real kernel, each test in a network namespace of its own. Needs root and `nft`.

mod batches;
mod bridges;
mod guard;
mod listing;
mod namespace;
mod neighbours;
mod owner;
mod probing;
mod round_trip;
mod rulesets;
mod ways;
