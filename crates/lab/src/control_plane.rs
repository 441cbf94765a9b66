//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as one tree of processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::addresses::{API_PORT, CONTROL_PLANE, SERVICE_CIDRS};
use crate::credentials::Credentials;
use crate::netns::Namespace;
use crate::process::{Program, Tree, run};

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 2379);

/// The control plane of one cluster.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    dir: PathBuf,
    kubernetes: PathBuf,
    credentials: Credentials,
    audit: bool,
    // Ends before the programs in it are waited for.
    pub(crate) tree: Tree,
    programs: Mutex<BTreeMap<&'static str, Program>>,
}

impl ControlPlane {
    /// Starts the tree, without a program in it yet.
    pub(crate) fn create(dir: &Path, namespace: &Namespace, kubernetes: &Path, audit: bool) -> Result<ControlPlane> {
        if audit {
            let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
            fs::write(dir.join("audit-policy.yaml"), policy)?;
        }
        Ok(ControlPlane::with_tree(dir, kubernetes, Tree::start(namespace, "", &dir.join("tree.log"))?))
    }

    /// One that another process started.
    pub(crate) fn with_tree(dir: &Path, kubernetes: &Path, tree: Tree) -> ControlPlane {
        ControlPlane {
            dir: dir.to_owned(),
            kubernetes: kubernetes.to_owned(),
            credentials: Credentials::at(dir),
            audit: dir.join("audit-policy.yaml").exists(),
            programs: Mutex::default(),
            tree,
        }
    }

    fn start(&self, name: &'static str, arguments: &[String]) -> Result<()> {
        let mut command = self.tree.command(self.kubernetes.join(name));
        let program = Program::start(&self.tree, name, command.args(arguments), self.dir.join(format!("{name}.log")))?;
        self.programs().insert(name, program);
        Ok(())
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Program>> {
        // A panic elsewhere leaves a whole map behind.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the host reach the API server through a listener that was made there.
    pub(crate) fn forward(&self, probe: &Path, listener: TcpListener) -> Result<()> {
        let mut command = self.tree.command(probe);
        command.args(["forward", &format!("{}:{API_PORT}", CONTROL_PLANE.v4)]).stdin(Stdio::from(OwnedFd::from(listener)));
        let program = Program::start(&self.tree, "probe forward", &mut command, self.dir.join("forward.log"))?;
        self.programs().insert("forward", program);
        Ok(())
    }

    /// Starts etcd.
    pub(crate) fn start_etcd(&self) -> Result<()> {
        let data = self.dir.join("etcd");
        let peer = "http://127.0.0.1:2380";
        self.start(
            "etcd",
            &[
                format!("--data-dir={}", data.display()),
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={ETCD}"),
                format!("--advertise-client-urls={ETCD}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--log-level=warn".to_owned(),
            ],
        )
    }

    /// Copies the data of an etcd that does not run.
    pub(crate) fn save_etcd(&self) -> Result<()> {
        let (data, saved) = (self.dir.join("etcd"), self.dir.join("etcd-saved"));
        run(Command::new("cp").arg("--archive").arg("--no-target-directory").arg(data).arg(saved)).map(drop)
    }

    /// Gives an etcd that does not run the data that was copied.
    pub(crate) fn put_back_etcd(&self) -> Result<()> {
        fs::remove_dir_all(self.dir.join("etcd"))?;
        Ok(fs::rename(self.dir.join("etcd-saved"), self.dir.join("etcd"))?)
    }

    /// Raises the alarm that an etcd raises whose space is used up, or takes it back as an administrator does who has made room. For a thread
    /// in the control plane's namespace.
    pub(crate) fn alarm_etcd(full: bool) -> Result<()> {
        let body = format!(r#"{{"action": "{}", "alarm": "NOSPACE"}}"#, if full { "ACTIVATE" } else { "DEACTIVATE" });
        let mut stream = TcpStream::connect(ETCD_ADDRESS).context("etcd")?;
        let length = body.len();
        write!(stream, "POST /v3/maintenance/alarm HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")?;
        let answer = io::read_to_string(stream)?;
        ensure!(answer.split(' ').nth(1) == Some("200"), "etcd: {answer}");
        Ok(())
    }

    /// Starts kube-apiserver.
    pub(crate) fn start_api_server(&self) -> Result<()> {
        let file = |option: &str, name: &str| format!("--{option}={}", self.credentials.path(name).display());
        let mut arguments = vec![
            format!("--etcd-servers={ETCD}"),
            format!("--bind-address={}", CONTROL_PLANE.v4),
            format!("--advertise-address={}", CONTROL_PLANE.v4),
            format!("--secure-port={API_PORT}"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("client-ca-file", "ca.crt"),
            file("kubelet-client-certificate", "kubelet-client.crt"),
            file("kubelet-client-key", "kubelet-client.key"),
            // Otherwise logs and exec look up a node's name, and nobody answers for it.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            file("token-auth-file", "tokens.csv"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            file("service-account-key-file", "service-accounts.pub"),
            file("service-account-signing-key-file", "service-accounts.key"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_CIDRS}"),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if self.audit {
            arguments.push(format!("--audit-policy-file={}", self.dir.join("audit-policy.yaml").display()));
            arguments.push(format!("--audit-log-path={}", self.audit_log().display()));
        }
        self.start("kube-apiserver", &arguments)
    }

    /// Where the audit log is written, if it is.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Starts kube-controller-manager and kube-scheduler.
    pub(crate) fn start_controllers(&self) -> Result<()> {
        let path = |name: &str| self.credentials.path(name).display().to_string();
        let common = |user: &str| {
            let kubeconfig = path(&format!("{user}.kubeconfig"));
            let mut arguments: Vec<String> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                .iter()
                .map(|option| format!("--{option}={kubeconfig}"))
                .collect();
            arguments.extend(["--leader-elect=false", "--bind-address=127.0.0.1"].map(str::to_owned));
            // Served to nobody, but otherwise each would make an RSA key of its own.
            arguments.push(format!("--tls-cert-file={}", path("apiserver.crt")));
            arguments.push(format!("--tls-private-key-file={}", path("apiserver.key")));
            arguments
        };
        let mut manager = common("controller-manager");
        manager.push(format!("--service-account-private-key-file={}", path("service-accounts.key")));
        manager.push(format!("--root-ca-file={}", path("ca.crt")));
        self.start("kube-controller-manager", &manager)?;
        self.start("kube-scheduler", &common("scheduler"))
    }

    /// Ends a program with SIGKILL and waits until it has gone.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        let found = self.tree.processes(name);
        for process in &found {
            process.kill();
            if !process.wait_gone(Duration::from_secs(10)) {
                bail!("{name} (process {}) does not end", process.pid);
            }
        }
        if let Some(program) = self.programs().remove(name) {
            program.wait()?;
        }
        if found.is_empty() {
            bail!("{name} does not run");
        }
        Ok(())
    }

    /// Fails, with the end of its log, if a program has ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.programs().values_mut().try_for_each(Program::check)
    }

    /// The end of a program's log, to go with an error.
    pub(crate) fn explain(&self, name: &str) -> String {
        self.programs().get(name).map(Program::explain).unwrap_or_default()
    }
}
