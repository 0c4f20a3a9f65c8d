//! The server of the control socket: runs the commands of other processes.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use vellum_store::{Store, disk_is_full};

use super::channel;
use super::message::{CommandRequest, ServerReply};
use crate::application;
use crate::arguments::Arguments;
use crate::command_context::command_line;
use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::repository::now_ms;
use crate::signals::Signals;
use crate::suggestion;

/// Commands at once, and clients that may still become one. Each has two threads, and a request of
/// 2 MiB at most.
const CLIENTS_MAX: usize = 32;
/// The number of the signal for commands that end because the server stops or their client is gone.
const SIGTERM: u8 = 15;
/// The exit code of a process that panics.
const PANIC_CODE: u8 = 101;
/// The pause of accepting when the system has no descriptors or threads left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A server that runs commands for other processes until it is stopped.
pub(crate) struct ControlServer {
    path: PathBuf,
    clients: Arc<ControlClients>,
    acceptor: Option<JoinHandle<()>>,
    /// Its end wakes the acceptor.
    rope: Option<UnixStream>,
}

/// The clients whose commands are running.
struct ControlClients {
    store: Store,
    present: Mutex<ConnectedClients>,
    /// The signal that a client has left.
    left: Condvar,
}

#[derive(Default)]
struct ConnectedClients {
    clients: BTreeMap<u64, ControlClient>,
    next: u64,
    stopping: bool,
}

struct ControlClient {
    signals: Signals,
    socket: UnixStream,
    /// Its command line, once that is known, and when it began, in milliseconds since 1970.
    command: Option<(String, u64)>,
}

/// The commands that a server runs for other processes.
#[derive(Clone)]
pub(crate) struct ServedCommands(Arc<ControlClients>);

impl ServedCommands {
    /// Their command lines, and when each began, in milliseconds since 1970.
    pub(crate) fn list_commands(&self) -> Vec<(String, u64)> {
        let present = self.0.lock_connected();
        let commands = present.clients.values();
        commands
            .filter_map(|client| client.command.clone())
            .collect()
    }
}

impl std::fmt::Debug for ServedCommands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServedCommands")
    }
}

/// One of them, until dropped.
struct ClientSlot<'a> {
    clients: &'a Arc<ControlClients>,
    number: u64,
    signals: Signals,
}

impl ControlServer {
    /// Offers `store`, which this process owns, at its control socket.
    pub(crate) fn start_listening(store: &Store) -> Result<Self, CommandFailure> {
        let path = Store::control_socket(store.dir());
        let fail = |error| CommandFailure::io_error(format!("listen at {}", path.display()), error);
        let listener = store
            .make_with_reserve(|| channel::listen_at(&path), disk_is_full)
            .map_err(fail)?;
        let (rope, bell) = UnixStream::pair().map_err(fail)?;
        let clients = Arc::new(ControlClients {
            store: store.clone(),
            present: Mutex::default(),
            left: Condvar::new(),
        });
        let hosts = Arc::clone(&clients);
        let acceptor = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_clients(&listener, &bell, &hosts))
            .map_err(fail)?;
        Ok(Self {
            path,
            clients,
            acceptor: Some(acceptor),
            rope: Some(rope),
        })
    }

    /// The commands that it runs.
    pub(crate) fn served_commands(&self) -> ServedCommands {
        ServedCommands(Arc::clone(&self.clients))
    }

    /// Takes no more commands, stops those that run, and waits for them, but no longer than
    /// `patience`. Whether all have ended.
    pub(crate) fn stop_within(mut self, patience: Duration) -> bool {
        self.close_socket();
        let mut present = self.clients.lock_connected();
        present.stopping = true;
        present
            .clients
            .values()
            .for_each(ControlClient::stop_command);
        let waited = self
            .clients
            .left
            .wait_timeout_while(present, patience, |present| !present.clients.is_empty());
        let (present, _) = waited.unwrap_or_else(PoisonError::into_inner);
        present.clients.is_empty()
    }

    /// Closes the socket: after this, clients find no server.
    fn close_socket(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        drop(self.rope.take());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.close_socket();
    }
}

/// Gives each client a thread until the bell's rope is gone.
fn accept_clients(listener: &UnixListener, bell: &UnixStream, clients: &Arc<ControlClients>) {
    loop {
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(bell, PollFlags::IN),
        ];
        let polled = poll(&mut ready, None);
        if !ready[1].revents().is_empty() {
            return;
        }
        let greeted = polled
            .map_err(io::Error::from)
            .and_then(|_| listener.accept())
            .and_then(|(socket, _)| admit_client(socket, clients));
        if greeted.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            thread::sleep(EXHAUSTED_PAUSE);
        }
    }
}

/// Seats a client, or gives the reason why not. Never waits for it.
fn admit_client(socket: UnixStream, clients: &Arc<ControlClients>) -> io::Result<()> {
    let pid = match channel::peer_process(&socket)? {
        Ok(pid) => pid,
        Err(user) => {
            refuse_request(
                &socket,
                format!("the store's server works for its own user, not for user {user}"),
            );
            return Ok(());
        }
    };
    let clients = Arc::clone(clients);
    thread::Builder::new()
        .name("command".to_owned())
        .spawn(move || match clients.claim_slot(&socket) {
            Some(seat) => seat.serve_client(&socket, pid),
            None => refuse_request(
                &socket,
                format!(
                    "the store's server is stopping, or has {CLIENTS_MAX} commands to do already"
                ),
            ),
        })?;
    Ok(())
}

/// Refuses a request. A client that does not hear it has gone.
fn refuse_request(socket: &UnixStream, reason: String) {
    let _ = channel::send_answer(socket, &ServerReply::Refused(reason));
}

impl ControlClients {
    fn lock_connected(&self) -> MutexGuard<'_, ConnectedClients> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_slot<'a>(self: &'a Arc<Self>, socket: &UnixStream) -> Option<ClientSlot<'a>> {
        let socket = socket.try_clone().ok()?;
        let mut present = self.lock_connected();
        if present.stopping || present.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let number = present.next;
        present.next += 1;
        let signals = Signals::default();
        present.clients.insert(
            number,
            ControlClient {
                signals: signals.clone(),
                socket,
                command: None,
            },
        );
        Some(ClientSlot {
            clients: self,
            number,
            signals,
        })
    }
}

impl ControlClient {
    /// Stops its command, or the wait for its request.
    fn stop_command(&self) {
        self.signals.record_signal(SIGTERM);
        let _ = self.socket.shutdown(Shutdown::Read);
    }
}

impl Drop for ClientSlot<'_> {
    fn drop(&mut self) {
        self.clients.lock_connected().clients.remove(&self.number);
        self.clients.left.notify_all();
    }
}

impl ClientSlot<'_> {
    /// Runs the client's command, and sends its exit code.
    fn serve_client(&self, socket: &UnixStream, pid: Pid) {
        let (arguments, caller) = match self.receive_request(socket, pid) {
            Ok(request) => request,
            Err(reason) => return refuse_request(socket, reason),
        };
        let caller = caller.with_served_commands(ServedCommands(Arc::clone(self.clients)));
        self.note_command(&caller);
        if channel::send_answer(socket, &ServerReply::Accepted).is_err() {
            return;
        }
        thread::scope(|scope| {
            let ear = thread::Builder::new()
                .name("signals".to_owned())
                .spawn_scoped(scope, || relay_signals(socket, &self.signals));
            if ear.is_err() {
                // A command that nobody could stop is not begun.
                self.signals.record_signal(SIGTERM);
            }
            let code = self.run_command(&arguments, caller);
            // If the client does not hear it, it has gone.
            let _ = channel::send_answer(socket, &ServerReply::Ended(code));
            let _ = socket.shutdown(Shutdown::Both);
        });
    }

    fn note_command(&self, caller: &Invocation) {
        let line = command_line(&caller.words);
        let mut present = self.clients.lock_connected();
        if let Some(client) = present.clients.get_mut(&self.number) {
            client.command = Some((line, now_ms()));
        }
    }

    /// The request of a client, or the reason why it is refused.
    fn receive_request(
        &self,
        socket: &UnixStream,
        pid: Pid,
    ) -> Result<(Arguments, Invocation), String> {
        let (body, descriptors) =
            channel::receive_request(socket).map_err(|error| error.to_string())?;
        let version = CommandRequest::peer_version(&body).map_err(|error| error.to_string())?;
        if version != super::VERSION {
            return Err(format!(
                "the store's server is vellum {}, this is vellum {}",
                super::VERSION,
                version.escape_debug()
            ));
        }
        let request = CommandRequest::decode_request(&body).map_err(|error| error.to_string())?;
        let arguments = suggestion::parse_command_line(&request.words)
            .ok()
            .filter(|arguments| arguments.command.is_done_by_owner());
        let arguments =
            arguments.ok_or_else(|| "this is no command for the store's server".to_owned())?;
        Ok((
            arguments,
            Invocation::of_peer_process(
                request.words,
                request.variables,
                descriptors,
                pid,
                self.signals.clone(),
            ),
        ))
    }

    /// The exit code. The caller's streams are closed when this returns: their readers must not
    /// wait for this process.
    fn run_command(&self, arguments: &Arguments, caller: Invocation) -> u8 {
        let caller = Arc::new(caller);
        let store = self.clients.store.clone();
        catch_panic(&caller, || {
            application::execute_command(arguments, &caller, Some(store))
        })
    }
}

/// Calls `run` and returns its exit code. A panic ends one command, not the server: the store's
/// locks are not poisoned, and a half-done command leaves what a crash would.
fn catch_panic(caller: &Invocation, run: impl FnOnce() -> u8) -> u8 {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        caller.print_error_line(
            "error: this command met a fault in vellum and was given up; the store's server \
             goes on",
        );
        PANIC_CODE
    })
}

/// Passes on the client's signals until it, or its command, ends.
fn relay_signals(mut socket: &UnixStream, signals: &Signals) {
    if socket.set_read_timeout(None).is_err() {
        return signals.record_signal(SIGTERM);
    }
    let mut note = [0];
    loop {
        match socket.read(&mut note) {
            Ok(1..) => signals.record_signal(note[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Gone. If the command has ended, nobody hears this.
            _ => return signals.record_signal(SIGTERM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_one_command() {
        let caller = Invocation::in_folder(std::path::Path::new("/"));
        assert_eq!(catch_panic(&caller, || 3), 3);
        assert_eq!(
            catch_panic(&caller, || panic!("this panic is a test's")),
            PANIC_CODE
        );
    }
}
