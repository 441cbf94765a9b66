//! Processes: short commands, trees that end as one, and the programs inside them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::netns::Namespace;

/// Runs a command to its end; its standard output, or an error that quotes what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = complete(command, None, |command| Ok(command.spawn()?))?;
    checked(command, output)
}

/// The same, with text on its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let output = complete(command, Some(input), |command| Ok(command.spawn()?))?;
    checked(command, output)
}

/// Starts a command as told and waits for its end.
pub(crate) fn complete(command: &mut Command, input: Option<&str>, spawn: impl FnOnce(&mut Command) -> Result<Child>) -> Result<Output> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C in a terminal is for us to act upon: what fails because of it would look like a failure of its own.
    command.process_group(0);
    let mut child = spawn(command).with_context(|| format!("starting {command:?}"))?;
    let stdin = child.stdin.take();
    let fed = stdin.zip(input).map_or(Ok(()), |(mut stdin, input)| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A command that ends early closes the pipe; what it printed says more than the broken pipe.
    if output.status.success() {
        fed.with_context(|| format!("writing to {command:?}"))?;
    }
    Ok(output)
}

pub(crate) fn checked(command: &Command, output: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    bail!("{command:?}: {}\n{}{}", output.status, String::from_utf8_lossy(&output.stderr), text)
}

/// A process that may outlive the value that names it: the start time tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number, as this machine's first pid namespace sees it.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl ProcessId {
    /// The process with this number, if there is one.
    pub fn of(pid: i32) -> Option<ProcessId> {
        Some(ProcessId { pid, started: stat_field(pid, 22)?.parse().ok()? })
    }

    /// Whether it still runs (a process that ended and was not yet waited for does not). As long as one of its threads is left, it may hold what
    /// it listens on.
    pub fn is_alive(&self) -> bool {
        let has_ended = |state: String| {
            (state == "Z" || state == "X") && stat_field(self.pid, 20).is_none_or(|threads| threads == "1" || threads == "0")
        };
        ProcessId::of(self.pid) == Some(*self) && stat_field(self.pid, 3).is_some_and(|state| !has_ended(state))
    }

    /// SIGKILL, unless it ended already.
    pub(crate) fn kill(&self) {
        if self.is_alive() {
            // It may end between the look and the signal.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Waits until it has ended.
    pub(crate) fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// A field of /proc/PID/stat, counted from 1 as in proc(5).
fn stat_field(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(field - 3).map(str::to_owned)
}

fn children_of(pid: u32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default()
}

/// A tree of processes in pid and mount namespaces of its own, inside a network namespace: when its first process ends, the kernel ends
/// all of it and drops its mounts.
///
/// The first process reads from a pipe that we hold, so it ends with us, even if we are killed, unless it was told to stay.
#[derive(Debug)]
pub(crate) struct Tree {
    init: ProcessId,
    /// Present when this process started the tree.
    parent: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl Tree {
    /// Starts a tree; `preparation` are shell commands that run first, in its mount namespace. What it complains about goes to `log`:
    /// a tree that stays must not hold on to our own standard error, for whose end somebody may wait.
    pub(crate) fn start(namespace: &Namespace, preparation: &str, log: &Path) -> Result<Tree> {
        // A shell waits for any child, so it also reaps what the programs leave behind.
        let script =
            format!("set -e\n{preparation}\necho ready\nif read -r word && [ \"$word\" = stay ]; then sleep infinity; fi\nexit 0\n");
        let mut command = namespace.command("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).with_context(|| format!("creating {}", log.display()))?);
        let mut parent = command.spawn().context("starting unshare")?;
        let pipe = parent.stdin.take();
        let stdout = parent.stdout.take().ok_or_else(|| anyhow!("unshare has no standard output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let init = children_of(parent.id()).first().copied().and_then(ProcessId::of);
        match init {
            Some(init) if line == "ready\n" => Ok(Tree { init, parent: Some(parent), pipe }),
            _ => {
                let _ = parent.kill();
                let status = parent.wait()?;
                bail!("a process tree in {} did not start: {status}\n{}", namespace.name(), tail(log))
            }
        }
    }

    /// A tree that another process started and told to stay.
    pub(crate) fn attach(init: ProcessId) -> Result<Tree> {
        if !init.is_alive() {
            bail!("process {} has ended", init.pid);
        }
        Ok(Tree { init, parent: None, pipe: None })
    }

    /// Its first process.
    pub(crate) fn init(&self) -> ProcessId {
        self.init
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.pid.to_string()).args(["--mount", "--pid", "--net", "--"]).arg(program);
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Lets it go on after this process.
    pub(crate) fn stay(&mut self) -> Result<()> {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(b"stay\n").context("telling a process tree to stay")?;
        }
        self.parent = None;
        Ok(())
    }

    /// Ends it, and with it every process in it.
    pub(crate) fn end(&mut self) {
        // Without a parent it is not ours: attached to, or told to stay.
        let Some(mut parent) = self.parent.take() else { return };
        // At the end of its pipe the first process ends.
        drop(self.pipe.take());
        // `unshare` ends after its child, and its child after every process of the pid namespace.
        let _ = parent.wait();
    }

    /// Processes of this tree (not of containers in it) whose program has this name, with numbers as we see them.
    pub(crate) fn processes(&self, program: &str) -> Vec<ProcessId> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.init.pid);
        if ours.is_none() {
            return Vec::new();
        }
        pids().filter(|pid| is_program(*pid, program) && namespace(*pid) == ours).filter_map(ProcessId::of).collect()
    }
}

/// All process numbers.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether the process runs the program with this file name.
pub(crate) fn is_program(pid: i32, program: &str) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.file_name().is_some_and(|name| name == program))
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program inside a tree, with a log file.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    log: PathBuf,
    /// `nsenter`, which ends when the program does.
    entered: Child,
    tree: ProcessId,
}

impl Program {
    /// Starts a command made by [`Tree::command`]; what it prints is appended to `log`.
    pub(crate) fn start(tree: &Tree, name: &str, command: &mut Command, log: PathBuf) -> Result<Program> {
        let file = File::options().create(true).append(true).open(&log).with_context(|| format!("opening {}", log.display()))?;
        let entered = command.stdout(file.try_clone()?).stderr(file).spawn().with_context(|| format!("starting {name} ({command:?})"))?;
        Ok(Program { name: name.to_owned(), log, entered, tree: tree.init() })
    }

    /// What it was started as.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error that quotes the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.entered.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), tail(&self.log)),
        }
    }

    /// Waits for its end, after it was killed.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.entered.wait()?;
        Ok(())
    }

    /// The end of its log, to go with an error.
    pub(crate) fn explain(&self) -> String {
        format!("the end of {}:\n{}", self.log.display(), tail(&self.log))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ending a program is the tree's business; when that has ended, so has this, and only its exit status is left.
        if !self.tree.is_alive() {
            let _ = self.entered.wait();
        }
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Tries until it works, every 20 ms.
pub(crate) fn until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what}: not after {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_and_another_with_its_number_is_not_it() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(id.is_alive());
        let another = ProcessId { started: id.started + 1, ..id };
        assert!(!another.is_alive());
        another.kill();
        assert!(id.is_alive(), "the number alone kills nobody");
        id.kill();
        assert!(id.wait_gone(Duration::from_secs(5)), "ended, though nobody has waited for it");
        child.wait().unwrap();
    }

    #[test]
    fn a_tree_ends_as_one_also_with_what_entered_it() {
        let namespace = Namespace::create("ksg-test-tree").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::start(&namespace, "mount -t tmpfs tmpfs /mnt", &dir.path().join("tree.log")).unwrap();
        let program = Program::start(&tree, "sleep", tree.command("sleep").arg("100"), dir.path().join("sleep.log")).unwrap();
        let inside = until("sleep runs", Duration::from_secs(5), || Ok(tree.processes("sleep").first().copied())).unwrap();
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(" /mnt tmpfs"), "its mounts are its own");
        drop(tree);
        assert!(!inside.is_alive());
        // Would wait for ever if the program did not end with the tree.
        drop(program);

        let failed = Tree::start(&namespace, "echo what is wrong >&2; false", &dir.path().join("tree.log")).unwrap_err();
        assert!(failed.to_string().contains("what is wrong"), "{failed}");
    }
}
