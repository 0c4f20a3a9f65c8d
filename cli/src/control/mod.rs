//! The control socket: while one process owns a store, it runs the commands of other processes.
//!
//! RocksDB belongs to one process, and the latest writes of guests are in that process's memory. So
//! a command that finds the socket in the store's folder sends its words, its variables and, as
//! descriptors, its standard streams and its folder. The owner runs the very code that the command
//! would have run, on these streams, and sends back the exit code. Output, progress and errors
//! never pass through the socket. If the client goes away, its command is stopped, as Ctrl-C would.
//!
//! `message` knows the bytes, `channel` the socket and its deadlines, and `client` and `server` the
//! two ends.
//!
//! # What this does not do
//!
//! A command that Vellum starts for a client (`import - NAME -- COMMAND`) is the owner's child: it
//! has the caller's folder, variables and standard error, but not the caller's terminal to ask for
//! a password. Absolute paths mean what they mean to the owner, which matters in containers.

mod channel;
mod client;
mod message;
mod server;

pub(crate) use client::{ForwardedInput, forward_to_server};
pub(crate) use server::{ControlServer, ServedCommands};

/// Programs of one version do work for each other.
const VERSION: &str = env!("CARGO_PKG_VERSION");
