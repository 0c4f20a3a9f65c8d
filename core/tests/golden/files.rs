//! The golden files of the crate whose test includes this one: bytes kept as hexadecimal digits in
//! its `tests/golden/`, under a name.

use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.hex"))
}

/// The bytes that are kept under a name.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let text =
        std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("a byte")
        })
        .collect()
}

/// True if nothing is kept under a name yet.
pub(crate) fn is_missing(name: &str) -> bool {
    !path(name).exists()
}

/// Keeps those of `files` whose names are new, thirty-two bytes a line; what is kept already stays
/// as it is.
pub(crate) fn keep(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let digit = |bits: u8| char::from_digit(bits.into(), 16).expect("four bits are a digit");
    for (name, bytes) in files.into_iter().filter(|(name, _)| is_missing(name)) {
        let line = |line: &[u8]| {
            line.iter()
                .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
                .chain(['\n'])
                .collect::<String>()
        };
        std::fs::write(path(name), bytes.chunks(32).map(line).collect::<String>())
            .expect("a file can be written");
    }
}
