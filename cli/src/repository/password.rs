//! The password of a repository: from an option, the caller's environment, or the caller's
//! terminal.
//!
//! It is the caller's environment also when another process does the command. A caller without a
//! terminal is not asked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::command_output::CommandOutput;
use crate::failure::CommandFailure;
use crate::invocation::Invocation;

/// Longer than any password, and no harm to hold.
const LINE_LEN_MAX: usize = 4096;

/// A password, wiped when dropped.
pub(crate) type Password = Zeroizing<String>;

/// Names of variables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PasswordVariables {
    plain: &'static str,
    file: &'static str,
    command: &'static str,
    descriptor: &'static str,
    /// The options that do the same.
    options: &'static str,
}

/// The password itself.
pub(crate) const PASSWORD_VARIABLE: &str = "VELLUM_PASSWORD";

/// The variables for the password of the repository.
pub(crate) const VARIABLES: PasswordVariables = PasswordVariables {
    plain: PASSWORD_VARIABLE,
    file: "VELLUM_PASSWORD_FILE",
    command: "VELLUM_PASSWORD_COMMAND",
    descriptor: "VELLUM_PASSWORD_FD",
    options: "--password-file or --key-file",
};

/// The variables for the password of the repository that is read, where two are opened.
pub(crate) const FROM_VARIABLES: PasswordVariables = PasswordVariables {
    plain: "VELLUM_FROM_PASSWORD",
    file: "VELLUM_FROM_PASSWORD_FILE",
    command: "VELLUM_FROM_PASSWORD_COMMAND",
    descriptor: "VELLUM_FROM_PASSWORD_FD",
    options: "--from-password-file or --from-key-file",
};

/// A place that has a password.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PasswordSource {
    Plain(OsString),
    File(PathBuf),
    Command(OsString),
    Descriptor(u32),
}

/// The password that an option or the environment gives, if one does.
pub(crate) fn given_password(
    file: Option<&Path>,
    variables: PasswordVariables,
    caller: &Invocation,
) -> Result<Option<Password>, CommandFailure> {
    let source = match file {
        Some(file) => Some(PasswordSource::File(file.to_owned())),
        None => variables.given_source(caller)?,
    };
    source
        .map(|source| source.read_password(caller))
        .transpose()
}

/// The password that the environment has, or a file that it names: neither asks anybody.
pub(crate) fn noted_password(
    variables: PasswordVariables,
    caller: &Invocation,
) -> Option<Password> {
    let source = variables.given_source(caller).ok()??;
    let is_noted = matches!(source, PasswordSource::Plain(_) | PasswordSource::File(_));
    is_noted
        .then(|| source.read_password(caller).ok())
        .flatten()
}

/// The password that a shell command prints.
pub(crate) fn of_command(
    command: OsString,
    caller: &Invocation,
) -> Result<Password, CommandFailure> {
    PasswordSource::Command(command).read_password(caller)
}

/// A new password: asked twice at the caller's terminal, or the first line of a standard input that
/// is none.
pub(crate) fn ask_or_read(question: &str, caller: &Invocation) -> Result<Password, CommandFailure> {
    if let Some(password) = ask_at_terminal(question, true, caller)? {
        return Ok(password);
    }
    if caller.streams.input.file().is_terminal() {
        return Err(CommandFailure::usage_error(
            "there is no terminal to show the question at",
            "give the password on standard input",
        ));
    }
    let read = first_line(&mut caller.streams.input.clone());
    read.map_err(|error| CommandFailure::io_error("read the password from standard input", error))
}

/// Asks at the caller's terminal; `again` also for the same once more. `None` if there is no
/// terminal.
pub(crate) fn ask_at_terminal(
    question: &str,
    again: bool,
    caller: &Invocation,
) -> Result<Option<Password>, CommandFailure> {
    let streams = &caller.streams;
    if !streams.input.file().is_terminal() || !streams.error.file().is_terminal() {
        return Ok(None);
    }
    let password = ask_once(question, caller)?;
    if again && *ask_once("the same again", caller)? != *password {
        return Err(CommandFailure::with_hint(
            "the passwords are not the same",
            "run it again",
        ));
    }
    Ok(Some(password))
}

impl PasswordVariables {
    /// The one variable that is set, if one is.
    fn given_source(self, caller: &Invocation) -> Result<Option<PasswordSource>, CommandFailure> {
        let set: Vec<(&str, &OsStr)> = [self.plain, self.file, self.command, self.descriptor]
            .into_iter()
            .filter_map(|name| Some((name, caller.variable(name)?)))
            .collect();
        let (name, value) = match set[..] {
            [] => return Ok(None),
            [one] => one,
            [(first, _), (second, _), ..] => {
                return Err(CommandFailure::usage_error(
                    format!("{first} and {second} are both set"),
                    "unset all but one of them",
                ));
            }
        };
        self.parse_variable(name, value).map(Some)
    }

    fn parse_variable(self, name: &str, value: &OsStr) -> Result<PasswordSource, CommandFailure> {
        if name == self.plain {
            return Ok(PasswordSource::Plain(value.to_owned()));
        }
        if name == self.file {
            return Ok(PasswordSource::File(value.into()));
        }
        if name == self.command {
            return Ok(PasswordSource::Command(value.to_owned()));
        }
        let number = value.to_str().and_then(|text| text.parse().ok());
        number.map(PasswordSource::Descriptor).ok_or_else(|| {
            CommandFailure::usage_error(
                format!("{name} is \"{}\"", value.display()),
                "it is the number of an open file descriptor, such as 3",
            )
        })
    }

    /// True if one of them is set.
    pub(crate) fn are_set(self, caller: &Invocation) -> bool {
        [self.plain, self.file, self.command, self.descriptor]
            .iter()
            .any(|name| caller.variable(name).is_some())
    }

    /// Advice to a person who gave no password and cannot be asked.
    pub(crate) fn missing_hint(self) -> String {
        format!(
            "set {}, {} or {}, or give {}",
            self.plain, self.file, self.command, self.options
        )
    }
}

impl PasswordSource {
    fn read_password(self, caller: &Invocation) -> Result<Password, CommandFailure> {
        let (name, line) = match self {
            Self::Plain(text) => ("the environment".to_owned(), text_of(text.as_bytes())),
            Self::File(path) => (
                path.display().to_string(),
                open_password_file(&path, caller).and_then(|mut file| first_line(&mut file)),
            ),
            Self::Descriptor(number) => {
                let path = PathBuf::from(format!("/dev/fd/{number}"));
                (
                    format!("file descriptor {number}"),
                    open_password_file(&path, caller).and_then(|mut file| first_line(&mut file)),
                )
            }
            Self::Command(command) => {
                let words = ["sh".into(), "-c".into(), command];
                let name = "the password command";
                (
                    name.to_owned(),
                    first_line(&mut CommandOutput::spawn_command(&words, caller)?),
                )
            }
        };
        let line = line.map_err(|error| {
            CommandFailure::io_error(format!("read the password from {name}"), error)
        })?;
        if line.is_empty() {
            return Err(CommandFailure::with_hint(
                format!("{name} has no password: its first line is empty"),
                "write the password there, in one line",
            ));
        }
        Ok(line)
    }
}

fn open_password_file(path: &Path, caller: &Invocation) -> io::Result<File> {
    File::open(caller.resolve_path(path))
}

/// The text before the first line break. All of a stream is read: a command that fails after its
/// output has failed.
fn first_line(stream: &mut dyn Read) -> io::Result<Password> {
    let mut text = Zeroizing::new(Vec::with_capacity(LINE_LEN_MAX + 1));
    stream
        .take(LINE_LEN_MAX as u64 + 1)
        .read_to_end(&mut text)?;
    if text.len() > LINE_LEN_MAX {
        return Err(io::Error::other(format!(
            "it has more than {LINE_LEN_MAX} bytes"
        )));
    }
    line_of(&text)
}

fn line_of(text: &[u8]) -> io::Result<Password> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    text_of(line.strip_suffix(b"\r").unwrap_or(line))
}

fn text_of(bytes: &[u8]) -> io::Result<Password> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| io::Error::other("it is not text in UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn ask_once(question: &str, caller: &Invocation) -> Result<Password, CommandFailure> {
    let fail = |error| CommandFailure::io_error("ask for the password", error);
    let mut screen = caller.streams.error.clone();
    let silence = EchoGuard::turn_off_echo(caller.streams.input.file()).map_err(fail)?;
    write!(screen, "{question}: ").map_err(fail)?;
    let typed = typed_line(&mut caller.streams.input.clone());
    drop(silence);
    let _ = writeln!(screen);
    caller.signals.fail_if_stopped()?;
    let password = typed.map_err(fail)?;
    if password.is_empty() {
        Err(CommandFailure::with_hint(
            "no password was given",
            "run it again",
        ))
    } else {
        Ok(password)
    }
}

/// The text that is typed until a line break, byte by byte: the bytes behind it belong to others.
fn typed_line(input: &mut dyn Read) -> io::Result<Password> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_LEN_MAX));
    let mut byte = [0];
    while line.len() < LINE_LEN_MAX && input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    line_of(&line)
}

/// A terminal that does not show what is typed, until dropped.
struct EchoGuard {
    terminal: Arc<File>,
    before: Termios,
}

impl EchoGuard {
    fn turn_off_echo(terminal: &Arc<File>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self {
            terminal: Arc::clone(terminal),
            before,
        })
    }
}

impl Drop for EchoGuard {
    fn drop(&mut self) {
        // A terminal that has gone needs it no more.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("secret"), "from a file\r\nmore\n").expect("room");
        std::fs::write(dir.path().join("empty"), "\nsecond line\n").expect("room");
        std::fs::write(dir.path().join("long"), [b'x'; LINE_LEN_MAX + 1]).expect("room");
        let mut caller = Invocation::in_folder(dir.path());
        caller.variables = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        caller
            .variables
            .insert("PATH".into(), std::env::var_os("PATH").unwrap_or_default());
        let given =
            given_password(None, VARIABLES, &caller).map_err(|failure| failure.to_string())?;
        Ok(given.map(|password| password.to_string()))
    }

    #[test]
    fn each_place_has_its_password() {
        for (variables, password) in [
            (&[][..], None),
            (&[("VELLUM_PASSWORD", "")], None),
            (&[("VELLUM_PASSWORD", " plain ")], Some(" plain ")),
            (&[("VELLUM_PASSWORD_FILE", "secret")], Some("from a file")),
            (
                &[(
                    "VELLUM_PASSWORD_COMMAND",
                    "echo 'from a'\" command\"; echo more",
                )],
                Some("from a command"),
            ),
        ] {
            assert_eq!(
                asked(variables),
                Ok(password.map(str::to_owned)),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_password_is_told_without_it() {
        for (variables, told) in [
            (
                &[("VELLUM_PASSWORD", "a"), ("VELLUM_PASSWORD_FILE", "b")][..],
                "both set",
            ),
            (&[("VELLUM_PASSWORD_FILE", "missing")], "missing"),
            (&[("VELLUM_PASSWORD_FILE", "empty")], "first line is empty"),
            (&[("VELLUM_PASSWORD_FILE", "long")], "more than"),
            (
                &[("VELLUM_PASSWORD_COMMAND", "echo secret; exit 3")],
                "exit status: 3",
            ),
            (&[("VELLUM_PASSWORD_FD", "three")], "VELLUM_PASSWORD_FD"),
            (&[("VELLUM_PASSWORD_FD", "987")], "file descriptor 987"),
        ] {
            let failure = asked(variables).expect_err(told);
            assert!(
                failure.contains(told) && !failure.contains("secret"),
                "{variables:?}: {failure}"
            );
        }
    }

    #[test]
    fn nobody_is_asked_without_a_terminal() {
        let caller = Invocation::in_folder(Path::new("/"));
        assert!(
            ask_at_terminal("password", true, &caller)
                .expect("no fault")
                .is_none()
        );
    }
}
