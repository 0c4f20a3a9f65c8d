//! The manager over a real store, as a browser without scripts asks it: every action is done, and
//! is what the command line then sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use vellum_testkit::certificates::certificates;

use crate::sandbox::{PATIENCE, Run, Sandbox};

/// A manager, or a server with one, and a browser that is signed in.
struct ManagerClient {
    child: Child,
    address: String,
    cookie: String,
}

impl ManagerClient {
    /// Starts `words` in `sandbox`, and opens the page.
    fn open_page(sandbox: &Sandbox, words: &[&str]) -> Self {
        Self::of_command(sandbox.command(words))
    }

    fn of_command(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let url = lines.find_map(|line| Some(line.strip_prefix("manager: ")?.to_owned()));
        let url = url.expect("it tells the URL");
        let (host, token) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once("/#token="))
            .expect("a host and a token");
        let mut client = Self {
            child,
            address: host.to_owned(),
            cookie: String::new(),
        };
        let (head, _) = client.post("/session", &format!("token={token}"));
        let cookie = header_of(&head, "set-cookie").expect("a session");
        cookie
            .split(';')
            .next()
            .expect("a pair")
            .clone_into(&mut client.cookie);
        client
    }

    fn ask(&self, method: &str, path: &str, form: &str) -> (String, Vec<u8>) {
        let Self {
            address, cookie, ..
        } = self;
        let mut socket = TcpStream::connect(address).expect("it listens");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\n\
             Origin: http://{address}\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\
             X-Vellum-Part: pane\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        );
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.expect("an answer has a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        (head, answer[end + 4..].to_vec())
    }

    fn post(&self, path: &str, form: &str) -> (String, String) {
        let (head, body) = self.ask("POST", path, form);
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    fn get(&self, path: &str) -> String {
        let (head, body) = self.ask("GET", path, "");
        assert!(head.contains(" 200 "), "{path}: {head}");
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Plans an action, does it, and waits for its end: the plan, and the page that tells it.
    fn act(&self, form: &str) -> (String, String) {
        let (head, plan) = self.post("/plan", form);
        assert!(head.contains(" 200 "), "{form}: {head} {plan}");
        let (head, body) = self.post("/run", form);
        let next = header_of(&head, "location").unwrap_or_else(|| panic!("{form}: {head} {body}"));
        let begun = Instant::now();
        loop {
            let told = self.get(&next);
            if !told.contains("state running") {
                return (plan, told);
            }
            assert!(begun.elapsed() < PATIENCE, "{form} does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Ends it as a person does; how that went.
    fn stop(mut self) -> Run {
        self.interrupt();
        let mut stderr = String::new();
        let errors = self.child.stderr.take().expect("it was asked for");
        let _ = BufReader::new(errors).read_to_string(&mut stderr);
        Run {
            code: self.child.wait().expect("it was started here").code(),
            stdout: String::new(),
            stderr,
        }
    }

    fn interrupt(&self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for ManagerClient {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.child.wait();
    }
}

fn header_of(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

/// A store with an image of two snapshots, and an image on the first of them.
fn sandbox_with_tree() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.succeed([
        "import",
        "disk.raw",
        "web",
        "--snapshot",
        "monday",
        "--quiet",
    ]);
    sandbox.random_file("disk.raw", 1 << 20, 2);
    let update = [
        "import",
        "disk.raw",
        "web",
        "--update",
        "--snapshot",
        "tuesday",
        "--quiet",
    ];
    sandbox.succeed(update);
    sandbox.succeed(["create", "trial", "-b", "web@monday", "--quiet"]);
    sandbox
}

/// Forms, a part of their plan, and of the page that tells how it went.
const ACTIONS: &[(&str, &str, &str)] = &[
    ("do=snapshot&node=web&name=now", "keeps web", "took web@now"),
    (
        "do=child&node=web%40now&name=kid",
        "starts as web@now",
        "created kid",
    ),
    (
        "do=rename&node=kid&name=child",
        "calls kid",
        "kid is child now",
    ),
    ("do=tag&node=web&add=a+b", "vellum tag web", "web: a, b"),
    ("do=tag&node=web&remove=a", "--remove=a", "web: b"),
    (
        "do=describe&node=web&text=as+delivered",
        "vellum describe",
        "web: as delivered",
    ),
    (
        "do=set&node=web&property=owner&value=anna",
        "vellum set",
        "owner=anna",
    ),
    (
        "do=set&node=web&property=owner",
        "--unset=owner",
        "no properties",
    ),
    ("do=pin&node=web%40now", "vellum pin web@now", "told done"),
    ("do=pin&node=web%40now&off=on", "--off", "told done"),
    ("do=resize&node=child&size=%2B1M", "+1M", "told done"),
    ("do=mode&node=child&mode=readonly", "readonly", "told done"),
    ("do=mode&node=child&mode=normal", "normal", "told done"),
    ("do=flatten&node=child", "stands on nothing", "told done"),
    (
        "do=restore&node=web%40monday&keep=save&save=kept",
        "stays as web@kept",
        "web is as web@monday now",
    ),
    (
        "do=delete&node=web%40monday",
        "would delete web@monday",
        "deleted web@monday",
    ),
    (
        "do=delete&node=web%40now&node=child",
        "would delete child",
        "deleted child",
    ),
    (
        "do=machine-snapshot&node=vm&name=s",
        "all disks of vm",
        "took vm@s",
    ),
    (
        "do=machine-restore&node=vm%40s&keep=discard",
        "what it is now is gone then",
        "told done",
    ),
    (
        "do=machine-delete&node=vm%40s",
        "vm@s is gone then",
        "told done",
    ),
    ("do=create&name=fresh&size=4M", "of 4M", "created fresh"),
    ("do=gc", "would be given back", "the store took"),
    ("do=check&read_data=on", "verifies all data", "state done"),
    ("do=keep&last=1", "counts", "state done"),
    ("do=droppable", "changes nothing", "state done"),
];

#[test]
fn every_action_does_what_its_command_line_does() {
    let sandbox = sandbox_with_tree();
    std::fs::create_dir(sandbox.path("files")).expect("room");
    let files = sandbox.path("files").canonicalize().expect("it is there");
    sandbox.random_file("files/new.raw", 1 << 20, 3);
    sandbox.succeed(["create", "disk", "1M", "--quiet"]);
    sandbox.succeed(["machine", "create", "vm", "--quiet"]);
    sandbox.succeed(["machine", "add-disk", "vm", "disk", "--quiet"]);
    let words = ["manager", "--listen", "0", "--files", "files"];
    let client = ManagerClient::open_page(&sandbox, &words);
    let files = files.display();
    for (form, planned, told) in ACTIONS {
        let (plan, page) = client.act(form);
        assert!(plan.contains(planned), "{form}: {plan}");
        assert!(page.contains(told), "{form}: {page}");
    }
    let import = format!("do=import&source={files}/new.raw&name=new&snapshot=first");
    assert!(client.act(&import).1.contains("imported new@first"));
    let export = format!("do=export&node=new%40first&file={files}/out.vdi&format=vdi");
    assert!(client.act(&export).1.contains("exported new@first"));
    let names = [
        "disk",
        "fresh",
        "new",
        "new@first",
        "trial",
        "web",
        "web@kept",
        "web@tuesday",
    ];
    let mut found = sandbox.names();
    found.sort();
    assert_eq!(found, names);
    assert!(
        sandbox
            .succeed(["compare", "new", "files/out.vdi"])
            .contains("identical")
    );
    let ended = client.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("for another browser: http://127.0.0.1:"),
        "{ended:?}"
    );
    assert!(!sandbox.path("store/manager-spool").exists());
    sandbox.succeed(["check", "--read-data", "--quiet"]);
}

#[test]
fn what_a_command_refuses_is_refused_in_its_words() {
    let sandbox = sandbox_with_tree();
    let client = ManagerClient::open_page(&sandbox, &["manager", "--listen", "0"]);
    for form in [
        "do=delete&node=web",
        "do=snapshot&node=web&name=monday",
        "do=create&name=a%2Fb&size=1M",
        "do=create&name=small&size=1kB",
        "do=resize&node=web&size=1k",
        "do=delete&node=nothing",
    ] {
        let (_, told) = client.act(form);
        let line = form
            .replace("do=delete&node=", "rm ")
            .replace("do=snapshot&node=web&name=", "snapshot take web@")
            .replace("do=create&name=", "create ")
            .replace("do=resize&node=", "resize ")
            .replace("&size=", " ")
            .replace("%2F", "/");
        let run = sandbox.run(line.split(' '));
        let error = run
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("error: "));
        let escaped = error
            .unwrap_or_else(|| panic!("{line}: {run:?}"))
            .replace('&', "&amp;")
            .replace('"', "&quot;");
        assert!(told.contains(&escaped), "{form}: {told} has not {escaped}");
        let is_advised = run.stderr.contains("hint: ");
        assert_eq!(told.contains("What now"), is_advised, "{form}: {told}");
    }
}

#[test]
fn the_file_systems_of_a_disk_are_told() {
    let sandbox = Sandbox::new();
    sandbox.succeed(["create", "plain", "1M", "--quiet"]);
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4"])
        .arg(sandbox.path("ext4.raw"))
        .arg("8M")
        .status();
    assert!(made.expect("mke2fs is there").success());
    sandbox.succeed(["import", "ext4.raw", "data", "--quiet"]);
    let client = ManagerClient::open_page(&sandbox, &["manager", "--listen", "0"]);
    assert!(client.get("/node?name=data").contains("/guest?name=data"));
    let part = client.get("/guest?name=data");
    assert!(part.contains("ext4") && part.contains("8 MiB"), "{part}");
    let used = part.split("<td>8 MiB</td><td>").nth(1);
    assert!(used.is_some_and(|used| !used.starts_with("0 B")), "{part}");
    client.get("/guest?name=plain");
}

#[test]
fn beside_a_server_the_page_is_the_servers_and_ends_with_who_asked() {
    let shows = |client: &ManagerClient, path: &str, expected: &str| {
        let page = client.get(path);
        assert!(page.contains(expected), "{path} has no {expected}: {page}");
    };
    let sandbox = sandbox_with_tree();
    let server = ManagerClient::open_page(&sandbox, &["serve", "--manager=0"]);
    shows(&server, "/node?name=web", "nbd+unix:///web?socket=");
    let beside = ManagerClient::open_page(&sandbox, &["ui", "--listen", "0", "--read-only"]);
    shows(&beside, "/node?name=web", "nbd+unix:///web?socket=");
    let (head, _) = beside.post("/run", "do=delete&node=trial");
    assert!(head.contains(" 403 "), "{head}");
    shows(&server, "/jobs", "vellum ui --listen 0 --read-only");
    shows(&beside, "/jobs", "vellum ui --listen 0 --read-only");
    server.act("do=snapshot&node=web&name=seen");
    shows(&beside, "/rows", "web@seen");
    let ended = beside.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    shows(&server, "/rows", "web@seen");
    sandbox.succeed(["snapshot", "take", "web@after", "--quiet"]);
    shows(&server, "/rows", "web@after");
    let ended = server.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn backups_are_those_of_the_repository_in_the_environment() {
    let sandbox = sandbox_with_tree();
    std::fs::write(sandbox.path("password"), "correct horse\n").expect("room");
    let with_repository = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command
            .env("VELLUM_REPOSITORY", sandbox.path("backup"))
            .env("VELLUM_PASSWORD_FILE", sandbox.path("password"));
        command
    };
    let made = with_repository(&["backup", "init", "--quiet"]).output();
    assert!(made.expect("it starts").status.success());
    std::fs::create_dir(sandbox.path("files")).expect("room");
    let files = sandbox.path("files").canonicalize().expect("it is there");
    let files = files.display();
    let words = ["manager", "--listen", "0", "--files", "files"];
    let client = ManagerClient::of_command(with_repository(&words));
    assert!(client.get("/backups").contains("never from here"));
    assert!(client.act("do=push").1.contains("pushed 4 new points"));
    assert!(
        client
            .act("do=verify&read_data=on")
            .1
            .contains("state done")
    );
    let page = client.get("/backups");
    assert!(
        page.contains("web@monday") && !page.contains("never from here"),
        "{page}"
    );
    let (plan, told) = client.act("do=forget&last=1");
    assert!(
        plan.contains("web@monday") && told.contains("state done"),
        "{plan} {told}"
    );
    let page = client.get("/backups");
    assert!(
        page.contains("In the store") && page.contains("less than a minute"),
        "{page}"
    );
    client.act("do=snapshot&node=web&name=unsaved");
    let page = client.get("/backups");
    assert!(
        page.contains("have no point here") && page.contains("never"),
        "{page}"
    );
    assert!(
        page.contains("/act?do=restore-file&amp;point=trial"),
        "{page}"
    );
    let form = client.get("/act?do=restore-file&point=trial");
    assert!(form.contains("value=\"trial\""), "{form}");
    let restore = format!("do=restore-file&point=trial&file={files}/trial.vdi&format=vdi");
    let told = client.act(&restore).1;
    assert!(told.contains("told done"), "{told}");
    sandbox.succeed(["compare", "trial", "files/trial.vdi"]);
    client.act("do=delete&node=trial");
    assert!(client.act("do=pull&point=trial").1.contains("state done"));
    assert!(sandbox.names().contains(&"trial".to_owned()));
}

/// A browser that trusts an authority: it signs in with each password, and reads a page.
const SECURE_BROWSER: &str = r#"
import http.client, ssl, sys, urllib.parse
port, authority, *passwords = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
host, cookie = f"localhost:{port}", ""
def ask(method, path, form=None):
    connection = http.client.HTTPSConnection("localhost", int(port), context=context)
    headers = {"Origin": f"https://{host}", "Sec-Fetch-Site": "same-origin", "Cookie": cookie,
               "Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, form, headers)
    answer = connection.getresponse()
    return answer, answer.read().decode()
for password in passwords:
    answer, _ = ask("POST", "/session", urllib.parse.urlencode({"password": password}))
    print("signed in" if answer.status == 303 else answer.status)
    cookie = (answer.getheader("set-cookie") or "").split(";")[0]
answer, page = ask("GET", "/rows")
print(answer.status, "web@monday" in page)
"#;

#[test]
fn who_has_the_password_comes_in_under_tls() {
    let sandbox = sandbox_with_tree();
    let write = |password: &str| {
        let mut command = sandbox.command(["manager", "password", "secret", "--quiet"]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("it was asked for");
        writeln!(input, "{password}\nanother line").expect("it reads");
        drop(input);
        assert!(child.wait().expect("it was started here").success());
    };
    write("an earlier one");
    write("correct horse");
    let text = std::fs::read_to_string(sandbox.path("secret")).expect("it is there");
    assert!(
        text.starts_with("$argon2id$v=19$") && !text.contains("horse"),
        "{text}"
    );
    let certificates = certificates();
    let (folder, authority) = (certificates.display(), certificates.join("ca-cert.pem"));
    for words in [
        format!(
            "manager --listen 127.0.0.1:0 --tls-certs {folder} --password-file secret \
             --host-name localhost"
        ),
        format!(
            "serve --manager=0 --tls-certs {folder} --manager-password-file secret \
             --manager-host-name localhost"
        ),
    ] {
        let mut command = sandbox.command(words.split_whitespace());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it starts");
        let output = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let url = lines.find_map(|line| Some(line.strip_prefix("manager: ")?.to_owned()));
        let url = url.expect("it tells the URL");
        let port = url
            .strip_prefix("https://localhost:")
            .and_then(|rest| rest.strip_suffix('/'));
        let mut browser = Command::new("python3");
        browser
            .args(["-c", SECURE_BROWSER, port.expect("a port, and no token")])
            .arg(&authority)
            .args(["wrong horse", "correct horse"]);
        let run = Run::of(browser.output().expect("python3 is there"));
        assert_eq!(run.stdout, "403\nsigned in\n200 True\n", "{run:?}");
        let client = ManagerClient {
            child,
            address: String::new(),
            cookie: String::new(),
        };
        let ended = client.stop();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended
                .stderr
                .contains("a wrong password came from 127.0.0.1"),
            "{ended:?}"
        );
        assert!(
            ended.stderr.contains("signed in from 127.0.0.1"),
            "{ended:?}"
        );
        assert!(!ended.stderr.contains("horse"), "{ended:?}");
    }
}

/// Becomes a command that is handed a listening socket, as systemd does.
const SOCKET_GIVER: &str = r#"
import os, socket, sys
given = socket.create_server(("127.0.0.1", 0))
os.dup2(given.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
open("port", "w").write(str(given.getsockname()[1]))
os.execvp(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_socket_that_was_handed_over_is_listened_at_also_beside_a_server() {
    let sandbox = sandbox_with_tree();
    let given = |words: &[&str]| {
        let mut command = sandbox.command_line("python3", ["-c", SOCKET_GIVER]);
        command.arg(crate::sandbox::VELLUM).args(words);
        command
    };
    let port = || std::fs::read_to_string(sandbox.path("port")).expect("it was written");
    let alone = ManagerClient::of_command(given(&["manager"]));
    assert_eq!(alone.address, format!("127.0.0.1:{}", port()));
    assert!(alone.get("/rows").contains("web@monday"));
    assert_eq!(alone.stop().code, Some(0));
    let server = ManagerClient::open_page(&sandbox, &["serve", "--manager=0"]);
    let beside = ManagerClient::of_command(given(&["manager"]));
    assert_eq!(beside.address, format!("127.0.0.1:{}", port()));
    assert!(beside.get("/rows").contains("web@monday"));
    assert!(
        server.get("/jobs").contains("vellum manager"),
        "the server shows it"
    );
    assert_eq!(beside.stop().code, Some(0));
    let run = Run::of(
        given(&["manager", "--listen", "0"])
            .output()
            .expect("python3 is there"),
    );
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(
        run.stderr.contains("the socket that was handed over"),
        "{run:?}"
    );
    assert_eq!(server.stop().code, Some(0));
}
