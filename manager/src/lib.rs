//! The Virtual Disk Manager: a store's tree, live, in a browser or at a terminal.
//!
//! It knows HTTP, pages, sessions, jobs and news; it knows no store. All that it sees of one is
//! [`Operations`]: typed questions that are answered at once, and command lines that are run as
//! jobs. So it cannot do what no command can, and what is refused is refused in the command line's
//! words.
//!
//! A request passes `request_check` (the server's names, where the request comes from, the session)
//! before anything else looks at it; `listener` bounds connections, heads and time;
//! `routes` gives answers, of `pages`, which are whole without scripts. `action_table` is
//! what can be done, `actions` makes a command line of it; `jobs` runs them. `terminal` is the same
//! for keys and cells, without HTTP.
//!
//! # What this does not do
//!
//! It listens on loopback only. It protects the store from pages of others in the same browser, and
//! from other users of the machine; programs of the same user can do what that user can.
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
mod request_check;
mod routes;
mod secret;
mod server;
mod state;
mod terminal;
mod tree_view;
mod uploads;

pub use operations::{
    BackupPoint, ChangedCells, CommandEnd, CommandSink, CommandWatch, ExportPlace, GuestPart,
    LocalBackup, MachineFacts, NodeFacts, NodeHolding, NodeKind, NodeLink, OperationFault,
    Operations, ProgressNote, RepositoryFacts, ShellCommand, StoreFacts, StoreUsage, TreeLine,
};
pub use server::{ManagerError, ManagerOptions, ManagerServer};
pub use terminal::{TerminalEnd, TerminalOptions, run_terminal};
