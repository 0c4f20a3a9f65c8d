//! The run of the process, from its start to its exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use vellum_store::Store;

use crate::arguments::{Arguments, asks_for_json};
use crate::command_context::CommandContext;
use crate::commands::{self, Command};
use crate::control::{self, ForwardedInput};
use crate::deadline;
use crate::failure::{CommandFailure, USAGE_CODE};
use crate::invocation::Invocation;
use crate::limits;
use crate::lock_wait::LockWait;
use crate::output::report;
use crate::raw_terminal::RawTerminal;
use crate::repository::password::PASSWORD_VARIABLE;
use crate::signals::Signals;
use crate::suggestion::{self, Misunderstanding};
use crate::systemd;

/// Runs the command line.
pub(crate) fn run_application() -> ExitCode {
    limits::begin_with_one_heap();
    limits::raise_descriptors();
    let Ok(caller) = Invocation::of_process(Signals::install_handlers()).map(Arc::new) else {
        return ExitCode::FAILURE;
    };
    let arguments = match suggestion::parse_command_line(&caller.words) {
        Ok(arguments) => arguments,
        Err(misread) => return ExitCode::from(print_misunderstanding(&misread, &caller)),
    };
    ExitCode::from(execute_command(&arguments, &caller, None))
}

/// Runs the command in `arguments`, reports a failure, and returns the exit code. `served` is the
/// store, if this process has it open for others.
pub(crate) fn execute_command(
    arguments: &Arguments,
    caller: &Arc<Invocation>,
    served: Option<Store>,
) -> u8 {
    match dispatch_command(arguments, caller, served) {
        Ok(code) => code,
        Err(failure) => {
            let failure = suggestion::explain_failure(failure, &caller.words);
            let signal = caller.signals.received_signal();
            let code = if arguments.command.is_comparison() {
                failure.code_of_comparison(signal)
            } else {
                failure.exit_code(signal)
            };
            report::print_failure(
                caller,
                &failure,
                code,
                arguments.global.wants_json(),
                arguments.global.verbose > 0,
            );
            code
        }
    }
}

/// Tries the command until the store is free for it, if the caller wants to wait. A command that is
/// told that the store is in use has done nothing yet.
fn dispatch_command(
    arguments: &Arguments,
    caller: &Arc<Invocation>,
    served: Option<Store>,
) -> Result<u8, CommandFailure> {
    let mut wait = LockWait::new(caller, &arguments.global);
    let dir = arguments.global.store_folder(caller);
    let is_forwarded = arguments.command.is_done_by_owner();
    loop {
        match attempt_command(arguments, caller, served.clone()) {
            Err(failure) if served.is_none() => {
                wait.await_release(failure, dir.as_deref(), is_forwarded)?;
            }
            done => return done,
        }
    }
}

fn attempt_command(
    arguments: &Arguments,
    caller: &Arc<Invocation>,
    served: Option<Store>,
) -> Result<u8, CommandFailure> {
    let is_server = served.is_some();
    let mut session = CommandContext::new(&arguments.global, caller, served)?;
    if !is_server
        && arguments.command.is_done_by_owner()
        && let Some(code) = forward_command(arguments, caller, session.store_dir()?)?
    {
        return Ok(code);
    }
    if !is_server && arguments.command.may_be_cut_off() {
        deadline::watch(caller);
    }
    let ran = commands::run_command(&arguments.command, &mut session);
    let flushed = session.output.flush();
    session.close_store();
    let outcome = ran?;
    flushed?;
    Ok(outcome.exit_code())
}

/// Sends the command to the store's server, if there is one. The server cannot ask at this
/// terminal, so its questions are asked before.
fn forward_command(
    arguments: &Arguments,
    caller: &Invocation,
    dir: &Path,
) -> Result<Option<u8>, CommandFailure> {
    let is_served = Store::control_socket(dir).exists();
    let password = if is_served {
        arguments.command.ask_password(caller)?
    } else {
        None
    };
    let variable = password
        .as_ref()
        .map(|password| (PASSWORD_VARIABLE, password.as_str()));
    let needs_terminal = is_served && arguments.command.needs_terminal();
    let raw = needs_terminal
        .then(|| RawTerminal::take_keys(caller))
        .transpose()?;
    let input = forwarded_input(&arguments.command, caller)?;
    let forwarded = control::forward_to_server(dir, caller, variable, &input);
    if let (Err(_), Some(raw)) = (&forwarded, &raw) {
        raw.restore_screen();
    }
    forwarded
}

fn forwarded_input(
    command: &Command,
    caller: &Invocation,
) -> Result<ForwardedInput, CommandFailure> {
    if command.reads_input() {
        return Ok(ForwardedInput::Read);
    }
    if !command.listens() {
        return Ok(ForwardedInput::Unread);
    }
    let socket = systemd::handed_socket(caller).map_err(systemd::socket_failure)?;
    Ok(socket.map_or(ForwardedInput::Unread, ForwardedInput::Socket))
}

/// Shows help, the version, or what is wrong with the command line.
pub(crate) fn print_misunderstanding(misread: &Misunderstanding, caller: &Invocation) -> u8 {
    if !misread.error.use_stderr() {
        // A print that fails has lost its reader.
        let _ = misread.error.print();
        return 0;
    }
    report::print_usage_error(
        caller,
        &misread.error.render().to_string(),
        misread.advice.as_deref(),
        asks_for_json(&caller.words),
    );
    USAGE_CODE
}
