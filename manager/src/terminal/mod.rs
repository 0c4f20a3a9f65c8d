//! The manager at a terminal: the same tree, plans and jobs as in a browser, for keys and cells.
//!
//! `key_press` makes keys of bytes, `key_table` says which command each is, `update` and `acting`
//! what a command does to the state (`model`), `news` what is heard does to it, and `page_rows` (of
//! `page_row`s), `folded_rows`, `form_rows` and the `screen`s show that; all of them are pure.
//! `program` alone reads, waits and writes, through `ansi_backend`. What acts on the store is a
//! command line, as in a browser.
//!
//! # What this does not do
//!
//! It sets no terminal up: who calls it has the terminal give keys as they are pressed, and puts it
//! back. The terminal may be another process's, whose size alone is asked for.

mod acting;
mod action_form;
mod ansi_backend;
mod dialog_screen;
mod folded_rows;
mod form_rows;
mod key_press;
mod key_table;
mod look;
mod model;
mod news;
mod page_row;
mod page_rows;
mod program;
mod screen;
#[cfg(test)]
mod tests;
mod tree_screen;
mod update;

pub use program::{TerminalEnd, TerminalOptions, run_terminal};
