//! What passes whatever the rules say (S36): switched by the commands that `deploy/options` gives, counted in the metrics, told in the
//! node's report.

use anyhow::{Context, Result, ensure};
use lab::Cluster;
use serde_json::Value;

use super::cases::{Source, hold, ping, udp};
use super::fixture::{apply, group, metric, pod, pod_addresses, report, service_addresses, start, until};

const OPTION: &str = "deploy/options/exempt-cluster-dns.yaml";

fn manifests() -> String {
    let service = r#"
---
apiVersion: v1
kind: Service
metadata: { name: kube-dns, namespace: kube-system }
spec: { selector: { app: dns }, ipFamilyPolicy: RequireDualStack, ports: [{ port: 53, protocol: UDP }] }
"#;
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: ex }\n".to_owned(),
        service.to_owned(),
        pod("kube-system", "dns", "NODE1", "'--udp=53,54'", ""),
        pod("ex", "other", "NODE1", "--udp=53", ""),
        pod("ex", "closed", "NODE0", "--udp=53", ""),
        group("ex", "closed", "ingress: [], egress: []", &["closed"]),
    ]
    .concat()
}

/// The commands in the option's own words: the lines of its first comment that are indented.
fn commands() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(demo::root().join(OPTION))?;
    let commands: Vec<String> = text
        .lines()
        .take_while(|line| line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("#   kubectl "))
        .map(str::to_owned)
        .collect();
    ensure!(commands.len() == 2, "{OPTION} says how to use it: {commands:?}");
    Ok(commands)
}

fn run(cluster: &Cluster, command: &str) -> Result<()> {
    let arguments: Vec<&str> = command.split(' ').collect();
    let output = cluster.kubectl_command().current_dir(demo::root()).args(&arguments).output()?;
    ensure!(output.status.success(), "kubectl {command}: {}", String::from_utf8_lossy(&output.stderr));
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--namespace=kube-security-groups", "--timeout=300s"])?;
    Ok(())
}

/// What the first node's agent has counted, by the name and labels of the metric.
fn counted(cluster: &Cluster, name: &str) -> Result<u64> {
    metric(cluster, 0, &format!("securitygroups_agent_{name} ")).and_then(|value| Ok(value.parse()?))
}

fn is_exempt(cluster: &Cluster) -> Result<bool> {
    let status = report(cluster, 0)?;
    let line = status["exemptions"].as_array().into_iter().flatten().find(|exemption| exemption["name"] == "ClusterDNS");
    line.and_then(|line| line["exempt"].as_bool().or(Some(false)))
        .with_context(|| format!("a line for ClusterDNS: {}", Value::to_string(&status)))
}

#[tokio::test(flavor = "multi_thread")]
async fn s36_cluster_dns_is_one_switch_and_what_passes_is_counted() -> Result<()> {
    let cluster = start("exempt").await?;
    tokio::task::block_in_place(|| {
        apply(&cluster, "ex", &manifests())?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/dns", "--namespace=kube-system", "--timeout=300s"])?;
        let closed = Source::Pod("ex", "closed");
        let service = service_addresses(&cluster, "kube-system", "kube-dns")?;
        let dns = pod_addresses(&cluster, "kube-system", "dns")?;
        let (other, own) = (pod_addresses(&cluster, "ex", "other")?, pod_addresses(&cluster, "ex", "closed")?);
        let asked = |answered: bool| {
            let mut cases = udp(closed, &service, 53, answered);
            cases.extend(udp(closed, &dns, 53, answered));
            // Nothing but DNS, nobody but the cluster's DNS, and no way in.
            cases.extend(udp(closed, &dns, 54, false));
            cases.extend(udp(closed, &other, 53, false));
            cases.extend(udp(Source::Pod("kube-system", "dns"), &own, 53, false));
            cases.extend(ping(Source::Node(0), &own, true));
            hold(&cluster, cases)
        };

        asked(false)?;
        ensure!(!is_exempt(&cluster)?, "it is not on unless somebody says so");
        until("what was denied and what was exempt is counted", || {
            let [denied_in, denied_out] =
                ["ingress", "egress"].map(|way| counted(&cluster, &format!("denied_packets_total{{direction=\"{way}\"}}")));
            Ok(denied_in? >= 2 && denied_out? >= 8 && counted(&cluster, "exempted_packets_total{exemption=\"Node\"}")? >= 2)
        })?;

        for command in commands()? {
            run(&cluster, &command)?;
        }
        until("the report says that it is on", || is_exempt(&cluster))?;
        asked(true)?;
        until("questions are counted", || Ok(counted(&cluster, "exempted_packets_total{exemption=\"ClusterDNS\"}")? >= 4))?;

        run(&cluster, "set env daemonset/agent --namespace kube-security-groups EXEMPT-")?;
        until("the report says that it is off", || Ok(!is_exempt(&cluster)?))?;
        asked(false)
    })
}
