//! Who is who: the certificates, tokens and kubeconfigs of one cluster.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use crate::addresses::{API_PORT, CONTROL_PLANE, node};
use crate::state::node_label;

/// The files, all in the cluster's folder.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    dir: PathBuf,
}

impl Credentials {
    /// Where they are, for a cluster that has them.
    pub(crate) fn at(dir: &Path) -> Credentials {
        Credentials { dir: dir.join("credentials") }
    }

    /// Makes all of them. `port` is where the host reaches the API server.
    pub(crate) fn create(dir: &Path, nodes: u8, port: u16) -> Result<Credentials> {
        let files = Credentials::at(dir);
        fs::create_dir(&files.dir).with_context(|| format!("creating {}", files.dir.display()))?;
        fs::set_permissions(&files.dir, fs::Permissions::from_mode(0o700))?;
        files.certificates(nodes)?;

        let mut tokens = String::new();
        let mut user = |file: &str, name: &str, groups: &str, server: &str| -> Result<()> {
            let token = random()?;
            writeln!(tokens, "{token},{name},{name},\"{groups}\"")?;
            files.write(file, &kubeconfig(&files.path("ca.crt"), server, name, &token))
        };
        let inside = format!("https://{}:{API_PORT}", CONTROL_PLANE.v4);
        user("admin.kubeconfig", "admin", "system:masters", &format!("https://127.0.0.1:{port}"))?;
        user("controller-manager.kubeconfig", "system:kube-controller-manager", "system:masters", &inside)?;
        user("scheduler.kubeconfig", "system:kube-scheduler", "system:authenticated", &inside)?;
        user("kube-proxy.kubeconfig", "system:kube-proxy", "system:authenticated", &inside)?;
        for index in 0..nodes {
            let name = node_label(index);
            // The name and the group by which the Node authorizer knows a kubelet.
            user(&format!("{name}.kubeconfig"), &format!("system:node:{name}"), "system:nodes", &inside)?;
        }
        files.write("tokens.csv", &tokens)?;
        Ok(files)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.path(file), text).with_context(|| format!("writing {}", self.path(file).display()))
    }

    fn certificates(&self, nodes: u8) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lab");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        self.write("ca.crt", &ca.pem())?;

        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
        let addresses = ["127.0.0.1", "10.96.0.1", "fd00:96::1"].map(str::to_owned);
        let control_plane = CONTROL_PLANE.both().map(|address| address.to_string());
        let server = names.map(str::to_owned).into_iter().chain(addresses).chain(control_plane).collect();
        self.certificate(&ca, "apiserver", server, "kube-apiserver", None)?;
        // By this one kubelets know the API server, when it asks for logs or to run a command.
        self.certificate(&ca, "kubelet-client", Vec::new(), "kube-apiserver-kubelet-client", Some("system:masters"))?;
        for index in 0..nodes {
            let label = node_label(index);
            let mut server = vec![label.clone()];
            server.extend(node(index).both().map(|address| address.to_string()));
            self.certificate(&ca, &label, server, &format!("system:node:{label}"), Some("system:nodes"))?;
        }
        let service_accounts = KeyPair::generate()?;
        self.write("service-accounts.key", &service_accounts.serialize_pem())?;
        self.write("service-accounts.pub", &service_accounts.public_key_pem())
    }

    fn certificate(
        &self,
        ca: &CertifiedIssuer<'_, KeyPair>,
        file: &str,
        subject: Vec<String>,
        name: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let mut params = CertificateParams::new(subject)?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, ca)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }
}

fn kubeconfig(ca: &Path, server: &str, user: &str, token: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "{server}", certificate-authority: "{}"}}}}]
users: [{{name: "{user}", user: {{token: "{token}"}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: "{user}"}}}}]
current-context: lab
"#,
        ca.display()
    )
}

fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
