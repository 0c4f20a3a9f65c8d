//! The Virtual Disk Manager: a store's tree, live, in a browser or at a terminal.
//!
//! It knows HTTP, pages, sessions, jobs and news; it knows no store. All that it sees of one is
//! [`Operations`]: typed questions that are answered at once, and command lines that are run as
//! jobs. So it cannot do what no command can, and what is refused is refused in the command line's
//! words.
//!
//! A request passes `request_check` (the server's names, where the request comes from, the session)
//! before anything else looks at it; `listener` bounds connections, heads and time; `remote_access`
//! lets in who comes from another machine with a password, as often as `sign_in_attempts` allows;
//! `routes` gives answers, of `pages`, which are whole without scripts. `action_table` is
//! what can be done, `actions` makes a command line of it; `jobs` runs them. `terminal` is the same
//! for keys and cells, without HTTP.
//!
//! # What this does not do
//!
//! Without a password and TLS it listens on loopback only. It protects the store from pages of
//! others in the same browser, from other users of the machine, and with a password from other
//! machines; programs of the same user can do what that user can. It reads no certificate and
//! knows no hash: who starts it hands over TLS's configuration and a check of the password.
#![forbid(unsafe_code)]

mod action_table;
mod actions;
mod events;
mod files;
mod jobs;
mod listener;
mod news_look;
mod operations;
mod pages;
mod remote_access;
mod request_check;
mod routes;
mod secret;
mod server;
mod sign_in_attempts;
mod state;
mod terminal;
mod tree_view;
mod uploads;

pub use operations::{
    BackupPoint, ChangedCells, CommandEnd, CommandSink, CommandWatch, ExportPlace, GuestPart,
    LocalBackup, MachineFacts, NodeFacts, NodeHolding, NodeKind, NodeLink, OperationFault,
    Operations, ProgressNote, RepositoryFacts, ShellCommand, StoreFacts, StoreUsage, TreeLine,
};
pub use remote_access::{HostName, PasswordCheck, RemoteAccess};
pub use secret::SessionLimits;
pub use server::{ListeningPlace, ManagerError, ManagerOptions, ManagerServer};
pub use terminal::{TerminalEnd, TerminalOptions, run_terminal};
