//! Stable ids (S23): the first 17 hex digits of a SHA-256.

use sha2::{Digest, Sha256};

use crate::model::{Direction, Peer, Traffic};

fn digits(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hex: String = hash.finalize().iter().take(9).map(|byte| format!("{byte:02x}")).collect();
    hex[..17].to_string()
}

/// `sg-…`: of the group's UID.
pub fn group(uid: &str) -> String {
    format!("sg-{}", digits(&[uid]))
}

/// `sgr-…`: of the group's UID, the direction, the traffic and the peer; not of the description, nor of the place in the list.
pub fn rule(group_uid: &str, direction: Direction, traffic: Traffic, peer: &Peer) -> String {
    format!("sgr-{}", digits(&[group_uid, &direction.to_string(), &traffic.to_string(), &peer.to_string()]))
}
