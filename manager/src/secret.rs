//! Secrets of one run: the token that opens the page, and the sessions of browsers. They live in
//! memory only, and are compared in constant time.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;

/// Bytes of a token and of a session: 128 random bits.
const SECRET_LEN: usize = 16;
/// The length of a secret as text.
pub(crate) const SECRET_TEXT_LEN: usize = 2 * SECRET_LEN;
/// Browsers that are signed in at once: a person has some. The one that came first goes.
const SESSIONS_MAX: usize = 16;

type Secret = [u8; SECRET_LEN];

/// The token and the sessions.
pub(crate) struct SessionTable {
    secrets: Mutex<LiveSecrets>,
}

struct LiveSecrets {
    token: Secret,
    sessions: Vec<Secret>,
}

impl SessionTable {
    /// A new token, and no session.
    pub(crate) fn new() -> std::io::Result<Self> {
        let secrets = LiveSecrets {
            token: random_secret()?,
            sessions: Vec::new(),
        };
        Ok(Self {
            secrets: Mutex::new(secrets),
        })
    }

    /// The token that the next browser needs.
    pub(crate) fn token_text(&self) -> String {
        secret_text(&self.lock_secrets().token)
    }

    /// Exchanges the token for a session. The token is another one from then on, so that it opens
    /// the page once, wherever it was seen. None if `text` is not the token.
    pub(crate) fn exchange_token(&self, text: &str) -> std::io::Result<Option<String>> {
        let (session, token) = (random_secret()?, random_secret()?);
        let mut secrets = self.lock_secrets();
        if !is_same_secret(text, &secrets.token) {
            return Ok(None);
        }
        secrets.token = token;
        if secrets.sessions.len() == SESSIONS_MAX {
            secrets.sessions.remove(0);
        }
        secrets.sessions.push(session);
        Ok(Some(secret_text(&session)))
    }

    /// True if `text` is a session of this run.
    pub(crate) fn is_session(&self, text: &str) -> bool {
        let secrets = self.lock_secrets();
        // All are looked at, so that the time says nothing.
        let mut found = false;
        for session in &secrets.sessions {
            found |= is_same_secret(text, session);
        }
        found
    }

    /// Ends a session.
    pub(crate) fn end_session(&self, text: &str) {
        let mut secrets = self.lock_secrets();
        secrets
            .sessions
            .retain(|session| !is_same_secret(text, session));
    }

    fn lock_secrets(&self) -> MutexGuard<'_, LiveSecrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_secret() -> std::io::Result<Secret> {
    let mut secret = [0; SECRET_LEN];
    getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
    Ok(secret)
}

fn secret_text(secret: &Secret) -> String {
    secret.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn is_same_secret(text: &str, secret: &Secret) -> bool {
    secret_text(secret).as_bytes().ct_eq(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_once() {
        let table = SessionTable::new().expect("chance");
        let token = table.token_text();
        assert_eq!(token.len(), SECRET_TEXT_LEN);
        for wrong in [
            "",
            "0",
            &token[1..],
            &format!("{token}0"),
            &token.to_uppercase(),
        ] {
            if wrong != token {
                assert_eq!(table.exchange_token(wrong).expect("chance"), None);
            }
        }
        let session = table.exchange_token(&token).expect("chance");
        let session = session.expect("it is the token");
        assert!(table.is_session(&session) && !table.is_session(&token));
        assert_eq!(table.exchange_token(&token).expect("chance"), None);
        table.end_session(&session);
        assert!(!table.is_session(&session));
    }

    #[test]
    fn sessions_are_bounded() {
        let table = SessionTable::new().expect("chance");
        let mut sessions = Vec::new();
        for _ in 0..=SESSIONS_MAX {
            let session = table.exchange_token(&table.token_text()).expect("chance");
            sessions.push(session.expect("it is the token"));
        }
        let there = sessions.iter().map(|session| table.is_session(session));
        assert_eq!(there.filter(|there| *there).count(), SESSIONS_MAX);
        assert!(!table.is_session(&sessions[0]));
    }
}
