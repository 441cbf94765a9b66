//! Bytes that tell one probe's packets from another's.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How our payloads begin.
pub(crate) const MAGIC: &[u8; 4] = b"ksgp";

/// Magic, process, count and time: unlike those of any other probe on the machine.
pub(crate) fn bytes() -> [u8; 16] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(MAGIC);
    // Inside containers many processes have the same small number; the time tells those apart.
    bytes[4..8].copy_from_slice(&std::process::id().to_be_bytes());
    bytes[8..12].copy_from_slice(&count.to_be_bytes());
    bytes[12..].copy_from_slice(&time.to_be_bytes());
    bytes
}
