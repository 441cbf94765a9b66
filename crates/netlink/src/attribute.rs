//! Netlink attributes in plain bytes, for what libnftnl has nothing to do with.

/// rtattr and nlattr, in bytes.
const ATTRIBUTE: usize = 4;

/// Appends an attribute, padded as the next one wants it.
pub(crate) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The attributes in these bytes, as far as they are whole.
pub(crate) fn attributes(bytes: Option<&[u8]>) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes.unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.get(..ATTRIBUTE)?;
        let (length, kind) = (usize::from(half(header)), half(&header[2..]));
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        Some((kind & 0x3fff, value))
    })
}

pub(crate) fn half(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

pub(crate) fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_and_what_is_cut_off_is_not() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, &[7]);
        attribute(&mut bytes, 0x8002, b"cni0\0");
        let read: Vec<_> = attributes(Some(&bytes)).collect();
        assert_eq!(read, [(1, &[7][..]), (2, b"cni0\0")]);
        assert_eq!(text(read[1].1), "cni0");
        for length in 0..bytes.len() {
            assert!(attributes(Some(&bytes[..length])).count() <= 2);
        }
        assert_eq!(attributes(Some(&[0; 64])).count(), 0, "a length of less than its own header ends it");
        assert_eq!(attributes(None).count(), 0);
    }
}
