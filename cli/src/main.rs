//! The `vellum` command.
//!
//! Each verb has one file in `commands`; `output` gives every answer its form. The store decides
//! what a verb means.
#![forbid(unsafe_code)]

mod application;
mod arguments;
mod caller;
mod chain_files;
mod chains;
mod commands;
mod control;
mod deadline;
mod description;
mod disk_argument;
mod disk_target;
mod endpoint;
mod failure;
mod file_exports;
mod file_facts;
mod forest;
mod healing;
mod keep;
mod limits;
mod lookup;
mod output;
mod pace;
mod patience;
mod picture;
mod report;
mod repository;
mod scrubber;
mod service;
mod session;
mod signals;
mod size;
mod skip_free;
mod source_format;
mod source_pair;
mod stream;
mod suggestion;
mod systemd;
mod tender;
mod zone;

fn main() -> std::process::ExitCode {
    application::run()
}
