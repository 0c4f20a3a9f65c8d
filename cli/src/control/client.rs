//! The client of the control socket: sends its command to the server and waits for the end.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};
use vellum_store::Store;

use super::channel::{self, ReceiveError};
use super::message::{CommandRequest, ServerReply};
use crate::failure::CommandFailure;
use crate::interruptible_stream::InterruptibleStream;
use crate::invocation::Invocation;
use crate::signals::Signals;

/// The interval at which a client checks that the server still runs.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The longest time that a server may be stopped: a debugger, or somebody who freezes a group of
/// processes, may let it go on.
const STOPPED_PATIENCE: Duration = Duration::from_secs(5);
/// The timeout for a server's word that it begins: it does so at once, unless the machine is
/// overloaded.
const BEGIN_PATIENCE: Duration = Duration::from_mins(1);

/// The standard input of a command that a server does.
pub(crate) enum ForwardedInput {
    /// The caller's, which the command does not read.
    Unread,
    /// The caller's, and what is typed at it.
    Read,
    /// A socket at which the command is to listen.
    Socket(OwnedFd),
}

/// Sends the caller's command to the process that owns the store in `dir`. `None` if no server owns
/// it: then it is the caller's to open. `variable` is one more than the caller has.
pub(crate) fn forward_to_server(
    dir: &Path,
    caller: &Invocation,
    variable: Option<(&str, &str)>,
    input: &ForwardedInput,
) -> Result<Option<u8>, CommandFailure> {
    let socket = match channel::connect_to(&Store::control_socket(dir)) {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return other_user(dir),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(silent_server(None, "takes no commands"));
        }
        // No socket, or one that a killed server left.
        Err(_) => return Ok(None),
    };
    let mut variables = caller.variables.clone();
    variables.extend(variable.map(|(name, value)| (name.into(), value.into())));
    let request = CommandRequest {
        version: super::VERSION.to_owned(),
        words: caller.words.clone(),
        variables,
    };
    let request = request.encode_request().map_err(|error| {
        CommandFailure::with_hint(error.to_string(), "shorten the command, or stop the server")
    })?;
    let Some(answer) = send_request(&socket, &request, caller, input)? else {
        return Ok(None);
    };
    match answer {
        ServerReply::Accepted => await_end(&socket, &caller.signals).map(Some),
        ServerReply::Refused(reason) => Err(CommandFailure::Server(reason)),
        ServerReply::Ended(_) => Err(lost_server()),
    }
}

/// The failure for a user who may not use the socket: that user cannot tell if a server listens at
/// it, but the store's lock says if somebody has the store.
fn other_user(dir: &Path) -> Result<Option<u8>, CommandFailure> {
    match Store::lock_owner(dir)? {
        Some(owner) => Err(CommandFailure::Server(format!(
            "the store {} belongs to {owner}, of another user",
            dir.display()
        ))),
        None => Ok(None),
    }
}

/// Sends the request and returns whether it was accepted. `None` if the server ended before it
/// began with it.
fn send_request(
    socket: &UnixStream,
    request: &[u8],
    caller: &Invocation,
    input: &ForwardedInput,
) -> Result<Option<ServerReply>, CommandFailure> {
    let folder = File::open(".")
        .map_err(|error| CommandFailure::io_error("open the current folder", error))?;
    let streams = &caller.streams;
    let is_typed = matches!(input, ForwardedInput::Read) && streams.input.file().is_terminal();
    let relay = is_typed.then(|| relay_input(&streams.input)).transpose()?;
    let input = match (&relay, input) {
        (Some(relay), _) => relay.as_fd(),
        (None, ForwardedInput::Socket(socket)) => socket.as_fd(),
        (None, _) => streams.input.file().as_fd(),
    };
    let descriptors = [
        input,
        streams.output.file().as_fd(),
        streams.error.file().as_fd(),
        folder.as_fd(),
    ];
    // A server that refuses without listening, or ends, makes sending fail: what it said before is
    // still there to be read.
    let watch = ServerWatch::new(socket);
    // Bytes that do not fit into the socket's buffer wait for a server that reads.
    let _ = socket.set_write_timeout(Some(BEGIN_PATIENCE));
    let _ = channel::send_request(socket, request, descriptors);
    let began = Instant::now();
    while !is_ready(socket, None)? {
        watch.fail_if_stopped()?;
        if began.elapsed() > BEGIN_PATIENCE {
            return Err(silent_server(watch.pid, "does not answer"));
        }
    }
    match channel::receive_answer(socket) {
        Ok(answer) => Ok(Some(answer)),
        Err(ReceiveError::Io(_)) => Ok(None),
        Err(ReceiveError::Message(error)) => Err(CommandFailure::Server(format!(
            "the store's server cannot be understood: {error}"
        ))),
    }
}

/// Notices a server that was stopped, and so never answers.
struct ServerWatch {
    pid: Option<Pid>,
    /// The time when it was last seen to run.
    seen: std::cell::Cell<Instant>,
}

impl ServerWatch {
    fn new(socket: &UnixStream) -> Self {
        Self {
            pid: rustix::net::sockopt::socket_peercred(socket)
                .ok()
                .map(|peer| peer.pid),
            seen: std::cell::Cell::new(Instant::now()),
        }
    }

    /// Fails if the server has been stopped for a while.
    fn fail_if_stopped(&self) -> Result<(), CommandFailure> {
        if !self.pid.is_some_and(channel::is_stopped) {
            self.seen.set(Instant::now());
        } else if self.seen.get().elapsed() >= STOPPED_PATIENCE {
            return Err(silent_server(self.pid, "was stopped and answers nobody"));
        }
        Ok(())
    }
}

fn silent_server(pid: Option<Pid>, how: &str) -> CommandFailure {
    let number = pid.map(|pid| pid.as_raw_nonzero().to_string());
    let (who, hint) = match number {
        Some(number) => (
            format!(" (process {number})"),
            format!("`kill -CONT {number}` lets it go on; then run the command again"),
        ),
        None => (
            String::new(),
            "look why it does not run, then run the command again".to_owned(),
        ),
    };
    CommandFailure::Server(format!("the store's server{who} {how}")).replace_hint(hint)
}

/// True if the server, or the bell, has something to say, after a short wait.
fn is_ready(socket: &UnixStream, bell: Option<&UnixStream>) -> Result<bool, CommandFailure> {
    let mut ready: Vec<PollFd<'_>> = std::iter::once(socket)
        .chain(bell)
        .map(|stream| PollFd::new(stream, PollFlags::IN))
        .collect();
    let pause = rustix::event::Timespec::try_from(LOOK_PAUSE).ok();
    match poll(&mut ready, pause.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => {
            return Err(CommandFailure::io_error(
                "wait for the server",
                errno.into(),
            ));
        }
    }
    Ok(!ready[0].revents().is_empty())
}

/// A pipe with the text that is typed here: a process that is not in a terminal's foreground may
/// not read it.
fn relay_input(
    input: &InterruptibleStream<std::sync::Arc<File>>,
) -> Result<PipeReader, CommandFailure> {
    let (reader, mut writer) =
        io::pipe().map_err(|error| CommandFailure::io_error("make a pipe", error))?;
    let mut input = input.clone();
    // It ends with what is typed, with its reader, or with this process.
    thread::spawn(move || {
        let mut typed = [0; 4096];
        while let Ok(len @ 1..) = input.read(&mut typed) {
            if writer.write_all(&typed[..len]).is_err() {
                return;
            }
        }
    });
    Ok(reader)
}

/// Passes every signal to the server until it says how the command ended.
fn await_end(socket: &UnixStream, signals: &Signals) -> Result<u8, CommandFailure> {
    let mut bell = Signals::signal_stream()
        .map_err(|error| CommandFailure::io_error("listen for signals", error))?;
    bell.set_nonblocking(true)
        .map_err(|error| CommandFailure::io_error("listen for signals", error))?;
    let watch = ServerWatch::new(socket);
    let mut told = 0;
    loop {
        for number in [
            signals.take_report().then_some(Signal::USR1.as_raw() as u8),
            Some(signals.received_signal()).filter(|number| *number != told),
        ] {
            if let Some(number) = number.filter(|number| *number != 0) {
                // A server that has gone is found out below.
                let _ = (&mut &*socket).write_all(&[number]);
            }
        }
        told = signals.received_signal();
        if is_ready(socket, Some(&bell))? {
            return match channel::receive_answer(socket) {
                Ok(ServerReply::Ended(code)) => Ok(code),
                _ => Err(lost_server()),
            };
        }
        let _ = bell.read(&mut [0; 64]);
        watch.fail_if_stopped()?;
    }
}

/// A server that was killed with a command half done leaves what a killed command would.
fn lost_server() -> CommandFailure {
    CommandFailure::with_hint(
        "the store's server ended before it could say how this command did",
        "look what is there, then run it again",
    )
}
