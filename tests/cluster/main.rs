//! The product on a real two-node Kubernetes: kubelets, containers, kube-proxy, and real packets between pods. Needs root.
//!
//! Each test has a cluster of its own; `tests/run cluster` runs them one after another.

mod fixture;
mod killed;
mod programmed;
mod three_tiers;
