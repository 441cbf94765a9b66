//! The cables: a bridge with the control plane and the nodes on it, and the world one hop further.

use std::fmt::Write as _;

use anyhow::Result;

use crate::addresses::{CONTROL_PLANE, Dual, WORLD_CLIENTS, WORLD_GATEWAY, node, pods, world};
use crate::netns::Namespace;
use crate::state::{control_plane_name, node_name, world_name};

/// All namespaces of a cluster.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) control_plane: Namespace,
    pub(crate) world: Namespace,
    pub(crate) nodes: Vec<Namespace>,
}

impl Network {
    /// Makes them and connects them. No address is ever tentative: it would lose the first packets (duplicate address detection).
    pub(crate) fn create(cluster: &str, nodes: u8) -> Result<Network> {
        let network = Network {
            control_plane: Namespace::create(&control_plane_name(cluster))?,
            world: Namespace::create(&world_name(cluster))?,
            nodes: (0..nodes).map(|index| Namespace::create(&node_name(cluster, index))).collect::<Result<_>>()?,
        };
        for namespace in network.nodes.iter().chain([&network.control_plane, &network.world]) {
            namespace.set(&[
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ])?;
        }
        for namespace in network.nodes.iter().chain([&network.control_plane]) {
            namespace.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        }
        network.connect_world()?;
        for index in 0..nodes {
            network.connect_node(index, nodes)?;
        }
        Ok(network)
    }

    /// The namespaces of a cluster that somebody else made.
    pub(crate) fn attach(cluster: &str, nodes: u8) -> Result<Network> {
        Ok(Network {
            control_plane: Namespace::existing(&control_plane_name(cluster))?,
            world: Namespace::existing(&world_name(cluster))?,
            nodes: (0..nodes).map(|index| Namespace::existing(&node_name(cluster, index))).collect::<Result<_>>()?,
        })
    }

    fn connect_world(&self) -> Result<()> {
        let Dual { v4, v6 } = CONTROL_PLANE;
        let gateway = WORLD_GATEWAY;
        self.control_plane.ip(&format!(
            "link add br0 type bridge\naddr add {v4}/24 dev br0\naddr add {v6}/64 dev br0\nlink set br0 up\n\
             link add world type veth peer name eth0 netns {}\naddr add {}/24 dev world\naddr add {}/64 dev world\nlink set world up\n",
            self.world.name(),
            gateway.v4,
            gateway.v6
        ))?;
        let mut batch = String::new();
        for Dual { v4, v6 } in (0..WORLD_CLIENTS).map(world) {
            writeln!(batch, "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0")?;
        }
        writeln!(batch, "link set eth0 up\nroute add default via {}\nroute add default via {}", gateway.v4, gateway.v6)?;
        self.world.ip(&batch)
    }

    fn connect_node(&self, index: u8, nodes: u8) -> Result<()> {
        let namespace = &self.nodes[usize::from(index)];
        let Dual { v4, v6 } = node(index);
        let (pods_v4, pods_v6) = pods(index);
        self.control_plane.ip(&format!(
            "link add node{0} type veth peer name eth0 netns {1}\nlink set node{0} master br0 up\n\
             route add {pods_v4} via {v4}\nroute add {pods_v6} via {v6}\n",
            index + 1,
            namespace.name()
        ))?;
        let mut batch = format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0\nlink set eth0 up\nroute add default via {}\nroute add default via {}\n",
            CONTROL_PLANE.v4, CONTROL_PLANE.v6
        );
        for other in (0..nodes).filter(|other| *other != index) {
            let (pods_v4, pods_v6) = pods(other);
            writeln!(batch, "route add {pods_v4} via {}\nroute add {pods_v6} via {}", node(other).v4, node(other).v6)?;
        }
        namespace.ip(&batch)
    }
}
