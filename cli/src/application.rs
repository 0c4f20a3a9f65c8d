//! From the start of the process to its exit code.

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, asks_for_json};
use crate::commands;
use crate::failure::{Failure, Outcome, USAGE_CODE};
use crate::output::report;
use crate::session::Session;
use crate::signals::Signals;

/// Does what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(explain(&error)),
    };
    let signals = Signals::listen();
    let code = match obey(&arguments, &signals) {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            let code = failure.code(signals.received());
            report::failure(&failure, code, arguments.global.wants_json(), arguments.global.verbose > 0);
            code
        }
    };
    ExitCode::from(code)
}

fn obey(arguments: &Arguments, signals: &Signals) -> Result<Outcome, Failure> {
    let mut session = Session::new(&arguments.global, signals.clone())?;
    let outcome = commands::run(&arguments.command, &mut session)?;
    session.output.flush()?;
    Ok(outcome)
}

/// Shows help, the version, or what is wrong with the command line.
fn explain(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // Nobody reads it any more, or it is on the screen.
        let _ = error.print();
        return 0;
    }
    report::usage(&error.render().to_string(), asks_for_json(std::env::args_os()));
    USAGE_CODE
}
