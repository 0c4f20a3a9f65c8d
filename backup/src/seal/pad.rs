//! Padded lengths of objects, which tell little about the content: Padmé's rule (Nikitin and
//! others, 2019).

/// The padded length of an object of `len` bytes: rounded up so that only as many leading bits of
/// the length are free as its logarithm has. The length then tells about log log of what it could,
/// for at most 12 % more bytes, 3.2 % from 64 KiB on. Packs are filled up to one frame below their
/// target, so a full one costs less than a frame, and all full ones are of one length.
#[must_use]
pub fn padded_len(len: usize) -> usize {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let free_bits = exponent.ilog2() + 1;
    let mask = (1_usize << exponent.saturating_sub(free_bits)) - 1;
    len.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lengths_are_left_and_little_is_wasted() {
        for len in (0..70_000).chain([(32 << 20) - 100_000, 32 << 20, (32 << 20) + 1]) {
            let padded = padded_len(len);
            assert!(
                padded >= len && padded_len(padded) == padded,
                "{len} becomes {padded}"
            );
            assert!((padded - len) * 100 <= len * 12, "{len} becomes {padded}");
            assert!(
                len < 1 << 16 || (padded - len) * 1000 <= len * 32,
                "{len} becomes {padded}"
            );
        }
        let lengths: std::collections::BTreeSet<usize> =
            (1 << 20..32 << 20).step_by(1000).map(padded_len).collect();
        assert!(lengths.len() < 200, "{}", lengths.len());
        assert_eq!(padded_len((32 << 20) - 131_072), 32 << 20, "a full pack");
    }
}
