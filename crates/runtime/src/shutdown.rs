//! The end, in order.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT. Needs a tokio runtime.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// Where the kubelet reads why a container has ended, unless the environment says otherwise in `TERMINATION_LOG`.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Bytes that the kubelet reads of it.
const LAST_WORDS: usize = 4096;

/// Leaves in one line why the program ends, where there is somebody to read it: `kubectl get pod -o yaml` shows it as
/// `lastState.terminated.message`.
pub fn last_words(why: &str) {
    leave(std::env::var_os("TERMINATION_LOG").unwrap_or_else(|| TERMINATION_LOG.into()), why);
}

fn leave(path: impl AsRef<Path>, why: &str) {
    let mut line = why.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=LAST_WORDS.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    line.truncate(end.unwrap_or_default());
    // The kubelet has made the file. Outside of a pod there is none, and nobody to tell; a log line has been written in any case.
    let opened = OpenOptions::new().write(true).truncate(true).open(path);
    let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// A panic anywhere ends the program, to be started again: without the task that panicked it would go on, ready and deaf. What is in
/// the kernel stays (S41).
pub fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        last_words(&panic.to_string());
        std::process::exit(101);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_line_in_a_file_that_is_there() {
        let path = std::env::temp_dir().join(format!("last-words-{}", std::process::id()));
        leave(&path, "nobody listens");
        assert!(!path.exists(), "no file is made");
        std::fs::write(&path, "what was said before").unwrap();
        leave(&path, "cannot listen on 127.0.0.1:9650:\n   in use");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cannot listen on 127.0.0.1:9650: in use");
        leave(&path, &"é".repeat(LAST_WORDS));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "é".repeat(LAST_WORDS / 2));
        std::fs::remove_file(&path).unwrap();
    }
}
