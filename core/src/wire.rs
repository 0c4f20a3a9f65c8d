//! Reading and writing the small integers of our encodings. Every read is checked against the bytes
//! at hand.

/// The reason why bytes are not the record that their place says they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the record does.
    #[error("truncated")]
    Truncated,
    /// Bytes are left over after the record.
    #[error("{0} bytes too long")]
    TooLong(usize),
    /// The checksum does not fit the bytes, or the record stands in another's place.
    #[error("checksum mismatch")]
    Checksum,
    /// A version that this program does not know.
    #[error("version {0} is not known to this program: use a newer one")]
    Version(u8),
    /// A field holds what its writer never writes.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// The bytes not read yet.
#[derive(Clone, Copy, Debug)]
pub struct WireReader<'a> {
    rest: &'a [u8],
}

impl<'a> WireReader<'a> {
    /// All of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The number of bytes that are left.
    #[must_use]
    pub fn remaining_len(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn read_bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    pub fn read_u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.read_bytes(1)?[0])
    }

    /// Takes the version byte that an encoding begins with: `known` is the one that can be read.
    pub fn read_version(&mut self, known: u8) -> Result<(), DecodeError> {
        let found = self.read_u8()?;
        if found == known {
            Ok(())
        } else {
            Err(DecodeError::Version(found))
        }
    }

    /// The next four bytes, little-endian.
    pub fn read_u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.read_bytes(4)?;
        Ok(u32::from_le_bytes(
            bytes.try_into().expect("four bytes were taken"),
        ))
    }

    /// The next LEB128 integer: seven bits a byte, lowest first. Only the shortest form is
    /// accepted, so that bytes are canonical.
    pub fn read_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.read_u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(DecodeError::Invalid("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid("varint"))
    }

    /// Requires that nothing is left.
    pub fn expect_end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TooLong(self.rest.len()))
        }
    }
}

/// Appends `value` as LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Folds a signed difference into an unsigned integer whose size follows its magnitude.
#[must_use]
pub fn zigzag_encode(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag_encode`].
#[must_use]
pub fn zigzag_decode(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Splits the checksum off the end of `bytes` and verifies it under `context` and `key`.
pub fn verify_checksum<'a>(
    context: &str,
    key: &[&[u8]],
    bytes: &'a [u8],
) -> Result<&'a [u8], DecodeError> {
    let (body, stored) = bytes
        .split_last_chunk::<8>()
        .ok_or(DecodeError::Truncated)?;
    let mut parts = key.to_vec();
    parts.push(body);
    if crate::hash::keyed_checksum(context, &parts) == *stored {
        Ok(body)
    } else {
        Err(DecodeError::Checksum)
    }
}

/// Appends the checksum of `bytes` under `context` and `key`.
pub fn append_checksum(context: &str, key: &[&[u8]], bytes: &mut Vec<u8>) {
    let mut parts = key.to_vec();
    parts.push(bytes);
    let sum = crate::hash::keyed_checksum(context, &parts);
    bytes.extend_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back() {
        for value in [
            0,
            1,
            127,
            128,
            16383,
            16384,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = WireReader::new(&bytes);
            assert_eq!(reader.read_varint(), Ok(value));
            assert_eq!(reader.expect_end(), Ok(()));
            assert_eq!(zigzag_encode(zigzag_decode(value)), value);
        }
    }

    #[test]
    fn overlong_and_overflowing_integers_are_refused() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0x80],
        ] {
            assert!(WireReader::new(bytes).read_varint().is_err(), "{bytes:?}");
        }
    }
}
