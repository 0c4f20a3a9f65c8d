//! Access from other machines: under TLS alone, with a password, by the names that a person gave
//! the server. It knows no page; the password's hash is known to who starts the manager.
//!
//! Trying a password is made to be slow. So one is tried at a time, beside the threads that answer;
//! few wait for their turn, the attempts of each address and of all are counted, and whoever fails
//! waits before being told. All failures are told alike.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::uri::Authority;
use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use crate::secret::SessionLimits;
use crate::sign_in_attempts::AttemptLedger;

/// The longest password: longer than any, and no harm to hold.
const PASSWORD_LEN_MAX: usize = 4096;
/// Attempts that wait for their turn: each takes a fraction of a second.
const WAITING_MAX: usize = 8;
/// The pause before somebody is told that a password was wrong.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// The port that browsers leave out.
const HTTPS_PORT: u16 = 443;

/// The longest name: as long as a domain's, with a port.
const HOST_NAME_LEN_MAX: usize = 253 + 6;

/// The check of a password. It takes its time, and as much for a wrong one as for the right one.
pub type PasswordCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The conditions under which other machines are let in.
pub struct RemoteAccess {
    /// The certificate and key of the server.
    pub tls: Arc<ServerConfig>,
    /// The names by which browsers may call it, beside its address.
    pub host_names: Vec<HostName>,
    /// The check of the password.
    pub check_password: PasswordCheck,
    /// The time after which a browser has to sign in again.
    pub session_limits: SessionLimits,
    /// Takes a line about each attempt to sign in, without the password.
    pub report: Box<dyn Fn(String) + Send + Sync>,
}

/// A name by which browsers call the server: a domain's or an address, with a port if it is another
/// one than that where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Parses what a person wrote. An error, for people: no browser would call a server that.
    pub fn parse(text: &str) -> Result<Self, String> {
        let reason = || format!("{text:?} is no name of a server: write it as in host.example");
        let authority: Authority = text.parse().map_err(|_| reason())?;
        let name = authority.as_str();
        let is_plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
        let has_port = authority.port_u16().is_some();
        let is_whole = has_port || name.ends_with(']') || !name.contains(':');
        let host = authority.host();
        if !is_plain || !is_whole || host.is_empty() || name.len() > HOST_NAME_LEN_MAX {
            return Err(reason());
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name of an address.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_string()),
            IpAddr::V6(address) => Self(format!("[{address}]")),
        }
    }

    /// The name as a browser sends it to a server that listens at `port`.
    pub(crate) fn host_header(&self, port: u16) -> String {
        let has_port = !self.0.ends_with(']') && self.0.contains(':');
        let (name, port) = match self.0.rsplit_once(':') {
            Some((name, own)) if has_port => (name, own.parse().unwrap_or(port)),
            _ => (self.0.as_str(), port),
        };
        if port == HTTPS_PORT {
            name.to_owned()
        } else {
            format!("{name}:{port}")
        }
    }
}

/// The door of those who have a password.
pub(crate) struct PasswordDoor {
    check: PasswordCheck,
    attempts: Mutex<AttemptLedger>,
    /// Places of those who try, and of those who wait to.
    places: Arc<Semaphore>,
    /// The one turn.
    turn: Arc<Semaphore>,
    report: Box<dyn Fn(String) + Send + Sync>,
}

impl PasswordDoor {
    pub(crate) fn of_remote(remote: RemoteAccess) -> Self {
        Self::new(remote.check_password, remote.report)
    }

    fn new(check: PasswordCheck, report: Box<dyn Fn(String) + Send + Sync>) -> Self {
        Self {
            check,
            attempts: Mutex::new(AttemptLedger::new(Instant::now())),
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            report,
        }
    }

    /// True if `password` is the right one, and whoever is at `address` may try it. Otherwise it
    /// takes a while.
    pub(crate) async fn lets_in(&self, password: String, address: IpAddr) -> bool {
        let is_right = self.try_password(password, address).await;
        if is_right {
            (self.report)(format!("signed in from {address}"));
        } else {
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
        is_right
    }

    async fn try_password(&self, password: String, address: IpAddr) -> bool {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return false;
        };
        if !self.may_try(address) {
            return false;
        }
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return false;
        };
        let check = Arc::clone(&self.check);
        let tried = tokio::task::spawn_blocking(move || {
            // Kept until it is done, also where the browser has gone: the next one waits.
            let _kept = (place, turn);
            (1..=PASSWORD_LEN_MAX).contains(&password.len()) && check(&password)
        });
        let is_right = tried.await.unwrap_or(false);
        if is_right {
            self.lock_attempts().end_well(address);
        } else {
            (self.report)(format!("a wrong password came from {address}"));
        }
        is_right
    }

    fn may_try(&self, address: IpAddr) -> bool {
        self.lock_attempts().begin_attempt(address, Instant::now())
    }

    fn lock_attempts(&self) -> std::sync::MutexGuard<'_, AttemptLedger> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn names_are_those_that_browsers_send() {
        for (text, port, header) in [
            ("host.example", 8443, "host.example:8443"),
            ("Host.EXAMPLE", 443, "host.example"),
            ("host.example:8443", 1, "host.example:8443"),
            ("host.example:443", 1, "host.example"),
            ("10.0.0.1", 443, "10.0.0.1"),
            ("[2001:DB8::1]", 8443, "[2001:db8::1]:8443"),
            ("[2001:db8::1]:443", 1, "[2001:db8::1]"),
        ] {
            let name = HostName::parse(text).expect(text);
            assert_eq!(name.host_header(port), header, "{text}");
        }
        for text in [
            "",
            ":443",
            "host.example:",
            "host.example:x",
            "host.example:70000",
            "2001:db8::1",
            "me@host.example",
            "https://host.example",
            "host.example/",
            "a b",
            "höst.example",
            "\u{1b}[31m",
            "a,b",
            &"a".repeat(300),
        ] {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("threads")
    }

    /// A crowd of browsers from many addresses, half of which go away at once.
    #[test]
    fn one_password_is_tried_at_a_time_however_many_come_and_go() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, top) = (Arc::clone(&running), Arc::clone(&most));
        let check: PasswordCheck = Arc::new(move |password| {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::SeqCst);
            password == "right"
        });
        let door = Arc::new(PasswordDoor::new(check, Box::new(|_| {})));
        let runtime = runtime();
        for nth in 0..50_u8 {
            let door = Arc::clone(&door);
            let from = IpAddr::from([10, 0, 0, nth]);
            let tried = runtime.spawn(async move { door.lets_in("wrong".to_owned(), from).await });
            std::thread::sleep(Duration::from_millis(5));
            if nth % 2 == 0 {
                tried.abort();
            }
        }
        let owner = IpAddr::from([10, 1, 0, 1]);
        let is_in = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            runtime.block_on(door.try_password("right".to_owned(), owner))
        });
        assert!(is_in, "the owner gets in as soon as there is a place");
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn no_report_has_a_password_and_an_empty_or_long_one_is_not_tried() {
        let tried = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tried);
        let check: PasswordCheck = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            true
        });
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&lines);
        let report = move |line| heard.lock().expect("nobody panicked").push(line);
        let door = PasswordDoor::new(check, Box::new(report));
        let from = IpAddr::from([10, 0, 0, 1]);
        let runtime = runtime();
        let long = "secret".repeat(PASSWORD_LEN_MAX);
        for password in ["", &long] {
            assert!(!runtime.block_on(door.lets_in(password.to_owned(), from)));
        }
        assert_eq!(tried.load(Ordering::SeqCst), 0);
        assert!(runtime.block_on(door.lets_in("secret".to_owned(), from)));
        let lines = lines.lock().expect("nobody panicked").join("\n");
        assert!(
            lines.contains("from 10.0.0.1") && !lines.contains("secret"),
            "{lines}"
        );
    }
}
