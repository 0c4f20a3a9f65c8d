//! Secrets of one run: the token that opens the page, and the sessions of browsers. They live in
//! memory only, and are compared in constant time.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

/// Bytes of a token and of a session: 128 random bits.
const SECRET_LEN: usize = 16;
/// The length of a secret as text.
pub(crate) const SECRET_TEXT_LEN: usize = 2 * SECRET_LEN;
/// Browsers that are signed in at once: a person has some. The one that came first goes.
const SESSIONS_MAX: usize = 16;

type Secret = [u8; SECRET_LEN];

/// The time after which a browser has to sign in again.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Without a request that somebody stands behind.
    pub idle: Duration,
    /// In any case, however much it asked.
    pub whole: Duration,
}

impl Default for SessionLimits {
    /// An hour, and a working day.
    fn default() -> Self {
        Self {
            idle: Duration::from_hours(1),
            whole: Duration::from_hours(12),
        }
    }
}

/// The token and the sessions.
pub(crate) struct SessionTable {
    secrets: Mutex<LiveSecrets>,
    /// None: a session lasts as long as this run.
    limits: Option<SessionLimits>,
}

struct LiveSecrets {
    token: Secret,
    sessions: Vec<LiveSession>,
}

/// A browser that is signed in.
struct LiveSession {
    secret: Secret,
    began: Instant,
    /// The time of its last request.
    used: Instant,
}

impl SessionLimits {
    fn has_ended(self, session: &LiveSession, now: Instant) -> bool {
        now.saturating_duration_since(session.began) >= self.whole
            || now.saturating_duration_since(session.used) >= self.idle
    }
}

impl SessionTable {
    /// A new token, and no session.
    pub(crate) fn new(limits: Option<SessionLimits>) -> std::io::Result<Self> {
        let secrets = LiveSecrets {
            token: random_secret()?,
            sessions: Vec::new(),
        };
        Ok(Self {
            secrets: Mutex::new(secrets),
            limits,
        })
    }

    /// The token that the next browser needs.
    pub(crate) fn token_text(&self) -> String {
        secret_text(&self.lock_secrets().token)
    }

    /// Exchanges the token for a session. The token is another one from then on, so that it opens
    /// the page once, wherever it was seen. None if `text` is not the token.
    pub(crate) fn exchange_token(&self, text: &str) -> std::io::Result<Option<String>> {
        let token = random_secret()?;
        let mut secrets = self.lock_secrets();
        if !is_same_secret(text, &secrets.token) {
            return Ok(None);
        }
        secrets.token = token;
        drop(secrets);
        self.begin_session(Instant::now()).map(Some)
    }

    /// A new session, for somebody who has shown who they are.
    pub(crate) fn begin_session(&self, now: Instant) -> std::io::Result<String> {
        let secret = random_secret()?;
        let mut secrets = self.lock_secrets();
        if secrets.sessions.len() == SESSIONS_MAX {
            secrets.sessions.remove(0);
        }
        secrets.sessions.push(LiveSession {
            secret,
            began: now,
            used: now,
        });
        Ok(secret_text(&secret))
    }

    /// True if `text` is a session that has not ended; it is used now.
    pub(crate) fn use_session(&self, text: &str, now: Instant) -> bool {
        self.find_session(text, now, |session| session.used = now)
    }

    /// True if `text` is a session that has not ended. To look does not keep it alive.
    pub(crate) fn is_session(&self, text: &str, now: Instant) -> bool {
        self.find_session(text, now, |_| {})
    }

    fn find_session(&self, text: &str, now: Instant, act: impl Fn(&mut LiveSession)) -> bool {
        let mut secrets = self.lock_secrets();
        if let Some(limits) = self.limits {
            secrets
                .sessions
                .retain(|session| !limits.has_ended(session, now));
        }
        // All are looked at, so that the time says nothing.
        let mut found = false;
        for session in &mut secrets.sessions {
            if is_same_secret(text, &session.secret) {
                found = true;
                act(session);
            }
        }
        found
    }

    /// Ends a session.
    pub(crate) fn end_session(&self, text: &str) {
        let mut secrets = self.lock_secrets();
        secrets
            .sessions
            .retain(|session| !is_same_secret(text, &session.secret));
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
        let table = SessionTable::new(None).expect("chance");
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
        let now = Instant::now();
        assert!(table.is_session(&session, now) && !table.is_session(&token, now));
        assert_eq!(table.exchange_token(&token).expect("chance"), None);
        table.end_session(&session);
        assert!(!table.is_session(&session, now));
    }

    #[test]
    fn sessions_are_bounded() {
        let table = SessionTable::new(None).expect("chance");
        let mut sessions = Vec::new();
        for _ in 0..=SESSIONS_MAX {
            let session = table.exchange_token(&table.token_text()).expect("chance");
            sessions.push(session.expect("it is the token"));
        }
        let now = Instant::now();
        let there = sessions
            .iter()
            .map(|session| table.is_session(session, now));
        assert_eq!(there.filter(|there| *there).count(), SESSIONS_MAX);
        assert!(!table.is_session(&sessions[0], now));
    }

    #[test]
    fn a_session_ends_by_itself_and_looking_at_it_keeps_it_from_nothing() {
        let (idle, whole) = (Duration::from_secs(10), Duration::from_secs(25));
        let limits = SessionLimits { idle, whole };
        let table = SessionTable::new(Some(limits)).expect("chance");
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let (busy, quiet) = (table.begin_session(begun), table.begin_session(begun));
        let (busy, quiet) = (busy.expect("chance"), quiet.expect("chance"));
        assert!(table.use_session(&busy, after(9)) && table.is_session(&quiet, after(9)));
        assert!(table.use_session(&busy, after(10)) && !table.is_session(&quiet, after(10)));
        assert!(table.use_session(&busy, after(19)) && table.use_session(&busy, after(24)));
        assert!(!table.use_session(&busy, after(25)), "however busy it was");
        assert!(!table.is_session(&busy, after(11)), "it does not come back");
    }
}
