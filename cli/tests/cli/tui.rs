//! The manager at a terminal: a person's day in tmux, on a small screen and, beside a server, on a
//! large one; and terminals that are as they were, however it ended.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{PATIENCE, Run, Sandbox, VELLUM};

/// The pause between two looks at a screen.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Within this, a change by another command is on the screen.
const SOON: Duration = Duration::from_secs(1);
/// The longest wait for a change of the screen.
const SCREEN_PATIENCE: Duration = Duration::from_secs(30);
/// A pause after which a lone escape is a key of its own.
const ESCAPE_PAUSE: Duration = Duration::from_millis(300);

/// A terminal of a size, in which a command runs.
struct TmuxScreen {
    socket: PathBuf,
}

impl TmuxScreen {
    /// Runs `words` of vellum, and tells the exit code when it has ended.
    fn open(sandbox: &Sandbox, size: (u16, u16), words: &str, variables: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let screen = Self {
            socket: sandbox.path(format!("tmux-{number}")),
        };
        let script = format!("'{VELLUM}' {words}; echo \"ended $?\"; exec cat");
        let (columns, rows) = (size.0.to_string(), size.1.to_string());
        let mut tmux = sandbox.command_line("tmux", ["-f", "/dev/null", "-S"]);
        tmux.arg(&screen.socket)
            .args(["new-session", "-d", "-x", &columns, "-y", &rows])
            .args(["sh", "-c", &script])
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .env("LC_ALL", "C.UTF-8")
            .envs(variables.iter().copied());
        let run = Run::of(tmux.output().expect("tmux is there"));
        assert_eq!(run.code, Some(0), "{run:?}");
        screen
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).args(words);
        let run = Run::of(tmux.output().expect("tmux is there"));
        assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
        run.stdout
    }

    fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen fits: what is on it then.
    fn wait_until(&self, meaning: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown();
            if fits(&shown) {
                return shown;
            }
            assert!(
                begun.elapsed() < SCREEN_PATIENCE,
                "{meaning} is not on\n{shown}"
            );
            thread::sleep(LOOK_PAUSE);
        }
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |shown| shown.contains(text))
    }

    fn wait_without(&self, text: &str) -> String {
        self.wait_until(&format!("a screen without {text}"), |shown| {
            !shown.contains(text)
        })
    }

    /// Presses keys by their names in tmux.
    fn press(&self, keys: &[&str]) {
        for key in keys {
            self.tmux(&["send-keys", key]);
            if *key == "Escape" {
                thread::sleep(ESCAPE_PAUSE);
            }
        }
    }

    /// Types text.
    fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Puts the cursor on the line of this name.
    fn go_to(&self, name: &str) {
        self.press(&["Escape", "/"]);
        self.wait_for("/_");
        self.type_text(name);
        self.wait_for(&format!("/{name}_"));
        self.press(&["Enter"]);
        self.wait_for("? keys");
    }

    /// Begins an action, fills its form in, and shows its plan.
    fn plan(&self, letter: &str, text: &str, planned: &str) -> String {
        self.press(&[letter]);
        self.wait_for("Enter plan");
        if !text.is_empty() {
            self.press(&["C-u"]);
            self.type_text(text);
            self.wait_for(&format!("{text}_"));
        }
        self.press(&["Enter"]);
        self.wait_for(planned)
    }

    /// Plans an action, does it, and waits for its answer.
    fn act(&self, letter: &str, text: &str, planned: &str, told: &str) {
        self.plan(letter, text, planned);
        self.wait_for("y does it");
        self.press(&["y"]);
        self.wait_for(told);
    }

    /// Waits for the end of the command; the terminal is as it was before.
    fn wait_ended(&self, code: i32) -> String {
        let shown = self.wait_for(&format!("ended {code}"));
        assert_eq!(self.tmux(&["display", "-p", "#{alternate_on}"]).trim(), "0");
        let terminal = self.tmux(&["display", "-p", "#{pane_tty}"]);
        let terminal = std::fs::File::open(terminal.trim()).expect("the terminal is there");
        let modes = rustix::termios::tcgetattr(&terminal).expect("it is a terminal");
        let usual = rustix::termios::LocalModes::ICANON
            | rustix::termios::LocalModes::ECHO
            | rustix::termios::LocalModes::ISIG;
        assert!(modes.local_modes.contains(usual), "{:?}", modes.local_modes);
        shown
    }

    /// The process of vellum in the terminal.
    fn vellum_process(&self) -> Pid {
        let shell = self.tmux(&["display", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let children = children.expect("the shell runs");
        let child = children.split_whitespace().next().expect("it runs vellum");
        Pid::from_raw(child.parse().expect("a number")).expect("a process")
    }
}

impl Drop for TmuxScreen {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        let _ = tmux.arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

/// A server, until dropped.
struct StoreServer(Child);

impl StoreServer {
    fn start(sandbox: &Sandbox) -> Self {
        let mut serve = sandbox.command(["serve", "--quiet"]);
        let child = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self(child.expect("it starts"));
        let begun = Instant::now();
        while !sandbox.path("store/nbd.sock").exists() {
            assert!(begun.elapsed() < PATIENCE, "it does not listen");
            thread::sleep(LOOK_PAUSE);
        }
        server
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Forty images, and one with a snapshot on which another stands.
fn sandbox_with_many() -> Sandbox {
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
    sandbox.succeed(["create", "trial", "-b", "web@monday", "--quiet"]);
    for nth in 0..40 {
        sandbox.succeed(["create", &format!("vm-{nth:02}"), "1M", "--quiet"]);
    }
    sandbox
}

/// A person's day, as the screen shows it.
fn spend_day(sandbox: &Sandbox, screen: &TmuxScreen) {
    find_and_read(screen);
    compare_two(screen);
    take_snapshot(sandbox, screen);
    delete_and_go_back(screen);
    give_names(screen);
    cancel_import(sandbox, screen);
    look_around(screen);
    screen.press(&["q"]);
    screen.wait_ended(0);
    let mut names = sandbox.names();
    names.retain(|name| !name.starts_with("vm-"));
    names.sort();
    let kept = ["kid", "trial", "web", "web@kept", "web@lunch"];
    assert_eq!(names, kept);
    sandbox.succeed(["check", "--quiet"]);
}

fn find_and_read(screen: &TmuxScreen) {
    screen.wait_for("43 lines");
    screen.press(&["/"]);
    screen.type_text("tria");
    let shown = screen.wait_for("3 of 43 lines");
    assert!(
        shown.contains("▾ ○ web") && shown.contains("○ trial"),
        "{shown}"
    );
    assert!(!shown.contains("vm-00"), "{shown}");
    screen.press(&["Enter"]);
    // The chain of what is under the cursor.
    let shown = screen.wait_for("Image trial");
    assert!(shown.contains("stands on      web@monday"), "{shown}");
    screen.press(&["Escape", "Left", "Left"]);
    screen.wait_without("○ trial");
    screen.press(&["Right"]);
    screen.wait_for("○ trial");
    screen.press(&["o"]);
    screen.wait_for("Name ↓");
    screen.press(&["o"]);
    screen.wait_for("Size ↓");
    screen.press(&["o", "o", "o", "o"]);
    screen.wait_without("↓");
}

/// One that is marked, and another one under the cursor.
fn compare_two(screen: &TmuxScreen) {
    screen.go_to("web");
    screen.press(&["Space"]);
    screen.wait_for("1 marked");
    screen.press(&["/", "C-u"]);
    screen.type_text("vm-07");
    screen.wait_for("/vm-07_");
    screen.press(&["Enter", "="]);
    screen.wait_for("vm-07 differs by 1 MiB from web");
    screen.press(&["Escape"]);
    screen.wait_without("1 marked");
}

fn take_snapshot(sandbox: &Sandbox, screen: &TmuxScreen) {
    screen.go_to("web");
    screen.act(
        "s",
        "noon",
        "vellum snapshot take web@noon",
        "took web@noon",
    );
    screen.wait_for("● web@noon");
    let is_soon = (0..3).any(|nth| {
        let name = format!("web@seen-{nth}");
        sandbox.succeed(["snapshot", "take", &name, "--quiet"]);
        let begun = Instant::now();
        screen.wait_for(&name);
        let took = begun.elapsed();
        sandbox.succeed(["rm", &name, "--quiet"]);
        screen.wait_without(&name);
        took < SOON
    });
    assert!(is_soon, "what another command did is seen within a second");
}

fn delete_and_go_back(screen: &TmuxScreen) {
    screen.go_to("web@monday");
    let shown = screen.plan("d", "", "would delete web@monday");
    assert!(shown.contains("trial would stay as it is"), "{shown}");
    assert!(shown.contains("vellum gc would then give back"), "{shown}");
    screen.press(&["n"]);
    assert!(
        screen
            .wait_for("nothing was changed")
            .contains("● web@monday")
    );
    screen.act("d", "", "would delete web@monday", "deleted web@monday");
    screen.press(&["Escape"]);
    screen.wait_without("● web@monday");
    screen.go_to("web@noon");
    screen.press(&["b"]);
    screen.wait_for("Go back to this");
    screen.press(&["Right", "Tab"]);
    screen.wait_for("keep it as a snapshot of this name:");
    screen.type_text("kept");
    screen.press(&["Enter"]);
    screen.wait_for("stays as web@kept");
    screen.press(&["y"]);
    screen.wait_for("web is as web@noon now");
    screen.press(&["Escape"]);
    screen.wait_for("● web@kept");
}

fn give_names(screen: &TmuxScreen) {
    screen.go_to("web@noon");
    screen.act("r", "lunch", "calls web@noon lunch", "web@lunch");
    screen.go_to("web@lunch");
    screen.act("t", "blue", "--add=blue", "+blue");
    screen.act("p", "", "vellum pin web@lunch", "pinned");
    screen.act("c", "kid", "vellum create kid -b web@lunch", "○ kid");
    screen.press(&["Escape"]);
    screen.go_to("vm-0");
    // Several at once.
    screen.press(&["Space", "Space", "d"]);
    screen.wait_for("To: vm-00, vm-01");
    screen.press(&["Enter"]);
    screen.wait_for("would delete vm-01");
    screen.wait_for("y does it");
    screen.press(&["y"]);
    screen.wait_without("vm-01");
    screen.press(&["Escape"]);
    screen.wait_for("43 lines");
}

/// An import that cannot end by itself: nobody writes into its pipe.
fn cancel_import(sandbox: &Sandbox, screen: &TmuxScreen) {
    let pipe = sandbox.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("it is there").success());
    let _writer = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&pipe)
        .expect("it is there");
    screen.press(&["i"]);
    screen.wait_for("Import");
    screen.type_text("pipe");
    screen.press(&["Tab"]);
    screen.type_text("endless");
    screen.press(&["Enter"]);
    screen.wait_for("stores the disk as endless");
    screen.press(&["y", "2"]);
    screen.wait_for("running");
    screen.press(&["q"]);
    screen.wait_for("y stops them and quits");
    screen.press(&["n", "x"]);
    screen.wait_for("cancelled after");
    screen.press(&["1"]);
    screen.wait_for("[1 Tree]");
}

fn look_around(screen: &TmuxScreen) {
    screen.press(&["?"]);
    screen.wait_for("Keys and signs");
    screen.press(&["G"]);
    screen.wait_for("snapshot: it does not");
    screen.press(&["Escape"]);
    screen.wait_without("Keys and signs");
    screen.press(&["F5"]);
    screen.wait_for("F5 does nothing here; ? lists the keys");
    screen.press(&["3"]);
    screen.wait_for("each stored once");
    screen.press(&["a"]);
    screen.wait_for("Give space back");
    screen.press(&["Down", "Down", "Enter"]);
    screen.wait_for("Plan: Give space back");
    screen.wait_for("would be given back");
    screen.press(&["y"]);
    screen.wait_for("0 chunks (0 B before compression)");
    screen.press(&["1", "Enter"]);
    screen.wait_for("Esc back");
    screen.press(&["Escape", "4"]);
    screen.wait_for("There is no machine");
    screen.press(&["5"]);
    screen.wait_for("No repository is known");
    screen.press(&["Escape"]);
    screen.wait_for("[1 Tree]");
}

#[test]
fn a_day_on_a_small_screen() {
    let sandbox = sandbox_with_many();
    let screen = TmuxScreen::open(&sandbox, (80, 24), "manager --tui", &[]);
    spend_day(&sandbox, &screen);
}

#[test]
fn a_day_on_a_large_screen_beside_a_server() {
    let sandbox = sandbox_with_many();
    let _server = StoreServer::start(&sandbox);
    let screen = TmuxScreen::open(&sandbox, (200, 50), "manager --tui", &[]);
    spend_day(&sandbox, &screen);
}

#[test]
fn a_plain_terminal_gets_ascii_without_colours_and_each_size_is_used() {
    let sandbox = sandbox_with_many();
    let plain = [("LC_ALL", "C"), ("NO_COLOR", "1")];
    let screen = TmuxScreen::open(&sandbox, (80, 24), "ui --tui --read-only", &plain);
    let shown = screen.wait_for("43 lines");
    assert!(
        shown.contains("* web@monday") && shown.contains("-- details --"),
        "{shown}"
    );
    assert!(shown.is_ascii() && shown.contains("read only"), "{shown}");
    let coloured = screen.tmux(&["capture-pane", "-p", "-e"]);
    assert!(
        !coloured.contains("[36m") && !coloured.contains(";36m"),
        "{coloured}"
    );
    screen.press(&["s"]);
    screen.wait_for("nothing can be changed here: it was started with --read-only");
    screen.tmux(&["resize-window", "-x", "160", "-y", "40"]);
    screen.wait_until("details beside the tree", |shown| {
        let head = shown.lines().nth(1).unwrap_or_default();
        head.contains("Added") && head.contains("| Image web")
    });
    screen.tmux(&["resize-window", "-x", "30", "-y", "8"]);
    screen.wait_for("40 columns and 10 rows");
    screen.press(&["C-c"]);
    screen.wait_ended(0);
}

#[test]
fn the_terminal_is_as_it_was_however_it_ends() {
    let sandbox = sandbox_with_many();
    {
        let screen = TmuxScreen::open(&sandbox, (80, 24), "manager --tui", &[]);
        screen.wait_for("43 lines");
        kill_process(screen.vellum_process(), Signal::TERM).expect("it runs");
        screen.wait_ended(0);
    }
    let server = StoreServer::start(&sandbox);
    {
        let screen = TmuxScreen::open(&sandbox, (80, 24), "manager --tui", &[]);
        screen.wait_for("43 lines");
        kill_process(screen.vellum_process(), Signal::TERM).expect("it runs");
        screen.wait_ended(0);
    }
    let screen = TmuxScreen::open(&sandbox, (80, 24), "manager --tui", &[]);
    screen.wait_for("43 lines");
    drop(server);
    let shown = screen.wait_ended(1);
    let said = shown.replace('\n', " ");
    assert!(said.contains("the store's server ended before"), "{shown}");
}

/// The system stops a process in the background that reads its terminal, or sets it up: a server
/// must do neither.
#[test]
fn a_server_in_the_background_of_the_same_terminal_goes_on() {
    let sandbox = sandbox_with_many();
    let words = format!(
        "version >/dev/null; set -m; '{VELLUM}' serve --quiet & \
         until [ -S store/nbd.sock ]; do sleep 0.1; done; '{VELLUM}' manager --tui"
    );
    let screen = TmuxScreen::open(&sandbox, (80, 24), &words, &[]);
    screen.wait_for("43 lines");
    screen.go_to("web");
    screen.act(
        "s",
        "noon",
        "vellum snapshot take web@noon",
        "took web@noon",
    );
    assert!(sandbox.names().contains(&"web@noon".to_owned()));
    screen.press(&["q"]);
    screen.wait_ended(0);
    sandbox.succeed(["snapshot", "take", "web@after", "--quiet"]);
}

#[test]
fn what_is_no_terminal_gets_an_error() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(["manager", "--tui"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--tui needs a terminal"), "{run:?}");
    let dumb = [("TERM_OF_TEST", "dumb")];
    let words = "version >/dev/null; TERM=$TERM_OF_TEST ";
    let screen = TmuxScreen::open(
        &sandbox,
        (100, 24),
        &format!("{words} '{VELLUM}' manager --tui"),
        &dumb,
    );
    let shown = screen.wait_ended(2);
    assert!(shown.contains("--tui needs a terminal"), "{shown}");
    let run = sandbox.run(["manager", "--tui", "--open"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}
