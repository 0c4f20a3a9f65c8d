//! Bytes as text: lower-case hexadecimal digits, one form for each value.

/// Two digits a byte.
pub(crate) fn write(bytes: &[u8]) -> String {
    let digit = |bits: u8| char::from_digit(bits.into(), 16).expect("four bits are a digit");
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// The bytes that `text` writes; nothing for any other text, upper-case digits among them.
pub(crate) fn read(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<_>>()?;
    rest.is_empty().then_some(bytes)
}

/// The same, of a length that is known.
pub(crate) fn read_exact<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    if text.len() == 2 * LEN {
        read(text)?.try_into().ok()
    } else {
        None
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
