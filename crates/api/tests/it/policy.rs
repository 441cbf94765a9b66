//! What the chart's admission policies say once more in CEL is what the types say.

use api::quota::{CONFIG_MAP, GROUPS_PER_ENDPOINT, GROUPS_PER_NAMESPACE, RULES_PER_DIRECTION};
use api::{Preset, PresetTraffic};

const POLICY: &str = include_str!("../../../../charts/kube-security-groups/templates/admission/securitygroups.yaml");

#[test]
fn the_policy_knows_every_preset() {
    for preset in Preset::ALL {
        let traffic = match preset.traffic {
            PresetTraffic::All => "All".to_owned(),
            PresetTraffic::Protocol { number, port } => {
                let protocol = match number {
                    1 => "ICMP",
                    6 => "TCP",
                    17 => "UDP",
                    58 => "ICMPv6",
                    other => panic!("a preset of protocol {other}: give it its canonical text here and in the policy"),
                };
                port.map_or(protocol.to_owned(), |port| format!("{protocol} {port}"))
            }
        };
        let entry = format!("'{}': '{traffic}'", preset.name);
        assert!(
            POLICY.contains(&entry),
            "charts/kube-security-groups/templates/admission/securitygroups.yaml lacks {entry} among its presets"
        );
    }
}

/// A limit's key and its default are in the policy and in the words beside the ConfigMap.
#[test]
fn s24_the_policy_knows_every_limit() {
    const POLICY: &str = include_str!("../../../../charts/kube-security-groups/templates/admission/quotas.yaml");
    const CONFIG: &str = include_str!("../../../../charts/kube-security-groups/templates/quotas.yaml");
    for limit in [RULES_PER_DIRECTION, GROUPS_PER_ENDPOINT, GROUPS_PER_NAMESPACE] {
        let (key, default) = (limit.key, limit.default);
        assert!(POLICY.contains(&format!("variables.data[?'{key}'].orValue('{default}')")), "{key} in the policy");
        assert!(CONFIG.contains(&format!("#   {key}: \"{default}\"")), "{key} beside the ConfigMap");
    }
    assert!(POLICY.contains(&format!("name: {CONFIG_MAP}\n")) && CONFIG.contains(&format!("name: {CONFIG_MAP}\n")));
}
