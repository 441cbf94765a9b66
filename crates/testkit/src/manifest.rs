//! Objects as the API server stores them: JSON, and the fact that a program reads from it.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::AttachmentRef;
use policy::index::{Key, Kind, Object};
use policy::model::{GroupRef, PodRef, PrefixListRef};
use serde_json::{Value, json};

/// An object as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(pub Value);

impl Manifest {
    /// An object of a kind; `name` is `namespace/name`, or `name` for a namespace. UID `uid-<name>`, generation 1.
    pub fn new(kind: &str, name: &str) -> Manifest {
        let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
        let metadata = json!({"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "generation": 1});
        Manifest(json!({"kind": kind, "metadata": metadata}))
    }

    /// A running pod with `app: APP`, without an address.
    pub fn pod(name: &str, node: &str, app: &str) -> Manifest {
        let pod = Manifest::new("Pod", name).set("/metadata/creationTimestamp", "2026-01-01T00:00:00Z");
        pod.set("/spec/nodeName", node).set("/spec/containers", json!([])).set("/metadata/labels/app", app).set("/status/phase", "Running")
    }

    /// A security group.
    pub fn group(name: &str, spec: Value) -> Manifest {
        Manifest::new("SecurityGroup", name).set("/spec", spec)
    }

    /// An attachment of the pods with `app: APP` to groups.
    pub fn attachment(name: &str, app: &str, groups: &[&str]) -> Manifest {
        let spec = json!({"securityGroups": groups, "podSelector": {"matchLabels": {"app": app}}});
        Manifest::new("Attachment", name).set("/spec", spec)
    }

    /// A prefix list of IPv4 networks.
    pub fn prefix_list(name: &str, cidrs: &[&str]) -> Manifest {
        let entries: Vec<Value> = cidrs.iter().map(|cidr| json!({"cidr": cidr})).collect();
        Manifest::new("PrefixList", name).set("/spec", json!({"addressFamily": "IPv4", "maxEntries": 10, "entries": entries}))
    }

    /// Where cluster DNS answers.
    pub fn dns(name: &str, addresses: &[&str]) -> Manifest {
        Manifest::new("EndpointSlice", name).set("/addressType", "IPv4").set("/endpoints", json!([{"addresses": addresses}]))
    }

    /// A member slice of the group with this UID.
    pub fn slice(name: &str, group_uid: &str, head: bool, addresses: &[&str]) -> Manifest {
        let labels = json!({api::LABEL_GROUP_ID: policy::id::group(group_uid), api::LABEL_HEAD: head.to_string()});
        Manifest::new("MemberSlice", name).set("/metadata/labels", labels).set("/addresses", addresses)
    }

    /// A namespace, with a default group if one is named.
    pub fn namespace(name: &str, default_group: Option<&str>) -> Manifest {
        let labels = default_group.map(|group| json!({api::LABEL_DEFAULT_GROUP: group})).unwrap_or(json!({}));
        Manifest::new("Namespace", name).set("/metadata/labels", labels)
    }

    /// With these addresses of a pod.
    pub fn at(self, addresses: &[&str]) -> Manifest {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        self.set("/status/podIPs", ips)
    }

    /// With this at a path such as `/spec/onDeny`; the objects on the way are made.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Manifest {
        let mut slot = &mut self.0;
        for field in path.split('/').skip(1) {
            slot = match slot {
                Value::Array(elements) => &mut elements[field.parse::<usize>().unwrap_or_else(|_| panic!("`{field}` in {path}"))],
                other => &mut other[field],
            };
        }
        *slot = value.into();
        self
    }

    /// As it is after one more edit of its spec.
    pub fn edited(self, spec: Value) -> Manifest {
        let generation = self.0["metadata"]["generation"].as_i64().unwrap_or_default();
        self.set("/spec", spec).set("/metadata/generation", generation + 1)
    }

    /// What a program reads from it; says what is wrong with what the API server would never send.
    pub fn read(&self) -> Result<Object, String> {
        let Manifest(value) = self;
        let metadata = || serde_json::from_value::<ObjectMeta>(value["metadata"].clone()).map_err(|error| error.to_string());
        let spec = value.get("spec").unwrap_or(&Value::Null);
        match value["kind"].as_str().unwrap_or_default() {
            "Pod" => serde_json::from_value::<Pod>(value.clone()).map(|pod| Object::pod(&pod)).map_err(|error| error.to_string()),
            "Namespace" => Ok(Object::namespace(&metadata()?)),
            "SecurityGroup" => Ok(Object::security_group(&metadata()?, spec)),
            "Attachment" => Ok(Object::attachment(&metadata()?, spec)),
            "PrefixList" => Ok(Object::prefix_list(&metadata()?, spec)),
            "EndpointSlice" => {
                serde_json::from_value::<EndpointSlice>(value.clone()).map(|slice| Object::dns(&slice)).map_err(|error| error.to_string())
            }
            "MemberSlice" => {
                let mut value = value.clone();
                value["apiVersion"] = json!("securitygroups.dev/v1alpha1");
                serde_json::from_value(value).map(|slice| Object::member_slice(&slice)).map_err(|error| error.to_string())
            }
            kind => Err(format!("`{kind}` is no kind that is read")),
        }
    }

    /// The same, of a manifest that is right.
    pub fn fact(&self) -> Object {
        self.read().unwrap_or_else(|error| panic!("{error}: {}", self.0))
    }

    /// The name of its fact.
    pub fn key(&self) -> Key {
        key(&self.fact())
    }
}

/// The name of a fact.
pub fn key(object: &Object) -> Key {
    match object {
        Object::Pod(key, _) => Key::Pod(key.clone()),
        Object::SecurityGroup(key, _) => Key::SecurityGroup(key.clone()),
        Object::Attachment(key, _) => Key::Attachment(key.clone()),
        Object::Namespace(key, _) => Key::Namespace(key.clone()),
        Object::MemberSlice(key, _) => Key::MemberSlice(key.clone()),
        Object::PrefixList(key, _) => Key::PrefixList(key.clone()),
        Object::Dns(key, _) => Key::Dns(key.clone()),
    }
}

/// The kind of a fact.
pub fn kind(object: &Object) -> Kind {
    match object {
        Object::Pod(..) => Kind::Pod,
        Object::SecurityGroup(..) => Kind::SecurityGroup,
        Object::Attachment(..) => Kind::Attachment,
        Object::Namespace(..) => Kind::Namespace,
        Object::MemberSlice(..) => Kind::MemberSlice,
        Object::PrefixList(..) => Kind::PrefixList,
        Object::Dns(..) => Kind::Dns,
    }
}

/// Every kind of fact.
pub const KINDS: [Kind; 7] =
    [Kind::Pod, Kind::SecurityGroup, Kind::Attachment, Kind::Namespace, Kind::MemberSlice, Kind::PrefixList, Kind::Dns];

fn split(name: &str) -> (String, String) {
    name.split_once('/')
        .map(|(namespace, name)| (namespace.into(), name.into()))
        .unwrap_or_else(|| panic!("`{name}` is not namespace/name"))
}

/// `shop/web-0` as a pod.
pub fn pod_ref(name: &str) -> PodRef {
    let (namespace, name) = split(name);
    PodRef { namespace, name }
}

/// `shop/web` as a group.
pub fn group_ref(name: &str) -> GroupRef {
    let (namespace, name) = split(name);
    GroupRef { namespace, name }
}

/// `shop/web` as an attachment.
pub fn attachment_ref(name: &str) -> AttachmentRef {
    let (namespace, name) = split(name);
    AttachmentRef { namespace, name }
}

/// `shop/offices` as a prefix list.
pub fn prefix_list_ref(name: &str) -> PrefixListRef {
    let (namespace, name) = split(name);
    PrefixListRef { namespace, name }
}
