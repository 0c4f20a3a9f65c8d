//! A process that owns a sandbox's store and serves it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::Signal;

use crate::sandbox::{Sandbox, signal};

/// It is killed when dropped.
pub(crate) struct Served {
    pub(crate) child: Child,
    /// The server's first message.
    pub(crate) greeting: serde_json::Value,
}

impl Served {
    /// `vellum serve`.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        Self::run(sandbox, &["serve"])
    }

    /// A server from another command that serves.
    pub(crate) fn run(sandbox: &Sandbox, args: &[&str]) -> Self {
        Self::of(sandbox.command(args.iter().chain(&["--json"])))
    }

    /// A server from a command that answers in JSON.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::with_capacity(1, child.stdout.as_mut().expect("it was asked for"))
            .read_line(&mut line)
            .expect("it reads");
        let greeting = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{line:?}, {}", said(child.stderr.take())));
        Self { child, greeting }
    }

    /// The URI of `export`.
    pub(crate) fn uri(&self, export: &str) -> String {
        self.greeting["uris"][0]
            .as_str()
            .expect("it says where it listens")
            .replace("IMAGE", export)
    }

    /// Asks it to stop, as a service manager does, and requires that it does so in order and has
    /// nothing to complain about.
    pub(crate) fn stop(self) {
        signal(&self.child, Signal::TERM);
        self.ended();
    }

    /// Requires that it ends by itself, in order.
    pub(crate) fn ended(self) {
        assert_eq!(self.ended_saying(), "");
    }

    /// Stops a server that has something to say, as [`Served::stop`] does: returns its output.
    pub(crate) fn stop_saying(self) -> String {
        signal(&self.child, Signal::TERM);
        self.ended_saying()
    }

    /// Requires that it ends by itself, in order. Returns what it complained about.
    pub(crate) fn ended_saying(mut self) -> String {
        // Read before it has ended: it may have more to say than a pipe takes.
        let said = said(self.child.stderr.take());
        let code = self.child.wait().expect("it ends").code();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After the end of the process these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(stderr: Option<ChildStderr>) -> String {
    let mut said = String::new();
    stderr
        .expect("it was asked for")
        .read_to_string(&mut said)
        .expect("text");
    said
}
