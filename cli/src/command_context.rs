//! The context of a verb: the store, the output, and the signals that may interrupt it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use vellum_store::{Access, Progress, Store, StoreError, Watch};

use crate::arguments::global::GlobalArgs;
use crate::failure::CommandFailure;
use crate::healing;
use crate::invocation::{Invocation, Stream};
use crate::output::progress::{Meter, ProgressUnit, ProgressWish};
use crate::output::{Output, OutputLayout, report};
use crate::signals::Signals;
use crate::time_zone;

/// Bytes of the command line that others are told when they find the store in use.
const COMMAND_LEN_MAX: usize = 150;
/// The longest wait for parity after a stop was asked for.
const HURRY: Duration = Duration::from_secs(3);
/// The longest wait for threads that have ended their work to let go of the store.
const OWNERS_GRACE: Duration = Duration::from_secs(1);

/// One run of a command.
pub(crate) struct CommandContext {
    pub(crate) caller: Arc<Invocation>,
    pub(crate) output: Output,
    pub(crate) signals: Signals,
    /// The store, if this process has it open for others.
    served: Option<Store>,
    /// The store, once this process opened it for this command.
    opened: Mutex<Option<Store>>,
    store: Option<PathBuf>,
    progress: ProgressWish,
    verbose: bool,
}

impl CommandContext {
    pub(crate) fn new(
        global: &GlobalArgs,
        caller: &Arc<Invocation>,
        served: Option<Store>,
    ) -> Result<Self, CommandFailure> {
        let output = Output::new(
            global.output_layout(),
            global.size_units(caller)?,
            global.quiet,
            if global.utc {
                TimeZone::UTC
            } else {
                time_zone::zone_of_caller(caller)
            },
            &caller.streams.output,
        );
        let progress = ProgressWish {
            always: global.progress,
            fps: progress_frequency(caller)?,
            diverted: false,
        };
        let signals = caller.signals.clone();
        Ok(Self {
            caller: Arc::clone(caller),
            output,
            signals,
            served,
            opened: Mutex::default(),
            store: global.store_folder(caller),
            progress,
            verbose: global.verbose > 0,
        })
    }

    /// True if this process has the store open for others.
    pub(crate) fn is_served(&self) -> bool {
        self.served.is_some()
    }

    /// The folder of the store, which need not be there.
    pub(crate) fn store_dir(&self) -> Result<&Path, CommandFailure> {
        let missing = || {
            CommandFailure::usage_error(
                "no store is named, and there is no home folder to find it in",
                "name one with --store",
            )
        };
        let served = self.served.as_ref().map(Store::dir);
        served.or(self.store.as_deref()).ok_or_else(missing)
    }

    /// The zone of the clock that people are shown times on, and by which rules count days.
    pub(crate) fn time_zone(&self) -> &TimeZone {
        &self.output.zone
    }

    /// The command line, short and harmless.
    pub(crate) fn command_line(&self) -> String {
        command_line(&self.caller.words)
    }

    /// The store, to look at: also while another process writes.
    pub(crate) fn open_to_read(&self) -> Result<Store, CommandFailure> {
        let store = self.open_store(Access::ReadOnly)?;
        self.warn_of_damage(&store);
        Ok(store)
    }

    /// The store, to change.
    pub(crate) fn open_to_write(&self) -> Result<Store, CommandFailure> {
        let store = self.open_store(Access::ReadWrite)?;
        self.warn_of_damage(&store);
        Ok(store)
    }

    /// The store, for something that reads, and changes what it can: to change, or, if it is
    /// damaged or nobody can write where it is, to look at. Nobody else changes it meanwhile.
    pub(crate) fn open_to_serve(&self) -> Result<Store, CommandFailure> {
        if self.served.is_some() {
            return self.open_to_write();
        }
        let command = command_line(&self.caller.words);
        let (store, refused) = Store::open_to_serve(self.store_dir()?, &command)?;
        healing::attach_sources(&store)?;
        self.keep_store(&store);
        match refused {
            Some(refused) => self.print_warning(&format!("it can only be read: {refused}")),
            None => self.warn_of_damage(&store),
        }
        Ok(store)
    }

    /// Warns of damage found when `store` was opened, unless it is the server's, which warned
    /// already.
    fn warn_of_damage(&self, store: &Store) {
        if let Some(impairment) = store.gravest_fault().filter(|_| self.served.is_none()) {
            self.print_warning(&impairment.to_string());
        }
    }

    fn open_store(&self, access: Access) -> Result<Store, CommandFailure> {
        if let Some(store) = &self.served {
            // So that what guests were told is written is seen. A full disk may forbid it, and
            // must not forbid to delete.
            let _ = store.flush_attached();
            Ok(store.clone())
        } else {
            let words = command_line(&self.caller.words);
            let store = Store::open_dir(self.store_dir()?, access, &words)?;
            healing::attach_sources(&store)?;
            self.keep_store(&store);
            Ok(store)
        }
    }

    /// Keeps `store` until the command's work on it ends.
    fn keep_store(&self, store: &Store) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.clone());
    }

    /// Ends the command's work on the store: parity comes up to date, and people are told what it
    /// healed.
    pub(crate) fn close_store(&self) {
        let opened = self
            .opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(store) = opened else {
            return;
        };
        if store.is_writable() {
            let meter = self.watch_bytes("protecting");
            let protected = store.protect_all(&GraceWatch::new(&meter, &self.signals));
            drop(meter);
            match protected {
                Ok(report) if report.tables_left > 0 => self.print_warning(
                    "not everything is protected by parity; vellum parity status says more",
                ),
                Ok(_) | Err(StoreError::Interrupted) => {}
                Err(error) => self.print_warning(&format!("parity is not up to date: {error}")),
            }
        }
        self.tell_healed(&store);
        store.close_last(OWNERS_GRACE);
    }

    /// Shows what parity healed.
    fn tell_healed(&self, store: &Store) {
        store
            .take_parity_notices()
            .iter()
            .for_each(|text| self.print_warning(text));
    }

    /// Takes the state that the store shows for the present one.
    pub(crate) fn accept_earlier_state(&self) -> Result<(), CommandFailure> {
        Ok(Store::accept_earlier_state(
            self.store_dir()?,
            &command_line(&self.caller.words),
        )?)
    }

    /// Standard output will carry an image: answers and messages go to standard error.
    pub(crate) fn divert_output(&mut self) {
        self.output.divert_to(&self.caller.streams.error);
        self.progress.diverted = true;
    }

    /// Standard output, to carry a disk from now on.
    pub(crate) fn disk_output(&mut self) -> Result<Stream, CommandFailure> {
        let output = self.caller.streams.output.clone();
        if output.file().is_terminal() {
            return Err(CommandFailure::usage_error(
                "a disk is nothing for a terminal",
                "name a file, or send standard output somewhere",
            ));
        }
        self.divert_output();
        Ok(output)
    }

    /// Watches work on `label` that is counted in bytes.
    pub(crate) fn watch_bytes(&self, label: &str) -> Meter {
        self.progress_meter(label, ProgressUnit::Bytes(self.output.units))
    }

    /// Watches work on `label` that is counted in records.
    pub(crate) fn watch_records(&self, label: &str) -> Meter {
        self.progress_meter(label, ProgressUnit::Things)
    }

    fn progress_meter(&self, label: &str, counts: ProgressUnit) -> Meter {
        Meter::new(
            label,
            counts,
            &self.caller,
            &self.output,
            self.progress,
            self.signals.clone(),
        )
    }

    /// Warns of a fault that does not end the command.
    pub(crate) fn print_warning(&self, text: &str) {
        report::print_warning(
            &self.caller,
            text,
            self.output.layout != OutputLayout::Human,
        );
    }

    /// Takes lines about what happens, for people who want to hear more.
    pub(crate) fn event_log(&self) -> Option<Arc<dyn Fn(&str) + Send + Sync>> {
        let (caller, layout) = (Arc::clone(&self.caller), self.output.layout);
        self.verbose
            .then(|| Arc::new(move |line: &str| report::print_event(&caller, layout, line)) as _)
    }

    /// Shows people a notice that was not asked for.
    pub(crate) fn print_notice(&self, text: &str) {
        if !self.output.quiet && self.output.layout == OutputLayout::Human {
            report::print_notice(&self.caller, text);
        }
    }
}

/// Watches what follows a command's own work: who asks to stop waits a moment for it.
struct GraceWatch<'m> {
    meter: &'m Meter,
    signals: &'m Signals,
    asked: OnceLock<Instant>,
}

impl<'m> GraceWatch<'m> {
    fn new(meter: &'m Meter, signals: &'m Signals) -> Self {
        Self {
            meter,
            signals,
            asked: OnceLock::new(),
        }
    }
}

impl Watch for GraceWatch<'_> {
    fn report_progress(&self, progress: Progress) {
        self.meter.report_progress(progress);
    }

    fn is_cancelled(&self) -> bool {
        self.signals.received_signal() != 0
            && self.asked.get_or_init(Instant::now).elapsed() > HURRY
    }
}

/// The frequency of progress that the person asked for, if any.
fn progress_frequency(caller: &Invocation) -> Result<Option<f64>, CommandFailure> {
    let Some(text) = caller.variable("VELLUM_PROGRESS_FPS") else {
        return Ok(None);
    };
    let fps = text
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|fps: &f64| fps.is_finite() && *fps >= 0.0);
    fps.map(Some).ok_or_else(|| {
        CommandFailure::usage_error(
            format!("VELLUM_PROGRESS_FPS is \"{}\"", text.display()),
            "it is a number of times a second, 0 for never",
        )
    })
}

/// The command line, short and harmless: it is kept in a file and shown to others.
pub(crate) fn command_line(words: &[OsString]) -> String {
    let words = words
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().escape_default().to_string());
    let mut line = std::iter::once("vellum".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ");
    line.truncate(COMMAND_LEN_MAX);
    line
}
