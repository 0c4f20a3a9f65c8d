//! The state of the terminal program: what it knows of the store, and where the person is in it.
//! It reads no key and draws nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::action_form::ActionForm;
use super::key_table::{KeyScope, ScreenPage};
use super::look::ScreenLook;
use super::page_row::PageRow;
use crate::actions::{ActionInput, PlanPreview, PlannedAction};
use crate::jobs::CommandJob;
use crate::operations::{
    ChangedCells, GuestPart, MachineFacts, NodeFacts, NodeKind, OperationFault, RepositoryFacts,
    ShellCommand, StoreFacts, StoreUsage, TreeLine,
};
use crate::tree_view::{ShownLine, TreeWish};

/// The width from which the details stand beside the tree.
const BESIDE_WIDTH: u16 = 120;
/// The smallest screen on which something is drawn.
pub(crate) const SMALLEST: (u16, u16) = (40, 10);
/// Rows that are no page: the bar above, the line of messages and that of keys below.
const FRAME_ROWS: u16 = 3;

/// The way that bytes and moments are told to this person.
pub(crate) struct ScreenWords {
    pub(crate) format_bytes: Box<dyn Fn(u64) -> String + Send>,
    /// Takes milliseconds since 1970.
    pub(crate) format_time: Box<dyn Fn(u64) -> String + Send>,
}

/// The part of the state that a person changes with keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TerminalView {
    pub(crate) page: ScreenPage,
    /// The line of the tree under the cursor.
    pub(crate) cursor: usize,
    /// True if the details have the keys.
    pub(crate) is_in_details: bool,
    /// True if the details have the whole screen.
    pub(crate) is_zoomed: bool,
    pub(crate) details_top: usize,
    /// The row under the cursor on another page.
    pub(crate) row: usize,
    /// The job whose answer is shown.
    pub(crate) answer: Option<u64>,
    pub(crate) answer_top: usize,
    pub(crate) wish: TreeWish,
    pub(crate) closed: BTreeSet<String>,
    pub(crate) marked: BTreeSet<String>,
    pub(crate) dialog: Option<ScreenDialog>,
}

/// Something that has all keys until it is closed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ScreenDialog {
    /// A search, and the one before it.
    Search {
        text: String,
        before: String,
    },
    /// Keys of the actions that fit, with what they are done to, and the one under the cursor.
    Menu {
        actions: Vec<&'static str>,
        cursor: usize,
    },
    Form(ActionForm),
    Plan(PlanSheet),
    Help {
        top: usize,
    },
    /// The question whether to quit while so many jobs run.
    Quit {
        running: usize,
    },
}

/// The plan of an action, before it is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanSheet {
    pub(crate) action: &'static str,
    pub(crate) input: ActionInput,
    pub(crate) planned: PlannedAction,
    /// The number of the preview that is waited for.
    pub(crate) number: u64,
    pub(crate) preview: Option<PlanPreview>,
    pub(crate) top: usize,
}

/// A message in the status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScreenMessage {
    pub(crate) text: String,
    pub(crate) kind: MessageKind,
}

/// The weight of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Note,
    Warning,
    Error,
}

/// A wish of the program to whoever runs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TerminalEffect {
    Quit,
    Redraw,
    /// Asks a command for its plan.
    Preview {
        number: u64,
        words: Vec<String>,
    },
    BeginJob {
        title: String,
        words: Vec<String>,
        next: Option<String>,
        has_long_answer: bool,
    },
    StopJob(u64),
    CountUsage,
    ReadBackups,
    Compare {
        from: String,
        to: String,
    },
    /// Reads the file systems of a disk.
    ReadGuest(String),
}

/// The effects of one key.
pub(crate) type TerminalEffects = Vec<TerminalEffect>;

/// News for the program, beside keys.
pub(crate) enum TerminalAnswer {
    Tree(Arc<Vec<TreeLine>>, Vec<MachineFacts>),
    Jobs(Vec<Arc<CommandJob>>, Vec<ShellCommand>),
    Preview(u64, PlanPreview),
    /// The number of the job that was begun, or the reason why none was.
    Begun(Result<u64, String>, bool),
    Usage(Result<StoreUsage, OperationFault>),
    Backups(Vec<RepositoryFacts>),
    Changed(String, Result<ChangedCells, OperationFault>),
    Guest(String, Result<Vec<GuestPart>, OperationFault>),
    GuestRate(u64),
    /// A line that the process has for people.
    Notice(String),
}

/// A job that was begun here, and is told of when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AwaitedJob {
    pub(crate) number: u64,
    pub(crate) has_long_answer: bool,
}

/// All of the state.
pub(crate) struct TerminalModel {
    pub(crate) view: TerminalView,
    pub(crate) look: ScreenLook,
    pub(crate) words: ScreenWords,
    /// Columns and rows.
    pub(crate) size: (u16, u16),
    pub(crate) facts: StoreFacts,
    /// The folder in which relative paths begin.
    pub(crate) folder: PathBuf,
    pub(crate) lines: Arc<Vec<TreeLine>>,
    pub(crate) shown: Vec<ShownLine>,
    /// The facts of the node under the cursor, by its key.
    pub(crate) node: Option<(String, Result<NodeFacts, OperationFault>)>,
    pub(crate) machines: Vec<MachineFacts>,
    pub(crate) jobs: Vec<Arc<CommandJob>>,
    pub(crate) shells: Vec<ShellCommand>,
    pub(crate) usage: Option<StoreUsage>,
    pub(crate) is_counting: bool,
    pub(crate) backups: Option<Vec<RepositoryFacts>>,
    pub(crate) is_reading_backups: bool,
    pub(crate) changed: Option<(String, ChangedCells)>,
    pub(crate) guest: Option<(String, Vec<GuestPart>)>,
    pub(crate) guest_rate: u64,
    pub(crate) message: Option<ScreenMessage>,
    pub(crate) awaited: Vec<AwaitedJob>,
    pub(crate) plans: u64,
    /// The name that the cursor goes to once the tree has it.
    pub(crate) next: Option<String>,
}

/// The parts of the screen: first row, rows, first column, columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScreenPart {
    pub(crate) y: u16,
    pub(crate) height: u16,
    pub(crate) x: u16,
    pub(crate) width: u16,
}

/// The places of the tree and its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScreenLayout {
    /// The tree with its head, or another page.
    pub(crate) main: ScreenPart,
    pub(crate) details: Option<ScreenPart>,
}

impl TerminalModel {
    /// The store with nothing known of it yet.
    pub(crate) fn new(
        facts: StoreFacts,
        look: ScreenLook,
        words: ScreenWords,
        folder: PathBuf,
        size: (u16, u16),
    ) -> Self {
        Self {
            view: TerminalView::default(),
            look,
            words,
            size,
            facts,
            folder,
            lines: Arc::default(),
            shown: Vec::new(),
            node: None,
            machines: Vec::new(),
            jobs: Vec::new(),
            shells: Vec::new(),
            usage: None,
            is_counting: false,
            backups: None,
            is_reading_backups: false,
            changed: None,
            guest: None,
            guest_rate: 0,
            message: None,
            awaited: Vec::new(),
            plans: 0,
            next: None,
        }
    }

    /// The places of what is shown.
    pub(crate) fn layout(&self) -> ScreenLayout {
        let (width, rows) = (self.size.0, self.size.1.saturating_sub(FRAME_ROWS));
        let whole = ScreenPart {
            y: 1,
            height: rows,
            x: 0,
            width,
        };
        let is_whole = self.view.page != ScreenPage::Tree || self.view.answer.is_some();
        if is_whole || self.view.is_zoomed {
            let details = (self.view.is_zoomed && !is_whole).then_some(whole);
            return ScreenLayout {
                main: whole,
                details,
            };
        }
        let (mut main, mut details) = (whole, whole);
        if width >= BESIDE_WIDTH {
            main.width = width * 3 / 5;
            details.x = main.width + 1;
            details.width = width - details.x;
        } else {
            main.height = rows.div_ceil(2) + rows / 10;
            details.y = main.y + main.height + 1;
            details.height = rows.saturating_sub(main.height + 1);
        }
        ScreenLayout {
            main,
            details: Some(details),
        }
    }

    /// The parts of the screen that hear a key, the first first.
    pub(crate) fn key_scopes(&self) -> &'static [KeyScope] {
        match (&self.view.dialog, self.view.page) {
            (Some(ScreenDialog::Search { .. }), _) => &[KeyScope::Search],
            (Some(ScreenDialog::Menu { .. }), _) => &[KeyScope::Menu],
            (Some(ScreenDialog::Form(_)), _) => &[KeyScope::Form],
            (Some(ScreenDialog::Plan(_)), _) => &[KeyScope::Plan],
            (Some(ScreenDialog::Help { .. }), _) => &[KeyScope::Help],
            (Some(ScreenDialog::Quit { .. }), _) => &[KeyScope::Quit],
            _ if self.view.answer.is_some() => &[KeyScope::Answer, KeyScope::Pages],
            (None, ScreenPage::Tree) if self.view.is_in_details => {
                &[KeyScope::Details, KeyScope::Pages]
            }
            (None, ScreenPage::Tree) => &[KeyScope::Tree, KeyScope::Pages],
            (None, ScreenPage::Machines) => &[KeyScope::List, KeyScope::Machines, KeyScope::Pages],
            (None, _) => &[KeyScope::List, KeyScope::Pages],
        }
    }

    /// The line under the cursor.
    pub(crate) fn cursor_line(&self) -> Option<&TreeLine> {
        let shown = self.shown.get(self.view.cursor)?;
        self.lines.get(shown.line)
    }

    /// The whole name of the image or snapshot under the cursor.
    pub(crate) fn cursor_name(&self) -> Option<&str> {
        let line = self.cursor_line()?;
        (line.kind != NodeKind::Base).then_some(line.key.as_str())
    }

    /// The facts of the node under the cursor, if they are known.
    pub(crate) fn cursor_facts(&self) -> Option<&NodeFacts> {
        let (key, facts) = self.node.as_ref()?;
        let facts = facts.as_ref().ok()?;
        (Some(key.as_str()) == self.cursor_name()).then_some(facts)
    }

    /// The row under the cursor of another page than the tree.
    pub(crate) fn cursor_row(&self) -> Option<PageRow> {
        let mut rows = self.page_rows();
        (self.view.row < rows.len()).then(|| rows.swap_remove(self.view.row))
    }

    /// The job of this number.
    pub(crate) fn find_job(&self, number: u64) -> Option<&Arc<CommandJob>> {
        self.jobs.iter().find(|job| job.number == number)
    }

    pub(crate) fn running_count(&self) -> usize {
        let running = self.jobs.iter().filter(|job| job.job_end().is_none());
        running.count()
    }

    pub(crate) fn tell(&mut self, kind: MessageKind, text: impl Into<String>) {
        let text = text.into();
        self.message = Some(ScreenMessage { text, kind });
    }

    /// Finds the shown lines anew, and keeps the cursor where it was, or on `key`.
    pub(crate) fn refresh_lines(&mut self, key: Option<&str>) {
        let key = key.map(str::to_owned);
        let key = key.or_else(|| self.cursor_line().map(|line| line.key.clone()));
        self.shown = self.view.wish.shown_lines(&self.lines, &self.view.closed);
        let at = |key: &String| {
            let is_it = |shown: &ShownLine| self.lines[shown.line].key == *key;
            self.shown.iter().position(is_it)
        };
        let last = self.shown.len().saturating_sub(1);
        let kept = key.as_ref().and_then(at);
        self.view.cursor = kept.unwrap_or(self.view.cursor.min(last));
        let is_there = |name: &String| self.lines.iter().any(|line| line.key == *name);
        self.view.marked.retain(is_there);
    }

    /// Puts the cursor on the line `key`, and shows it if a search or a closed branch hides it.
    pub(crate) fn reveal_line(&mut self, key: &str) {
        let Some(line) = self.lines.iter().position(|line| line.key == *key) else {
            return;
        };
        if !self.shown.iter().any(|shown| shown.line == line) {
            self.view.wish.search.clear();
            let mut above = self.lines[line].hangs_from;
            while let Some(line) = above {
                self.view.closed.remove(&self.lines[line].key);
                above = self.lines[line].hangs_from;
            }
        }
        self.refresh_lines(Some(key));
    }
}
