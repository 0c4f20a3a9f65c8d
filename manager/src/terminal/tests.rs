//! The program without a terminal: keys go in, cells come out, and a store of a few lines remembers
//! its commands.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ratatui_core::backend::TestBackend;
use ratatui_core::style::Color;
use ratatui_core::terminal::Terminal;

use super::ansi_backend::LEAVE_SCREEN;
use super::key_press::KeyPress;
use super::key_table::{KeyScope, all_bindings};
use super::look::ScreenLook;
use super::model::{ScreenDialog, ScreenWords, TerminalAnswer, TerminalEffect, TerminalModel};
use super::program::{TerminalOptions, run_terminal};
use crate::action_table::ACTIONS;
use crate::actions::PlanPreview;
use crate::jobs::{JobOrder, JobTable};
use crate::operations::{
    ChangedCells, CommandEnd, CommandSink, CommandWatch, GuestPart, MachineFacts, NodeFacts,
    NodeKind, NodeLink, OperationFault, Operations, RepositoryFacts, ShellCommand, StoreFacts,
    StoreUsage, TreeLine,
};

/// A store of two images, the first with a snapshot that the second hangs from.
#[derive(Default)]
struct FewLines {
    panics: AtomicBool,
    changes: AtomicU64,
    commands: Mutex<Vec<String>>,
}

fn tree_line(key: &str, kind: NodeKind, hangs_from: Option<usize>, depth: usize) -> TreeLine {
    TreeLine {
        key: key.to_owned(),
        title: key.to_owned(),
        kind,
        depth,
        hangs_from,
        size: 1 << 30,
        own_bytes: 4096,
        added_bytes: Some(100),
        created_ms: Some(depth as u64),
        mode: Some("normal"),
        stands_on: None,
        tags: Vec::new(),
        is_pinned: false,
        is_attached: false,
        machines: Vec::new(),
    }
}

fn few_lines() -> Vec<TreeLine> {
    let mut lines = vec![
        tree_line("web", NodeKind::Image, None, 0),
        tree_line("web@monday", NodeKind::Snapshot, Some(0), 1),
        tree_line("trial", NodeKind::Image, Some(1), 2),
        tree_line("layer/7", NodeKind::Base, None, 0),
        tree_line("db", NodeKind::Image, None, 0),
    ];
    lines[2].tags.push("blue".to_owned());
    lines[4].is_pinned = true;
    lines
}

fn node_facts(name: &str) -> NodeFacts {
    let chain = if name == "db" {
        None
    } else {
        Some("web@monday")
    };
    let link = |name: &str| NodeLink {
        title: name.to_owned(),
        name: Some(name.to_owned()),
    };
    NodeFacts {
        name: name.to_owned(),
        is_snapshot: name.contains('@'),
        chain: chain.map(link).into_iter().collect(),
        size: 1 << 30,
        ..NodeFacts::default()
    }
}

impl Operations for FewLines {
    fn store_facts(&self) -> StoreFacts {
        StoreFacts {
            folder: "/srv/store".to_owned(),
            version: "1".to_owned(),
            read_only_reason: None,
        }
    }

    fn change_number(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn guest_request_count(&self) -> u64 {
        0
    }

    fn tree_lines(&self) -> Vec<TreeLine> {
        assert!(
            !self.panics.load(Ordering::Relaxed),
            "this panic is a test's"
        );
        few_lines()
    }

    fn node_facts(&self, name: &str) -> Result<NodeFacts, OperationFault> {
        Ok(node_facts(name))
    }

    fn changed_cells(&self, from: &str, _: &str, _: usize) -> Result<ChangedCells, OperationFault> {
        Ok(ChangedCells {
            from: from.to_owned(),
            len: 3,
            cell_len: 1,
            cells: vec![0, 1, 0],
        })
    }

    fn guest_parts(&self, _: &str) -> Result<Vec<GuestPart>, OperationFault> {
        Ok(Vec::new())
    }

    fn count_usage(&self) -> Result<StoreUsage, OperationFault> {
        Ok(StoreUsage::default())
    }

    fn machine_facts(&self) -> Vec<MachineFacts> {
        vec![MachineFacts {
            name: "vm".to_owned(),
            disks: vec!["web".to_owned()],
            is_running: false,
            snapshots: vec![("vm@s".to_owned(), 0)],
        }]
    }

    fn shell_commands(&self) -> Vec<ShellCommand> {
        Vec::new()
    }

    fn known_repositories(&self) -> Vec<RepositoryFacts> {
        Vec::new()
    }

    /// Remembers it; `flatten` lasts until it is stopped.
    fn run_command(
        &self,
        words: &[String],
        _: CommandSink,
        watch: &Arc<CommandWatch>,
    ) -> CommandEnd {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push(words.join(" "));
        drop(commands);
        let mut end = CommandEnd::default();
        if words[0] == "flatten" {
            while !watch.is_stopped() {
                std::thread::sleep(Duration::from_millis(5));
            }
            end.code = 130;
        }
        if words[0] == "commit" {
            end.code = 1;
            end.messages = "error: it is in use\nhint: detach it\n".to_owned();
        }
        end
    }

    fn format_bytes(&self, bytes: u64) -> String {
        format!("{bytes} B")
    }
}

fn model_of_size(columns: u16, rows: u16, is_unicode: bool) -> TerminalModel {
    let look = ScreenLook {
        is_unicode,
        has_colour: false,
    };
    let words = ScreenWords {
        format_bytes: Box::new(|bytes| format!("{bytes} B")),
        format_time: Box::new(|ms| format!("2026-01-01 00:{ms:02}")),
    };
    let store = FewLines::default();
    let facts = store.store_facts();
    let folder = PathBuf::from("/home/me");
    let mut model = TerminalModel::new(facts, look, words, folder, (columns, rows));
    let lines = Arc::new(few_lines());
    model.take_answer(TerminalAnswer::Tree(lines, store.machine_facts()));
    load_node(&mut model);
    model
}

fn load_node(model: &mut TerminalModel) {
    let name = model.cursor_name().map(str::to_owned);
    model.node = name.map(|name| (name.clone(), Ok(node_facts(&name))));
}

/// Presses keys as a person writes them down: letters, and names between angle brackets.
fn press(model: &mut TerminalModel, keys: &str) -> Vec<TerminalEffect> {
    let mut effects = Vec::new();
    let mut rest = keys;
    while let Some(letter) = rest.chars().next() {
        let named = rest
            .strip_prefix('<')
            .and_then(|named| named.split_once('>'));
        let (key, after) = match named {
            Some((name, after)) => (named_key(name), after),
            None => (KeyPress::Char(letter), &rest[letter.len_utf8()..]),
        };
        effects.extend(model.handle_key(key));
        load_node(model);
        rest = after;
    }
    effects
}

fn named_key(name: &str) -> KeyPress {
    match name {
        "Enter" => KeyPress::Enter,
        "Esc" => KeyPress::Escape,
        "Tab" => KeyPress::Tab,
        "Up" => KeyPress::Up,
        "Down" => KeyPress::Down,
        "Right" => KeyPress::Right,
        "F5" => KeyPress::Function(5),
        "C-u" => KeyPress::Ctrl('u'),
        other => panic!("{other} is no key of the tests"),
    }
}

fn screen_of(model: &TerminalModel) -> String {
    let mut terminal = Terminal::new(TestBackend::new(model.size.0, model.size.1)).expect("memory");
    let drawn = terminal.draw(|frame| model.draw_screen(frame.buffer_mut()));
    drawn.expect("memory");
    terminal.backend().to_string()
}

/// States in which each part of the screen hears keys.
fn all_places() -> Vec<(KeyScope, TerminalModel)> {
    let model = || model_of_size(80, 24, true);
    let pressed = |keys: &str| {
        let mut model = model();
        press(&mut model, keys);
        model
    };
    let mut with_job = pressed("2");
    let jobs = Arc::new(JobTable::default());
    let operations: Arc<dyn Operations> = Arc::new(FewLines::default());
    let order = JobOrder {
        title: "Flatten: web".to_owned(),
        words: vec!["info".to_owned()],
        sink: CommandSink::Kept,
        next: None,
        download: None,
        aftermath: None,
    };
    let job = jobs.begin_job(&operations, order).expect("a thread");
    job.await_end(Duration::from_secs(10)).expect("it ends");
    with_job.take_answer(TerminalAnswer::Jobs(vec![job], Vec::new()));
    let mut answer = pressed("2");
    answer.jobs.clone_from(&with_job.jobs);
    press(&mut answer, "<Enter>");
    let mut quit = pressed("1");
    quit.view.dialog = Some(ScreenDialog::Quit { running: 1 });
    vec![
        (KeyScope::Tree, pressed("<Down>")),
        (KeyScope::Details, pressed("<Enter>")),
        (KeyScope::Details, pressed("<Tab>")),
        (KeyScope::List, with_job),
        (KeyScope::List, pressed("3")),
        (KeyScope::List, pressed("4")),
        (KeyScope::List, pressed("5")),
        (KeyScope::Answer, answer),
        (KeyScope::Search, pressed("/")),
        (KeyScope::Menu, pressed("a")),
        (KeyScope::Form, pressed("s")),
        (KeyScope::Form, pressed("<Down>b")),
        (KeyScope::Plan, pressed("<Down>d<Enter>")),
        (KeyScope::Help, pressed("?")),
        (KeyScope::Quit, quit),
    ]
}

fn all_keys() -> BTreeSet<KeyPress> {
    let mut keys: BTreeSet<KeyPress> = (' '..='~').map(KeyPress::Char).collect();
    keys.extend(('a'..='z').map(KeyPress::Ctrl));
    keys.extend(['é', '日'].map(KeyPress::Char));
    keys.extend((1..=12).map(KeyPress::Function));
    keys.extend([
        KeyPress::Alt('x'),
        KeyPress::Enter,
        KeyPress::Tab,
        KeyPress::BackTab,
        KeyPress::Escape,
        KeyPress::Backspace,
        KeyPress::Delete,
        KeyPress::Insert,
        KeyPress::Up,
        KeyPress::Down,
        KeyPress::Left,
        KeyPress::Right,
        KeyPress::Home,
        KeyPress::End,
        KeyPress::PageUp,
        KeyPress::PageDown,
        KeyPress::Unknown,
    ]);
    keys
}

#[test]
fn no_key_is_without_an_effect_or_a_message_anywhere() {
    let keys = all_keys();
    for binding in all_bindings() {
        assert!(
            binding.keys.iter().all(|key| keys.contains(key)),
            "{}",
            binding.label
        );
    }
    for key in &keys {
        for (scope, mut model) in all_places() {
            assert_eq!(model.key_scopes()[0], scope, "{:?}", model.view);
            let before = model.view.clone();
            let effects = model.handle_key(*key);
            let is_heard = !effects.is_empty() || model.view != before || model.message.is_some();
            assert!(is_heard, "{key:?} in {scope:?}");
            screen_of(&model);
        }
    }
}

#[test]
fn a_key_that_means_nothing_is_named() {
    let mut model = model_of_size(80, 24, true);
    press(&mut model, "<F5>");
    assert!(screen_of(&model).contains("F5 does nothing here; ? lists the keys"));
    press(&mut model, "<Up>");
    assert!(screen_of(&model).contains("Up changes nothing here"));
    // The next key's message replaces it.
    press(&mut model, "<Down>");
    assert!(!screen_of(&model).contains("nothing here"));
}

#[test]
fn all_of_it_is_there_on_a_small_screen_and_on_a_large_one() {
    for (columns, rows) in [(80, 24), (200, 50)] {
        let model = model_of_size(columns, rows, true);
        let screen = screen_of(&model);
        for text in [
            "Vellum /srv/store",
            "[1 Tree]",
            "▾ ○ web",
            "  ▾ ● web@monday",
            "      ○ trial  +blue",
            "◌ layer/7",
            "db  pinned",
            "1073741824 B",
            "Image web",
            "stands on      web@monday",
            "5 lines",
            "? keys  q quit",
        ] {
            assert!(screen.contains(text), "{text} is not on\n{screen}");
        }
    }
    assert!(screen_of(&model_of_size(30, 8, true)).contains("40 columns and 10 rows"));
    screen_of(&model_of_size(1, 1, true));
}

#[test]
fn ascii_and_no_colour_say_the_same() {
    let mut model = model_of_size(100, 30, false);
    for keys in ["", " ", "?", "<Esc>a", "<Esc>d", "<Esc>2", "3", "1=<Enter>"] {
        press(&mut model, keys);
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("memory");
        let drawn = terminal.draw(|frame| model.draw_screen(frame.buffer_mut()));
        drawn.expect("memory");
        for cell in terminal.backend().buffer().content() {
            assert!(cell.symbol().is_ascii(), "{} after {keys}", cell.symbol());
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        }
    }
    let screen = screen_of(&model_of_size(100, 30, false));
    assert!(
        screen.contains("- o web") && screen.contains("* web@monday"),
        "{screen}"
    );
}

#[test]
fn a_search_narrows_the_tree_while_it_is_typed() {
    let mut model = model_of_size(80, 24, true);
    press(&mut model, "/blu");
    let screen = screen_of(&model);
    assert!(
        screen.contains("/blu_") && screen.contains("3 of 5 lines"),
        "{screen}"
    );
    press(&mut model, "<Enter>");
    assert_eq!(model.cursor_name(), Some("trial"));
    press(&mut model, "/x<Esc>");
    assert!(
        screen_of(&model).contains("3 of 5 lines"),
        "the search before is back"
    );
    press(&mut model, "<Esc>");
    assert!(screen_of(&model).contains("5 lines"));
    press(&mut model, "G/web<Enter>");
    assert_eq!(
        model.cursor_name(),
        Some("web"),
        "the line of just this name"
    );
    press(&mut model, "/<C-u>zzz<Enter>");
    assert!(screen_of(&model).contains("nothing has that in its name"));
}

#[test]
fn branches_close_and_lines_are_sorted() {
    let mut model = model_of_size(80, 24, true);
    press(&mut model, "h");
    let screen = screen_of(&model);
    assert!(
        screen.contains("▸ ○ web") && !screen.contains("trial"),
        "{screen}"
    );
    press(&mut model, "l");
    assert!(screen_of(&model).contains("trial"));
    press(&mut model, "G-");
    assert!(!screen_of(&model).contains("trial"));
    press(&mut model, "+o");
    assert!(screen_of(&model).contains("Name ↓"));
    assert_eq!(model.lines[model.shown[0].line].key, "db");
    press(&mut model, "O");
    assert!(screen_of(&model).contains("Name ↑"));
}

#[test]
fn an_action_is_a_form_a_plan_and_then_a_command() {
    let mut model = model_of_size(80, 24, true);
    assert_eq!(press(&mut model, "s"), []);
    assert!(screen_of(&model).contains("Name of the snapshot"));
    press(&mut model, "<Enter>");
    assert!(screen_of(&model).contains("Name of the snapshot is missing"));
    assert_eq!(press(&mut model, "noon<Enter>"), []);
    let screen = screen_of(&model);
    for text in [
        "keeps web as it is now",
        "vellum snapshot take web@noon",
        "y does it",
    ] {
        assert!(screen.contains(text), "{text} is not on\n{screen}");
    }
    press(&mut model, "<Enter>");
    assert!(screen_of(&model).contains("y does it, n leaves it"));
    let effects = press(&mut model, "y");
    let [TerminalEffect::BeginJob { words, next, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(words.join(" "), "snapshot take web@noon");
    assert_eq!(next.as_deref(), Some("web@noon"));
}

#[test]
fn several_are_deleted_after_the_command_has_told_what_that_frees() {
    let mut model = model_of_size(80, 24, true);
    press(&mut model, "<Down>  d");
    assert!(screen_of(&model).contains("To: trial, web@monday"));
    let effects = press(&mut model, "<Enter>");
    let [TerminalEffect::Preview { number, words }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(words.join(" "), "rm -n trial web@monday");
    assert_eq!(press(&mut model, "y"), []);
    assert!(screen_of(&model).contains("the plan is still being made"));
    let preview = |is_fine, output: &str| PlanPreview {
        is_fine,
        output: output.to_owned(),
        messages: String::new(),
    };
    model.take_answer(TerminalAnswer::Preview(
        number + 1,
        preview(true, "another plan"),
    ));
    assert!(!screen_of(&model).contains("another plan"));
    model.take_answer(TerminalAnswer::Preview(
        *number,
        preview(false, "trial is in use"),
    ));
    assert_eq!(press(&mut model, "y"), []);
    assert!(screen_of(&model).contains("It cannot be done"));
    model.take_answer(TerminalAnswer::Preview(
        *number,
        preview(true, "would free 1 GiB"),
    ));
    let screen = screen_of(&model);
    assert!(screen.contains("would free 1 GiB") && screen.contains("This loses something"));
    assert_eq!(press(&mut model, "n"), []);
    assert!(screen_of(&model).contains("nothing was changed"));
}

#[test]
fn an_action_that_does_not_fit_says_so() {
    let mut model = model_of_size(80, 24, true);
    for (keys, message) in [
        ("b", "\"Go back to this\" is not for an image"),
        ("<Down>s", "\"Take a snapshot\" is not for a snapshot"),
        ("<Down><Down>d", "\"Delete\" is not for a shared base"),
        (" ", "a shared base has no name"),
        ("=", "it stands on nothing that has a name"),
        ("4<Down>s", "choose a machine"),
        ("x", "there is no job"),
    ] {
        press(&mut model, keys);
        let screen = screen_of(&model);
        assert!(screen.contains(message), "{message} is not on\n{screen}");
    }
    model.facts.read_only_reason = Some("it is a test".to_owned());
    for keys in ["1gs", "d", "a", "4a"] {
        assert_eq!(press(&mut model, keys), []);
        assert!(screen_of(&model).contains("nothing can be changed here: it is a test"));
    }
}

#[test]
fn two_that_are_marked_are_compared_wherever_the_cursor_is() {
    let pair = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        [TerminalEffect::Compare { from, to }]
    };
    let mut model = model_of_size(120, 40, true);
    assert_eq!(press(&mut model, "="), pair("web@monday", "web"));
    // A mark, and the cursor elsewhere; on the mark itself; on what has no name.
    assert_eq!(press(&mut model, "g <Down>="), pair("web", "trial"));
    assert_eq!(press(&mut model, "g="), []);
    assert!(screen_of(&model).contains("mark or go to another one"));
    assert_eq!(press(&mut model, "<Down><Down><Down>="), []);
    assert!(screen_of(&model).contains("a shared base has no name, and cannot be compared"));
    // Two marks, whichever came first.
    assert_eq!(press(&mut model, "G g="), pair("web", "db"));
    assert_eq!(model.cursor_name(), Some("db"), "whose details tell of it");
    // A closed branch hides one of them.
    press(&mut model, "<Esc>g <Down> ghG");
    assert!(!screen_of(&model).contains("trial"));
    assert_eq!(press(&mut model, "="), pair("web", "trial"));
    assert_eq!(model.cursor_name(), Some("trial"));
    assert_eq!(press(&mut model, "G ="), []);
    assert!(screen_of(&model).contains("two can be compared"));
    press(&mut model, "g<Down><Down>");
    let changed = |cells: &[u64]| ChangedCells {
        from: "web".to_owned(),
        len: 30,
        cell_len: 10,
        cells: cells.to_vec(),
    };
    let answer = |cells| TerminalAnswer::Changed("trial".to_owned(), Ok(changed(cells)));
    model.take_answer(answer(&[0, 7, 0]));
    let screen = screen_of(&model);
    for text in ["trial differs by 7 B from web", "from front to back:"] {
        assert!(screen.contains(text), "{text} is not on\n{screen}");
    }
    model.take_answer(answer(&[0, 0, 0]));
    let screen = screen_of(&model);
    assert!(screen.contains("nothing: it is as web is"), "{screen}");
    assert!(!screen.contains("from front to back:"), "{screen}");
}

#[test]
fn file_systems_are_read_when_they_are_asked_for() {
    let mut model = model_of_size(120, 40, true);
    assert!(screen_of(&model).contains("f reads them"));
    assert_eq!(
        press(&mut model, "f"),
        [TerminalEffect::ReadGuest("web".to_owned())]
    );
    let part = |kind: &str, free, remark: Option<&str>| GuestPart {
        name: "partition 1".to_owned(),
        kind: kind.to_owned(),
        len: 100,
        free,
        remark: remark.map(str::to_owned),
    };
    let parts = vec![
        part("ext4", Some(30), None),
        part("LUKS", None, Some("encrypted")),
    ];
    model.take_answer(TerminalAnswer::Guest("web".to_owned(), Ok(parts)));
    let screen = screen_of(&model);
    assert!(screen.contains("ext4, partition 1 of 100 B:"), "{screen}");
    assert!(screen.contains("used, 30 B free"), "{screen}");
    assert!(screen.contains("encrypted"), "{screen}");
    press(&mut model, "G");
    assert!(!screen_of(&model).contains("ext4"));
}

#[test]
fn every_action_can_be_begun_from_its_page() {
    let mut seen = BTreeSet::new();
    for keys in ["", "<Down>", "4", "4<Down>", "5", "3"] {
        let mut model = model_of_size(80, 24, true);
        press(&mut model, keys);
        if let Some((_, Ok(facts))) = &mut model.node {
            facts.mode = Some("immutable");
            facts.fields.push(("commits to", "web".to_owned()));
        }
        model.handle_key(KeyPress::Char('a'));
        let Some(ScreenDialog::Menu { actions, .. }) = &model.view.dialog else {
            panic!("{keys}: {:?}", model.view);
        };
        seen.extend(actions.iter().copied());
    }
    let all: BTreeSet<_> = ACTIONS.iter().map(|action| action.key).collect();
    assert_eq!(seen, all);
}

#[test]
fn the_end_of_a_job_is_told_and_a_failure_is_shown() {
    let store: Arc<dyn Operations> = Arc::new(FewLines::default());
    let jobs = Arc::new(JobTable::default());
    let order = |words: &str| JobOrder {
        title: format!("Job: {words}"),
        words: vec![words.to_owned()],
        sink: CommandSink::Kept,
        next: Some("db".to_owned()),
        download: None,
        aftermath: None,
    };
    let mut model = model_of_size(80, 24, true);
    let slow = jobs.begin_job(&store, order("flatten")).expect("a thread");
    model.take_answer(TerminalAnswer::Jobs(jobs.list_jobs(), Vec::new()));
    assert!(screen_of(&model).contains("2 Jobs(1)"));
    press(&mut model, "q");
    assert!(screen_of(&model).contains("y stops them and quits"));
    press(&mut model, "n2");
    assert_eq!(
        press(&mut model, "x"),
        [TerminalEffect::StopJob(slow.number)]
    );
    slow.watch.stop_command();
    slow.await_end(Duration::from_secs(10))
        .expect("it was stopped");
    assert!(screen_of(&model).contains("cancelled after"));
    for (words, text) in [
        ("info", "Job: info: done"),
        ("commit", "error: it is in use"),
    ] {
        let job = jobs.begin_job(&store, order(words)).expect("a thread");
        press(&mut model, "1");
        model.take_answer(TerminalAnswer::Begun(Ok(job.number), false));
        job.await_end(Duration::from_secs(10)).expect("it ends");
        model.take_answer(TerminalAnswer::Jobs(jobs.list_jobs(), Vec::new()));
        assert!(screen_of(&model).contains(text), "{}", screen_of(&model));
    }
    assert!(screen_of(&model).contains("hint: detach it"));
    assert_eq!(
        model.cursor_name(),
        Some("db"),
        "the cursor is on what was made"
    );
    assert_eq!(press(&mut model, "q"), [TerminalEffect::Quit]);
}

/// Output that others can look at.
#[derive(Clone, Default)]
struct SharedScreen(Arc<Mutex<Vec<u8>>>);

impl Write for SharedScreen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SharedScreen {
    fn text(&self) -> String {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }
}

fn options_of(input: OwnedFd, screen: &SharedScreen) -> TerminalOptions {
    TerminalOptions {
        input: Arc::new(File::from(input)),
        output: Box::new(screen.clone()),
        window: Arc::new(File::open("/dev/null").expect("Linux has it")),
        is_stopped: Box::new(|| false),
        notices: channel().1,
        read_only_reason: None,
        folder: PathBuf::from("/"),
        is_unicode: true,
        has_colour: true,
        format_time: Box::new(|ms| ms.to_string()),
        job_grace: Duration::from_secs(10),
    }
}

#[test]
fn the_program_does_what_keys_say_and_leaves_the_screen_as_it_was() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(b"cnew\r\ryq").expect("room");
    let (store, screen) = (Arc::new(FewLines::default()), SharedScreen::default());
    let operations: Arc<dyn Operations> = Arc::clone(&store) as _;
    let end = run_terminal(operations, options_of(reader.into(), &screen)).expect("it ends");
    assert!(end.has_ended_jobs);
    let commands = store
        .commands
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    assert_eq!(*commands, ["create new -b web"]);
    assert!(screen.text().ends_with(LEAVE_SCREEN));
}

#[test]
fn the_screen_is_as_it_was_after_a_panic_a_stop_or_a_lost_terminal() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (store, screen) = (Arc::new(FewLines::default()), SharedScreen::default());
    store.panics.store(true, Ordering::Relaxed);
    let options = options_of(reader.into(), &screen);
    let run = || run_terminal(Arc::clone(&store) as _, options);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    assert!(ended.is_err() && screen.text().ends_with(LEAVE_SCREEN));
    store.panics.store(false, Ordering::Relaxed);
    // The terminal has gone: nothing comes any more.
    drop(writer);
    let (reader, _) = std::io::pipe().expect("a pipe");
    let screen = SharedScreen::default();
    let ended = run_terminal(Arc::clone(&store) as _, options_of(reader.into(), &screen));
    assert!(ended.is_ok() && screen.text().ends_with(LEAVE_SCREEN));
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let screen = SharedScreen::default();
    let options = TerminalOptions {
        is_stopped: Box::new(|| true),
        ..options_of(reader.into(), &screen)
    };
    let ended = run_terminal(store as _, options);
    assert!(ended.is_ok() && screen.text().ends_with(LEAVE_SCREEN));
}
