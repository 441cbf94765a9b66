//! The programs that a cluster needs: Kubernetes' own, Debian's, and ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy and kubectl.
///
/// `tests/tools/build` finds it, or builds it, which takes minutes the first time and says so on standard error.
pub fn kubernetes() -> Result<PathBuf> {
    build(&[])
}

/// Helm, found or built in the same way.
pub fn helm() -> Result<PathBuf> {
    Ok(build(&["helm"])?.join("helm"))
}

fn build(what: &[&str]) -> Result<PathBuf> {
    let script = workspace().join("tests/tools/build");
    let output = Command::new(&script)
        .args(what)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", script.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", script.display(), output.status);
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// What Debian has: a program (or a CNI plugin's path), and the package with it.
const DEBIAN: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/lib/cni/macvlan", "containernetworking-plugins"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
];

/// Fails with the command that installs what is missing.
pub fn check_debian() -> Result<()> {
    let mut missing: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| find_in_path(program).is_none()).map(|(_, package)| *package).collect();
    missing.dedup();
    if !missing.is_empty() {
        bail!("the lab needs programs that are not installed: apt-get install --no-install-recommends {}", missing.join(" "));
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the lab makes namespaces and cgroups: run it as root");
    }
    Ok(())
}

/// The full path of a program; Debian's sbin folders count even where a user's PATH lacks them.
pub(crate) fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    // Joining an absolute path gives that path.
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Programs of this workspace, found beside the program that runs now (tests run in a folder below it) and in `target/debug`.
pub fn ours(names: &[&str]) -> Result<Vec<PathBuf>> {
    let running = std::env::current_exe().context("finding the running program")?;
    let folders: Vec<PathBuf> = running.ancestors().skip(1).take(2).map(Path::to_owned).chain([workspace().join("target/debug")]).collect();
    names
        .iter()
        .map(|name| {
            folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()).with_context(|| {
                let packages: String = names.iter().map(|name| format!(" -p {name}")).collect();
                format!("{name} is not built: cargo build{packages}")
            })
        })
        .collect()
}

/// The root of the checkout that this crate was built from.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}
