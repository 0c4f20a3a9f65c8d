//! Passwords that are only compared: hashes by argon2id, as text in the PHC string format.
//!
//! `$argon2id$v=19$m=65536,t=3,p=4$SALT$HASH`, salt and hash in base 64 without padding. The text
//! says how much work a password costs; it is bounded as that of a repository's keys is. What
//! opens a repository is not such a hash: its keys are `keys`.

use std::fmt;

use argon2::password_hash::phc::{self, Output, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{ARGON2ID_IDENT, Argon2, Params, Version};

use super::SealError;
use super::keys::PasswordCost;
use super::secrets::{KEY_LEN, random};

/// The longest text that may be a hash; those of argon2id have about a hundred bytes.
const TEXT_LEN_MAX: usize = 512;
/// Random bytes of a new hash.
const SALT_LEN: usize = 16;
/// The shortest hash that says enough about a password, in bytes.
const HASH_LEN_MIN: usize = 16;

/// The hash of a password. It gives the password to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(phc::PasswordHash);

/// The reason why a text is no hash that can be used, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// It has another form, as a plain password has.
    #[error("it is no hash of a password")]
    Form,
    /// It is a hash of another kind.
    #[error("it is a hash by {0}, and this program knows argon2id, version 19")]
    Algorithm(String),
    /// Salt or hash is missing, or shorter than is safe.
    #[error("its salt or its hash is missing or too short")]
    Short,
    /// Trying a password would take more than it is worth, or the parameters contradict each other.
    #[error("{0}")]
    Cost(String),
    /// Random bytes are missing.
    #[error(transparent)]
    Random(#[from] SealError),
}

impl PasswordHash {
    /// A new hash of `password`. Takes the time of `cost`.
    pub fn of_password(password: &str, cost: PasswordCost) -> Result<Self, PasswordHashError> {
        let salt = random::<SALT_LEN>()?;
        let hasher = cost.hasher(KEY_LEN).map_err(PasswordHashError::Cost)?;
        hasher
            .hash_password_with_salt(password.as_bytes(), &*salt)
            .map(Self)
            .map_err(argon2_error)
    }

    /// Parses the text of a hash, which [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        if text.len() > TEXT_LEN_MAX || !text.starts_with('$') {
            return Err(PasswordHashError::Form);
        }
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::Form)?;
        let version = hash.version.unwrap_or_default();
        if hash.algorithm != ARGON2ID_IDENT || version != u32::from(Version::V0x13) {
            return Err(PasswordHashError::Algorithm(hash.algorithm.to_string()));
        }
        let hash_len = hash.hash.as_ref().map_or(0, Output::len);
        if hash
            .salt
            .as_ref()
            .is_none_or(|salt| salt.len() < Salt::MIN_LENGTH)
            || hash_len < HASH_LEN_MIN
        {
            return Err(PasswordHashError::Short);
        }
        let cost = cost_of(&hash)?;
        cost.hasher(hash_len).map_err(PasswordHashError::Cost)?;
        Ok(Self(hash))
    }

    /// True if it is the hash of `password`. Takes the time that the hash asks for, whether it is
    /// or not.
    #[must_use]
    pub fn is_of(&self, password: &str) -> bool {
        let hasher = Argon2::default();
        hasher.verify_password(password.as_bytes(), &self.0).is_ok()
    }
}

fn cost_of(hash: &phc::PasswordHash) -> Result<PasswordCost, PasswordHashError> {
    let params = Params::try_from(hash).map_err(argon2_error)?;
    Ok(PasswordCost {
        memory_kib: params.m_cost(),
        passes: params.t_cost(),
        lanes: params.p_cost(),
    })
}

fn argon2_error(error: argon2::password_hash::Error) -> PasswordHashError {
    PasswordHashError::Cost(format!("argon2id: {error}"))
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: PasswordCost = PasswordCost {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = PasswordHash::of_password("correct horse", QUICK).expect("chance");
        let text = hash.to_string();
        assert!(text.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{text}");
        let again = PasswordHash::parse(&text).expect("it was written here");
        assert!(again.is_of("correct horse"));
        for wrong in ["", "correct horse ", "Correct horse", "correct hors", &text] {
            assert!(!again.is_of(wrong), "{wrong}");
        }
        let other = PasswordHash::of_password("correct horse", QUICK).expect("chance");
        assert_ne!(other.to_string(), text, "each has a salt of its own");
        assert!(!format!("{hash:?}").contains('$'));
    }

    /// As `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -e` of the reference
    /// implementation writes it.
    #[test]
    fn hashes_of_other_programs_are_known() {
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
                    $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = PasswordHash::parse(text).expect("it is one");
        assert!(hash.is_of("password") && !hash.is_of("passwort"));
        assert_eq!(hash.to_string(), text);
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        let with =
            |head: &str| format!("{head}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        let refusal = |text: &str| PasswordHash::parse(text).expect_err(text);
        for form in [
            "",
            "correct horse",
            "$",
            "$$",
            "$argon2id$v=nineteen$",
            &"$".repeat(1000),
            &format!("{}\n", with("$argon2id$v=19$m=64,t=1,p=1")),
            &format!("{}$more", with("$argon2id$v=19$m=64,t=1,p=1")),
        ] {
            assert_eq!(refusal(form), PasswordHashError::Form, "{form}");
        }
        for other in [
            "$argon2i$v=19$m=64,t=1,p=1",
            "$argon2d$v=19$m=64,t=1,p=1",
            "$argon2id$v=16$m=64,t=1,p=1",
            "$argon2id$m=64,t=1,p=1",
            "$scrypt$ln=16,r=8,p=1",
        ] {
            let refused = refusal(&with(other));
            assert!(
                matches!(refused, PasswordHashError::Algorithm(_)),
                "{other}: {refused}"
            );
        }
        for costly in [
            "$argon2id$v=19$m=1048577,t=1,p=1",
            "$argon2id$v=19$m=1048576,t=9,p=1",
            "$argon2id$v=19$m=65536,t=1,p=17",
            "$argon2id$v=19$m=4294967295,t=4294967295,p=1",
            "$argon2id$v=19$m=1,t=1,p=1",
            "$argon2id$v=19$m=64,t=0,p=1",
            "$argon2id$v=19$m=64,t=1,p=1,x=1",
        ] {
            let refused = refusal(&with(costly));
            assert!(
                matches!(refused, PasswordHashError::Cost(_)),
                "{costly}: {refused}"
            );
        }
        for short in [
            "$argon2id$v=19$m=64,t=1,p=1",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaM",
        ] {
            assert_eq!(refusal(short), PasswordHashError::Short, "{short}");
        }
    }
}
