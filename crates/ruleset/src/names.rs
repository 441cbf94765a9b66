//! Names that both the kernel and `nft` take: a letter first, then letters, digits, `/`, `_`, `.`, `-`.

use policy::model::GroupRef;
use sha2::{Digest, Sha256};

/// The longest name we use, in bytes. The kernel ends at 255.
pub(crate) const LONGEST: usize = 250;

/// How much of a shortened name stays readable.
const READABLE: usize = 150;

/// `kind/part/part`. Different parts never get the same name: parts that are not DNS names, or too long, end in a digest after an underscore,
/// which no DNS name has.
pub(crate) fn name(kind: &str, parts: &[&str]) -> String {
    let plain = format!("{kind}/{}", parts.join("/"));
    let dns = |part: &&str| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'));
    if plain.len() <= LONGEST && parts.iter().all(dns) {
        return plain;
    }
    let readable: String =
        plain.chars().map(|c| if matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '/') { c } else { '-' }).take(READABLE).collect();
    format!("{readable}_{}", digest(parts))
}

/// The longest name of a class: its chains, sets and counters have names that go on behind it.
const LONGEST_CLASS: usize = 200;

/// `kind/group_group`, each group as `namespace/name`; a digest where that is too long. A digest has no slash, a group has one.
pub(crate) fn class(kind: &str, groups: &[GroupRef]) -> String {
    let each = |group: &GroupRef| name(kind, &[&group.namespace, &group.name])[kind.len() + 1..].to_string();
    let plain = format!("{kind}/{}", groups.iter().map(each).collect::<Vec<_>>().join("_"));
    if plain.len() <= LONGEST_CLASS {
        return plain;
    }
    let parts: Vec<&str> = groups.iter().flat_map(|group| [group.namespace.as_str(), &group.name]).collect();
    format!("{}_{}", &plain[..READABLE], digest(&parts))
}

/// The name of what these parts are merged into: a digest, for they may be many. No namespace is called so long a number.
pub(crate) fn merged<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    digest(&parts.collect::<Vec<_>>())
}

/// Whether `nft` reads it back as one word, and it is no longer than ours may be.
pub(crate) fn is_valid(name: &str) -> bool {
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'.' | b'-'))
}

/// 160 bits in hex; each part goes in behind its length, so that moving a separator gives another digest.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hex(&hasher.finalize()[..20])
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_stay_as_they_are() {
        assert_eq!(name("in", &["shop", "web.v2", "sgr-00f"]), "in/shop/web.v2/sgr-00f");
    }

    #[test]
    fn what_is_no_dns_name_is_replaced_and_stays_valid() {
        for odd in ["", "Web", "a/b", "a b", "a_b", "ä", "\n}", "@x", "\"", "a\\b"] {
            let made = name("in", &["shop", odd]);
            assert!(is_valid(&made), "{made}");
            assert!(made.contains('_'), "{made}");
        }
    }

    #[test]
    fn moving_a_separator_gives_another_name() {
        let names = [
            name("in", &["a/b", "c"]),
            name("in", &["a", "b/c"]),
            name("in", &["a", "b", "c"]),
            name("in", &["a/b/c"]),
            name("in", &["a/", "b"]),
            name("in", &["a", "/b"]),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(names[i + 1..].iter().all(|other| one != other), "{one}");
        }
    }

    #[test]
    fn long_names_are_shortened_without_collision() {
        let (namespace, long) = ("n".repeat(63), "g".repeat(253));
        let one = name("out", &[&namespace, &long, "sgr-1"]);
        let other = name("out", &[&namespace, &long, "sgr-2"]);
        assert!(is_valid(&one) && is_valid(&other), "{one}");
        assert_ne!(one, other);
        assert_eq!(one, name("out", &[&namespace, &long, "sgr-1"]), "stable");
    }

    #[test]
    fn the_longest_plain_name_is_kept_and_one_more_byte_is_not() {
        let fits = "g".repeat(LONGEST - "in/a/".len());
        assert_eq!(name("in", &["a", &fits]).len(), LONGEST);
        assert!(!name("in", &["a", &fits]).contains('_'));
        assert!(name("in", &["a", &(fits + "g")]).contains('_'));
    }
}
