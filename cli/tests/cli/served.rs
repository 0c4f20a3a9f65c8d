//! Commands on a store that a server owns: they answer as they do without it, and nothing that a
//! client does harms the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sandbox::{PATIENCE, Run, Sandbox, VELLUM, copy_folder, copy_of_command, signal};
use crate::server::Served;

/// Long enough that an import tells more of its progress than a pipe has room for.
const DISK_LEN: usize = 128 << 20;

/// `text` without what two runs of the same command never share: how long it took, when, and in
/// which process.
fn lasting(text: &str) -> String {
    let is_moment = |word: &str| {
        word.len() >= 20
            && (word.contains('Z') || word.contains('+'))
            && word.contains('T')
            && word.starts_with(|c: char| c.is_ascii_digit())
    };
    let words: Vec<&str> = text.split_inclusive([' ', ',', '"', '\n', '}']).collect();
    let is_time = |word: &str, next: Option<&&str>| {
        let is_unit = next.is_some_and(|next| ["s", "min", "h"].contains(&next.trim_end()));
        is_unit && word.starts_with(|c: char| c.is_ascii_digit())
    };
    let shown = words.iter().enumerate().map(|(nth, word)| {
        let is_seconds = word.starts_with(':') && word.contains('.');
        let is_other = is_moment(word)
            || is_seconds
            || is_time(word, words.get(nth + 1))
            || word.contains(".partial");
        if is_other { "#" } else { word }
    });
    shown.collect()
}

/// `text` without any number, and without the line that there are chunks which nothing needs: what
/// depends on how the database has laid out its files, and on what a server has tidied up already.
fn numberless(text: &str) -> String {
    let kept: String = lasting(text)
        .split_inclusive('\n')
        .filter(|line| !line.contains("that nothing needs"))
        .flat_map(str::chars)
        .filter(|character| !character.is_ascii_digit() && !".KM ".contains(*character))
        .collect();
    // One layer is no layers, and 0 B are no KiB.
    ["layers", "pages", "frames", "chunks", "iB"]
        .iter()
        .fold(kept, |text, word| {
            text.replace(word, &word.replace(['s', 'i'], ""))
        })
}

/// A working day, with its mistakes. What stands between quotes is one word.
const COMMANDS: [&str; 91] = [
    "list",
    "list --snapshots --json",
    "list --output json-pretty",
    "tree",
    "tree --json",
    "info web",
    "info web@a --units raw",
    "map web",
    "map web --hashes --json",
    "create new 1G",
    "create new 1G",
    "create child -b web@a",
    "clone web copy",
    "snapshot take web@b",
    "snapshot list",
    "import other.raw other",
    "import other.raw other",
    "import other.raw web --update --snapshot c --json",
    "import ./other.raw web --update --change-map all.map",
    "import missing.raw x",
    "import other.raw x --change-map missing.map --update",
    "import - x -- sh -c 'printf some'",
    "import - x2 -- sh -c 'printf some; exit 3'",
    "import - x2 -- /no/such/program",
    "import -",
    "import - x2",
    "diff web@a web",
    "diff web@a copy",
    "compare web other.raw",
    "compare web disk.raw",
    "compare web missing.raw",
    "export web@a out.raw",
    "export web@a out.raw",
    "export web@a missing/out.raw -v",
    "export web@a ./out.raw --force --json",
    "export web -",
    "snapshot restore web@a --save-current-as before",
    "rename copy copied",
    "resize copied +1M",
    "tag copied +test",
    "tag copied",
    "pin web@a",
    "rm web@a",
    "pin --off web@a",
    "flatten copied",
    "rebase copied -b web@a",
    "commit child",
    "modify copied --type immutable",
    "reset copied",
    "modify web --autoreset on",
    "machine create vm",
    "machine add-disk vm copied",
    "machine add-disk vm nothing",
    "machine list",
    "machine show vm --json",
    "machine snapshot take vm@one",
    "machine snapshot list vm",
    "machine snapshot restore vm@one",
    "machine delete vm",
    "rm -n web --with-snapshots",
    "snapshot -c taken web",
    "rm -n web@a..@taken",
    "rm web@taken%a",
    "snapshot -d taken web",
    "promote child",
    "list hdds",
    "list --wait -H -o name,size -s name",
    "snapshot delete web@b",
    "rm nothing",
    "rm child other x",
    "check --read-data",
    "check --json",
    "gc -n",
    "gc",
    "gc --json",
    "stats",
    "stats --json",
    "report nodes overlap --json",
    "report --reclaim web@a",
    "report --keep-last 1",
    "report --csv nodes",
    "report --html page.html",
    "report --html page.html",
    "tree --svg tree.svg --quiet",
    "list -q",
    "frobnicate",
    "create a/b 1M",
    "--help",
    "completions bash",
    "man",
    "init",
];

#[test]
fn every_command_answers_as_it_does_without_a_server() {
    let alone = Sandbox::new();
    alone.random_file("disk.raw", 3 << 20, 1);
    alone.random_file("other.raw", 3 << 20, 2);
    alone.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    std::fs::write(alone.path("all.map"), "0 3145728 data\n").expect("room");
    let beside = Sandbox::empty();
    std::fs::remove_dir_all(beside.path("")).expect("it is empty");
    copy_folder(&alone.path(""), &beside.path(""));
    let server = Served::start(&beside);
    for command in COMMANDS {
        let words: Vec<&str> = match command.split_once('\'') {
            Some((words, script)) => words
                .split_whitespace()
                .chain([script.trim_end_matches('\'')])
                .collect(),
            None => command.split_whitespace().collect(),
        };
        let (here, there) = (alone.run(&words), beside.run(&words));
        // How much can be given back is a matter of how chunks came to lie.
        let is_counted = ["check", "gc", "stats", "report"].contains(&words[0]);
        let form = if is_counted || command.starts_with("rm -n") {
            numberless
        } else {
            lasting
        };
        let told = |run: &Run| (run.code, form(&run.stdout), form(&run.stderr));
        assert_eq!(told(&here), told(&there), "vellum {command}");
    }
    assert!(
        std::fs::read(alone.path("out.raw")).expect("exported")
            == std::fs::read(beside.path("out.raw")).expect("exported")
    );
    server.stop();
    assert_eq!(alone.names(), beside.names());
    beside.succeed(["check", "--read-data"]);
}

#[test]
fn the_environment_is_the_clients() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox);
    sandbox.succeed(["create", "web", "1G"]);
    let units = |units: &str| {
        Run::of(
            sandbox
                .command(["info", "web"])
                .env("VELLUM_UNITS", units)
                .output()
                .expect("it starts"),
        )
    };
    assert!(
        units("raw")
            .stdout
            .contains("1073741824 (1073741824 bytes)")
    );
    assert!(units("si").stdout.contains("1.1 GB"));
    assert_eq!(units("miles").code, Some(2));
    let script = "pwd; printf %s \"$MINE\"";
    let mut command = sandbox.command(["import", "-", "mine", "--", "sh", "-c", script]);
    std::fs::create_dir(sandbox.path("below")).expect("room");
    let run = command
        .current_dir(sandbox.path("below"))
        .env("VELLUM_STORE", "../store")
        .env("MINE", "yes")
        .output()
        .expect("it starts");
    assert_eq!(Run::of(run).code, Some(0));
    let expected = format!(
        "{}\nyes",
        sandbox
            .path("below")
            .canonicalize()
            .expect("it is there")
            .display()
    );
    assert_eq!(sandbox.succeed(["export", "mine", "-"]), expected);
    server.stop();
}

#[test]
fn disks_pass_through_pipes_files_and_the_descriptors_of_a_shell() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 20 << 20, 1);
    let server = Served::start(&sandbox);
    let script = r#"
        set -eu
        cat disk.raw | "$VELLUM" -q import - piped
        "$VELLUM" -q import - redirected <disk.raw
        "$VELLUM" -q import <(cat disk.raw) substituted
        "$VELLUM" -q import /dev/stdin named <disk.raw
        "$VELLUM" -q import disk.raw mapped -b piped --change-map <(echo '0 20971520 data')
        mkfifo fifo
        cat disk.raw >fifo & "$VELLUM" -q import fifo fifo; wait
        for image in piped redirected substituted named mapped fifo; do
            "$VELLUM" -q export $image - | cmp - disk.raw
            "$VELLUM" -q compare $image disk.raw
        done
        "$VELLUM" -q export piped - >out.raw
        cmp out.raw disk.raw
        "$VELLUM" -q export piped /dev/stdout | cmp - disk.raw
        "$VELLUM" -q export piped fifo & cmp fifo disk.raw; wait
        echo all is well"#;
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .current_dir(sandbox.path(""))
        .env("VELLUM", VELLUM)
        .env("VELLUM_STORE", "store")
        .stdin(Stdio::null());
    let run = Run::of(command.output().expect("bash is there"));
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (Some(0), "all is well\n", ""),
        "{run:?}"
    );
    server.stop();
}

/// An import of `disk.raw` as `web` that has begun and is not done.
fn import_under_way(sandbox: &Sandbox) -> Child {
    sandbox.held_up(["import", "disk.raw", "web"])
}

fn finished(child: Child) -> Run {
    Run::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_signal_to_the_client_stops_its_command() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let server = Served::start(&sandbox);
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let child = import_under_way(&sandbox);
        signal(&child, number);
        let run = finished(child);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains("\"interrupted\""), "{run:?}");
        assert_eq!(sandbox.names(), Vec::<String>::new());
    }
    let child = import_under_way(&sandbox);
    signal(&child, Signal::USR1);
    let run = finished(child);
    assert!(
        run.stderr.starts_with("importing web: ") && run.stderr.contains(" of 128 MiB"),
        "{run:?}"
    );
    assert_eq!(
        (run.code, sandbox.names()),
        (Some(0), vec!["web".to_owned()])
    );
    server.stop();
}

#[test]
fn a_client_that_is_killed_takes_its_command_along() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let server = Served::start(&sandbox);
    let child = import_under_way(&sandbox);
    signal(&child, Signal::KILL);
    assert_eq!(finished(child).code, None);
    // An import of the same name is refused while the other one could still end.
    let started = Instant::now();
    while sandbox.run(["import", "disk.raw", "web"]).code != Some(0) {
        assert!(started.elapsed() < PATIENCE && sandbox.names().is_empty());
    }
    sandbox.succeed(["compare", "web", "disk.raw"]);
    sandbox.succeed(["check", "--read-data"]);
    server.stop();
}

#[test]
fn a_server_that_is_killed_leaves_a_store_for_the_next_command() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let server = Served::start(&sandbox);
    let child = import_under_way(&sandbox);
    server.kill();
    finished(child).expect_lost();
    assert!(sandbox.path("store/control").exists());
    assert_eq!(sandbox.names(), Vec::<String>::new());
    sandbox.succeed(["create", "new", "1G"]);
    let server = Served::start(&sandbox);
    assert_eq!(sandbox.names(), ["new"]);
    server.stop();
    assert!(!sandbox.path("store/control").exists());
}

impl Run {
    /// Requires that it says that its server is gone.
    fn expect_lost(&self) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.stderr.contains("server ended before"), "{self:?}");
    }
}

#[test]
fn a_store_has_one_server() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox);
    sandbox.run(["serve"]).expect_error(
        11,
        &format!(
            "in use by process {} (vellum serve --json)",
            server.child.id()
        ),
    );
    sandbox.succeed(["create", "web", "1G"]);
    sandbox.succeed(["init", "--store", "another"]);
    sandbox.succeed(["create", "other", "1G", "--store", "another"]);
    assert_eq!(sandbox.names(), ["web"]);
    server.stop();
}

#[test]
fn a_server_stops_in_order_whatever_its_clients_do() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 8 << 20, 1);
    sandbox.succeed(["import", "disk.raw", "web"]);
    let server = Served::start(&sandbox);
    let connected: Vec<UnixStream> = (0..5).map(|_| connect(&sandbox)).collect();
    let spawn = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("VELLUM_PROGRESS_FPS", "0")
            .spawn()
            .expect("it starts")
    };
    for pipe in ["unwritten", "unread"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            sandbox.path(pipe),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .expect("a pipe");
    }
    let mut clients = [
        spawn(&["import", "-", "silent"]),
        spawn(&["export", "web", "-"]),
        spawn(&["import", "-", "slow", "--", "sleep", "1000"]),
        spawn(&["import", "unwritten", "piped"]),
        spawn(&["export", "web", "unread"]),
    ];
    let _silent = clients.each_mut().map(|client| client.stdin.take());
    // The export has begun when its first bytes are there; then nobody reads on.
    let mut unread: Vec<_> = clients
        .iter_mut()
        .map(|client| client.stdout.take().expect("it was asked for"))
        .collect();
    unread[1].read_exact(&mut [0; 512]).expect("it exports");
    let started = Instant::now();
    while commands_at_work(&server) < clients.len() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    server.stop();
    for client in clients {
        let run = finished(client);
        assert_eq!(run.code, Some(143), "{run:?}");
    }
    drop((connected, unread));
    assert_eq!(sandbox.names(), ["web"]);
    sandbox.succeed(["check"]);
}

/// For how many clients the server has begun what they want: each has a thread that hears their
/// signals.
fn commands_at_work(server: &Served) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).expect("it runs");
    // A thread may end while we look.
    let name = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default()
    };
    threads
        .filter_map(Result::ok)
        .map(name)
        .filter(|name| name == "signals\n")
        .count()
}

fn connect(sandbox: &Sandbox) -> UnixStream {
    let socket = UnixStream::connect(sandbox.path("store/control")).expect("the server listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

/// What the server says to `bytes`, which it must not take for a command.
fn refusal(sandbox: &Sandbox, bytes: &[u8]) -> String {
    let mut socket = connect(sandbox);
    // A server that has seen enough does not read the rest.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer[..2] == [2, 0],
        "{answer:?} to {bytes:?}"
    );
    String::from_utf8_lossy(answer.get(4..).unwrap_or_default()).into_owned()
}

fn request(texts: &[&str]) -> Vec<u8> {
    let body: Vec<u8> = texts
        .iter()
        .flat_map(|text| text.bytes().chain([0]))
        .collect();
    [b"vellum\0c", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

#[test]
fn no_bytes_harm_the_server() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox);
    let version = env!("CARGO_PKG_VERSION");
    for (bytes, what) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "not the words"),
        (b"vellum\0c\xff\xff\xff\xff", "bytes"),
        // Right in all but the descriptors, which are missing.
        (
            &request(&[version, "2", "vellum", "list"]),
            "makes no sense",
        ),
    ] {
        let reason = refusal(&sandbox, bytes);
        assert!(reason.contains(what), "{reason:?} to {bytes:?}");
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut bytes = request(&[version, "2", "vellum", "list", "A=b"]);
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
        bytes.truncate(random.usize(..=bytes.len()));
        let mut socket = connect(&sandbox);
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 2, "{answer:?}");
    }
    // More than may wait, all silent: they are sent away after a while, and until then others are
    // told why they are.
    let silent: Vec<UnixStream> = (0..100).map(|_| connect(&sandbox)).collect();
    let started = Instant::now();
    loop {
        let run = sandbox.run(["list"]);
        if run.code == Some(0) {
            break;
        }
        run.expect_error(11, "has 32 commands to do already");
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(silent);
    server.stop();
}

/// Root becomes somebody else for this, in a folder that everybody may use.
#[test]
fn another_user_is_refused_in_words() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let sandbox = Sandbox::new();
    let command = copy_of_command(&sandbox);
    let open = |name: &str, mode| {
        std::fs::set_permissions(
            sandbox.path(name),
            std::os::unix::fs::PermissionsExt::from_mode(mode),
        )
        .expect("it is ours");
    };
    open("", 0o755);
    let server = Served::start(&sandbox);
    let somebody = || {
        let mut run = Command::new("setpriv");
        run.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&command)
            .arg("list");
        run.current_dir(sandbox.path(""))
            .env("VELLUM_STORE", "store")
            .stdin(Stdio::null());
        Run::of(run.output().expect("util-linux is there"))
    };
    somebody().expect_error(1, "Permission denied");
    // A store that its owner lets others look at, or that was made by an earlier version.
    open("store", 0o755);
    open("store/vellum.store", 0o644);
    open("store/lock", 0o644);
    somebody().expect_error(11, "of another user");
    // A careless chmod opens the door, and the server still asks who comes.
    open("store/control", 0o777);
    somebody().expect_error(11, "not for user 65534");
    server.stop();
}

#[test]
fn a_store_in_a_deep_folder_has_a_server() {
    let sandbox = Sandbox::empty();
    let deep = "d".repeat(100) + "/" + &"e".repeat(100);
    let command = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.env("VELLUM_STORE", &deep);
        command
    };
    assert!(
        command(&["init", "-q"])
            .status()
            .expect("it starts")
            .success()
    );
    let mut child = command(&["serve", "--json", "--socket", "n.sock"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    BufReader::new(child.stdout.take().expect("it was asked for"))
        .read_line(&mut String::new())
        .expect("it says that it serves");
    let run = Run::of(
        command(&["create", "web", "1G"])
            .output()
            .expect("it starts"),
    );
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "created web, 1 GiB\n")
    );
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
