//! Sizes as people write them.

/// The reason why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("a size is a number and perhaps one of k, M, G, T, P, E (powers of 1024), such as 40G")]
    Shape,
    #[error(
        "{0} could mean powers of 1000 or of 1024: write {1} for powers of 1024, or the number of \
         bytes"
    )]
    Doubtful(String, String),
    #[error("that is more bytes than 64 bits can count")]
    TooLarge,
    #[error("it has only {0} bytes")]
    TooSmall(u64),
}

/// A size, or a change of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeChange {
    To(u64),
    Grow(u64),
    Shrink(u64),
}

/// The letters, each 1024 times the one before.
const LETTERS: &str = "KMGTPE";
/// Digits behind the point: more could not change a byte count much, and would overflow.
const FRACTION_DIGITS_MAX: usize = 12;

/// `text` in bytes: `4096`, `40G`, `1.5TiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let unit_at = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = unit_factor(unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let shaped = !whole.is_empty()
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let is_bytes = factor == 1;
    if !shaped || fraction.len() > FRACTION_DIGITS_MAX || (is_bytes && number.contains('.')) {
        return Err(SizeError::Shape);
    }
    let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let fraction_digits = u32::try_from(fraction.len()).map_err(|_| SizeError::Shape)?;
    let fraction: u128 = fraction.parse().map_err(|_| SizeError::Shape)?;
    let bytes = u128::from(whole) * u128::from(factor)
        + fraction * u128::from(factor) / 10_u128.pow(fraction_digits);
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

/// `text` as a new size, or with a sign as a change of the old one.
pub(crate) fn parse_change(text: &str) -> Result<SizeChange, SizeError> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => parse_size(more).map(SizeChange::Grow),
        (_, Some(less)) => parse_size(less).map(SizeChange::Shrink),
        _ => parse_size(text).map(SizeChange::To),
    }
}

impl SizeChange {
    /// The new length of what has `len` bytes now.
    pub(crate) fn apply_to(self, len: u64) -> Result<u64, SizeError> {
        match self {
            Self::To(len) => Ok(len),
            Self::Grow(more) => len.checked_add(more).ok_or(SizeError::TooLarge),
            Self::Shrink(less) => len.checked_sub(less).ok_or(SizeError::TooSmall(len)),
        }
    }
}

fn unit_factor(unit: &str) -> Result<u64, SizeError> {
    if ["", "B"].contains(&unit) {
        return Ok(1);
    }
    let mut characters = unit.chars();
    let letter = characters.next().map(|letter| letter.to_ascii_uppercase());
    let power = letter
        .and_then(|letter| LETTERS.find(letter))
        .ok_or(SizeError::Shape)?;
    match characters.as_str() {
        "" | "iB" => Ok(1 << (10 * (power + 1))),
        "B" | "b" => Err(SizeError::Doubtful(
            unit.to_owned(),
            format!("{}iB", letter.unwrap_or_default()),
        )),
        _ => Err(SizeError::Shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("1k", 1024),
            ("1K", 1024),
            ("1KiB", 1024),
            ("40G", 40 << 30),
            ("40GiB", 40 << 30),
            ("1.5M", 3 << 19),
            ("0.5k", 512),
            ("1m", 1 << 20),
            ("2T", 2 << 40),
            ("3P", 3 << 50),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in ["1kB", "1KB", "40GB", "1Mb", "3TB"] {
            assert!(
                matches!(parse_size(text), Err(SizeError::Doubtful(..))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            "-1",
            "+1",
            "1.5",
            "1..5G",
            "1.G",
            ".5G",
            "1 G",
            "1Gi",
            "1GiBs",
            "0x10",
            "1e3",
            "1X",
            "٣",
            "1K\u{202e}",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Shape), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in [
            "16E",
            "18446744073709551616",
            "99999999999999999999999999",
            "16385P",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge), "{text}");
        }
        assert_eq!(
            SizeChange::Grow(1).apply_to(u64::MAX),
            Err(SizeError::TooLarge)
        );
    }

    #[test]
    fn a_sign_makes_it_a_change() {
        for (text, change, of_ten) in [
            ("5", SizeChange::To(5), 5),
            ("+1k", SizeChange::Grow(1024), 1034),
            ("-4", SizeChange::Shrink(4), 6),
        ] {
            assert_eq!(parse_change(text), Ok(change));
            assert_eq!(change.apply_to(10), Ok(of_ten));
        }
        assert_eq!(
            SizeChange::Shrink(11).apply_to(10),
            Err(SizeError::TooSmall(10))
        );
    }
}
