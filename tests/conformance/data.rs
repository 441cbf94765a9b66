//! The files: read, with what they share filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use policy::model::Transport;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::expect::Line;
use super::folder;

/// The kinds of objects that a scenario changes, in the order in which a user would write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A namespace: its labels.
    Namespace,
    /// A pod: its labels, node and addresses.
    Pod,
    /// A prefix list's spec.
    PrefixList,
    /// A group's spec.
    SecurityGroup,
    /// An attachment's spec.
    Attachment,
}

/// Written `SecurityGroup x/web`, or `Namespace x`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; of a namespace its own name.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<ObjectName> {
        let (kind, name) = text.split_once(' ').with_context(|| format!("`{text}` is not a kind and a name"))?;
        let kind = match kind {
            "Namespace" => Kind::Namespace,
            "Pod" => Kind::Pod,
            "PrefixList" => Kind::PrefixList,
            "SecurityGroup" => Kind::SecurityGroup,
            "Attachment" => Kind::Attachment,
            _ => bail!("`{kind}` is no kind that a scenario has"),
        };
        let (namespace, name) = match kind {
            Kind::Namespace => (name, name),
            _ => name.split_once('/').with_context(|| format!("`{name}` is not namespace/name"))?,
        };
        Ok(ObjectName { kind, namespace: namespace.into(), name: name.into() })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Namespace => write!(f, "Namespace {}", self.name),
            kind => write!(f, "{kind:?} {}/{}", self.namespace, self.name),
        }
    }
}

impl ObjectName {
    /// The manifest of one of our own kinds, as `kubectl apply` takes it.
    pub fn manifest(&self, spec: &Value) -> Value {
        let kind = format!("{:?}", self.kind);
        let metadata = json!({ "name": self.name, "namespace": self.namespace });
        json!({ "apiVersion": "securitygroups.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
    }
}

/// Traffic that is tried. Written `tcp 80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Its protocol.
    pub protocol: Transport,
    /// Its destination port.
    pub port: u16,
}

impl FromStr for Probe {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Probe> {
        let (protocol, port) = text.split_once(' ').with_context(|| format!("`{text}` is not a protocol and a port"))?;
        Ok(Probe { protocol: transport(protocol)?, port: port.parse().with_context(|| format!("`{port}` is no port"))? })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", format!("{:?}", self.protocol).to_lowercase(), self.port)
    }
}

/// `tcp`, `udp` or `sctp`.
pub(super) fn transport(word: &str) -> Result<Transport> {
    Ok(match word {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => bail!("`{word}` is none of tcp, udp and sctp"),
    })
}

/// Where pods are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The nodes.
    pub nodes: Vec<String>,
    /// The pods, `x/a`.
    pub pods: BTreeMap<String, Place>,
}

/// Where a pod is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its node.
    pub node: String,
    /// Its addresses, one of each family.
    pub addresses: Vec<IpAddr>,
}

impl World {
    /// The one that there is.
    pub fn read() -> Result<World> {
        read(&folder().join("world.yaml"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // The namespace `y` is a name: only `true` and `false` are booleans.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&text, options).with_context(|| path.display().to_string())
}

/// A file as written; `base.yaml` answers nothing and has no cases.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    answers: String,
    about: String,
    pods: Option<Vec<String>>,
    probe: Option<Vec<String>>,
    #[serde(rename = "let")]
    names: Map<String, Value>,
    apply: Map<String, Value>,
    steps: Vec<Change>,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(rename = "let", default)]
    names: Map<String, Value>,
    #[serde(default)]
    steps: Vec<Change>,
    #[serde(default)]
    apply: Map<String, Value>,
    expect: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    apply: Map<String, Value>,
    #[serde(default)]
    delete: Vec<String>,
    expect: Value,
}

/// A sequence of changes, and what holds after each.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// `cyclonus/rules.yaml`.
    pub file: String,
    /// What it answers upstream.
    pub answers: String,
    /// Its name within the file; empty where the file is one scenario.
    pub name: String,
    /// The changes.
    pub steps: Vec<Step>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file, self.name)
    }
}

/// One change, and what holds after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Objects that are new or different.
    pub apply: BTreeMap<ObjectName, Value>,
    /// Objects that go; before anything comes.
    pub delete: Vec<ObjectName>,
    /// What is allowed and denied then.
    pub expect: Vec<Line>,
    /// What is tried.
    pub probes: Vec<Probe>,
}

/// What there is to answer: the number of cases by scenario or family.
pub fn index(of: &str) -> Result<BTreeMap<String, usize>> {
    read(&folder().join(of).join("index.yaml"))
}

/// All scenarios of a folder, in the order of their files.
pub fn scenarios(of: &str) -> Result<Vec<Scenario>> {
    let folder = folder().join(of);
    let base: File = read(&folder.join("base.yaml"))?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        files.push(entry?.file_name().to_string_lossy().into_owned());
    }
    files.retain(|file| file.ends_with(".yaml") && file != "base.yaml" && file != "index.yaml");
    files.sort();
    let mut scenarios = Vec::new();
    for file in files {
        let name = format!("{of}/{file}");
        let written: File = read(&folder.join(&file))?;
        scenarios.extend(of_file(&base, written, &name).context(name)?);
    }
    Ok(scenarios)
}

fn of_file(base: &File, mut file: File, name: &str) -> Result<Vec<Scenario>> {
    ensure!(!file.answers.is_empty() && !file.about.is_empty(), "a file says what it answers, and how");
    if file.cases.is_empty() {
        let steps = std::mem::take(&mut file.steps);
        file.cases.push(Case { name: String::new(), names: Map::new(), steps, apply: Map::new(), expect: None });
    }
    ensure!(file.steps.is_empty(), "steps beside cases");
    let cases = std::mem::take(&mut file.cases);
    let mut scenarios: Vec<Scenario> = Vec::new();
    for case in cases {
        ensure!(scenarios.iter().all(|other| other.name != case.name), "two cases are called {}", case.name);
        let steps = steps(base, &file, &case).with_context(|| case.name.clone())?;
        scenarios.push(Scenario { file: name.into(), answers: file.answers.clone(), name: case.name, steps });
    }
    Ok(scenarios)
}

fn steps(base: &File, file: &File, case: &Case) -> Result<Vec<Step>> {
    let names: Map<String, Value> =
        [&base.names, &file.names, &case.names].into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut changes = case.steps.clone();
    if let Some(expect) = &case.expect {
        ensure!(changes.is_empty(), "steps beside expect");
        changes.push(Change { apply: Map::new(), delete: Vec::new(), expect: expect.clone() });
    }
    let pods = file.pods.as_ref().or(base.pods.as_ref()).context("no pods")?;
    let there: Map<String, Value> = pods.iter().map(|pod| (format!("Pod {pod}"), json!({}))).collect();
    let first = changes.first_mut().context("neither steps nor expect")?;
    // What is said closer to the case counts.
    let all = [&there, &base.apply, &file.apply, &case.apply, &first.apply];
    first.apply = all.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let probes = file.probe.as_ref().or(base.probe.as_ref()).context("no probes")?;
    let probes = probes.iter().map(|probe| probe.parse()).collect::<Result<Vec<Probe>>>()?;
    changes.into_iter().map(|change| step(&names, change, &probes)).collect()
}

fn step(names: &Map<String, Value>, change: Change, probes: &[Probe]) -> Result<Step> {
    let mut apply = BTreeMap::new();
    for (name, value) in change.apply {
        let name: ObjectName = name.parse()?;
        // Nothing behind it: what the folder has and this case has not.
        if !value.is_null() {
            apply.insert(name, filled(names, value, 0)?);
        }
    }
    let delete = change.delete.iter().map(|name| name.parse()).collect::<Result<_>>()?;
    let Value::Array(lines) = filled(names, change.expect, 0)? else { bail!("expect is a list") };
    let expect = lines.iter().map(|line| line.as_str().context("a line is text")?.parse()).collect::<Result<_>>()?;
    Ok(Step { apply, delete, expect, probes: probes.to_vec() })
}

/// `$name` replaced, everywhere.
fn filled(names: &Map<String, Value>, value: Value, depth: usize) -> Result<Value> {
    ensure!(depth < 32, "a name stands for itself");
    let named = |text: &str| match text.strip_prefix('$') {
        Some(name) => names.get(name).cloned().map(Some).with_context(|| format!("nobody says what {text} is")),
        None => Ok(None),
    };
    Ok(match value {
        Value::String(text) => match named(&text)? {
            Some(value) => filled(names, value, depth + 1)?,
            None => Value::String(text),
        },
        Value::Array(elements) => {
            let mut all = Vec::new();
            for element in elements {
                let is_name = element.as_str().is_some_and(|text| text.starts_with('$'));
                match filled(names, element, depth + 1)? {
                    Value::Array(several) if is_name => all.extend(several),
                    one => all.push(one),
                }
            }
            Value::Array(all)
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Ok((name, filled(names, value, depth + 1)?)));
            Value::Object(fields.collect::<Result<_>>()?)
        }
        other => other,
    })
}
