//! The caller of a command: its words, streams, folder and environment. They are this process's
//! own, or those of another process, whose command this one runs; a command cannot tell which.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Pid;

use crate::control::ServedCommands;
use crate::interruptible_stream::InterruptibleStream;
use crate::progress_listener::ProgressListener;
use crate::signals::Signals;

/// One who asks.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The command line, the program's name first.
    pub(crate) words: Vec<OsString>,
    pub(crate) variables: BTreeMap<OsString, OsString>,
    pub(crate) streams: StandardStreams,
    /// The signals that the caller was sent; the command reacts to them.
    pub(crate) signals: Signals,
    /// Takes the progress of long work in place of the streams.
    pub(crate) progress_listener: Option<ProgressListener>,
    /// The commands that the process runs for callers, if this is one of them.
    pub(crate) served_commands: Option<ServedCommands>,
    folder: WorkingFolder,
}

/// A standard stream, without a buffer.
pub(crate) type Stream = InterruptibleStream<Arc<File>>;

/// The three of them.
#[derive(Debug)]
pub(crate) struct StandardStreams {
    pub(crate) input: Stream,
    pub(crate) output: Stream,
    pub(crate) error: Stream,
}

/// The folder in which relative paths begin.
#[derive(Debug)]
enum WorkingFolder {
    /// In this process's folder.
    Own,
    /// In one that process `pid` has opened: its path here, which is good while the descriptor is
    /// open, and that.
    Other {
        path: PathBuf,
        _descriptor: OwnedFd,
        pid: Pid,
    },
}

impl Invocation {
    /// The caller that is this process itself.
    pub(crate) fn of_process(signals: Signals) -> io::Result<Self> {
        let own = |stream: &dyn AsFd| stream.as_fd().try_clone_to_owned();
        let streams = StandardStreams::new(
            [own(&io::stdin())?, own(&io::stdout())?, own(&io::stderr())?],
            &signals,
        );
        Ok(Self {
            words: std::env::args_os().collect(),
            variables: std::env::vars_os().collect(),
            streams,
            signals,
            progress_listener: None,
            served_commands: None,
            folder: WorkingFolder::Own,
        })
    }

    /// Process `pid`, whose standard streams and folder are open here.
    pub(crate) fn of_peer_process(
        words: Vec<OsString>,
        variables: BTreeMap<OsString, OsString>,
        [input, output, error, folder]: [OwnedFd; 4],
        pid: Pid,
        signals: Signals,
    ) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let streams = StandardStreams::new([input, output, error], &signals);
        Self {
            words,
            variables,
            streams,
            signals,
            progress_listener: None,
            served_commands: None,
            folder: WorkingFolder::Other {
                path,
                _descriptor: folder,
                pid,
            },
        }
    }

    /// The same caller, beside others whose commands this process runs.
    pub(crate) fn with_served_commands(self, commands: ServedCommands) -> Self {
        Self {
            served_commands: Some(commands),
            ..self
        }
    }

    /// The same caller, who follows progress with `listener`.
    pub(crate) fn with_progress_listener(self, listener: ProgressListener) -> Self {
        Self {
            progress_listener: Some(listener),
            ..self
        }
    }

    /// The same caller, with another standard error.
    pub(crate) fn with_error_stream(mut self, error: OwnedFd) -> Self {
        let error = Arc::new(File::from(error));
        self.streams.error = InterruptibleStream::new(error, self.signals.clone());
        self
    }

    /// A variable that is set to something.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// `path` as the caller means it.
    pub(crate) fn resolve_path(&self, path: &Path) -> PathBuf {
        match &self.folder {
            WorkingFolder::Own => path.to_owned(),
            WorkingFolder::Other {
                path: folder, pid, ..
            } => descriptor_through_links(*pid, folder, path).unwrap_or_else(|| folder.join(path)),
        }
    }

    /// `text`, which may name what [`Invocation::resolve_path`] returned, in the caller's words.
    pub(crate) fn translate_paths(&self, text: &str) -> String {
        match &self.folder {
            WorkingFolder::Own => text.to_owned(),
            WorkingFolder::Other { path, pid, .. } => {
                let descriptors = descriptors_of(*pid);
                text.replace(&format!("{}/", path.display()), "")
                    .replace(&descriptors.display().to_string(), "/dev/fd")
            }
        }
    }

    /// A command that runs as if the caller had started it: in their folder, with their variables
    /// and their standard error.
    pub(crate) fn prepare_command(&self, program: &OsStr) -> io::Result<Command> {
        let mut command = Command::new(program);
        if let WorkingFolder::Other { path, .. } = &self.folder {
            command.current_dir(path).env_clear().envs(&self.variables);
        }
        command
            .stdin(Stdio::null())
            .stderr(self.streams.error.file().try_clone()?);
        Ok(command)
    }

    /// Writes a line to standard error. If that takes nothing there is nobody left to tell.
    pub(crate) fn print_error_line(&self, line: &str) {
        let _ = self
            .streams
            .error
            .clone()
            .write_all(format!("{}\n", self.translate_paths(line)).as_bytes());
    }

    /// True if messages may be coloured.
    pub(crate) fn takes_colour(&self) -> bool {
        self.streams.error.file().is_terminal() && self.variable("NO_COLOR").is_none()
    }
}

impl StandardStreams {
    fn new(streams: [OwnedFd; 3], signals: &Signals) -> Self {
        let [input, output, error] = streams
            .map(|stream| InterruptibleStream::new(Arc::new(File::from(stream)), signals.clone()));
        Self {
            input,
            output,
            error,
        }
    }
}

/// The folder with names for the descriptors of process `pid`.
fn descriptors_of(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/fd"))
}

/// Links that are looked through for one that stands for a descriptor: a person makes one or two.
const LINKS_MAX: usize = 8;

/// The path of a descriptor of process `pid`, found also through links: `/proc/self` in them would
/// be this process.
fn descriptor_through_links(pid: Pid, folder: &Path, path: &Path) -> Option<PathBuf> {
    let (mut found, mut at) = (descriptor_of(pid, path), folder.join(path));
    for _ in 0..LINKS_MAX {
        if found.is_some() {
            break;
        }
        let leads_to = std::fs::read_link(&at).ok()?;
        found = descriptor_of(pid, &leads_to);
        at = at.parent()?.join(leads_to);
    }
    found
}

/// The path of a descriptor of process `pid` here, if `path` names one there, as a shell's
/// `<(COMMAND)` does.
fn descriptor_of(pid: Pid, path: &Path) -> Option<PathBuf> {
    for (nth, name) in ["/dev/stdin", "/dev/stdout", "/dev/stderr"]
        .into_iter()
        .enumerate()
    {
        if path == Path::new(name) {
            return Some(descriptors_of(pid).join(nth.to_string()));
        }
    }
    let number = ["/dev/fd", "/proc/self/fd"]
        .into_iter()
        .find_map(|folder| path.strip_prefix(folder).ok())?;
    let is_number = number.to_str()?.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| descriptors_of(pid).join(number))
}

#[cfg(test)]
impl Invocation {
    /// A caller without words or variables, in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let null = || {
            OwnedFd::from(
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/null")
                    .expect("Linux has it"),
            )
        };
        let folder = File::open(folder).expect("a folder").into();
        let pid = rustix::process::getpid();
        Self::of_peer_process(
            Vec::new(),
            BTreeMap::new(),
            [null(), null(), null(), folder],
            pid,
            Signals::default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_in_the_callers_folder_and_are_shown_as_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("disk"), "here").expect("room");
        let caller = Invocation::in_folder(dir.path());
        for written in ["disk", "./disk", "../disk"] {
            let path = caller.resolve_path(Path::new(written));
            assert_eq!(std::fs::read_to_string(&path).is_ok(), written != "../disk");
            assert_eq!(
                caller.translate_paths(&format!("cannot open {}: no", path.display())),
                format!("cannot open {written}: no")
            );
        }
        let absolute = dir.path().join("disk");
        assert_eq!(caller.resolve_path(&absolute), absolute);
    }

    #[test]
    fn descriptors_are_the_callers() {
        let caller = Invocation::in_folder(Path::new("/"));
        let pid = rustix::process::getpid();
        for (written, path) in [
            ("/dev/stdin", "0"),
            ("/dev/stderr", "2"),
            ("/dev/fd/63", "63"),
            ("/proc/self/fd/7", "7"),
        ] {
            let path = format!("/proc/{pid}/fd/{path}");
            assert_eq!(caller.resolve_path(Path::new(written)), Path::new(&path));
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let caller = Invocation::in_folder(dir.path());
        let link = |to: &str, name| std::os::unix::fs::symlink(to, dir.path().join(name));
        link("/proc/self/fd/7", "seven").expect("room");
        link("seven", "again").expect("room");
        link("nowhere", "other").expect("room");
        for (written, path) in [
            ("seven", format!("/proc/{pid}/fd/7")),
            ("again", format!("/proc/{pid}/fd/7")),
        ] {
            assert_eq!(caller.resolve_path(Path::new(written)), Path::new(&path));
        }
        assert!(caller.resolve_path(Path::new("other")).ends_with("other"));
        let shown = caller.translate_paths(&format!(
            "cannot open {}: no",
            caller.resolve_path(Path::new("/dev/fd/63")).display()
        ));
        assert_eq!(shown, "cannot open /dev/fd/63: no");
    }

    #[test]
    fn a_command_runs_in_the_callers_folder_with_their_variables_only() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut caller = Invocation::in_folder(dir.path());
        let path = std::env::var_os("PATH").unwrap_or_default();
        caller.variables = [("PATH".into(), path), ("MINE".into(), "yes".into())].into();
        let script = "pwd -P; printf '%s%s' \"$MINE\" \"$CARGO_MANIFEST_DIR\"";
        let output = caller
            .prepare_command("sh".as_ref())
            .and_then(|mut command| command.args(["-c", script]).output())
            .expect("sh is there");
        let folder = dir.path().canonicalize().expect("it is there");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{}\nyes", folder.display())
        );
    }
}
