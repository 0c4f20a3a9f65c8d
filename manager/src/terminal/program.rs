//! The program at a terminal: it reads keys, looks for news, does what the state wishes, and draws.
//! It decides nothing; that is `update`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui_core::layout::Size;
use ratatui_core::terminal::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use super::ansi_backend::{AnsiBackend, ENTER_SCREEN, LEAVE_SCREEN};
use super::key_press::{KeyDecoder, KeyPress};
use super::look::ScreenLook;
use super::model::{ScreenWords, TerminalAnswer, TerminalEffect, TerminalModel};
use super::page_rows::STRIP_CELLS;
use crate::actions::PlanPreview;
use crate::jobs::{JobOrder, JobTable};
use crate::news_look::{LOOK_PAUSE, NewsLooker, NewsState};
use crate::operations::{CommandSink, OperationFault, Operations};

/// The longest wait for a key: an escape that nothing follows for so long is a key of its own.
const KEY_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of keys that are taken at once: more than a person types, less than a pasted disk.
const KEYS_LEN_MAX: usize = 4096;
/// The size of a terminal that does not tell its own.
const USUAL_SIZE: (u16, u16) = (80, 24);
/// Notices that are kept for the end.
const NOTICES_MAX: usize = 100;

/// The terminal, and the choices of who sits at it.
pub struct TerminalOptions {
    /// The bytes of the keys, as the terminal sends them when it interprets none.
    pub input: Arc<File>,
    /// The screen.
    pub output: Box<dyn Write + Send>,
    /// The terminal that knows its size.
    pub window: Arc<File>,
    /// True once the program is to end.
    pub is_stopped: Box<dyn Fn() -> bool + Send>,
    /// Lines that the process has for people meanwhile.
    pub notices: Receiver<String>,
    /// The reason why nothing may be changed, beside what the store says itself.
    pub read_only_reason: Option<String>,
    /// The folder in which relative paths begin.
    pub folder: PathBuf,
    /// True if the terminal has all letters.
    pub is_unicode: bool,
    /// True if it may show colours.
    pub has_colour: bool,
    /// A moment, in milliseconds since 1970, on the clock of the person.
    pub format_time: Box<dyn Fn(u64) -> String + Send>,
    /// The longest wait for jobs at the end.
    pub job_grace: Duration,
}

/// The end of the program.
#[derive(Debug)]
pub struct TerminalEnd {
    /// True if all jobs have ended.
    pub has_ended_jobs: bool,
    /// The notices that came.
    pub notices: Vec<String>,
}

struct TerminalProgram {
    model: TerminalModel,
    operations: Arc<dyn Operations>,
    jobs: Arc<JobTable>,
    terminal: Terminal<AnsiBackend<Box<dyn Write + Send>>>,
    input: Arc<File>,
    window: Arc<File>,
    decoder: KeyDecoder,
    sender: Sender<TerminalAnswer>,
    answers: Receiver<TerminalAnswer>,
    notices: Receiver<String>,
    told: Vec<String>,
    looker: NewsLooker,
    looked: Option<NewsState>,
    looked_at: Instant,
    is_over: bool,
}

/// Shows a store at a terminal, and changes it, until the person quits or the process is to end.
/// The terminal must interpret nothing itself (keys come as they are pressed).
pub fn run_terminal(
    operations: Arc<dyn Operations>,
    options: TerminalOptions,
) -> io::Result<TerminalEnd> {
    let (is_stopped, job_grace) = (options.is_stopped, options.job_grace);
    let options = TerminalOptions {
        is_stopped: Box::new(|| false),
        ..options
    };
    let mut program = TerminalProgram::new(operations, options)?;
    let ran = program.run_program(is_stopped.as_ref());
    let (jobs, notices) = (Arc::clone(&program.jobs), program.take_notices());
    // The screen is as before, also while jobs are waited for.
    drop(program);
    let has_ended_jobs = jobs.stop_all(job_grace);
    ran.map(|()| TerminalEnd {
        has_ended_jobs,
        notices,
    })
}

impl Drop for TerminalProgram {
    fn drop(&mut self) {
        // A terminal that takes nothing has gone.
        let _ = self.terminal.backend_mut().write_sequence(LEAVE_SCREEN);
    }
}

impl TerminalProgram {
    fn new(operations: Arc<dyn Operations>, options: TerminalOptions) -> io::Result<Self> {
        let size = window_size(&options.window);
        let mut facts = operations.store_facts();
        facts.read_only_reason = options.read_only_reason.or(facts.read_only_reason);
        let formatter = Arc::clone(&operations);
        let words = ScreenWords {
            format_bytes: Box::new(move |bytes| formatter.format_bytes(bytes)),
            format_time: options.format_time,
        };
        let look = ScreenLook {
            is_unicode: options.is_unicode,
            has_colour: options.has_colour,
        };
        let mut backend = AnsiBackend::new(options.output, Size::new(size.0, size.1));
        backend.write_sequence(ENTER_SCREEN)?;
        let (sender, answers) = channel();
        Ok(Self {
            model: TerminalModel::new(facts, look, words, options.folder, size),
            looker: NewsLooker::new(operations.as_ref()),
            operations,
            jobs: Arc::default(),
            terminal: Terminal::new(backend)?,
            input: options.input,
            window: options.window,
            decoder: KeyDecoder::default(),
            sender,
            answers,
            notices: options.notices,
            told: Vec::new(),
            looked: None,
            looked_at: Instant::now(),
            is_over: false,
        })
    }

    fn run_program(&mut self, is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
        let mut is_new = true;
        while !self.is_over && !is_stopped() {
            is_new |= self.fit_window();
            is_new |= self.look_for_news();
            is_new |= self.take_answers();
            is_new |= self.load_node();
            if is_new {
                let model = &self.model;
                self.terminal
                    .draw(|frame| model.draw_screen(frame.buffer_mut()))?;
            }
            is_new = self.take_keys()?;
        }
        Ok(())
    }

    /// Takes the size of the window; true if it is another one.
    fn fit_window(&mut self) -> bool {
        let size = window_size(&self.window);
        if size == self.model.size {
            return false;
        }
        self.model.size = size;
        self.terminal
            .backend_mut()
            .set_size(Size::new(size.0, size.1));
        true
    }

    /// Looks for changes; true if there are any.
    fn look_for_news(&mut self) -> bool {
        if self.looked.is_some() && self.looked_at.elapsed() < LOOK_PAUSE {
            return false;
        }
        self.looked_at = Instant::now();
        let news = self.looker.look(self.operations.as_ref(), &self.jobs);
        let before = self.looked.replace(news);
        let is_new = |part: fn(&NewsState) -> u64| before.as_ref().map(part) != Some(part(&news));
        if is_new(|news| news.tree) {
            let lines = Arc::new(self.operations.tree_lines());
            let machines = self.operations.machine_facts();
            self.model
                .take_answer(TerminalAnswer::Tree(lines, machines));
            self.model.node = None;
        }
        if is_new(|news| news.tree) || is_new(|news| news.jobs) {
            let (jobs, shells) = (self.jobs.list_jobs(), self.operations.shell_commands());
            self.model.take_answer(TerminalAnswer::Jobs(jobs, shells));
        }
        if is_new(|news| news.guest_rate) {
            self.model
                .take_answer(TerminalAnswer::GuestRate(news.guest_rate));
        }
        before != Some(news)
    }

    fn take_answers(&mut self) -> bool {
        let mut is_new = false;
        while let Ok(answer) = self.answers.try_recv() {
            self.model.take_answer(answer);
            is_new = true;
        }
        while let Ok(line) = self.notices.try_recv() {
            if self.told.len() < NOTICES_MAX {
                self.told.push(line.clone());
            }
            self.model.take_answer(TerminalAnswer::Notice(line));
            is_new = true;
        }
        is_new
    }

    fn take_notices(&mut self) -> Vec<String> {
        self.take_answers();
        std::mem::take(&mut self.told)
    }

    /// Loads the facts of the node under the cursor, unless they are there.
    fn load_node(&mut self) -> bool {
        let name = self.model.cursor_name().map(str::to_owned);
        let loaded = self.model.node.as_ref().map(|(key, _)| key);
        if loaded == name.as_ref() {
            return false;
        }
        let facts = |name: String| {
            let facts = self.operations.node_facts(&name);
            (name, facts)
        };
        self.model.node = name.map(facts);
        true
    }

    /// Waits a moment for keys; true if any came.
    fn take_keys(&mut self) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: KEY_PAUSE.subsec_nanos().into(),
        };
        let keys = match poll(
            &mut [PollFd::new(&*self.input, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) => self.decoder.take_pause(),
            Err(rustix::io::Errno::INTR) => Vec::new(),
            Err(errno) => return Err(errno.into()),
            Ok(_) => self.read_keys()?,
        };
        for key in &keys {
            let effects = self.model.handle_key(*key);
            self.load_node();
            effects
                .into_iter()
                .for_each(|effect| self.do_effect(effect));
        }
        Ok(!keys.is_empty())
    }

    fn read_keys(&mut self) -> io::Result<Vec<KeyPress>> {
        let mut bytes = [0; KEYS_LEN_MAX];
        match (&*self.input).read(&mut bytes) {
            // The terminal has gone.
            Ok(0) => {
                self.is_over = true;
                Ok(Vec::new())
            }
            Ok(len) => Ok(self.decoder.take_bytes(&bytes[..len])),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn do_effect(&mut self, effect: TerminalEffect) {
        match effect {
            TerminalEffect::Quit => self.is_over = true,
            TerminalEffect::Redraw => drop(self.terminal.clear()),
            TerminalEffect::StopJob(number) => {
                if let Some(job) = self.jobs.find_job(number) {
                    job.watch.stop_command();
                }
            }
            TerminalEffect::BeginJob {
                title,
                words,
                next,
                has_long_answer,
            } => {
                let order = JobOrder {
                    title,
                    words,
                    sink: CommandSink::Kept,
                    next,
                    download: None,
                    aftermath: None,
                };
                let begun = self.jobs.begin_job(&self.operations, order);
                let begun = begun
                    .map(|job| job.number)
                    .map_err(|refused| refused.to_string());
                self.model
                    .take_answer(TerminalAnswer::Begun(begun, has_long_answer));
            }
            TerminalEffect::Preview { number, words } => self.ask_aside(move |operations| {
                let preview = PlanPreview::run_preview(operations, &words);
                TerminalAnswer::Preview(number, preview)
            }),
            TerminalEffect::CountUsage => {
                self.ask_aside(|operations| TerminalAnswer::Usage(operations.count_usage()));
            }
            TerminalEffect::ReadBackups => {
                self.ask_aside(|operations| {
                    TerminalAnswer::Backups(operations.known_repositories())
                });
            }
            TerminalEffect::ReadGuest(name) => self.ask_aside(move |operations| {
                let parts = operations.guest_parts(&name);
                TerminalAnswer::Guest(name, parts)
            }),
            TerminalEffect::Compare { from, to } => self.ask_aside(move |operations| {
                let changed = operations.changed_cells(&from, &to, STRIP_CELLS);
                TerminalAnswer::Changed(to, changed)
            }),
        }
    }

    /// Asks what may last, beside the keys.
    fn ask_aside(&mut self, ask: impl FnOnce(&dyn Operations) -> TerminalAnswer + Send + 'static) {
        let (operations, sender) = (Arc::clone(&self.operations), self.sender.clone());
        let asked = thread::Builder::new()
            .name("question".to_owned())
            .spawn(move || {
                // A program that has ended hears nothing.
                let _ = sender.send(ask(operations.as_ref()));
            });
        if let Err(error) = asked {
            let fault = OperationFault {
                message: format!("the system gives no thread: {error}"),
                hint: None,
            };
            self.model.take_answer(TerminalAnswer::Usage(Err(fault)));
        }
    }
}

fn window_size(window: &File) -> (u16, u16) {
    let size = tcgetwinsize(window);
    let size = size.map_or((0, 0), |size| (size.ws_col, size.ws_row));
    if size.0 == 0 || size.1 == 0 {
        USUAL_SIZE
    } else {
        size
    }
}
