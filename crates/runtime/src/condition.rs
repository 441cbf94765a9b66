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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn ready(status: Status, message: &str) -> Vec<Wanted> {
        vec![Wanted { type_: "Ready", status, reason: "Because".into(), message: message.into() }]
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_is_the_same() {
        let first = merge(&[], ready(Status::True, "one"), Some(1), &at(10));
        assert_eq!(first[0].last_transition_time, at(10));
        let second = merge(&first, ready(Status::True, "two"), Some(2), &at(20));
        assert_eq!((&second[0].last_transition_time, second[0].message.as_str()), (&at(10), "two"));
        assert_eq!(second[0].observed_generation, Some(2));
        let third = merge(&second, ready(Status::Unknown, "three"), Some(3), &at(30));
        assert_eq!((&third[0].last_transition_time, third[0].status.as_str()), (&at(30), "Unknown"));
    }

    #[test]
    fn what_is_not_wanted_goes_and_the_order_is_the_wanted_one() {
        let condition = |type_| Wanted { type_, status: Status::True, reason: "R".into(), message: String::new() };
        let present = merge(&[], vec![condition("Old"), condition("Ready")], None, &at(1));
        let merged = merge(&present, vec![condition("Ready"), condition("New")], None, &at(2));
        let said: Vec<_> = merged.iter().map(|c| (c.type_.as_str(), &c.last_transition_time)).collect();
        assert_eq!(said, [("Ready", &at(1)), ("New", &at(2))]);
    }
}
