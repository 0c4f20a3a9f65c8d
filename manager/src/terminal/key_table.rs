//! The table of keys: where each is understood, and the command that it is. Pure. It is
//! longer than other files, since it is one table.

use super::key_press::KeyPress;

/// The part of the screen that hears a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyScope {
    /// All pages, where no dialog is open.
    Pages,
    /// The tree's lines.
    Tree,
    /// The details of a node.
    Details,
    /// The list of another page.
    List,
    /// The machines, whose letters are those of the tree.
    Machines,
    /// The answer of a job.
    Answer,
    Search,
    Menu,
    Form,
    Plan,
    Help,
    Quit,
}

/// A page of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScreenPage {
    #[default]
    Tree,
    Jobs,
    Store,
    Machines,
    Backups,
}

/// The way that a cursor or a text moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CursorStep {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// The command of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyCommand {
    Step(CursorStep),
    OpenBranch,
    CloseBranch,
    OpenAll,
    CloseAll,
    Mark,
    Details,
    SwitchFocus,
    Search,
    NextOrder,
    ReverseOrder,
    Compare,
    Guest,
    Count,
    Act(&'static str),
    Menu,
    Show(ScreenPage),
    Cancel,
    Help,
    Redraw,
    Quit,
    /// Ends the dialog, or leads a page back.
    Back,
    /// Takes what the dialog has.
    Accept,
    Confirm,
    NextField,
    PreviousField,
    NextChoice,
    PreviousChoice,
    EraseLetter,
    EraseText,
}

/// A line of the table.
pub(crate) struct KeyBinding {
    pub(crate) scope: KeyScope,
    pub(crate) keys: &'static [KeyPress],
    /// The keys for people.
    pub(crate) label: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) command: KeyCommand,
}

const fn bind_keys(
    scope: KeyScope,
    keys: &'static [KeyPress],
    label: &'static str,
    meaning: &'static str,
    command: KeyCommand,
) -> KeyBinding {
    KeyBinding {
        scope,
        keys,
        label,
        meaning,
        command,
    }
}

use KeyCommand as Command;
use KeyPress::{
    BackTab, Backspace, Char, Ctrl, Delete, Down, End, Enter, Escape, Home, Left, PageDown, PageUp,
    Right, Tab, Up,
};

/// The steps of a scope whose lines are moved through.
const fn bind_steps(scope: KeyScope) -> [KeyBinding; 6] {
    [
        bind_keys(
            scope,
            &[Up, Char('k')],
            "↑ k",
            "up",
            Command::Step(CursorStep::Up),
        ),
        bind_keys(
            scope,
            &[Down, Char('j')],
            "↓ j",
            "down",
            Command::Step(CursorStep::Down),
        ),
        bind_keys(
            scope,
            &[PageUp, Ctrl('b')],
            "PgUp",
            "a screen up",
            Command::Step(CursorStep::PageUp),
        ),
        bind_keys(
            scope,
            &[PageDown, Ctrl('f')],
            "PgDn",
            "a screen down",
            Command::Step(CursorStep::PageDown),
        ),
        bind_keys(
            scope,
            &[Home, Char('g')],
            "Home g",
            "the first line",
            Command::Step(CursorStep::First),
        ),
        bind_keys(
            scope,
            &[End, Char('G')],
            "End G",
            "the last line",
            Command::Step(CursorStep::Last),
        ),
    ]
}

const TREE_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Tree);
const DETAIL_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Details);
const LIST_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::List);
const ANSWER_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Answer);
const MENU_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Menu);
const PLAN_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Plan);
const HELP_STEPS: [KeyBinding; 6] = bind_steps(KeyScope::Help);

const TREE_KEYS: &[KeyBinding] = &[
    bind_keys(
        KeyScope::Tree,
        &[Right, Char('l')],
        "→ l",
        "open the branch; its first line",
        Command::OpenBranch,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Left, Char('h')],
        "← h",
        "close the branch; what it hangs from",
        Command::CloseBranch,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('+')],
        "+",
        "open all branches",
        Command::OpenAll,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('-')],
        "-",
        "close all branches",
        Command::CloseAll,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char(' ')],
        "Space",
        "mark it, to delete several or compare two",
        Command::Mark,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Enter],
        "Enter",
        "all of its details",
        Command::Details,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Tab],
        "Tab",
        "into the details",
        Command::SwitchFocus,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('/')],
        "/",
        "search names, tags and machines",
        Command::Search,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('o')],
        "o",
        "the next order of lines",
        Command::NextOrder,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('O')],
        "O",
        "the order turned round",
        Command::ReverseOrder,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('=')],
        "=",
        "where it differs from what it stands on, or from what is marked",
        Command::Compare,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Char('f')],
        "f",
        "its guest's file systems",
        Command::Guest,
    ),
    bind_keys(
        KeyScope::Tree,
        &[Delete],
        "Del",
        "delete it, or what is marked",
        Command::Act("delete"),
    ),
    bind_keys(
        KeyScope::Tree,
        &[Escape],
        "Esc",
        "end the search; drop the marks",
        Command::Back,
    ),
];

const DETAIL_KEYS: &[KeyBinding] = &[
    bind_keys(
        KeyScope::Details,
        &[Char('f')],
        "f",
        "its guest's file systems",
        Command::Guest,
    ),
    bind_keys(
        KeyScope::Details,
        &[Tab, BackTab],
        "Tab",
        "back to the tree",
        Command::SwitchFocus,
    ),
    bind_keys(
        KeyScope::Details,
        &[Escape, Enter, Left],
        "Esc",
        "back to the tree",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Details,
        &[Char('=')],
        "=",
        "where it differs from what it stands on, or from what is marked",
        Command::Compare,
    ),
];

const LIST_KEYS: &[KeyBinding] = &[
    bind_keys(
        KeyScope::List,
        &[Enter],
        "Enter",
        "the answer of the job",
        Command::Accept,
    ),
    bind_keys(
        KeyScope::List,
        &[Char('x')],
        "x",
        "cancel the job",
        Command::Cancel,
    ),
    bind_keys(
        KeyScope::List,
        &[Escape],
        "Esc",
        "back to the tree",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Machines,
        &[Char('s')],
        "s",
        "a snapshot of all of its disks",
        Command::Act("machine-snapshot"),
    ),
    bind_keys(
        KeyScope::Machines,
        &[Char('b')],
        "b",
        "go back to this snapshot",
        Command::Act("machine-restore"),
    ),
    bind_keys(
        KeyScope::Machines,
        &[Char('d'), Delete],
        "d",
        "delete this snapshot",
        Command::Act("machine-delete"),
    ),
    bind_keys(
        KeyScope::Answer,
        &[Char('x')],
        "x",
        "cancel the job",
        Command::Cancel,
    ),
    bind_keys(
        KeyScope::Answer,
        &[Escape, Enter],
        "Esc",
        "back",
        Command::Back,
    ),
];

const PAGE_KEYS: &[KeyBinding] = &[
    bind_keys(
        KeyScope::Pages,
        &[Char('a')],
        "a",
        "all actions for this",
        Command::Menu,
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('u')],
        "u",
        "count what nodes hold; read backups anew",
        Command::Count,
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('1')],
        "1",
        "the tree",
        Command::Show(ScreenPage::Tree),
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('2')],
        "2",
        "jobs",
        Command::Show(ScreenPage::Jobs),
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('3')],
        "3",
        "the whole store",
        Command::Show(ScreenPage::Store),
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('4')],
        "4",
        "machines",
        Command::Show(ScreenPage::Machines),
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('5')],
        "5",
        "backups",
        Command::Show(ScreenPage::Backups),
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('?')],
        "?",
        "this sheet",
        Command::Help,
    ),
    bind_keys(
        KeyScope::Pages,
        &[Ctrl('l')],
        "Ctrl-L",
        "draw the screen anew",
        Command::Redraw,
    ),
    bind_keys(
        KeyScope::Pages,
        &[Char('q'), Ctrl('c')],
        "q",
        "quit",
        Command::Quit,
    ),
];

const DIALOG_KEYS: &[KeyBinding] = &[
    bind_keys(
        KeyScope::Search,
        &[Enter],
        "Enter",
        "keep the search",
        Command::Accept,
    ),
    bind_keys(
        KeyScope::Search,
        &[Escape, Ctrl('c')],
        "Esc",
        "end the search",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Search,
        &[Backspace],
        "Backspace",
        "erase a letter",
        Command::EraseLetter,
    ),
    bind_keys(
        KeyScope::Search,
        &[Ctrl('u')],
        "Ctrl-U",
        "erase all",
        Command::EraseText,
    ),
    bind_keys(
        KeyScope::Menu,
        &[Enter],
        "Enter",
        "begin it",
        Command::Accept,
    ),
    bind_keys(
        KeyScope::Menu,
        &[Escape, Char('q'), Ctrl('c')],
        "Esc",
        "leave it",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Form,
        &[Enter],
        "Enter",
        "show the plan",
        Command::Accept,
    ),
    bind_keys(
        KeyScope::Form,
        &[Escape, Ctrl('c')],
        "Esc",
        "leave it",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Form,
        &[Tab, Down],
        "Tab",
        "the next field",
        Command::NextField,
    ),
    bind_keys(
        KeyScope::Form,
        &[BackTab, Up],
        "Shift-Tab",
        "the field before",
        Command::PreviousField,
    ),
    bind_keys(
        KeyScope::Form,
        &[Right],
        "→",
        "the next choice",
        Command::NextChoice,
    ),
    bind_keys(
        KeyScope::Form,
        &[Left],
        "←",
        "the choice before",
        Command::PreviousChoice,
    ),
    bind_keys(
        KeyScope::Form,
        &[Backspace],
        "Backspace",
        "erase a letter",
        Command::EraseLetter,
    ),
    bind_keys(
        KeyScope::Form,
        &[Ctrl('u')],
        "Ctrl-U",
        "erase all",
        Command::EraseText,
    ),
    bind_keys(KeyScope::Plan, &[Char('y')], "y", "do it", Command::Confirm),
    bind_keys(
        KeyScope::Plan,
        &[Char('n'), Char('q'), Escape, Ctrl('c')],
        "n",
        "leave everything as it is",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Help,
        &[Escape, Char('q'), Char('?'), Enter, Ctrl('c')],
        "Esc",
        "close the sheet",
        Command::Back,
    ),
    bind_keys(
        KeyScope::Quit,
        &[Char('y')],
        "y",
        "stop them and quit",
        Command::Confirm,
    ),
    bind_keys(
        KeyScope::Quit,
        &[Char('n'), Char('q'), Escape, Ctrl('c')],
        "n",
        "stay",
        Command::Back,
    ),
];

/// All lines of the table.
pub(crate) fn all_bindings() -> impl Iterator<Item = &'static KeyBinding> {
    let steps = [
        &TREE_STEPS[..],
        &DETAIL_STEPS,
        &LIST_STEPS,
        &ANSWER_STEPS,
        &MENU_STEPS,
        &PLAN_STEPS,
        &HELP_STEPS,
    ];
    let others = [TREE_KEYS, DETAIL_KEYS, LIST_KEYS, PAGE_KEYS, DIALOG_KEYS];
    steps.into_iter().chain(others).flatten()
}

/// The command of `key` where these parts of the screen hear it, the first first.
pub(crate) fn find_command(scopes: &[KeyScope], key: KeyPress) -> Option<KeyCommand> {
    let in_scope = |scope: &KeyScope| {
        let mut bindings = all_bindings().filter(|binding| binding.scope == *scope);
        bindings.find(|binding| binding.keys.contains(&key))
    };
    let found = scopes.iter().find_map(in_scope);
    found.map(|binding| binding.command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action_table::ACTIONS;

    #[test]
    fn no_key_has_two_meanings_in_one_place() {
        for scopes in [
            &[KeyScope::Tree, KeyScope::Pages][..],
            &[KeyScope::Details, KeyScope::Pages],
            &[KeyScope::List, KeyScope::Machines, KeyScope::Pages],
            &[KeyScope::Answer, KeyScope::Pages],
            &[KeyScope::Search],
            &[KeyScope::Menu],
            &[KeyScope::Form],
            &[KeyScope::Plan],
            &[KeyScope::Help],
            &[KeyScope::Quit],
        ] {
            let heard = all_bindings().filter(|binding| scopes.contains(&binding.scope));
            let mut keys: Vec<KeyPress> = heard.flat_map(|binding| binding.keys).copied().collect();
            if scopes.contains(&KeyScope::Tree) || scopes.contains(&KeyScope::Details) {
                keys.extend(ACTIONS.iter().filter_map(|action| action.letter).map(Char));
            }
            let count = keys.len();
            assert!(count > 0);
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), count, "{scopes:?}");
        }
    }
}
