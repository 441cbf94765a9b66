//! Conditions (meta/v1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be said yet.
    Unknown,
}

impl Status {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Status::True } else { Status::False }
    }
}

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type, one of `api::condition`.
    pub type_: &'static str,
    /// Its status.
    pub status: Status,
    /// One CamelCase word, never empty.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The conditions to write: what is wanted, in that order. A condition whose status is as it was keeps the time of its last transition.
/// What is present and not wanted goes. `generation` is the one that they all speak of, where the object has one.
pub fn merge(present: &[Condition], wanted: Vec<Wanted>, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|wanted| {
            let since = present
                .iter()
                .find(|old| old.type_ == wanted.type_ && old.status == wanted.status.as_str())
                .map_or(now, |old| &old.last_transition_time);
            Condition {
                last_transition_time: since.clone(),
                message: wanted.message,
                observed_generation: generation,
                reason: wanted.reason,
                status: wanted.status.as_str().to_string(),
                type_: wanted.type_.to_string(),
            }
        })
        .collect()
}
