//! The real kernel with real packets, in network namespaces of the tests' own. Needs root.

mod coexistence;
mod connections;
mod oracle;
mod topology;
mod wire;
