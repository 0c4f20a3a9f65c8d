//! A manager that other machines reach: under TLS, with a password, by the names that it was given.
//! Each attack is refused, nothing has changed, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use vellum_manager::{HostName, RemoteAccess, SessionLimits};
use vellum_testkit::certificates::certificates;

use crate::fake_store::FakeManager;
use crate::raw_client::{Browser, exchange_bytes, open_secure, open_socket};

const PASSWORD: &str = "correct horse battery staple";
/// A bounded time for one page on a busy machine.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// A window is told within fifteen seconds that nothing happened, or that it is over.
const NEWS_PATIENCE: Duration = Duration::from_secs(25);
/// The handshake's time limit is ten seconds.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(25);

/// A manager with a password, and what it said and was asked.
struct RemoteManager {
    manager: FakeManager,
    /// Passwords that were tried.
    tried: Arc<Mutex<Vec<String>>>,
    /// Lines for the log.
    told: Arc<Mutex<Vec<String>>>,
    tls: Arc<ClientConfig>,
}

fn server_config() -> Arc<ServerConfig> {
    let folder = certificates();
    let chain = CertificateDer::from_pem_file(folder.join("server-cert.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("server-key.pem"));
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let config = builder
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![chain.expect("it is whole")], key.expect("it is whole"));
    Arc::new(config.expect("the key is the certificate's"))
}

fn client_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(certificates().join("ca-cert.pem"));
    roots
        .add(authority.expect("it is whole"))
        .expect("it is whole");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has them");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

impl RemoteManager {
    fn open() -> Self {
        Self::open_with(SessionLimits::default())
    }

    fn open_with(session_limits: SessionLimits) -> Self {
        let (tried, told): (Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (asked, heard) = (Arc::clone(&tried), Arc::clone(&told));
        let remote = RemoteAccess {
            tls: server_config(),
            host_names: vec![HostName::parse("Store.Example").expect("a name")],
            check_password: Arc::new(move |password| {
                asked
                    .lock()
                    .expect("nobody panicked")
                    .push(password.to_owned());
                password == PASSWORD
            }),
            session_limits,
            report: Box::new(move |line| heard.lock().expect("nobody panicked").push(line)),
        };
        Self {
            manager: FakeManager::open_remote(remote),
            tried,
            told,
            tls: client_config(),
        }
    }

    fn stranger(&self) -> Browser {
        let mut browser = Browser::open(&self.manager);
        browser.host = format!("store.example:{}", browser.address.port());
        browser.tls = Some(Arc::clone(&self.tls));
        browser
    }

    fn sign_in(&self) -> Browser {
        let mut browser = self.stranger();
        let answer = browser.post("/session", &password_form(PASSWORD));
        let attributes = browser.take_session(&answer);
        assert!(
            browser.cookie.starts_with("__Host-vellum-"),
            "{}",
            browser.cookie
        );
        assert!(attributes.contains("; Secure"), "{attributes}");
        assert!(
            !attributes.to_ascii_lowercase().contains("domain"),
            "{attributes}"
        );
        browser
    }

    fn tried(&self) -> Vec<String> {
        self.tried.lock().expect("nobody panicked").clone()
    }
}

fn password_form(password: &str) -> String {
    format!("user=vellum&password={}", password.replace(' ', "+"))
}

/// Nothing has changed, and who is signed in is answered in time.
fn goes_on(remote: &RemoteManager, browser: &Browser) {
    let asked = Instant::now();
    let well = browser.get("/rows");
    assert_eq!(well.status, 200, "{well:?}");
    assert!(asked.elapsed() < ANSWER_TIME, "{:?}", asked.elapsed());
    assert_eq!(remote.manager.store.commands(), Vec::<Vec<String>>::new());
}

#[test]
fn a_password_opens_the_page_and_signing_out_closes_it() {
    let remote = RemoteManager::open();
    let url = remote.manager.server.opening_url();
    let port = remote.manager.server.local_address().port();
    assert_eq!(
        url,
        format!("https://store.example:{port}/"),
        "no secret is in it"
    );
    let stranger = remote.stranger();
    let page = stranger.get("/").text();
    assert!(
        page.contains("name=\"password\"") && !page.contains("web@monday"),
        "{page}"
    );
    let browser = remote.sign_in();
    assert_eq!(browser.get("/rows").status, 200);
    let page = browser.get("/").text();
    assert!(
        page.contains("web@monday") && page.contains("/session/end"),
        "{page}"
    );
    // The address itself is a name, too.
    let mut by_address = browser.clone();
    by_address.host = by_address.address.to_string();
    assert_eq!(by_address.get("/rows").status, 200);
    let answer = browser.post("/session/end", "");
    let gone = answer.header("set-cookie").expect("a cookie that is over");
    assert!(
        gone.contains("Max-Age=0") && gone.contains("; Secure"),
        "{gone}"
    );
    assert_eq!(browser.get("/rows").status, 401, "a session that was ended");
    // Who comes back to a page is asked again.
    let again = browser.exchange(
        format!(
            "GET /node?name=web HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nSec-Fetch-Site: none\r\n\
             Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nConnection: close\r\n\r\n",
            browser.host, browser.cookie
        )
        .as_bytes(),
    );
    assert_eq!(again.status, 401, "{again:?}");
    assert!(
        again.text().contains("name=\"password\""),
        "{}",
        again.text()
    );
}

/// A request by its headers, with a session that is good unless they say otherwise.
struct RemoteAttack {
    name: &'static str,
    line: &'static str,
    /// `{host}` is the server's name, `{port}` its port, `{cookie}` a session that is good,
    /// `{good}` both as headers, `{secret}` the secret of the session.
    headers: &'static str,
    form: &'static str,
    refused: u16,
}

const OWN: &str = "Host: {host}\r\nCookie: {cookie}\r\nOrigin: https://{host}\r\n\
                   Sec-Fetch-Site: same-origin\r\n";
const DELETE: &str = "do=delete&node=web";

const fn attack(
    name: &'static str,
    line: &'static str,
    headers: &'static str,
    form: &'static str,
    refused: u16,
) -> RemoteAttack {
    RemoteAttack {
        name,
        line,
        headers,
        form,
        refused,
    }
}

const REMOTE_ATTACKS: [RemoteAttack; 18] = [
    attack(
        "another name",
        "GET /",
        "Host: evil.example:{port}\r\nCookie: {cookie}\r\n",
        "",
        421,
    ),
    attack(
        "the name without its port",
        "GET /",
        "Host: store.example\r\nCookie: {cookie}\r\n",
        "",
        421,
    ),
    attack(
        "the name at another port",
        "GET /",
        "Host: store.example:443\r\nCookie: {cookie}\r\n",
        "",
        421,
    ),
    attack(
        "a name of loopback that was not given",
        "GET /",
        "Host: localhost:{port}\r\nCookie: {cookie}\r\n",
        "",
        421,
    ),
    attack(
        "another name, before the session is looked at",
        "GET /rows",
        "Host: evil.example\r\n",
        "",
        421,
    ),
    attack(
        "an origin without TLS",
        "POST /run",
        "{good}Origin: http://{host}\r\n",
        DELETE,
        403,
    ),
    attack(
        "the same from here, it says",
        "POST /run",
        "{good}Origin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n",
        DELETE,
        403,
    ),
    attack(
        "our origin at another port",
        "POST /run",
        "{good}Origin: https://store.example\r\n",
        DELETE,
        403,
    ),
    attack(
        "a page elsewhere",
        "POST /run",
        "{good}Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        DELETE,
        403,
    ),
    attack(
        "a page of a neighbour's name",
        "POST /run",
        "{good}Origin: https://other.store.example:{port}\r\nSec-Fetch-Site: same-site\r\n",
        DELETE,
        403,
    ),
    attack(
        "no session",
        "POST /run",
        "Host: {host}\r\nOrigin: https://{host}\r\n",
        DELETE,
        401,
    ),
    attack(
        "a cookie of the name that needs no TLS",
        "GET /rows",
        "Host: {host}\r\nCookie: vellum-{port}={secret}\r\n",
        "",
        401,
    ),
    attack(
        "a cookie without its prefix",
        "GET /rows",
        "Host: {host}\r\nCookie: Host-vellum-{port}={secret}\r\n",
        "",
        401,
    ),
    attack(
        "a cookie of another port's server",
        "GET /rows",
        "Host: {host}\r\nCookie: __Host-vellum-1={secret}\r\n",
        "",
        401,
    ),
    attack(
        "a session that a stranger fixed before it",
        "GET /rows",
        "Host: {host}\r\nCookie: __Host-vellum-{port}={secret}; {cookie}\r\n",
        "",
        401,
    ),
    attack(
        "a token in place of the password",
        "POST /session",
        OWN,
        "token={secret}",
        403,
    ),
    attack(
        "a password from a page elsewhere",
        "POST /session",
        "Host: {host}\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        "password=correct+horse+battery+staple",
        403,
    ),
    attack(
        "a password in the address",
        "GET /session?password=correct+horse+battery+staple",
        OWN,
        "",
        405,
    ),
];

#[test]
fn every_attack_over_tls_is_refused_and_changes_nothing() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let tried = remote.tried();
    let (_, secret) = browser.cookie.split_once('=').expect("a pair");
    for attack in REMOTE_ATTACKS {
        let fill = |text: &str| {
            text.replace("{good}", "Host: {host}\r\nCookie: {cookie}\r\n")
                .replace("{host}", &browser.host)
                .replace("{port}", &browser.address.port().to_string())
                .replace("{cookie}", &browser.cookie)
                .replace("{secret}", secret)
        };
        let form = fill(attack.form);
        let body = if form.is_empty() {
            "\r\n".to_owned()
        } else {
            let kind = "Content-Type: application/x-www-form-urlencoded";
            format!("{kind}\r\nContent-Length: {}\r\n\r\n{form}", form.len())
        };
        let head = format!("{} HTTP/1.1\r\nConnection: close\r\n", attack.line);
        let answer = browser.exchange(format!("{head}{}{body}", fill(attack.headers)).as_bytes());
        assert_eq!(answer.status, attack.refused, "{}: {answer:?}", attack.name);
        let text = format!("{}{}", answer.head, answer.text()).to_ascii_lowercase();
        for forbidden in ["set-cookie", "access-control-", secret, "correct horse"] {
            assert!(!text.contains(forbidden), "{}: {text}", attack.name);
        }
        assert!(
            answer.header("content-security-policy").is_some(),
            "{}",
            attack.name
        );
        goes_on(&remote, &browser);
    }
    assert_eq!(remote.tried(), tried, "no password was tried that way");
}

/// The answer to a stranger who tries a password: always the same.
fn failed_sign_in(browser: &Browser, form: &str) -> (u16, Vec<u8>) {
    let answer = browser.post("/session", form);
    assert!(answer.header("set-cookie").is_none(), "{answer:?}");
    (answer.status, answer.body)
}

#[test]
fn a_flood_of_wrong_passwords_is_slowed_down_bounded_and_told_nothing() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let stranger = remote.stranger();
    let flood: Vec<_> = (0..40)
        .map(|nth| {
            let (stranger, form) = (stranger.clone(), password_form(&format!("wrong {nth}")));
            thread::spawn(move || {
                let asked = Instant::now();
                (failed_sign_in(&stranger, &form), asked.elapsed())
            })
        })
        .collect();
    goes_on(&remote, &browser);
    let flood: Vec<_> = flood
        .into_iter()
        .map(|tried| tried.join().expect("it was answered"))
        .collect();
    for (answer, took) in &flood {
        assert_eq!(answer.0, 403);
        assert_eq!(*answer, flood[0].0, "all failures are told alike");
        assert!(*took >= Duration::from_millis(900), "{took:?}");
    }
    assert!(remote.tried().len() <= 11, "{:?}", remote.tried());
    // One address cannot go on, whatever it sends: not even with the right password.
    for _ in 0..10 {
        failed_sign_in(&stranger, &password_form("wrong"));
    }
    let tried = remote.tried();
    let late = failed_sign_in(&stranger, &password_form(PASSWORD));
    assert_eq!(late, flood[0].0);
    assert_eq!(remote.tried(), tried);
    goes_on(&remote, &browser);
}

#[test]
fn a_password_that_is_too_long_is_not_tried_and_none_is_in_the_log() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let stranger = remote.stranger();
    let long = "a".repeat(5000);
    let wrong = failed_sign_in(&stranger, &password_form("wrong horse"));
    for form in [&password_form(&long), "password=", "", "password=%ff%00"] {
        assert_eq!(failed_sign_in(&stranger, form), wrong, "{form:.40}");
    }
    let endless = stranger.post("/session", &password_form(&"a".repeat(2 << 20)));
    assert!([413, 0].contains(&endless.status), "{endless:?}");
    let tried = remote.tried();
    assert!(
        tried.iter().all(|password| password.len() < 100),
        "{tried:?}"
    );
    let told = remote.told.lock().expect("nobody panicked").join("\n");
    assert!(
        told.contains("a wrong password came from 127.0.0.1"),
        "{told}"
    );
    assert!(!told.contains("horse") && !told.contains("aaaa"), "{told}");
    let announced = remote.manager.announced.lock().expect("nobody panicked");
    assert_eq!(*announced, Vec::<String>::new(), "no token is given out");
    drop(announced);
    goes_on(&remote, &browser);
}

#[test]
fn plain_requests_and_old_protocols_get_nothing() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let Browser {
        host,
        cookie,
        address,
        ..
    } = &browser;
    let form = password_form(PASSWORD);
    let plain = [
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"),
        format!("GET /app.js HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!(
            "POST /session HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        ),
        "\0\0\0\0".to_owned(),
        // A record that is no handshake, and one that is no hello.
        "\u{17}\u{3}\u{3}\0\u{1}a".to_owned(),
        "\u{16}\u{3}\u{1}\0\u{4}\u{2}\0\0\0".to_owned(),
    ];
    for request in plain {
        let answer = exchange_bytes(*address, request.as_bytes());
        assert!([400, 0].contains(&answer.status), "{request}: {answer:?}");
        assert!(answer.header("set-cookie").is_none(), "{answer:?}");
        goes_on(&remote, &browser);
    }
    let answer = exchange_bytes(*address, b"GET / HTTP/1.1\r\n\r\n");
    assert!(
        answer.text().contains("https://") || answer.status == 0,
        "{answer:?}"
    );
    assert_eq!(
        answer_to_old_hello(&browser),
        Some(0x15),
        "an alert, and no handshake"
    );
    assert_eq!(remote.tried().len(), 1);
    goes_on(&remote, &browser);
}

/// The first byte that comes back to a hello of TLS 1.1, if one does.
fn answer_to_old_hello(browser: &Browser) -> Option<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    // No session, two suites of that time, no compression.
    body.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let len = body.len() as u8;
    let hello = [&[0x16, 3, 1, 0, len + 4, 1, 0, 0, len], &body[..]].concat();
    let mut socket = open_socket(browser.address);
    socket.write_all(&hello).expect("it reads");
    let mut first = [0];
    (socket.read(&mut first).ok()? == 1).then_some(first[0])
}

#[test]
fn handshakes_that_never_end_hold_up_nobody_and_are_given_up() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let mut slow = open_socket(browser.address);
    slow.set_read_timeout(Some(HANDSHAKE_PATIENCE))
        .expect("a timeout");
    // The beginning of a hello that says it is longer.
    slow.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
        .expect("it reads");
    let began = Instant::now();
    let mut trickling = open_socket(browser.address);
    let _ = trickling.write_all(&[0x16]);
    goes_on(&remote, &browser);
    let mut rest = Vec::new();
    let ended = slow.read_to_end(&mut rest);
    assert!(
        ended.is_ok(),
        "it was closed: {ended:?} after {:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "not for another reason"
    );
    let mut held = Vec::new();
    for nth in 0..1000 {
        if let Ok(mut socket) = TcpStream::connect(browser.address) {
            let _ = socket.write_all(&[0x16, 3, 1, 2, 0, 1]);
            held.push(socket);
        }
        if held.len() > 400 {
            held.drain(..200);
        }
        if nth % 250 == 0 {
            goes_on(&remote, &browser);
        }
    }
    goes_on(&remote, &browser);
}

#[test]
fn a_session_ends_by_itself_and_takes_its_windows_along() {
    let limits = SessionLimits {
        idle: Duration::from_secs(2),
        whole: Duration::from_secs(5),
    };
    let remote = RemoteManager::open_with(limits);
    let idle = remote.sign_in();
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(idle.get("/rows").status, 401, "nobody asked for a while");
    let (alone, began) = (remote.sign_in(), Instant::now());
    let asks_alone = || alone.get_with("/rows", "X-Vellum-Unattended: 1\r\n").status;
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(asks_alone(), 200, "{:?}", began.elapsed());
        thread::sleep(Duration::from_millis(250));
    }
    thread::sleep(Duration::from_millis(2100).saturating_sub(began.elapsed()));
    assert_eq!(asks_alone(), 401, "only the page asked");
    let (busy, began) = (remote.sign_in(), Instant::now());
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(busy.get("/rows").status, 200, "{:?}", began.elapsed());
        thread::sleep(Duration::from_millis(500));
    }
    thread::sleep(Duration::from_secs(5).saturating_sub(began.elapsed()));
    assert_eq!(busy.get("/rows").status, 401, "however busy it was");
    let posted = busy.post("/run", "do=delete&node=web");
    assert_eq!(posted.status, 401, "{posted:?}");
    goes_on(&remote, &remote.sign_in());
}

#[test]
fn a_window_that_was_signed_out_hears_no_more_news() {
    let remote = RemoteManager::open();
    let browser = remote.sign_in();
    let mut window = open_secure(browser.address, &remote.tls);
    let request = format!(
        "GET /events HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nSec-Fetch-Site: same-origin\r\n\r\n",
        browser.host, browser.cookie
    );
    window.write_all(request.as_bytes()).expect("it reads");
    let mut heard = Vec::new();
    while !heard.windows(5).any(|part| part == b"data:") {
        let mut some = [0; 512];
        let len = window.read(&mut some).expect("it answers");
        heard.extend_from_slice(&some[..len]);
    }
    assert_eq!(browser.post("/session/end", "").status, 303);
    let other = remote.sign_in();
    assert_eq!(
        other.post("/run", "do=pin&node=web").status,
        303,
        "something has changed"
    );
    let asked = Instant::now();
    let mut some = [0; 512];
    while let Ok(len @ 1..) = window.read(&mut some) {
        let heard = String::from_utf8_lossy(&some[..len]);
        assert!(!heard.contains("data:"), "{heard}");
        assert!(asked.elapsed() < NEWS_PATIENCE, "it is still listened to");
    }
}
