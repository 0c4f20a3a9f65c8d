//! A folder with a store of its own, and the command run in it.

use std::ffi::OsStr;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The timeout for short work on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The command under test.
pub(crate) const VELLUM: &str = env!("CARGO_BIN_EXE_vellum");

/// The folder; gone when dropped.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
}

/// The end of a run of the command.
#[derive(Debug)]
pub(crate) struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    /// A folder without a store.
    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// A folder with an empty store.
    pub(crate) fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.succeed(["init"]);
        sandbox
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `len` bytes that do not compress, the same for the same seed.
    pub(crate) fn random_file(&self, name: impl AsRef<Path>, len: usize, seed: u64) -> PathBuf {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("room for a test file");
        path
    }

    /// The command, ready to run here.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_line(VELLUM, args)
    }

    /// A program that runs the command, ready to run here.
    pub(crate) fn command_line<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        // The developer who runs the tests may have set variables of their own.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"VELLUM_"))
        {
            command.env_remove(name);
        }
        command.env("VELLUM_STORE", "store");
        // Files remembered of repositories go with the sandbox.
        command
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command(args).output().expect("the command starts"))
    }

    /// Runs it and requires that it succeeds; what it printed.
    pub(crate) fn succeed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    }

    /// A command that has begun, and cannot end before somebody reads what it says: it tells how
    /// far it is, and its standard output has little room for that.
    pub(crate) fn held_up<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        let (reader, writer, len) = nearly_full_pipe();
        let mut command = self.command(args);
        command
            .arg("--json")
            .env("VELLUM_PROGRESS_FPS", "1000")
            .stdout(writer)
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let begun = Instant::now();
        while rustix::io::ioctl_fionread(&reader).expect("a pipe tells") <= len {
            let ended = child.try_wait().expect("it was started here");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "it tells nothing: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child.stdout = Some(OwnedFd::from(reader).into());
        child
    }

    /// The names of all images and snapshots.
    pub(crate) fn names(&self) -> Vec<String> {
        let listing = self.succeed(["list", "--snapshots", "--json"]);
        let listing: Vec<serde_json::Value> =
            serde_json::from_str(&listing).expect("a list in JSON");
        listing
            .iter()
            .filter_map(|node| node["name"].as_str().map(str::to_owned))
            .collect()
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let run = Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!run.stderr.contains("panicked"), "{run:?}");
        run
    }

    /// Requires an exit code and an error of one line that says `what`, followed by advice at most.
    pub(crate) fn expect_error(&self, code: i32, what: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let mut lines = self.stderr.lines();
        let error = lines.next().unwrap_or_default();
        assert!(
            error.starts_with("error: ") && error.contains(what),
            "{what:?} is not in {self:?}"
        );
        assert!(lines.all(|line| line.starts_with("hint: ")), "{self:?}");
    }
}

/// A pipe with blank lines and room for one page more, and how many bytes are in it. Who waits
/// until a pipe can be written to writes one line there: for the next one no page is left.
fn nearly_full_pipe() -> (PipeReader, PipeWriter, u64) {
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let set_nonblocking =
        |writer: &PipeWriter, is_so| rustix::io::ioctl_fionbio(writer, is_so).expect("a pipe");
    set_nonblocking(&writer, true);
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    set_nonblocking(&writer, false);
    reader.read_exact(&mut [0; 4096]).expect("it is full");
    let len = rustix::io::ioctl_fionread(&reader).expect("a pipe tells");
    (reader, writer, len)
}

/// Runs another's program in `sandbox`, as it is installed by `make packages`.
pub(crate) fn client(sandbox: &Sandbox, program: &str, args: &[&str]) -> Run {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(sandbox.path(""))
        .env("VELLUM_STORE", "store")
        .env("VELLUM", VELLUM)
        .stdin(Stdio::null());
    Run::of(command.output().unwrap_or_else(|error| {
        panic!("{program}, from a package that `make packages` installs: {error}")
    }))
}

/// True if strace works here: not where processes may not be traced.
pub(crate) fn can_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    let can = traced.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("strace does not work here: a part of this test is left out");
    }
    can
}

/// The same, and requires that it succeeds: its standard output.
pub(crate) fn client_succeeds(sandbox: &Sandbox, program: &str, args: &[&str]) -> String {
    let run = client(sandbox, program, args);
    assert_eq!(run.code, Some(0), "{program} {args:?}: {run:?}");
    run.stdout
}

/// Runs a line of another's program whose words have no blanks.
pub(crate) fn client_line(sandbox: &Sandbox, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, args) = words.split_first().expect("a line names a program");
    client_succeeds(sandbox, program, args)
}

/// A copy of the command that every user may run, in `sandbox`. Another process makes it: a file
/// that a test itself has written cannot be run as long as what another test is just starting has
/// it open.
pub(crate) fn copy_of_command(sandbox: &Sandbox) -> PathBuf {
    let copy = sandbox.path("vellum");
    let made = Command::new("cp")
        .arg(VELLUM)
        .arg(&copy)
        .status()
        .expect("every system has it");
    assert!(made.success(), "room for the command");
    copy
}

/// Sends a signal to a process that was started here.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("it was started here and not waited for");
}

/// Copies a folder and all in it, except sockets.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("room");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("it is there");
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).expect("room");
        }
    }
}
