//! What cannot be understood or enforced: named, with a reason, and never a reason to stop.

use std::fmt;

use crate::model::{GroupRef, PrefixListRef};

/// An Attachment by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for AttachmentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The object that a problem is about. Written `SecurityGroup shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRef {
    /// A group.
    SecurityGroup(GroupRef),
    /// An attachment.
    Attachment(AttachmentRef),
    /// A prefix list.
    PrefixList(PrefixListRef),
    /// A namespace.
    Namespace(String),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectRef::SecurityGroup(group) => write!(f, "SecurityGroup {group}"),
            ObjectRef::Attachment(attachment) => write!(f, "Attachment {attachment}"),
            ObjectRef::PrefixList(list) => write!(f, "PrefixList {list}"),
            ObjectRef::Namespace(name) => write!(f, "Namespace {name}"),
        }
    }
}

/// The reason of what this program cannot read: it allows nothing (S38).
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";

/// Something that is not in force as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object.
    pub object: ObjectRef,
    /// The rule within it, `ingress[2].from[0]`; empty where it is the object as a whole.
    pub rule: String,
    /// One CamelCase word: the condition's reason and the metric's label.
    pub reason: &'static str,
    /// A sentence for people: what, and what would be right.
    pub message: String,
}

/// Characters a message has at most: what cannot be read may say anything, and one object's trouble must not make the report of a node,
/// in which it is quoted, too large to be written.
const MESSAGE: usize = 512;

fn short(message: String) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

impl Problem {
    /// A problem of the object as a whole.
    pub fn whole(object: ObjectRef, reason: &'static str, message: impl Into<String>) -> Problem {
        Problem { object, rule: String::new(), reason, message: short(message.into()) }
    }

    /// A problem of one rule.
    pub fn of_rule(object: ObjectRef, rule: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Problem {
        Problem { object, rule: rule.into(), reason, message: short(message.into()) }
    }
}
