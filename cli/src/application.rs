//! The run of the process, from its start to its exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use vellum_store::Store;

use crate::arguments::{Arguments, asks_for_json};
use crate::caller::Caller;
use crate::commands;
use crate::control;
use crate::deadline;
use crate::failure::{Failure, USAGE_CODE};
use crate::limits;
use crate::output::report;
use crate::repository::password::PASSWORD_VARIABLE;
use crate::session::Session;
use crate::signals::Signals;
use crate::suggestion;

/// Runs the command line.
pub(crate) fn run() -> ExitCode {
    limits::begin_with_one_heap();
    limits::raise_descriptors();
    let Ok(caller) = Caller::of_process(Signals::listen()).map(Arc::new) else {
        return ExitCode::FAILURE;
    };
    let arguments = match Arguments::try_parse_from(&caller.words) {
        Ok(arguments) => arguments,
        Err(mut error) => {
            suggestion::make_harmless(&mut error);
            return ExitCode::from(explain(&error, &caller));
        }
    };
    ExitCode::from(execute(&arguments, &caller, None))
}

/// Runs the command in `arguments`, reports a failure, and returns the exit code. `served` is the
/// store, if this process has it open for others.
pub(crate) fn execute(arguments: &Arguments, caller: &Arc<Caller>, served: Option<Store>) -> u8 {
    match obey(arguments, caller, served) {
        Ok(code) => code,
        Err(failure) => {
            let signal = caller.signals.received();
            let code = if arguments.command.compares() {
                failure.code_of_comparison(signal)
            } else {
                failure.code(signal)
            };
            report::failure(
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

fn obey(arguments: &Arguments, caller: &Arc<Caller>, served: Option<Store>) -> Result<u8, Failure> {
    let is_server = served.is_some();
    let mut session = Session::new(&arguments.global, caller, served)?;
    if !is_server
        && arguments.command.is_done_by_owner()
        && let Some(code) = forward(arguments, caller, session.store_dir()?)?
    {
        return Ok(code);
    }
    if !is_server && arguments.command.may_be_cut_off() {
        deadline::watch(caller);
    }
    let ran = commands::run(&arguments.command, &mut session);
    let flushed = session.output.flush();
    session.close_store();
    let outcome = ran?;
    flushed?;
    Ok(outcome.code())
}

/// Sends the command to the store's server, if there is one. The server cannot ask at this
/// terminal, so its questions are asked before.
fn forward(arguments: &Arguments, caller: &Caller, dir: &Path) -> Result<Option<u8>, Failure> {
    let is_served = Store::control_socket(dir).exists();
    let password = if is_served {
        arguments.command.ask(caller)?
    } else {
        None
    };
    let variable = password
        .as_ref()
        .map(|password| (PASSWORD_VARIABLE, password.as_str()));
    control::forward(dir, caller, variable, arguments.command.reads_input())
}

/// Shows help, the version, or what is wrong with the command line.
fn explain(error: &clap::Error, caller: &Caller) -> u8 {
    if !error.use_stderr() {
        // A print that fails has lost its reader.
        let _ = error.print();
        return 0;
    }
    report::usage(
        caller,
        &error.render().to_string(),
        asks_for_json(&caller.words),
    );
    USAGE_CODE
}
