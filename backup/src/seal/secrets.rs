//! The master key of a repository. It leaves memory only wrapped, and memory is wiped where it was.

use std::fmt;

use zeroize::Zeroizing;

use super::SealError;

/// The length of the master key, and of a key file's, in bytes.
pub(super) const KEY_LEN: usize = 32;

/// The master key: all others derive from it.
#[derive(Clone)]
pub struct Secrets(pub(super) Zeroizing<[u8; KEY_LEN]>);

impl Secrets {
    /// New ones, for a new repository.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(random()?))
    }

    /// The key for one purpose.
    pub(super) fn derive(&self, context: &str) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

pub(super) fn random<const LEN: usize>() -> Result<Zeroizing<[u8; LEN]>, SealError> {
    let mut bytes = Zeroizing::new([0; LEN]);
    getrandom::fill(&mut *bytes).map_err(|error| SealError::Random(error.to_string()))?;
    Ok(bytes)
}
