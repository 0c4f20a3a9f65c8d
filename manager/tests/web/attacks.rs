//! The attacks of strangers, of their pages in the same browser, and of hostile bytes: each is
//! refused, nothing has changed, and the server goes on.

use std::collections::BTreeSet;

use crate::fake_store::FakeManager;
use crate::raw_client::{Browser, RawAnswer, exchange_bytes};

/// A request. `{host}` is the server's own name, `{cookie}` a session that is good, `{used}` a
/// token that was good once.
struct Attack {
    name: &'static str,
    request: String,
    /// Statuses that refuse it; 0 is a connection that is closed.
    refused: &'static [u16],
}

fn attack(name: &'static str, request: &str, refused: &'static [u16]) -> Attack {
    Attack {
        name,
        request: request.to_owned(),
        refused,
    }
}

/// A request for a page under another name.
fn named(name: &'static str, host_lines: &str) -> Attack {
    let request = format!("GET / HTTP/1.1\r\n{host_lines}Cookie: {{cookie}}\r\n\r\n");
    // What is no header at all is refused by the parser.
    attack(name, &request, &[421, 400])
}

/// A form that would delete something, with a session that is good and these headers.
fn forged(name: &'static str, headers: &str) -> Attack {
    let request = format!(
        "POST /run HTTP/1.1\r\nHost: {{host}}\r\nCookie: {{cookie}}\r\n{headers}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 17\r\n\r\n\
         do=delete&node=web"
    );
    attack(name, &request, &[403])
}

/// A request of a page of this server, but for its line and its body.
fn own(name: &'static str, line: &str, rest: &str, refused: &'static [u16]) -> Attack {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {{host}}\r\nCookie: {{cookie}}\r\nOrigin: http://{{host}}\r\n\
         Sec-Fetch-Site: same-origin\r\n{rest}"
    );
    attack(name, &request, refused)
}

/// A form of this server's pages.
fn own_form(name: &'static str, path: &str, form: &str, refused: &'static [u16]) -> Attack {
    let rest = format!(
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    own(name, &format!("POST {path}"), &rest, refused)
}

fn names_of_strangers() -> Vec<Attack> {
    vec![
        named("a name that was pointed here", "Host: evil.example\r\n"),
        named("the same with the port", "Host: evil.example:{port}\r\n"),
        named("no port", "Host: 127.0.0.1\r\n"),
        named("another port", "Host: 127.0.0.1:1\r\n"),
        named("capital letters", "Host: LOCALHOST:{port}\r\n"),
        named("a final dot", "Host: localhost.:{port}\r\n"),
        named(
            "an address in another notation",
            "Host: [::ffff:127.0.0.1]:{port}\r\n",
        ),
        named("all addresses", "Host: 0.0.0.0:{port}\r\n"),
        named("a short address", "Host: 127.1:{port}\r\n"),
        named("an address as one number", "Host: 2130706433:{port}\r\n"),
        named("a user before the name", "Host: evil@{host}\r\n"),
        named("a name before the name", "Host: {host}.evil.example\r\n"),
        named("no name", ""),
        named("an empty name", "Host:\r\n"),
        named("two names", "Host: {host}\r\nHost: evil.example\r\n"),
        named("two names in one", "Host: {host}, evil.example\r\n"),
        attack(
            "an absolute target of another name",
            "GET http://evil.example/ HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n",
            &[421],
        ),
        attack(
            "an absolute target under another name",
            "GET http://{host}/ HTTP/1.1\r\nHost: evil.example\r\nCookie: {cookie}\r\n\r\n",
            &[421],
        ),
        attack(
            "a target that is a host",
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n",
            &[421],
        ),
        attack(
            "an old protocol without a name",
            "GET / HTTP/1.0\r\nCookie: {cookie}\r\n\r\n",
            &[421],
        ),
        attack(
            "the server as a whole",
            "OPTIONS * HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n",
            &[400, 403, 421],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn pages_of_strangers() -> Vec<Attack> {
    let reading = |name, path: &str, headers: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {{host}}\r\nCookie: {{cookie}}\r\n{headers}\r\n");
        attack(name, &request, &[403])
    };
    vec![
        forged(
            "a form elsewhere",
            "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        forged(
            "a form of a neighbour's port",
            "Origin: http://127.0.0.1:1\r\nSec-Fetch-Site: same-site\r\n",
        ),
        forged("an origin that is none", "Origin: null\r\n"),
        forged(
            "the same from elsewhere",
            "Origin: null\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        forged("no word of where it comes from", ""),
        forged(
            "our origin from elsewhere",
            "Origin: http://{host}\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        forged(
            "our origin, typed in",
            "Origin: http://{host}\r\nSec-Fetch-Site: none\r\n",
        ),
        forged(
            "another origin from here",
            "Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
        ),
        forged(
            "two origins",
            "Origin: http://{host}\r\nOrigin: http://evil.example\r\n",
        ),
        forged(
            "two words of where",
            "Origin: http://{host}\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        forged("our name under TLS", "Origin: https://{host}\r\n"),
        forged("our other name", "Origin: http://localhost:{port}\r\n"),
        forged(
            "a beginning of our name",
            "Origin: http://{host}.evil.example\r\n",
        ),
        forged(
            "a method in a header",
            "X-HTTP-Method-Override: GET\r\nOrigin: http://evil.example\r\n",
        ),
        reading(
            "news for another page",
            "/events",
            "Sec-Fetch-Site: cross-site\r\nAccept: text/event-stream\r\n",
        ),
        reading(
            "a read by a neighbour's page",
            "/rows",
            "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\n",
        ),
        reading(
            "a download by a neighbour's page",
            "/download?node=web",
            "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        ),
        reading(
            "a frame elsewhere",
            "/",
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        ),
        attack(
            "a question before a forged request",
            "OPTIONS /run HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\
             Access-Control-Request-Method: POST\r\n\r\n",
            &[403],
        ),
        own(
            "an action by a link",
            "GET /run?do=delete&node=web",
            "\r\n",
            &[405],
        ),
        own(
            "an action by a look at its head",
            "HEAD /run?do=delete&node=web",
            "\r\n",
            &[405],
        ),
        own("a cancel by a link", "GET /jobs/1/stop", "\r\n", &[405]),
        own(
            "a session by a link",
            "GET /session?token={used}",
            "\r\n",
            &[405],
        ),
        own(
            "a method that nothing has",
            "DELETE /run",
            "Content-Length: 0\r\n\r\n",
            &[405],
        ),
        own(
            "another one",
            "PUT /uploads/1",
            "Content-Length: 0\r\n\r\n",
            &[405],
        ),
        own(
            "a form as text",
            "POST /run",
            "Content-Type: text/plain\r\nContent-Length: 18\r\n\r\ndo=delete&node=web",
            &[415],
        ),
        own(
            "a form as JSON",
            "POST /run",
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            &[415],
        ),
        own(
            "a form of many parts",
            "POST /run",
            "Content-Type: multipart/form-data; boundary=a\r\nContent-Length: 2\r\n\r\n--",
            &[415],
        ),
    ]
}

fn secrets_of_others() -> Vec<Attack> {
    let with_cookie = |name, cookie: &str| {
        let request = format!("GET /rows HTTP/1.1\r\nHost: {{host}}\r\n{cookie}\r\n");
        attack(name, &request, &[401])
    };
    let with_token = |name, token: &str| {
        let form = format!("token={token}");
        let request = format!(
            "POST /session HTTP/1.1\r\nHost: {{host}}\r\nOrigin: http://{{host}}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            // The token that was used is as long as any.
            form.replace("{used}", &"0".repeat(32)).len()
        );
        attack(name, &request, &[403])
    };
    let zeros = "0".repeat(32);
    vec![
        with_cookie("no session", ""),
        with_cookie("an empty session", "Cookie: {name}=\r\n"),
        with_cookie(
            "a guessed session",
            &format!("Cookie: {{name}}={zeros}\r\n"),
        ),
        with_cookie("a token as a session", "Cookie: {name}={used}\r\n"),
        with_cookie(
            "a session that a stranger fixed before it",
            &format!("Cookie: {{name}}={zeros}; {{cookie}}\r\n"),
        ),
        with_cookie(
            "and behind it",
            &format!("Cookie: {{cookie}}\r\nCookie: {{name}}={zeros}\r\n"),
        ),
        with_cookie(
            "a session of another name",
            &format!("Cookie: session={zeros}\r\n"),
        ),
        with_cookie(
            "a session in the address",
            &format!("X-Cookie: {{cookie}}\r\nReferer: http://{{host}}/#token={zeros}\r\n"),
        ),
        with_token("a token that was used", "{used}"),
        with_token("a guessed token", &zeros),
        with_token("an empty token", ""),
        with_token("a long token", &"a".repeat(5000)),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn hostile_bytes() -> Vec<Attack> {
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let rest = |lines: &str| format!("{form}{lines}");
    vec![
        own(
            "two kinds of length",
            "POST /run",
            &rest("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /"),
            &[400, 0],
        ),
        own(
            "two lengths",
            "POST /run",
            &rest("Content-Length: 4\r\nContent-Length: 18\r\n\r\ndo=delete&node=web"),
            &[400, 0],
        ),
        own(
            "a negative length",
            "POST /run",
            &rest("Content-Length: -1\r\n\r\n"),
            &[400, 0],
        ),
        own(
            "a length with a sign",
            "POST /run",
            &rest("Content-Length: +18\r\n\r\ndo=delete&node=web"),
            &[400, 0],
        ),
        own(
            "an encoding that is none",
            "POST /run",
            &rest("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
            &[400, 0],
        ),
        own(
            "a chunk that is no number",
            "POST /run",
            &rest("Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
            &[400, 0],
        ),
        own(
            "a header that goes on",
            "GET /rows",
            "X-A: a\r\n b\r\n\r\n",
            &[400, 0],
        ),
        own(
            "a blank before the colon",
            "GET /rows",
            "X-A : a\r\n\r\n",
            &[400, 0],
        ),
        own(
            "a zero in a header",
            "GET /rows",
            "X-A: a\0b\r\n\r\n",
            &[400, 0],
        ),
        own(
            "a header that is too long",
            "GET /rows",
            &format!("X-A: {}\r\n\r\n", "a".repeat(64 << 10)),
            &[431, 400, 0],
        ),
        own(
            "too many headers",
            "GET /rows",
            &format!("{}\r\n", "X-A: a\r\n".repeat(200)),
            &[431, 400, 0],
        ),
        own(
            "an address that is too long",
            &format!("GET /rows?search={}", "a".repeat(10 << 10)),
            "\r\n",
            &[414, 431],
        ),
        own(
            "a form that says that it is too long",
            "POST /run",
            &rest("Content-Length: 4294967296\r\n\r\n"),
            &[413],
        ),
        attack(
            "another protocol",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[400, 505, 0],
        ),
        attack(
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
            &[400, 0],
        ),
        attack("no words", "\r\n\r\n\r\n\0\0\0\0", &[400, 0]),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn hostile_fields() -> Vec<Attack> {
    let source = |name, path| {
        let form = format!("do=import&name=a&source={path}");
        own_form(name, "/run", &form, &[422])
    };
    let target = |name, path| {
        let form = format!("do=export&node=web&format=raw&file={path}");
        own_form(name, "/run", &form, &[422])
    };
    vec![
        source("a file outside the folders", "/etc/passwd"),
        source("a way out of the folders", "{files}/../../../etc/passwd"),
        source("a way that begins nowhere", "disk.raw"),
        source("standard input", "-"),
        source("an option as a file", "--update"),
        source("an upload that is not there", "upload:99"),
        target("a new file outside the folders", "/tmp/owned"),
        target("a way out for a new file", "{files}/../owned"),
        target("standard output", "-"),
        own_form(
            "an option as a name",
            "/run",
            "do=delete&node=--with-snapshots",
            &[422],
        ),
        own_form(
            "an option in a field",
            "/run",
            "do=create&name=-b&size=1G",
            &[422],
        ),
        own_form(
            "an action that is none",
            "/run",
            "do=repair&node=web",
            &[404],
        ),
        own_form("an action without a name", "/run", "do=delete", &[422]),
        own_form("a zero in a name", "/run", "do=delete&node=web%00", &[422]),
        own_form(
            "a format that is none",
            "/download",
            "node=web&format=../../x",
            &[400],
        ),
        own_form(
            "an upload that is too long",
            "/uploads",
            "name=a&length=99999999999",
            &[413],
        ),
        own_form(
            "an upload of a length that is none",
            "/uploads",
            "name=a&length=-1",
            &[400],
        ),
        own(
            "a folder outside the folders",
            "GET /folder?path=/etc",
            "\r\n",
            &[409],
        ),
        own(
            "a path that leads up",
            "GET /../../etc/passwd",
            "\r\n",
            &[404],
        ),
        own(
            "the same in other letters",
            "GET /%2e%2e/%2e%2e/etc/passwd",
            "\r\n",
            &[404],
        ),
        own(
            "a picture that is a path",
            "GET /picture?nth=../../x",
            "\r\n",
            &[404],
        ),
        own(
            "a file of no job",
            "GET /jobs/18446744073709551615/file",
            "\r\n",
            &[404],
        ),
        own(
            "a job that is no number",
            "GET /jobs/..%2f..%2fx",
            "\r\n",
            &[400, 404],
        ),
    ]
}

#[test]
fn every_attack_is_refused_and_changes_nothing() {
    let manager = FakeManager::open();
    let used = manager.server.opening_url();
    let used = used
        .split_once("#token=")
        .expect("it has a token")
        .1
        .to_owned();
    let browser = Browser::sign_in(&manager);
    let address = manager.server.local_address();
    let (name, _) = browser.cookie.split_once('=').expect("a pair");
    let attacks: Vec<Attack> = [
        names_of_strangers(),
        pages_of_strangers(),
        secrets_of_others(),
        hostile_bytes(),
        hostile_fields(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(attacks.len() >= 40, "{}", attacks.len());
    let mut names = BTreeSet::new();
    for attack in &attacks {
        assert!(names.insert(attack.name), "{} is there twice", attack.name);
        let fill = |text: &str| {
            text.replace("{host}", &address.to_string())
                .replace("{port}", &address.port().to_string())
                .replace("{cookie}", &browser.cookie)
                .replace("{name}", name)
                .replace("{used}", &used)
                .replace("{files}", &manager.file("").display().to_string())
        };
        let answer = exchange_bytes(
            address,
            close_after(&with_length(&fill(&attack.request))).as_bytes(),
        );
        assert!(
            attack.refused.contains(&answer.status),
            "{}: {} {}",
            attack.name,
            answer.head,
            answer.text()
        );
        tells_nothing(attack.name, &answer, &used, &browser);
        assert_eq!(
            manager.store.commands(),
            Vec::<Vec<String>>::new(),
            "{}",
            attack.name
        );
    }
    let well = browser.get("/rows");
    assert_eq!(well.status, 200, "the server goes on: {well:?}");
    assert!(!manager.dir.path().join("owned").exists());
}

/// The length of a form whose text was filled in.
fn with_length(request: &str) -> String {
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: ";
    let (Some((head, body)), true) = (request.split_once("\r\n\r\n"), request.contains(form))
    else {
        return request.to_owned();
    };
    let Some((before, len)) = head.split_once(form) else {
        return request.to_owned();
    };
    let is_plain = len.bytes().all(|digit| digit.is_ascii_digit());
    if is_plain && len.parse::<usize>().is_ok_and(|len| len < 1 << 20) {
        format!("{before}{form}{}\r\n\r\n{body}", body.len())
    } else {
        request.to_owned()
    }
}

/// The same request as the last one of its connection.
fn close_after(request: &str) -> String {
    match request.split_once("\r\n") {
        Some((line, rest)) if line.ends_with("HTTP/1.1") => {
            format!("{line}\r\nConnection: close\r\n{rest}")
        }
        _ => request.to_owned(),
    }
}

/// No answer to a stranger has a secret, or lets another origin read it.
fn tells_nothing(name: &str, answer: &RawAnswer, used: &str, browser: &Browser) {
    let head = answer.head.to_ascii_lowercase();
    for forbidden in ["access-control-", "set-cookie", "location:"] {
        assert!(!head.contains(forbidden), "{name}: {head}");
    }
    let (_, session) = browser.cookie.split_once('=').expect("a pair");
    let text = format!("{head}{}", answer.text());
    assert!(
        !text.contains(used) && !text.contains(session),
        "{name}: {text}"
    );
    if answer.status != 0 && answer.status != 400 && answer.status != 431 && answer.status != 505 {
        for header in [
            "content-security-policy",
            "x-content-type-options",
            "referrer-policy",
            "cache-control",
        ] {
            assert!(
                answer.header(header).is_some(),
                "{name}: {header} is missing in {head}"
            );
        }
    }
}

#[test]
fn a_stranger_gets_the_sign_in_page_and_nothing_else() {
    let manager = FakeManager::open();
    let stranger = Browser::open(&manager);
    let page = stranger.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("token") && !page.text().contains("web@monday"));
    for path in [
        "/store",
        "/node?name=web",
        "/rows",
        "/holding?name=web",
        "/guest?name=web",
        "/strip?name=web",
        "/figures",
        "/picture?nth=0",
        "/compare?from=web&to=web",
        "/backups",
        "/machines",
        "/folder?path=/",
        "/keys",
        "/jobs",
        "/jobs/1",
        "/jobs/1/file",
        "/events",
        "/act?do=delete&node=web",
        "/download?node=web",
        "/uploads/1",
        "/nothing",
    ] {
        let answer = stranger.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.text().contains("web"), "{path}: {}", answer.text());
    }
    for path in [
        "/run",
        "/plan",
        "/act",
        "/branches",
        "/uploads",
        "/uploads/1",
        "/download",
        "/jobs/1/stop",
        "/session/end",
    ] {
        assert_eq!(
            stranger.post(path, "do=delete&node=web").status,
            401,
            "{path}"
        );
    }
    for path in ["/app.js", "/app.css", "/icon.svg"] {
        assert_eq!(stranger.get(path).status, 200, "{path}");
    }
}

#[test]
fn each_url_opens_one_browser_and_the_next_one_is_announced() {
    let manager = FakeManager::open();
    let first = manager.server.opening_url();
    Browser::sign_in(&manager);
    let announced = manager.announced.lock().expect("nobody panicked").clone();
    assert_eq!(announced, [manager.server.opening_url()]);
    assert_ne!(announced[0], first);
    let second = Browser::sign_in(&manager);
    assert_eq!(second.get("/rows").status, 200);
    assert_eq!(second.post("/session/end", "").status, 303);
    assert_eq!(second.get("/rows").status, 401, "a session that was ended");
}

#[test]
fn who_may_only_look_changes_nothing() {
    let manager = FakeManager::open_with(Some("it was started with --read-only"));
    let browser = Browser::sign_in(&manager);
    let page = browser.get("/node?name=web").text();
    assert!(!page.contains("/act?do=delete"), "{page}");
    for (path, form) in [
        ("/run", "do=delete&node=web"),
        ("/plan", "do=delete&node=web"),
        ("/act", "do=delete&node=web"),
        ("/uploads", "name=a&length=1"),
    ] {
        assert_eq!(browser.post(path, form).status, 403, "{path}");
    }
    assert_eq!(manager.store.commands(), Vec::<Vec<String>>::new());
}
