//! A Kubernetes cluster on one machine, for the demo, the tests and the benchmarks: a real control plane, and real nodes with kubelet,
//! containerd and kube-proxy, each in namespaces of its own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = lab::Cluster::builder("example").nodes(2).start().await?;
//! println!("{}", cluster.kubectl(&["get", "nodes"])?);
//! # Ok(()) } // taken down when dropped
//! ```
//!
//! In: the Kubernetes programs that `tests/tools/build` finds or builds, Debian packages, the `probe` program, images made of programs.
//! Out: a [`Cluster`] with a client, kubectl, its [`Node`]s, and a [`World`] outside of it. Needs root; no container engine, no registry.
//!
//! ```text
//!   host: 127.0.0.1:random ──(listener handed over)──┐
//!   ┌ ksg-NAME-cp ─────────────────────────────────┐ │  ┌ ksg-NAME-world ──────────────────────────┐
//!   │ etcd, apiserver, controllers, the bridge br0 ├─┴──┤ 203.0.113.10…15, 2001:db8:113::10…15     │
//!   │ 10.99.0.1, fd00:99::1; routes for all        │    │ clients outside the cluster              │
//!   └──┬─────────────────────────┬─────────────────┘    └──────────────────────────────────────────┘
//!   ┌ ksg-NAME-n1 ───────────┐ ┌ ksg-NAME-n2 ───────────┐
//!   │ 10.99.0.11 fd00:99::11 │ │ 10.99.0.12 fd00:99::12 │   pods: 10.244.N.0/24 and fd00:244:N::/64, one veth each, routed
//!   └────────────────────────┘ └────────────────────────┘   services: 10.96.0.0/16 and fd00:96::/112
//! ```
//! With [`Topology::Bridge`] the pods of a node are on one Linux bridge, `cni0`, in the node's namespace instead.
//!
//! Invariants:
//! 1. Everything lives in network namespaces of the cluster's own, so clusters with the same addresses run side by side; the host's network
//!    gets one listener on 127.0.0.1 and nothing else.
//! 2. The control plane is one tree of processes and so is each node, in pid and mount namespaces of its own: when its first process ends,
//!    the kernel ends the rest and drops the mounts. The first process ends when its owner does, however that ends, unless the cluster is kept.
//! 3. What a cluster will leave on the machine is written down before it is made; whoever starts the next one removes what dead owners left.
//! 4. Nobody waits for a drain: taking a cluster down is SIGKILL.
//!
//! Not here: anything that knows security groups; the product is an image and manifests to this crate.

mod addresses;
mod cgroup;
mod cluster;
mod conntrack;
mod control_plane;
mod credentials;
pub mod images;
mod kubectl;
mod netns;
mod network;
mod node;
mod node_config;
mod process;
pub mod programs;
mod signals;
pub mod state;

pub use addresses::Dual;
pub use cluster::{Builder, Cluster, World, attach};
pub use netns::Namespace;
pub use node::Node;
pub use node_config::{Proxy, Topology};
pub use process::ProcessId;
pub use signals::Signals;
