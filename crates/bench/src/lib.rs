//! How fast the product is, and how quietly it changes: what `tests/bench` measures, beside the alternatives.
//!
//! *In:* how often to measure. *Out:* [`table::Line`]s. Everything happens in network namespaces of its own.
//!
//! ```text
//! packets  the cost of a packet          curves  how it grows
//! commits  the cost of a change          blink   what packets notice of changes
//! system   the whole product on a real cluster
//! ```
//! The tests hold to [`blink`] too.

pub mod blink;
pub mod commits;
pub mod connections;
pub mod curves;
mod kube_router;
mod layout;
pub mod layouts;
pub mod packets;
mod rival;
mod road;
mod stream;
mod svg;
pub mod system;
pub mod table;
mod workload;
