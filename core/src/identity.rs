//! Names that hold across stores: 16 random bytes, written as 32 hexadecimal digits.
//!
//! Numbers of layers and images mean something in one store only. These go with what they name
//! wherever it is copied.

use std::fmt;

/// The length of an identity in bytes.
pub const IDENTITY_LEN: usize = 16;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; IDENTITY_LEN]);

        impl $name {
            /// The identity that `text` writes: 32 lower-case hexadecimal digits, nothing else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

identity!(
    /// The content of a sealed layer, whatever becomes of the layers below it. Two layers of the
    /// same content identity show the same bytes.
    ContentId
);
identity!(
    /// One store, through moves of its folder.
    StoreId
);
identity!(
    /// One repository, wherever it is copied byte for byte.
    RepositoryId
);
identity!(
    /// A numbered list of chunks in a repository: what one push found new, up to its limit.
    SegmentId
);
identity!(
    /// A process that changes a repository.
    SessionId
);

fn parse(text: &str) -> Option<[u8; IDENTITY_LEN]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Vec<u8> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<_>>()?;
    if rest.is_empty() {
        bytes.try_into().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let id = ContentId([0, 1, 0x9a, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xf0]);
        assert_eq!(ContentId::parse(&id.to_string()), Some(id));
        for hostile in [
            "",
            "00",
            &id.to_string().to_uppercase(),
            &format!("{id}0"),
            &format!("{id}00"),
            &"é".repeat(16),
            "../../../../../../etc/passwd00000",
        ] {
            assert_eq!(ContentId::parse(hostile), None, "{hostile}");
        }
    }
}
