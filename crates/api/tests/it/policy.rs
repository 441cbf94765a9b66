//! What `deploy/admission` says once more in CEL is what the types say.

use api::{Preset, PresetTraffic};

const POLICY: &str = include_str!("../../../../deploy/admission/securitygroups.yaml");

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
        assert!(POLICY.contains(&entry), "deploy/admission/securitygroups.yaml lacks {entry} among its presets");
    }
}
