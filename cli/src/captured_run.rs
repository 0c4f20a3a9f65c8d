//! One command line that this process runs for somebody who has no terminal: its answer and its
//! messages are kept, its progress is told, and it can be stopped.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use vellum_manager::{CommandEnd, CommandSink, CommandWatch, ProgressNote};
use vellum_store::{Progress, Store};

use crate::application;
use crate::invocation::Invocation;
use crate::output::progress::ProgressListener;
use crate::signals::Signals;
use crate::suggestion;

/// Bytes of an answer, and of messages, that are kept: more than a person reads.
const KEPT_LEN_MAX: usize = 256 << 10;
/// The number of the signal that a person sends who cancels.
const SIGINT: u8 = 2;
/// The exit code of a command for which the system has nothing left.
const FAILED_CODE: u8 = 1;

/// Runs `words`, which begin with a verb, on `store` with these variables.
pub(crate) fn run_captured(
    words: &[String],
    variables: &BTreeMap<OsString, OsString>,
    store: &Store,
    sink: CommandSink,
    watch: &Arc<CommandWatch>,
) -> CommandEnd {
    run_with_pipes(words, variables, store, sink, watch).unwrap_or_else(|error| CommandEnd {
        code: FAILED_CODE,
        messages: format!("error: the command cannot be run: {error}\n"),
        ..CommandEnd::default()
    })
}

fn run_with_pipes(
    words: &[String],
    variables: &BTreeMap<OsString, OsString>,
    store: &Store,
    sink: CommandSink,
    watch: &Arc<CommandWatch>,
) -> io::Result<CommandEnd> {
    let words: Vec<OsString> = std::iter::once("vellum")
        .chain(words.iter().map(String::as_str))
        .map(OsString::from)
        .collect();
    let (messages_reader, messages_writer) = io::pipe()?;
    let (output_reader, output_writer): (Option<PipeReader>, OwnedFd) = match sink {
        CommandSink::Kept => {
            let (reader, writer) = io::pipe()?;
            (Some(reader), writer.into())
        }
        CommandSink::Stream(writer) => (None, writer),
    };
    let streams = [
        File::open("/dev/null")?.into(),
        output_writer,
        messages_writer.into(),
        File::open("/")?.into(),
    ];
    let messages = keep_text(messages_reader)?;
    let output = output_reader.map(keep_text).transpose()?;
    let signals = Signals::default();
    let stopper = signals.clone();
    watch.set_stop(move || stopper.record_signal(SIGINT));
    let caller = Invocation::of_peer_process(
        words,
        variables.clone(),
        streams,
        rustix::process::getpid(),
        signals,
    );
    let code = run_on_store(
        caller.with_progress_listener(progress_listener(watch)),
        store,
    );
    // The command's ends of the pipes are closed, so the readers end.
    let text = |kept: thread::JoinHandle<String>| kept.join().unwrap_or_default();
    Ok(CommandEnd {
        code,
        output: output.map(text).unwrap_or_default(),
        messages: text(messages),
    })
}

fn run_on_store(caller: Invocation, store: &Store) -> u8 {
    let caller = Arc::new(caller);
    match suggestion::parse_command_line(&caller.words) {
        Ok(arguments) => application::execute_command(&arguments, &caller, Some(store.clone())),
        Err(misread) => application::print_misunderstanding(&misread, &caller),
    }
}

fn progress_listener(watch: &Arc<CommandWatch>) -> ProgressListener {
    let watch = Arc::clone(watch);
    ProgressListener::new(move |text, Progress { done, total }| {
        watch.note_progress(ProgressNote { text, done, total });
    })
}

/// Reads all that comes, so that nobody waits, and keeps the beginning of it.
fn keep_text(mut reader: PipeReader) -> io::Result<thread::JoinHandle<String>> {
    thread::Builder::new()
        .name("answer".to_owned())
        .spawn(move || {
            let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                let room = KEPT_LEN_MAX.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..len.min(room)]);
            }
            String::from_utf8_lossy(&kept).into_owned()
        })
}
