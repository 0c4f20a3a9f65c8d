//! Who asked for a command: their words, streams, folder and environment. They are this process's own, or those of another process
//! that has this one do its work; a command cannot tell which.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// One who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The command line, the program's name first.
    pub(crate) words: Vec<OsString>,
    pub(crate) variables: BTreeMap<OsString, OsString>,
    pub(crate) streams: Streams,
    folder: Folder,
}

/// The three standard streams, without buffers.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) input: Arc<File>,
    pub(crate) output: Arc<File>,
    pub(crate) error: Arc<File>,
}

/// Where relative paths begin.
#[derive(Debug)]
enum Folder {
    /// In this process's folder.
    Own,
    /// In one that somebody else has opened: its path, which is good while the descriptor is open, and that.
    Other { path: PathBuf, _descriptor: OwnedFd },
}

impl Caller {
    /// Who started this process.
    pub(crate) fn of_process() -> io::Result<Self> {
        let own = |stream: &dyn AsFd| Ok::<_, io::Error>(Arc::new(File::from(stream.as_fd().try_clone_to_owned()?)));
        let streams = Streams { input: own(&io::stdin())?, output: own(&io::stdout())?, error: own(&io::stderr())? };
        Ok(Self { words: std::env::args_os().collect(), variables: std::env::vars_os().collect(), streams, folder: Folder::Own })
    }

    #[cfg_attr(not(test), expect(dead_code, reason = "the control socket, which comes next, calls it"))]
    /// Another process, which has `folder` open as its own.
    pub(crate) fn other(words: Vec<OsString>, variables: BTreeMap<OsString, OsString>, streams: Streams, folder: OwnedFd) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        Self { words, variables, streams, folder: Folder::Other { path, _descriptor: folder } }
    }

    /// A variable that is set to something.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// `path` as the caller means it.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.folder {
            Folder::Own => path.to_owned(),
            Folder::Other { path: folder, .. } => folder.join(path),
        }
    }

    /// `text`, which may name what [`Caller::path`] returned, in the caller's words.
    pub(crate) fn translate(&self, text: &str) -> String {
        match &self.folder {
            Folder::Own => text.to_owned(),
            Folder::Other { path, .. } => text.replace(&format!("{}/", path.display()), ""),
        }
    }

    /// A command that runs as if the caller had started it: in their folder, with their variables and their standard error.
    pub(crate) fn command(&self, program: &OsStr) -> io::Result<Command> {
        let mut command = Command::new(program);
        if let Folder::Other { path, .. } = &self.folder {
            command.current_dir(path).env_clear().envs(&self.variables);
        }
        command.stdin(Stdio::null()).stderr(self.streams.error.try_clone()?);
        Ok(command)
    }

    /// Writes a line to standard error. If that takes nothing there is nobody left to tell.
    pub(crate) fn say(&self, line: &str) {
        let _ = self.streams.error.as_ref().write_all(format!("{}\n", self.translate(line)).as_bytes());
    }

    /// Whether what is said may be coloured.
    pub(crate) fn takes_colour(&self) -> bool {
        self.streams.error.is_terminal() && self.variable("NO_COLOR").is_none()
    }
}

#[cfg(test)]
impl Caller {
    /// Somebody without words or variables, in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let null = || Arc::new(File::options().read(true).write(true).open("/dev/null").expect("Linux has it"));
        let streams = Streams { input: null(), output: null(), error: null() };
        Self::other(Vec::new(), BTreeMap::new(), streams, File::open(folder).expect("a folder").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_in_the_callers_folder_and_are_shown_as_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("disk"), "here").expect("room");
        let caller = Caller::in_folder(dir.path());
        for written in ["disk", "./disk", "../disk"] {
            let path = caller.path(Path::new(written));
            assert_eq!(std::fs::read_to_string(&path).is_ok(), written != "../disk");
            assert_eq!(caller.translate(&format!("cannot open {}: no", path.display())), format!("cannot open {written}: no"));
        }
        let absolute = dir.path().join("disk");
        assert_eq!(caller.path(&absolute), absolute);
    }

    #[test]
    fn a_command_runs_in_the_callers_folder_with_their_variables_only() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut caller = Caller::in_folder(dir.path());
        let path = std::env::var_os("PATH").unwrap_or_default();
        caller.variables = [("PATH".into(), path), ("MINE".into(), "yes".into())].into();
        let script = "pwd -P; printf '%s%s' \"$MINE\" \"$CARGO_MANIFEST_DIR\"";
        let output = caller.command("sh".as_ref()).and_then(|mut command| command.args(["-c", script]).output()).expect("sh is there");
        let folder = dir.path().canonicalize().expect("it is there");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\nyes", folder.display()));
    }
}
