//! Whose a cluster is: owners that are killed or told to end, and clusters that outlive theirs.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::{Cluster, ProcessId};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::ONE_AT_A_TIME;
use crate::belongings::{assert_gone, belongings};

/// So long at most, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, which minds HUP also where these tests run under nohup.
fn lab() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(env!("CARGO_BIN_EXE_lab"));
    command
}

/// `lab` in a process of its own, as its owner. Its command ends with the pipe that it reads from.
struct Lab(Child);

impl Lab {
    fn run(name: &str, nodes: &str) -> Lab {
        let mut command = lab();
        command.args(["run", "--name", name, "--nodes", nodes, "--", "sh", "-c", "echo started; exec cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "started\n");
        Lab(child)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_owner_left_goes_at_once_or_at_the_next_start() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut owner = Lab::run("test-dead", "1");
    let state = lab::state::find("test-dead").unwrap();
    assert!(state.is_alive() && state.trees.len() == 2);
    owner.0.kill().unwrap();
    owner.0.wait().unwrap();

    // Processes end by themselves, because nobody holds their pipe any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    let left = || belongings("test-dead").into_iter().filter(|line| line.starts_with("process")).collect::<Vec<_>>();
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!state.is_alive());
    assert!(belongings("test-dead").iter().any(|line| line.starts_with("namespace")), "there is something left to remove");

    let next = Cluster::builder("test-next").nodes(0).start().await.unwrap();
    assert_gone("test-dead");
    drop(next);
    assert_gone("test-next");
}

/// SIGINT, SIGTERM, SIGHUP, and the exit code after each.
const SIGNALS: [(Signal, i32); 3] = [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)];

fn send(to: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(to.id()).unwrap()), signal).unwrap();
}

#[test]
fn told_to_end_lab_run_takes_the_cluster_down() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    for (signal, code) in SIGNALS {
        let mut owner = Lab::run("test-told", "0");
        // `wait` would close it, and the command might end before the signal is seen.
        let input = owner.0.stdin.take();
        send(&owner.0, signal);
        assert_eq!(owner.0.wait().unwrap().code(), Some(code));
        drop(input);
        assert_gone("test-told");
    }
}

/// Before the network is there, while etcd and the nodes start, while images are imported, while kubelets join, and once it runs.
#[test]
fn told_to_end_at_any_moment_of_a_start_nothing_is_left() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let run = ["run", "--name", "test-early", "--", "sleep", "60"];
    let up = ["up", "--name", "test-early"];
    let moments = [(&run[..], 50), (&run, 700), (&run, 1700), (&run, 3700), (&run, 7700), (&up[..], 300), (&up, 1200)];
    let removed = Removed("test-early");
    for ((arguments, moment), (signal, code)) in moments.into_iter().zip(SIGNALS.into_iter().cycle()) {
        let child = lab().args(arguments).stdout(Stdio::null()).spawn().unwrap();
        let mut owner = Lab(child);
        let deadline = Instant::now() + PATIENCE;
        while belongings("test-early").is_empty() {
            assert!(Instant::now() < deadline, "{arguments:?} starts something");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(moment));
        let some = belongings("test-early");
        send(&owner.0, signal);
        let start = Instant::now();
        let status = owner.0.wait().unwrap();
        println!("{} after {moment} ms: {} belongings, gone after {:?}", arguments[0], some.len(), start.elapsed());
        assert_eq!(status.code(), Some(code), "{arguments:?} after {moment} ms");
        assert_gone("test-early");
    }
    drop(removed);
}

#[test]
fn somebody_else_may_remove_a_cluster_that_still_starts() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let mut owner = Lab(lab().args(["run", "--name", "test-half", "--", "sleep", "60"]).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + PATIENCE;
    // Noted one by one as they start, not once all is there.
    while lab::state::find("test-half").map_or(0, |state| state.trees.len()) < 2 {
        assert!(Instant::now() < deadline, "the control plane and the first node are noted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let state = lab::state::find("test-half").unwrap();
    assert!(!fs::exists(state.dir().join("node1/kubelet.log")).unwrap(), "it still starts");
    lab::state::remove("test-half").unwrap();
    assert!(!state.trees.iter().any(ProcessId::is_alive));
    // Its owner notices, and removes what it was about to make.
    assert_eq!(owner.0.wait().unwrap().code(), Some(1));
    assert_gone("test-half");
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_down_under_a_kubectl_that_would_wait() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Arc::new(Cluster::builder("test-under").nodes(0).start().await.unwrap());
    let used = cluster.clone();
    let waiting = tokio::task::spawn_blocking(move || used.kubectl(&["wait", "--for=create", "configmap/never", "--timeout=300s"]));
    let watches = || belongings("test-under").iter().any(|line| line.contains("configmap/never"));
    let deadline = Instant::now() + PATIENCE;
    while !watches() {
        assert!(Instant::now() < deadline, "kubectl runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    tokio::task::block_in_place(|| cluster.take_down());
    assert!(!watches());
    assert!(!cluster.dir().exists());
    waiting.await.unwrap().unwrap_err();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let refused = cluster.kubectl(&["version"]).unwrap_err();
    assert!(format!("{refused:#}").contains("is being taken down"), "{refused:#}");
    drop(cluster);
    assert_gone("test-under");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_cluster_outlives_its_owner_and_can_be_attached_to() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let lab = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let removed = Removed("test-kept");
    let said = lab(&["up", "--name", "test-kept", "--nodes", "1"]);
    let kubeconfig = said.lines().find_map(|line| line.strip_prefix("export KUBECONFIG=")).unwrap();
    assert!(Path::new(kubeconfig).exists());
    assert!(lab(&["status"]).lines().any(|line| line.starts_with("test-kept ") && line.contains("runs") && line.contains("kept")));

    let cluster = lab::attach("test-kept").await.unwrap();
    assert_eq!(cluster.node(0).name(), "node1");
    cluster.restart_api_server().await.unwrap();
    assert!(cluster.kubectl(&["get", "nodes"]).unwrap().contains("node1"));
    drop(cluster);
    // Neither somebody who goes away nor somebody who starts another one removes it.
    drop(Cluster::builder("test-other").nodes(0).start().await.unwrap());
    assert!(lab::state::find("test-kept").unwrap().is_alive());

    lab(&["down", "--name", "test-kept"]);
    assert_gone("test-kept");
    drop(removed);
}

/// Removes a kept cluster also when its test fails.
struct Removed(&'static str);

impl Drop for Removed {
    fn drop(&mut self) {
        if lab::state::find(self.0).is_ok() {
            let _ = lab::state::remove(self.0);
        }
    }
}
