//! Adler-32, the checksum at the end of a compressed grain: a zlib stream's.

/// The checksum of a zlib stream, RFC 1950.
pub(super) fn adler32(bytes: &[u8]) -> u32 {
    /// So many bytes can be summed before a sum leaves 32 bits.
    const STRETCH_LEN: usize = 5552;
    const MODULUS: u32 = 65_521;
    let (mut low, mut high) = (1_u32, 0_u32);
    for stretch in bytes.chunks(STRETCH_LEN) {
        for byte in stretch {
            low += u32::from(*byte);
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::adler32;

    #[test]
    fn the_checksum_is_that_of_rfc_1950() {
        assert_eq!(adler32(b""), 1);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(adler32(&vec![0xff; 100_000]), 0x149a_302c);
    }
}
