//! Random groups, attachments, prefix lists and labels, edited live through the API, and real connections between real pods after each
//! edit, against what the oracle makes of the same manifests (S1–S36).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use lab::{Cluster, images};
use serde_json::json;

use super::fixture::start;
use super::manifests::{Maker, Manifest};
use super::oracle::{Facts, Try};

const EDITS: usize = 14;
const TRIES_A_POD: usize = 8;
const NAMESPACES: [&str; 2] = ["r1", "r2"];

/// Four pods a namespace, two of them on each node.
fn pods(cluster: &Cluster) -> Vec<serde_json::Value> {
    let mut objects: Vec<_> =
        NAMESPACES.iter().map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).collect();
    for i in 0..8 {
        let label = ["a", "b", "c", "d"][i / 2];
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{i}"), "namespace": NAMESPACES[i % 2], "labels": {"app": label}},
            "spec": {"nodeName": cluster.node(i / 2 % 2).name(), "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "c", "image": images::PROBE, "imagePullPolicy": "Never",
                "command": ["/bin/probe", "serve", "--tcp", "80,81", "--udp", "80"],
            }]},
        }));
    }
    objects
}

/// Writes an object, and waits until it says that it is in force.
async fn write(cluster: &Cluster, manifest: &Manifest) -> Result<()> {
    async fn apply<K>(cluster: &Cluster, manifest: &Manifest) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let api: Api<K> = Api::namespaced(cluster.client(), &manifest.namespace);
        let written = api.patch(&manifest.name, &PatchParams::apply("random").force(), &Patch::Apply(&manifest.object)).await?;
        let generation = written.meta().generation;
        // Said to be in force by the product itself.
        for _ in 0..300 {
            let now = serde_json::to_value(api.get(&manifest.name).await?)?;
            let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let current = |c: &serde_json::Value| c["observedGeneration"].as_i64() >= generation;
            if conditions.iter().any(|c| c["type"] == "Programmed" && c["status"] == "True" && current(c)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("not programmed within 15 s: {}", serde_json::to_string(&api.get(&manifest.name).await?)?)
    }
    match manifest.kind.as_str() {
        "SecurityGroup" => apply::<api::SecurityGroup>(cluster, manifest).await,
        "Attachment" => apply::<api::Attachment>(cluster, manifest).await,
        "PrefixList" => apply::<api::PrefixList>(cluster, manifest).await,
        "Pod" => {
            let pods: Api<Pod> = Api::namespaced(cluster.client(), &manifest.namespace);
            pods.patch(&manifest.name, &PatchParams::default(), &Patch::Merge(&manifest.object)).await?;
            Ok(())
        }
        other => bail!("{other} is not written here"),
    }
}

/// Makes the tries from every place at once; those that did not end as they should.
async fn check(cluster: &Cluster, tries: &[Try]) -> Result<Vec<(Try, probe::Outcome)>> {
    let mut by_source: BTreeMap<&str, Vec<Try>> = BTreeMap::new();
    for one in tries {
        by_source.entry(&one.source).or_default().push(one.clone());
    }
    let mut wrong = Vec::new();
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| -> Result<()> {
            let rows: Vec<_> = by_source
                .iter()
                .map(|(source, tries)| {
                    scope.spawn(move || -> Result<Vec<probe::Outcome>> {
                        let probes: Vec<probe::Probe> = tries.iter().map(|one| one.probe.clone()).collect();
                        let Some((namespace, pod)) = source.split_once('/') else {
                            return cluster.world().netns().run(|| probe::run_all(&probes));
                        };
                        let answer = cluster.exec(namespace, pod, &["/bin/probe", "many", &serde_json::to_string(&probes)?])?;
                        serde_json::from_str(&answer).with_context(|| format!("what probe said: {answer}"))
                    })
                })
                .collect();
            for (row, tries) in rows.into_iter().zip(by_source.values()) {
                let outcomes = row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                wrong.extend(tries.iter().cloned().zip(outcomes).filter(|(one, outcome)| outcome.ok != one.allowed));
            }
            Ok(())
        })
    })?;
    Ok(wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_edits_through_the_api_are_in_force_as_the_oracle_says() -> Result<()> {
    let seed = std::env::var("KSG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed: KSG_SEED={seed}");
    let cluster = start("random").await?;
    let objects = serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": pods(&cluster)}))?;
    tokio::task::block_in_place(|| -> Result<()> {
        cluster.kubectl_stdin(&["apply", "-f", "-"], &objects)?;
        for namespace in NAMESPACES {
            cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", &format!("--namespace={namespace}"), "--timeout=300s"])?;
        }
        Ok(())
    })?;
    let mut facts = Facts::new(&cluster);
    for namespace in NAMESPACES {
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        facts.pods.extend(
            pods.list(&ListParams::default()).await?.items.into_iter().map(|pod| (pod.metadata.name.clone().unwrap_or_default(), pod)),
        );
    }
    let mut maker = Maker::new(seed, &NAMESPACES);
    let first = maker.everything();
    try_join_all(first.iter().map(|manifest| write(&cluster, manifest))).await?;
    facts.manifests.extend(first.into_iter().map(|manifest| (manifest.key(), manifest)));

    let (mut cases, mut allowed, mut again) = (0, 0, 0);
    for round in 0..EDITS {
        if round > 0 {
            let edit = maker.edit();
            println!("edit {round}: {}", edit.object);
            write(&cluster, &edit).await.with_context(|| format!("KSG_SEED={seed}, {edit:?}"))?;
            facts.take(edit)?;
        }
        let tries = facts.tries(&mut maker, TRIES_A_POD)?;
        cases += tries.len();
        allowed += tries.iter().filter(|one| one.allowed).count();
        let mut wrong = check(&cluster, &tries).await?;
        // A change of membership reaches other nodes by its slices, and no condition says when; Programmed speaks of an object's own words.
        for _ in 0..20 {
            if wrong.is_empty() {
                break;
            }
            again += 1;
            tokio::time::sleep(Duration::from_millis(150)).await;
            let tries: Vec<Try> = wrong.iter().map(|(one, _)| one.clone()).collect();
            wrong = check(&cluster, &tries).await?;
        }
        if let Some((one, outcome)) = wrong.first() {
            bail!(
                "KSG_SEED={seed}, after edit {round}, {} of {} wrong; the first: {} to {}, {one:?}: {outcome:?}\n{}",
                wrong.len(),
                tries.len(),
                one.source,
                one.to,
                facts.yaml()?
            );
        }
    }
    println!("{cases} connections, {allowed} allowed; {again} times waited for membership");
    ensure!(cases >= 300 && allowed > cases / 10 && allowed < cases * 9 / 10, "{allowed} of {cases} prove too little");
    Ok(())
}
