//! What a group's rules allow and deny is counted on each node, and stands summed up in the group's status.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::cases::{Source, hold, ping};
use super::fixture::{apply, group, pod, pod_addresses, report, start};

const AGENT: [&str; 2] = ["daemonset/agent", "--namespace=kube-security-groups"];
/// The agent's ten seconds, as long again until it writes counts, the operator's minute, and some more.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_allowed_and_denied_on_all_nodes_is_in_its_status() -> Result<()> {
    let cluster = start("counts").await?;
    tokio::task::block_in_place(|| {
        cluster.kubectl(&[&["set", "env"], &AGENT[..], &["COUNTS_INTERVAL=10"]].concat())?;
        cluster.kubectl(&[&["rollout", "status"], &AGENT[..], &["--timeout=300s"]].concat())?;
        let from = r#"from: [{ cidr: 203.0.113.10/32 }, { cidr: "2001:db8:113::10/128" }]"#;
        let manifests = [
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: c }\n".to_owned(),
            pod("c", "a", "NODE0", "--udp=7", ""),
            pod("c", "b", "NODE1", "--udp=7", ""),
            group("c", "counted", &format!("ingress: [{{ protocol: All, {from} }}], egress: []"), &["a", "b"]),
        ];
        apply(&cluster, "c", &manifests.concat())?;
        let both = [pod_addresses(&cluster, "c", "a")?, pod_addresses(&cluster, "c", "b")?].concat();
        ensure!(both.len() == 4, "{both:?}");

        let packets = || -> Result<Value> {
            let status = cluster.kubectl(&["get", "sg/counted", "--namespace=c", "--output=jsonpath={.status.packets}"])?;
            Ok(serde_json::from_str(&status).unwrap_or_default())
        };
        let become_ = |wanted: Value| -> Result<()> {
            let begun = Instant::now();
            while packets()? != wanted {
                ensure!(begun.elapsed() < PATIENCE, "{} and not {wanted}", packets()?);
                std::thread::sleep(Duration::from_secs(1));
            }
            println!("in the status after {:.0} s", begun.elapsed().as_secs_f64());
            Ok(())
        };
        let pinged = || {
            let mut cases = ping(Source::World(0), &both, true);
            cases.extend(ping(Source::World(1), &both, false));
            hold(&cluster, cases)
        };
        // A ping is one packet, and a connection of its own.
        pinged()?;
        become_(json!({ "ingressAllowed": 4, "ingressDenied": 4, "egressAllowed": 0, "egressDenied": 0 }))?;
        let half = json!({ "ingressAllowed": 2, "ingressDenied": 2, "egressAllowed": 0, "egressDenied": 0 });
        for node in 0..2 {
            let report = report(&cluster, node)?;
            let groups = report["groups"].as_array().into_iter().flatten();
            let counted: Vec<&Value> = groups.filter(|group| group["name"] == "counted").map(|group| &group["packets"]).collect();
            ensure!(counted == [&half], "{report}");
            ensure!(report["kernel"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{report}");
            ensure!(report["kernel"]["unsupported"] == json!([]), "this kernel takes everything: {report}");
        }
        let wide = cluster.kubectl(&["get", "sg/counted", "--namespace=c", "--output=wide"])?;
        ensure!(wide.contains("INGRESS-DENIED"), "{wide}");

        // Over a restart of the agents, whose counters are the kernel's.
        cluster.kubectl(&[&["rollout", "restart"], &AGENT[..]].concat())?;
        cluster.kubectl(&[&["rollout", "status"], &AGENT[..], &["--timeout=300s"]].concat())?;
        pinged()?;
        become_(json!({ "ingressAllowed": 8, "ingressDenied": 8, "egressAllowed": 0, "egressDenied": 0 }))
    })
}
