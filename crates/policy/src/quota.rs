//! How much there may be of something (S24). More than that is in force all the same, and said.

use std::collections::BTreeMap;

use api::quota::{DIGITS, GROUPS_PER_ENDPOINT, GROUPS_PER_NAMESPACE, Limit, RULES_PER_DIRECTION};

/// The limits that hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// (rule, peer) pairs of a group, in each direction.
    pub rules_per_direction: usize,
    /// Groups that an endpoint is in, and that an attachment names.
    pub groups_per_endpoint: usize,
    /// Groups of a namespace.
    pub groups_per_namespace: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits::read(&BTreeMap::new()).0
    }
}

impl Limits {
    /// From the data of the administrator's ConfigMap, and what is wrong with it. A limit that is missing or cannot be read is AWS's.
    pub fn read(data: &BTreeMap<String, String>) -> (Limits, Vec<String>) {
        let mut complaints = Vec::new();
        let mut limit = |Limit { key, default }| {
            let Some(text) = data.get(key) else { return default };
            let digits = text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).unwrap_or_else(|| {
                complaints.push(format!("{key} is {text:?}, which is no whole number of at most {DIGITS} digits; {default} holds"));
                default
            })
        };
        let limits = Limits {
            rules_per_direction: limit(RULES_PER_DIRECTION),
            groups_per_endpoint: limit(GROUPS_PER_ENDPOINT),
            groups_per_namespace: limit(GROUPS_PER_NAMESPACE),
        };
        (limits, complaints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> (Limits, Vec<String>) {
        Limits::read(&entries.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect())
    }

    #[test]
    fn s24_the_defaults_are_those_of_aws() {
        let aws = Limits { rules_per_direction: 50, groups_per_endpoint: 5, groups_per_namespace: 500 };
        assert_eq!(Limits::default(), aws);
        assert_eq!(read(&[("somethingElse", "7")]), (aws, Vec::new()));
    }

    #[test]
    fn s24_each_limit_is_the_administrators() {
        let (limits, complaints) = read(&[("rulesPerDirection", "200"), ("groupsPerEndpoint", "16"), ("groupsPerNamespace", "0")]);
        assert_eq!(limits, Limits { rules_per_direction: 200, groups_per_endpoint: 16, groups_per_namespace: 0 });
        assert!(complaints.is_empty());
    }

    #[test]
    fn s24_a_limit_that_is_no_number_is_the_default_and_is_named() {
        for text in ["fifty", "", " 60", "+60", "-1", "6e1", "1234567", "60.0"] {
            let (limits, complaints) = read(&[("rulesPerDirection", text), ("groupsPerEndpoint", "6")]);
            assert_eq!((limits.rules_per_direction, limits.groups_per_endpoint), (50, 6), "{text}");
            assert!(matches!(complaints.as_slice(), [one] if one.starts_with("rulesPerDirection is ")), "{complaints:?}");
        }
    }
}
