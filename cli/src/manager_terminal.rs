//! The manager at the caller's terminal, as commands start it.

use std::io::{self, BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vellum_manager::{Operations, TerminalEnd, TerminalOptions, run_terminal};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;
use crate::forest::TreeLetters;
use crate::invocation::Invocation;
use crate::manager_page::JOB_GRACE;
use crate::raw_terminal::RawTerminal;
use crate::time_zone;

/// Letters of a date and a time to the minute.
const MINUTE_LEN: usize = 16;

/// Messages of this process that are kept while the screen is the program's.
pub(crate) struct DivertedMessages {
    receiver: Receiver<String>,
    /// The caller whose standard error is the terminal.
    caller: Arc<Invocation>,
}

impl DivertedMessages {
    /// Has the messages of `session` come here.
    pub(crate) fn divert_from(session: &mut CommandContext) -> Result<Self, CommandFailure> {
        let fail = |error| CommandFailure::io_error("take messages aside", error);
        let (reader, writer) = io::pipe().map_err(fail)?;
        let (sender, receiver) = channel();
        thread::Builder::new()
            .name("messages".to_owned())
            .spawn(move || {
                let lines = BufReader::new(reader).lines().map_while(Result::ok);
                // It ends with the writers, or when nobody listens.
                lines
                    .map_while(|line| sender.send(line).ok())
                    .for_each(drop);
            })
            .map_err(fail)?;
        let aside = Invocation::of_process(session.signals.clone()).map_err(fail)?;
        let aside = Arc::new(aside.with_error_stream(writer.into()));
        let caller = std::mem::replace(&mut session.caller, aside);
        Ok(Self { receiver, caller })
    }

    /// Has them go to the terminal again: those that wait are for the program.
    pub(crate) fn end_diversion(self, session: &mut CommandContext) -> Receiver<String> {
        session.caller = self.caller;
        self.receiver
    }
}

/// Shows the manager of a store that this process opened for it.
pub(crate) fn run_in_process(
    operations: Arc<dyn Operations>,
    is_read_only: bool,
    notices: Receiver<String>,
    session: &CommandContext,
) -> Result<(), CommandFailure> {
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&panics);
    let hook = std::panic::take_hook();
    // The usual one would write into the screen.
    std::panic::set_hook(Box::new(move |fault| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(fault.to_string());
    }));
    let run = || {
        let _raw = RawTerminal::take_keys(&session.caller)?;
        run_on_screen(operations, is_read_only, notices, session)
    };
    let ran = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    let panics = std::mem::take(&mut *panics.lock().unwrap_or_else(PoisonError::into_inner));
    panics
        .iter()
        .for_each(|line| session.caller.print_error_line(line));
    match ran {
        Ok(ended) => tell_end(&ended?, session),
        Err(_) => {
            return Err(CommandFailure::with_hint(
                "the terminal program met a fault in vellum and was given up",
                "the store is as any other command would have left it; run it again",
            ));
        }
    }
    Ok(())
}

/// Shows the manager of a store that this process serves, at the terminal of another process, which
/// sends its keys.
pub(crate) fn run_for_caller(
    operations: Arc<dyn Operations>,
    is_read_only: bool,
    session: &CommandContext,
) -> Result<(), CommandFailure> {
    let (_, notices) = channel();
    let ended = run_on_screen(operations, is_read_only, notices, session)?;
    tell_end(&ended, session);
    Ok(())
}

fn run_on_screen(
    operations: Arc<dyn Operations>,
    is_read_only: bool,
    notices: Receiver<String>,
    session: &CommandContext,
) -> Result<TerminalEnd, CommandFailure> {
    let (caller, signals) = (&session.caller, session.signals.clone());
    let zone = session.time_zone().clone();
    let folder = caller.resolve_path(Path::new("."));
    let options = TerminalOptions {
        input: Arc::clone(caller.streams.input.file()),
        output: Box::new(caller.streams.output.clone()),
        window: Arc::clone(caller.streams.output.file()),
        is_stopped: Box::new(move || signals.is_stopped()),
        notices,
        read_only_reason: is_read_only.then(|| "it was started with --read-only".to_owned()),
        folder: folder.canonicalize().unwrap_or(folder),
        is_unicode: matches!(TreeLetters::of_caller(caller), TreeLetters::Unicode),
        has_colour: caller.variable("NO_COLOR").is_none(),
        format_time: Box::new(move |ms| {
            let local = time_zone::format_local_minute(&zone, ms).unwrap_or_default();
            // Without the offset, which is the same for all.
            local.get(..MINUTE_LEN).unwrap_or(&local).replace('T', " ")
        }),
        job_grace: JOB_GRACE,
    };
    run_terminal(operations, options)
        .map_err(|error| CommandFailure::io_error("draw on the terminal", error))
}

fn tell_end(end: &TerminalEnd, session: &CommandContext) {
    let caller = &session.caller;
    end.notices
        .iter()
        .for_each(|line| caller.print_error_line(line));
    if !end.has_ended_jobs {
        session.print_warning("a job did not stop in time, and was left behind");
    }
}
