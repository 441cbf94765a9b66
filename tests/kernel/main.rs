//! The real kernel with real packets, in network namespaces of the tests' own. Needs root.

mod bench;
mod blink;
mod bridge;
mod coexistence;
mod connections;
mod counting;
mod difference;
mod drift;
mod isolation;
mod oracle;
mod overlaps;
mod survival;
mod topology;
mod watch;
mod wire;
