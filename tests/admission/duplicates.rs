//! S22 beyond the manifests of refused/: every preset against what it stands for, and as far as the cost reaches.

use anyhow::{Result, ensure};
use api::{Preset, PresetTraffic};
use serde_json::{Value, json};

use crate::server::{Answer, Server, group, manifests, problems, read};

pub fn every_preset_and_a_long_list(server: &Server) -> Result<()> {
    for preset in Preset::ALL {
        let mut spelled_out = match preset.traffic {
            PresetTraffic::All => json!({ "protocol": "All" }),
            PresetTraffic::Protocol { number, port: None } => json!({ "protocol": number }),
            PresetTraffic::Protocol { number, port: Some(port) } => json!({ "protocol": number, "port": port }),
        };
        let peers = json!([{ "securityGroup": { "name": "app", "namespace": "ops" } }]);
        spelled_out["to"] = peers.clone();
        let rules = json!([{ "type": preset.name, "to": peers }, spelled_out]);
        let answer = create(server, json!({ "egress": rules }))?;
        let peer = "securityGroup ops/app\"";
        answer.refused_saying(preset.name, &["InvalidPermission.Duplicate", peer, "spec.egress[0].to[0]", "spec.egress[1].to[0]"])?;
    }

    // The last of a long list repeats the first: found as far as looking for it is cheap enough for the server …
    let peers =
        |count: usize| -> Vec<Value> { (0..count).map(|i| json!({ "cidr": format!("10.{}.{}.0/24", i / 256, i % 256) })).collect() };
    let rules = |count: usize| -> Vec<Value> {
        let mut all = peers(count - 1);
        all.push(json!({ "cidr": "10.0.0.9/24" }));
        all.chunks(40).map(|chunk| json!({ "type": "HTTPS", "from": chunk })).collect()
    };
    create(server, json!({ "ingress": rules(400) }))?
        .refused_saying("400 pairs", &["10.0.0.0/24", "spec.ingress[0].from[0]", "spec.ingress[9].from[39]"])?;
    // … and beyond that let through, never refused for what it would cost: the operator counts the pair once (S22).
    create(server, json!({ "ingress": rules(1000) }))?.silent("1,000 pairs")?;
    // The largest group: 1,000 pairs a direction with the longest names and descriptions.
    let longest =
        |i: usize| json!({ "description": "d".repeat(255), "securityGroup": { "name": format!("{i:a>63}"), "namespace": "n".repeat(63) } });
    let rules = |peers: &str| -> Vec<Value> {
        let all: Vec<Value> = (0..1000).map(longest).collect();
        all.chunks(5)
            .enumerate()
            .map(|(i, chunk)| json!({ "protocol": "TCP", "port": i + 1, "description": "d".repeat(255), peers: chunk }))
            .collect()
    };
    create(server, json!({ "description": "d".repeat(255), "ingress": rules("from"), "egress": rules("to") }))?
        .silent("the largest group")?;
    server.clear()
}

/// Admission and our programs mean the same by "the same": what one refuses, the others would count once.
pub fn our_programs_agree() -> Result<()> {
    let files: Vec<String> = manifests("refused")?.into_iter().filter(|file| file.contains("/duplicate-")).collect();
    ensure!(files.len() > 5, "{files:?}");
    for file in files {
        let problems = problems(&read(&file)?)?;
        let only_duplicates = !problems.is_empty() && problems.iter().all(|problem| problem.reason == policy::DUPLICATE);
        ensure!(only_duplicates, "{file}: {problems:?}");
    }
    Ok(())
}

fn create(server: &Server, spec: Value) -> Result<Answer> {
    server.clear()?;
    server.kubectl_object(&["create", "-f", "-"], &group(spec))
}
