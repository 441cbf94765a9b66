//! The configuration files of a node's programs.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use crate::addresses::{POD_CIDRS, pods};
use crate::credentials::Credentials;
use crate::images;
use crate::programs::find_in_path;

/// How the pods of a node are connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// A veth each, and the node routes between them.
    #[default]
    Routed,
    /// All on the Linux bridge `cni0` in the node's network namespace. What pods of one node send each other meets the node's rules only
    /// by br_netfilter: as the kernel begins a namespace, `net.bridge.bridge-nf-call-iptables` and `-ip6tables` are 1.
    Bridge,
    /// Both: routed on the first node, bridged on the second, and so on by turns.
    Mixed,
}

impl Topology {
    fn is_bridge(self, node: u8) -> bool {
        match self {
            Topology::Routed => false,
            Topology::Bridge => true,
            Topology::Mixed => node % 2 == 1,
        }
    }

    /// Fails with the command that provides what the kernel lacks.
    pub(crate) fn check(self) -> Result<()> {
        let there = self == Topology::Routed || Path::new("/proc/sys/net/bridge").exists();
        ensure!(there, "bridged pods need br_netfilter, as every CNI with a bridge does: modprobe br_netfilter");
        Ok(())
    }
}

/// How kube-proxy makes Services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// By nftables.
    #[default]
    Nftables,
    /// By iptables, which needs Debian's package of that name.
    Iptables,
}

impl Proxy {
    fn mode(self) -> &'static str {
        match self {
            Proxy::Nftables => "nftables",
            Proxy::Iptables => "iptables",
        }
    }

    /// Fails with the command that installs what is missing.
    pub(crate) fn check(self) -> Result<()> {
        let there = self == Proxy::Nftables || find_in_path("iptables-restore").is_some();
        ensure!(there, "kube-proxy in iptables mode needs iptables: apt-get install --no-install-recommends iptables");
        Ok(())
    }
}

/// Debian's plugin in a namespace without duplicate address detection, which would hold up every pod for a second and lose first packets.
/// It has to be off before the interface exists, so a plugin that comes later in the chain cannot do it.
///
/// A pod whose name begins with `macvlan-` is a neighbour of its node instead: connected to the node's uplink by macvlan, past the node's
/// own network. It reaches others of its kind on the node, and nobody else.
pub(crate) fn cni_plugin(index: u8, topology: Topology) -> String {
    let plugin = if topology.is_bridge(index) { "bridge" } else { "ptp" };
    format!(
        "#!/bin/sh
if [ \"$CNI_COMMAND\" = ADD ]; then
  nsenter --net=\"$CNI_NETNS\" sh -c 'for i in all default; do echo 0 >/proc/sys/net/ipv6/conf/$i/accept_dad; done'
fi
case \"$CNI_ARGS\" in
  *K8S_POD_NAME=macvlan-*) sed 's/\"type\":\"pods\"/\"type\":\"macvlan\",\"master\":\"eth0\",\"mode\":\"bridge\"/' | exec /usr/lib/cni/macvlan ;;
  *) exec /usr/lib/cni/{plugin} ;;
esac
"
    )
}

/// The pod network of node `index`.
pub(crate) fn cni(index: u8, topology: Topology) -> Value {
    let (v4, v6) = pods(index);
    let mut plugin = json!({
        "type": "pods",
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": v4.to_string() }], [{ "subnet": v6.to_string() }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    if topology.is_bridge(index) {
        plugin["bridge"] = json!("cni0");
        plugin["isGateway"] = json!(true);
        // A pod that reaches itself through a Service is sent back to where it came from.
        plugin["hairpinMode"] = json!(true);
    }
    json!({ "cniVersion": "0.4.0", "name": "pods", "plugins": [plugin] })
}

/// For containerd 1.6 and 1.7.
pub(crate) fn containerd(dir: &Path) -> String {
    // Overlays do not stack: where the folder is on one already (in a container), files are copied.
    let stacked = statfs(dir).is_ok_and(|found| found.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    let snapshotter = if stacked { "native" } else { "overlayfs" };
    let runc = find_in_path("runc").unwrap_or_else(|| "/usr/sbin/runc".into());
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni-plugins"
    conf_dir = "{dir}/cni"
"#,
        dir = dir.display(),
        sandbox = images::PROBE,
        runc = runc.display(),
    )
}

/// For kubelet 1.36. JSON is YAML.
pub(crate) fn kubelet(name: &str, cgroup: &str, credentials: &Credentials) -> String {
    let path = |file: String| credentials.path(&file).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Asked at the node's first address, which may be of either family.
        "address": "::",
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": path("ca.crt".to_owned()) },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "tlsCertFile": path(format!("{name}.crt")),
        "tlsPrivateKeyFile": path(format!("{name}.key")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "evictionHard": { "memory.available": "100Mi" },
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        // Nobody answers there; without an address every pod gets a warning event.
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
        // Many short-lived pods in a burst are what tests do.
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    })
    .to_string()
}

/// For kube-proxy 1.36. Its conntrack limits belong to the machine, not to a namespace: left alone.
pub(crate) fn kube_proxy(name: &str, proxy: Proxy, kubeconfig: &Path) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": proxy.mode(),
        "clientConnection": { "kubeconfig": kubeconfig },
        "hostnameOverride": name,
        "clusterCIDR": POD_CIDRS,
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "metricsBindAddress": "127.0.0.1:10249",
    })
    .to_string()
}
