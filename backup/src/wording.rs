//! Base64 and words in records, for values without a form of their own in JSON: modes and
//! configuration files.

use vellum_core::tree::Mode;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The modes and their names in records.
const MODES: [(Mode, &str); 7] = [
    (Mode::Normal, "normal"),
    (Mode::Immutable { autoreset: true }, "immutable"),
    (Mode::Immutable { autoreset: false }, "immutable,keep"),
    (Mode::Writethrough, "writethrough"),
    (Mode::Shareable, "shareable"),
    (Mode::Readonly, "readonly"),
    (Mode::Multiattach, "multiattach"),
];

/// A mode, as records write it.
pub(crate) fn mode_text(mode: Mode) -> &'static str {
    MODES
        .iter()
        .find(|(other, _)| *other == mode)
        .map_or("normal", |(_, text)| text)
}

/// The mode that `text` writes.
pub(crate) fn mode_of(text: &str) -> Option<Mode> {
    MODES
        .iter()
        .find(|(_, other)| *other == text)
        .map(|(mode, _)| *mode)
}

/// `bytes` in base64, padded.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for nth in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * nth) & 63) as usize];
            text.push(if nth <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// The bytes that `text` writes.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (nth, group) in groups.iter().enumerate() {
        let digits = group.iter().take_while(|digit| **digit != b'=').count();
        let is_last = nth + 1 == groups.len();
        if digits < 2
            || (digits < 4 && !is_last)
            || group[digits..].iter().any(|digit| *digit != b'=')
        {
            return None;
        }
        let mut bits = 0_u32;
        for digit in &group[..digits] {
            bits = bits << 6 | ALPHABET.iter().position(|other| other == digit)? as u32;
        }
        bits <<= 6 * (4 - digits);
        let whole = bits.to_be_bytes();
        if whole[digits..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&whole[1..digits]);
    }
    rest.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_bytes_come_back() {
        for (mode, text) in MODES {
            assert_eq!((mode_text(mode), mode_of(text)), (text, Some(mode)));
        }
        // RFC 4648, section 10.
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(plain.as_bytes()));
        }
        for bad in [
            "Z", "Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zh==", "Zm9=", "Zm 9", "é===",
        ] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
    }
}
