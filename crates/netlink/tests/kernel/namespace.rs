//! A network namespace for one test, and `nft` in it.

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Runs the test in a thread with an empty network namespace; both are gone when it ends, however it ends.
pub fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own; run these tests as root: sudo -E cargo test -p netlink");
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `nft` in the namespace of this thread and gives back what it prints.
pub fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().expect("nft; apt-get install nftables");
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}

/// Feeds text to `nft -f` in the namespace of this thread.
pub fn nft_file(text: &str) {
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nft; apt-get install nftables");
    nft.stdin.take().expect("piped").write_all(text.as_bytes()).expect("nft reads its input");
    let output = nft.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Our table as `nft` prints it, numbers as numbers.
pub fn list() -> String {
    nft(&["-n", "list", "table", "inet", ruleset::TABLE])
}
