//! The place of a store, a repository and files, and the command that works on them.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::nbd::Client;
use crate::block_device::RecordedDevice;

/// The timeout of a command on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(3);

/// Counts moments, and has them noted in the trace of a device.
#[derive(Default)]
pub(crate) struct Clock {
    state: Mutex<(u64, Option<Arc<RecordedDevice>>)>,
}

/// The folders, and the command.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) vellum: PathBuf,
    /// The folder on the file system under test.
    pub(crate) root: PathBuf,
    /// Elsewhere: what is imported, and sockets.
    pub(crate) scratch: PathBuf,
}

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A server that has the store.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Clock {
    /// The next moment. Everything that the device took so far is before it.
    pub(crate) fn tick(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if let Some(device) = &state.1 {
            device.note(state.0);
        }
        state.0
    }

    /// Begins to note moments in `device`.
    pub(crate) fn follow(&self, device: Option<Arc<RecordedDevice>>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = device;
    }
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The first line of its standard error.
    pub(crate) fn said(&self) -> &str {
        self.stderr.lines().next().unwrap_or_default()
    }
}

impl Site {
    pub(crate) fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    /// The command with what it needs to know, and nothing that the machine's own user has set.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.vellum);
        command.args(words).current_dir(&self.scratch);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"VELLUM_") {
                command.env_remove(name);
            }
        }
        command
            .env("VELLUM_STORE", self.root.join("store"))
            .env("XDG_CACHE_HOME", self.root.join("home/cache"))
            .env("XDG_STATE_HOME", self.root.join("home/state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, words: &[String]) -> Result<Ended, String> {
        self.run_until(words, PATIENCE)
    }

    /// Runs the command, and kills it if it has not ended by then.
    pub(crate) fn run_until(&self, words: &[String], limit: Duration) -> Result<Ended, String> {
        let fail = |error: std::io::Error| format!("vellum {}: {error}", words.join(" "));
        let child = self.command(words).spawn().map_err(fail)?;
        let pid = Pid::from_child(&child);
        // Waiting takes the output too, so that no pipe runs full.
        let waiting = thread::spawn(move || child.wait_with_output());
        let begun = Instant::now();
        let mut is_killed = false;
        while !waiting.is_finished() {
            if !is_killed && begun.elapsed() >= limit {
                is_killed = true;
                // One that has just ended is still there until the thread has waited for it, or
                // its number means nobody: nobody else takes it so soon.
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let output = waiting
            .join()
            .map_err(|_| "waiting for a command failed".to_owned())?;
        let ended = Ended::of(output.map_err(fail)?);
        if ended.stderr.contains("panicked") {
            return Err(format!(
                "vellum {} panicked: {}",
                words.join(" "),
                ended.stderr
            ));
        }
        if is_killed && limit == PATIENCE {
            return Err(format!("vellum {} hangs", words.join(" ")));
        }
        Ok(ended)
    }

    /// Runs another program on the file system under test: who serves its device never touches it.
    pub(crate) fn shell(&self, script: &str) -> Result<Vec<u8>, String> {
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("sh: {error}"))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{script}: {}", said.trim()))
        }
    }

    /// Starts a server on the store.
    pub(crate) fn serve(&self) -> Result<Server, String> {
        let socket = self.scratch.join("nbd.sock");
        // The socket of a server that was killed means nothing.
        let _ = std::fs::remove_file(&socket);
        let words =
            ["serve", "--json", "--socket", &socket.display().to_string()].map(str::to_owned);
        let mut child = self
            .command(&words)
            .spawn()
            .map_err(|error| format!("vellum serve: {error}"))?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().ok_or("no output of a server")?;
        let read = BufReader::with_capacity(1, stdout).read_line(&mut line);
        if read.is_ok_and(|len| len > 0) {
            Ok(Server { child, socket })
        } else {
            let output = child
                .wait_with_output()
                .map_err(|error| error.to_string())?;
            let ended = Ended::of(output);
            Err(format!(
                "vellum serve: {:?}, {}",
                ended.code,
                ended.stderr.trim()
            ))
        }
    }
}

impl Server {
    pub(crate) fn connect(&self, export: &str) -> Result<Client, String> {
        Client::connect(&self.socket, export)
    }

    /// Ends it as a loss of its process does.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| error.to_string())?;
        self.child.wait().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Its state, for whoever was left by it; ends it.
    pub(crate) fn describe(mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("the server ended with {status}"),
            Ok(None) => "the server runs".to_owned(),
            Err(error) => error.to_string(),
        };
        let _ = self.child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // Unreadable output was not text; the state tells enough.
            let _ = stderr.read_to_string(&mut said);
        }
        format!("{state}: {}", said.trim())
    }

    /// Ends it as a service manager does, and requires that it ends in order.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        // It may have ended by itself: then that is told below.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if begun.elapsed() >= PATIENCE {
                return Err("a server that was asked to stop goes on".to_owned());
            }
            thread::sleep(Duration::from_millis(1));
        };
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // Unreadable output was not text; the code tells enough.
            let _ = stderr.read_to_string(&mut said);
        }
        if status.success() {
            Ok(())
        } else {
            Err(format!("a server ended with {status}: {}", said.trim()))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After its end these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `words` as a command takes them.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The file at `path`, which holds `bytes` from now on.
pub(crate) fn file_of(path: &Path, bytes: &[u8]) -> Result<String, String> {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path.display().to_string())
}
