//! A cluster with the product and, for streams of packets, a server that only one outside client may reach.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Cluster, Image};
use probe::stream::Kind;
use probe::{Report, Stream, Target};

/// A two-node cluster with the product installed and running.
pub async fn start(name: &str) -> Result<Cluster> {
    let cluster = Cluster::builder(name).nodes(2).images([Image::product()?]).start().await?;
    tokio::task::block_in_place(|| demo::install(&cluster))?;
    Ok(cluster)
}

const SERVER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: t }
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: { name: server, namespace: t }
spec:
  ingress: [{ protocol: UDP, port: 7, from: [{ cidr: 203.0.113.10/32 }, { cidr: "2001:db8:113::10/128" }] }]
---
apiVersion: securitygroups.dev/v1alpha1
kind: SecurityGroup
metadata: { name: client, namespace: t }
spec: {}
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: { name: server, namespace: t }
spec: { securityGroups: [server], podSelector: { matchLabels: { app: server } } }
---
apiVersion: securitygroups.dev/v1alpha1
kind: Attachment
metadata: { name: client, namespace: t }
spec: { securityGroups: [client], podSelector: { matchLabels: { app: client } } }
---
apiVersion: v1
kind: Pod
metadata: { name: server, namespace: t, labels: { app: server } }
spec:
  nodeName: NODE0
  containers: [{ name: c, image: IMAGE, imagePullPolicy: Never, command: [/bin/probe, serve, --udp, "7"] }]
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: t, labels: { app: client } }
spec:
  nodeName: NODE1
  containers: [{ name: c, image: IMAGE, imagePullPolicy: Never, command: [/bin/probe, serve, --udp, "7"] }]
"#;

/// Runs the server on node 1 and a client pod on node 2; the server's addresses, IPv4 first.
pub fn run_server(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let manifests =
        SERVER.replace("NODE0", cluster.node(0).name()).replace("NODE1", cluster.node(1).name()).replace("IMAGE", Image::PRODUCT);
    cluster.kubectl_stdin(&["apply", "-f", "-"], &manifests)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--namespace=t", "--timeout=60s"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "sg,sgatt", "--all", "--namespace=t", "--timeout=60s"])?;
    let addresses = cluster.kubectl(&["get", "pod/server", "--namespace=t", "--output=jsonpath={.status.podIPs[*].ip}"])?;
    addresses.split_whitespace().map(|text| text.parse().with_context(|| format!("an address: {text}"))).collect()
}

/// New UDP flows, 1,000 a second, until stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<std::io::Result<Report>>>,
}

impl Running {
    /// Starts sending from an outside client (0 is the one that the server's group knows).
    pub fn start(cluster: &Cluster, client: usize, to: IpAddr) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let own = cluster.world().clients()[client].both().into_iter().find(|own| own.is_ipv4() == to.is_ipv4()).context("a client")?;
        let target = Target::new(to).from(own).within_ms(1000);
        let stream = Stream { target, port: 7, kind: Kind::Udp, rate: 1000, duration: Duration::from_secs(300) };
        let stopping = stop.clone();
        let thread = cluster.world().netns().spawn(move || stream.run(&stopping))?;
        Ok(Running { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)
    }
}
