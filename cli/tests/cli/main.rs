//! The `vellum` command as a person and a script meet it: what it prints, how it exits, and what it
//! leaves behind when it is stopped or refused.

mod backup;
mod bad_input;
mod bucket;
mod chains;
mod completions;
mod damage;
mod deep;
mod delta;
mod documents;
mod exit_codes;
mod files;
mod foreign;
mod formats;
mod full_disk;
mod guests;
mod healing;
mod immutable;
mod interruptions;
mod limits;
mod machines_import;
mod manager;
mod mistakes;
mod parity;
mod power_cuts;
mod repair;
mod report;
mod sandbox;
mod selections;
mod served;
mod server;
mod skip_free;
mod transcripts;
mod tree;
mod waiting;
mod written;
