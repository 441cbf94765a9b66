//! The product on a real two-node Kubernetes: kubelets, containers, kube-proxy, and real packets between pods. Needs root.
//!
//! Each test has a cluster of its own; `tests/run cluster` runs them one after another. What depends on how pods are connected is tried
//! on both topologies.

mod absent;
mod adverse;
mod bridge;
mod bypass;
mod cases;
mod counts;
mod drift;
mod emulated;
mod exemptions;
mod fixture;
mod guides;
mod killed;
mod latency;
mod lifecycle;
mod manifests;
mod node_traffic;
mod oracle;
mod programmed;
mod random;
mod services;
mod three_tiers;
mod versions;
