//! Byte counts for people.

use clap::ValueEnum;

/// How to show byte counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Units {
    /// Powers of 1000: kB, MB, GB
    Si,
    /// Powers of 1024: KiB, MiB, GiB
    Iec,
    /// Plain numbers of bytes
    Raw,
}

const SI: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
const IEC: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl Units {
    pub(crate) fn format_bytes(self, bytes: u64) -> String {
        match self {
            Self::Raw => bytes.to_string(),
            Self::Si => scale_bytes(bytes, 1000, SI),
            Self::Iec => scale_bytes(bytes, 1024, IEC),
        }
    }
}

/// Three digits or so: `512 B`, `1.5 GiB`, `40 GiB`.
fn scale_bytes(bytes: u64, step: u64, names: [&str; 7]) -> String {
    let mut factor: u64 = 1;
    let mut power = 0;
    while power + 1 < names.len() && bytes / factor >= step {
        factor *= step;
        power += 1;
    }
    let name = names[power];
    let tenths = (u128::from(bytes) * 10 + u128::from(factor) / 2) / u128::from(factor);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_short_and_right() {
        for (bytes, si, iec) in [
            (0, "0 B", "0 B"),
            (999, "999 B", "999 B"),
            (1000, "1 kB", "1000 B"),
            (1024, "1 kB", "1 KiB"),
            (1536, "1.5 kB", "1.5 KiB"),
            (40 << 30, "42.9 GB", "40 GiB"),
            (u64::MAX, "18.4 EB", "16 EiB"),
        ] {
            assert_eq!(
                (
                    Units::Si.format_bytes(bytes),
                    Units::Iec.format_bytes(bytes)
                ),
                (si.to_owned(), iec.to_owned()),
                "{bytes}"
            );
        }
        assert_eq!(Units::Raw.format_bytes(1536), "1536");
    }
}
