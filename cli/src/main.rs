//! The `vellum` command.
//!
//! Each verb has one file in `commands`; `output` gives every answer its form. The store decides
//! what a verb means.
#![forbid(unsafe_code)]

mod application;
mod arguments;
mod captured_run;
mod chain_files;
mod chains;
mod command_context;
mod command_output;
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
mod interruptible_stream;
mod invocation;
mod limits;
mod lock_wait;
mod lookup;
mod maintenance_thread;
mod manager_operations;
mod manager_page;
mod manager_password;
mod manager_terminal;
mod manual_page;
mod output;
mod pace;
mod picture;
mod progress_listener;
mod raw_terminal;
mod report;
mod repository;
mod retention_args;
mod scrubber;
mod service;
mod signals;
mod size;
mod skip_free;
mod source_format;
mod source_pair;
mod stream;
mod suggestion;
mod systemd;
mod time_zone;

fn main() -> std::process::ExitCode {
    application::run_application()
}
