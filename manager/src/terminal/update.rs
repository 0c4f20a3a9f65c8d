//! The effects of a key on the state of the program. Pure: whatever acts on a store is an effect
//! that is given back.

use super::key_press::KeyPress;
use super::key_table::{CursorStep, KeyCommand, KeyScope, ScreenPage, find_command};
use super::model::{
    MessageKind, PlanSheet, ScreenDialog, TerminalEffect, TerminalEffects, TerminalModel,
    TerminalView,
};
use super::page_row::RowSubject;
use crate::action_table::ACTIONS;
use crate::actions::{ActionSpec, ActionSubject};
use crate::tree_view::{TreeOrder, TreeWish};

impl TerminalModel {
    /// Reacts to a key. Each one changes something, has an effect, or leaves a message.
    pub(crate) fn handle_key(&mut self, key: KeyPress) -> TerminalEffects {
        let (before, old) = (self.view.clone(), self.message.take());
        let effects = match find_command(self.key_scopes(), key) {
            Some(command) => self.run_key(command),
            None => self.other_key(key),
        };
        if effects.is_empty() && self.message.is_none() {
            if self.view == before {
                let text = format!("{} changes nothing here; ? lists the keys", key.key_name());
                self.tell(MessageKind::Note, text);
            } else if self.view.dialog.is_some() && before.dialog.is_some() {
                self.message = old;
            }
        }
        effects
    }

    /// A key that is not in the table: a letter of a text, an action of the tree, or nothing.
    fn other_key(&mut self, key: KeyPress) -> TerminalEffects {
        if let KeyPress::Char(letter) = key {
            if self.type_letter(letter) {
                return Vec::new();
            }
            if let Some(action) = self.action_of_letter(letter) {
                return self.begin_action(action);
            }
        }
        let name = key.key_name();
        let text = match self.view.dialog {
            Some(ScreenDialog::Plan(_) | ScreenDialog::Quit { .. }) => {
                format!("{name} does nothing here; y does it, n leaves it")
            }
            Some(_) => format!("{name} does nothing here; Esc leads back"),
            None => format!("{name} does nothing here; ? lists the keys"),
        };
        self.tell(MessageKind::Note, text);
        Vec::new()
    }

    /// Types a letter into the text that is open; false if none takes it.
    fn type_letter(&mut self, letter: char) -> bool {
        match &mut self.view.dialog {
            Some(ScreenDialog::Search { text, .. }) => {
                text.push(letter);
                self.apply_search();
                true
            }
            Some(ScreenDialog::Form(form)) => form.type_letter(letter),
            _ => false,
        }
    }

    /// The action that a letter begins on this page.
    fn action_of_letter(&self, letter: char) -> Option<&'static ActionSpec> {
        if self.view.dialog.is_some() || self.view.answer.is_some() {
            return None;
        }
        let is_here = |action: &&ActionSpec| match self.view.page {
            ScreenPage::Tree => true,
            ScreenPage::Store => action.subject == ActionSubject::Store,
            _ => false,
        };
        let mut actions = ACTIONS.iter().filter(is_here);
        actions.find(|action| action.letter == Some(letter))
    }

    fn run_key(&mut self, command: KeyCommand) -> TerminalEffects {
        match command {
            KeyCommand::Step(step) => self.move_cursor(step),
            KeyCommand::OpenBranch => self.open_branch(),
            KeyCommand::CloseBranch => self.close_branch(),
            KeyCommand::OpenAll => {
                self.view.closed.clear();
                self.refresh_lines(None);
            }
            KeyCommand::CloseAll => self.close_all(),
            KeyCommand::Mark => self.mark_line(),
            KeyCommand::Details => self.zoom_details(),
            KeyCommand::SwitchFocus => self.view.is_in_details = !self.view.is_in_details,
            KeyCommand::Search => {
                let before = self.view.wish.search.clone();
                let text = before.clone();
                self.view.dialog = Some(ScreenDialog::Search { text, before });
            }
            KeyCommand::NextOrder => self.next_order(),
            KeyCommand::ReverseOrder => self.reverse_order(),
            KeyCommand::Compare => return self.compare_nodes(),
            KeyCommand::Guest => return self.read_guest(),
            KeyCommand::Count => return self.count_anew(),
            KeyCommand::Act(key) => return self.begin_named(key),
            KeyCommand::Menu => self.open_menu(),
            KeyCommand::Show(page) => return self.show_page(page),
            KeyCommand::Cancel => return self.cancel_job(),
            KeyCommand::Help => self.view.dialog = Some(ScreenDialog::Help { top: 0 }),
            KeyCommand::Redraw => return vec![TerminalEffect::Redraw],
            KeyCommand::Quit => return self.ask_to_quit(),
            KeyCommand::Back => self.lead_back(),
            KeyCommand::Accept => return self.accept_dialog(),
            KeyCommand::Confirm => return self.confirm_dialog(),
            KeyCommand::NextField
            | KeyCommand::PreviousField
            | KeyCommand::NextChoice
            | KeyCommand::PreviousChoice
            | KeyCommand::EraseLetter
            | KeyCommand::EraseText => self.edit_text(command),
        }
        Vec::new()
    }

    fn edit_text(&mut self, command: KeyCommand) {
        match &mut self.view.dialog {
            Some(ScreenDialog::Search { text, .. }) => {
                if command == KeyCommand::EraseText {
                    text.clear();
                } else {
                    text.pop();
                }
                self.apply_search();
            }
            Some(ScreenDialog::Form(form)) => {
                match command {
                    KeyCommand::NextField => form.move_focus(true),
                    KeyCommand::PreviousField => form.move_focus(false),
                    KeyCommand::NextChoice => drop(form.change_choice(true)),
                    KeyCommand::PreviousChoice => drop(form.change_choice(false)),
                    KeyCommand::EraseText => drop(form.erase_text(true)),
                    _ => drop(form.erase_text(false)),
                }
                form.fault = None;
            }
            _ => {}
        }
    }

    fn apply_search(&mut self) {
        if let Some(ScreenDialog::Search { text, .. }) = &self.view.dialog {
            let order = self.view.wish.order.order_key();
            self.view.wish = TreeWish::new(text, order, self.view.wish.is_reversed);
            let key = self.cursor_line().map(|line| line.key.clone());
            self.refresh_lines(None);
            let is_kept = self.cursor_line().map(|line| &line.key) == key.as_ref();
            self.go_to_match(is_kept);
        }
    }

    /// Puts the cursor on the line of just this name, else on the first that is searched for,
    /// unless it is on one already.
    fn go_to_match(&mut self, is_kept: bool) {
        let search = &self.view.wish.search;
        let is_match = |nth: &usize| self.shown.get(*nth).is_some_and(|shown| shown.is_match);
        let is_exact =
            |nth: &usize| self.lines[self.shown[*nth].line].title.to_lowercase() == *search;
        let all = 0..self.shown.len();
        let here = Some(self.view.cursor).filter(|nth| is_kept && is_match(nth));
        let exact = all.clone().find(is_exact).or(here);
        let first = exact.or_else(|| all.clone().find(is_match));
        self.view.cursor = first.unwrap_or(0);
        self.view.details_top = 0;
    }

    fn move_cursor(&mut self, step: CursorStep) {
        let layout = self.layout();
        let page = usize::from(layout.main.height.saturating_sub(2)).max(1);
        let details = layout.details.map_or(1, |part| usize::from(part.height));
        let scope = self.key_scopes()[0];
        match scope {
            KeyScope::Tree => {
                let last = self.shown.len().saturating_sub(1);
                self.view.cursor = stepped(self.view.cursor, step, page, last);
                self.view.details_top = 0;
            }
            KeyScope::Details => {
                let last = self.detail_lines().len().saturating_sub(details);
                self.view.details_top = stepped(self.view.details_top, step, details, last);
            }
            KeyScope::Answer => {
                let last = self.answer_lines().len().saturating_sub(page);
                self.view.answer_top = stepped(self.view.answer_top, step, page, last);
            }
            KeyScope::List => {
                let last = self.page_rows().len().saturating_sub(1);
                self.view.row = stepped(self.view.row, step, page, last);
            }
            _ => self.move_in_dialog(step),
        }
    }

    fn move_in_dialog(&mut self, step: CursorStep) {
        let page = self.sheet_height();
        let last = self.sheet_rows().len().saturating_sub(page);
        match &mut self.view.dialog {
            Some(ScreenDialog::Menu { actions, cursor }) => {
                *cursor = stepped(*cursor, step, page, actions.len().saturating_sub(1));
            }
            Some(ScreenDialog::Help { top } | ScreenDialog::Plan(PlanSheet { top, .. })) => {
                *top = stepped(*top, step, page, last);
            }
            _ => {}
        }
    }

    fn open_branch(&mut self) {
        let Some(shown) = self.shown.get(self.view.cursor).copied() else {
            return;
        };
        if shown.is_closed {
            let key = self.lines[shown.line].key.clone();
            self.view.closed.remove(&key);
            self.refresh_lines(None);
        } else if shown.has_branch {
            self.move_cursor(CursorStep::Down);
        }
    }

    fn close_branch(&mut self) {
        let Some(shown) = self.shown.get(self.view.cursor).copied() else {
            return;
        };
        let is_tree = self.view.wish.order == TreeOrder::Tree && self.view.wish.search.is_empty();
        if shown.has_branch && !shown.is_closed && is_tree {
            self.view.closed.insert(self.lines[shown.line].key.clone());
            self.refresh_lines(None);
            return;
        }
        let above = self.lines[shown.line].hangs_from;
        let above = above.and_then(|above| self.shown.iter().position(|line| line.line == above));
        if let Some(above) = above.filter(|_| self.view.wish.order == TreeOrder::Tree) {
            self.view.cursor = above;
            self.view.details_top = 0;
        }
    }

    fn close_all(&mut self) {
        let above = self.lines.iter().filter_map(|line| line.hangs_from);
        self.view.closed = above.map(|line| self.lines[line].key.clone()).collect();
        // The line under the cursor may be hidden now: what it hangs from is there.
        let mut line = self.shown.get(self.view.cursor).map(|shown| shown.line);
        while let Some(above) = line.and_then(|line| self.lines[line].hangs_from) {
            line = Some(above);
        }
        let key = line.map(|line| self.lines[line].key.clone());
        self.refresh_lines(key.as_deref());
    }

    fn mark_line(&mut self) {
        let Some(name) = self.cursor_name().map(str::to_owned) else {
            return self.tell(
                MessageKind::Note,
                "a shared base has no name, and cannot be marked",
            );
        };
        if !self.view.marked.remove(&name) {
            self.view.marked.insert(name);
        }
        self.move_cursor(CursorStep::Down);
    }

    fn zoom_details(&mut self) {
        if self.cursor_line().is_none() {
            return self.tell(MessageKind::Note, "there is nothing to show");
        }
        self.view.is_zoomed = true;
        self.view.is_in_details = true;
    }

    fn next_order(&mut self) {
        let orders = TreeOrder::ALL;
        let at = orders
            .iter()
            .position(|order| *order == self.view.wish.order);
        self.view.wish.order = orders[(at.unwrap_or(0) + 1) % orders.len()];
        self.view.wish.is_reversed = false;
        self.refresh_lines(None);
    }

    fn reverse_order(&mut self) {
        if self.view.wish.order == TreeOrder::Tree {
            let text = "the tree has one order; o sorts by name, size, own data, added and age";
            return self.tell(MessageKind::Note, text);
        }
        self.view.wish.is_reversed = !self.view.wish.is_reversed;
        self.refresh_lines(None);
    }

    /// Compares two nodes, and goes to the one whose details tell of it.
    fn compare_nodes(&mut self) -> TerminalEffects {
        match self.compared_pair() {
            Ok((from, to)) => {
                self.reveal_line(&to);
                vec![TerminalEffect::Compare { from, to }]
            }
            Err(reason) => {
                self.tell(MessageKind::Note, reason);
                Vec::new()
            }
        }
    }

    /// The two that are meant: what is marked, in the tree's order; what is marked and the one
    /// under the cursor; or, where nothing is marked, that one and what it stands on.
    fn compared_pair(&self) -> Result<(String, String), &'static str> {
        let marked = self.lines.iter().map(|line| &line.key);
        let mut marked = marked
            .filter(|key| self.view.marked.contains(*key))
            .cloned();
        let here = self.cursor_name().map(str::to_owned);
        match (marked.next(), marked.next(), marked.next()) {
            (_, _, Some(_)) => Err("two can be compared: Space takes a mark away"),
            (Some(from), Some(to), None) => Ok((from, to)),
            (Some(from), None, _) => match here {
                Some(here) if here == from => Err("mark or go to another one, to compare it with"),
                Some(here) => Ok((from, here)),
                None => Err("a shared base has no name, and cannot be compared"),
            },
            (None, ..) => {
                let below = self.cursor_facts().and_then(|facts| facts.chain.first());
                let below = below.and_then(|link| link.name.clone());
                let reason = "it stands on nothing that has a name; Space marks two to compare";
                below.zip(here).ok_or(reason)
            }
        }
    }

    fn read_guest(&mut self) -> TerminalEffects {
        let name = self.cursor_name().map(str::to_owned);
        if name.is_none() {
            self.tell(MessageKind::Note, "a shared base is no guest's disk");
        }
        name.map(TerminalEffect::ReadGuest).into_iter().collect()
    }

    fn count_anew(&mut self) -> TerminalEffects {
        if self.view.page == ScreenPage::Backups {
            self.is_reading_backups = true;
            return vec![TerminalEffect::ReadBackups];
        }
        self.is_counting = true;
        vec![TerminalEffect::CountUsage]
    }

    fn show_page(&mut self, page: ScreenPage) -> TerminalEffects {
        self.view = TerminalView {
            page,
            row: 0,
            answer: None,
            is_zoomed: false,
            is_in_details: false,
            ..std::mem::take(&mut self.view)
        };
        match page {
            ScreenPage::Store if self.usage.is_none() && !self.is_counting => self.count_anew(),
            ScreenPage::Backups if self.backups.is_none() && !self.is_reading_backups => {
                self.count_anew()
            }
            _ => Vec::new(),
        }
    }

    fn cancel_job(&mut self) -> TerminalEffects {
        let row = self.cursor_row().and_then(|row| match row.subject {
            RowSubject::Job(number) => Some(number),
            _ => None,
        });
        let number = self.view.answer.or(row);
        let job = number.and_then(|number| self.find_job(number)).cloned();
        let Some(job) = job else {
            self.tell(
                MessageKind::Note,
                "there is no job of this program under the cursor",
            );
            return Vec::new();
        };
        if job.job_end().is_some() {
            self.tell(
                MessageKind::Note,
                format!("\"{}\" has ended already", job.title),
            );
            return Vec::new();
        }
        self.tell(
            MessageKind::Note,
            format!("asked \"{}\" to stop", job.title),
        );
        vec![TerminalEffect::StopJob(job.number)]
    }

    fn ask_to_quit(&mut self) -> TerminalEffects {
        let running = self.running_count();
        if running == 0 {
            return vec![TerminalEffect::Quit];
        }
        self.view.dialog = Some(ScreenDialog::Quit { running });
        Vec::new()
    }

    /// Ends a dialog as if it had not been opened, or leads to the page before.
    fn lead_back(&mut self) {
        match self.view.dialog.take() {
            Some(ScreenDialog::Search { before, .. }) => {
                let order = self.view.wish.order.order_key();
                self.view.wish = TreeWish::new(&before, order, self.view.wish.is_reversed);
                self.refresh_lines(None);
            }
            Some(ScreenDialog::Plan(_) | ScreenDialog::Form(_)) => {
                self.tell(MessageKind::Note, "nothing was changed");
            }
            Some(_) => {}
            None if self.view.answer.is_some() => self.view.answer = None,
            None if self.view.is_in_details => {
                self.view.is_in_details = false;
                self.view.is_zoomed = false;
            }
            None if self.view.page != ScreenPage::Tree => self.view.page = ScreenPage::Tree,
            None => {
                self.view.marked.clear();
                self.view.wish.search.clear();
                self.refresh_lines(None);
            }
        }
    }

    fn accept_dialog(&mut self) -> TerminalEffects {
        match self.view.dialog.take() {
            Some(ScreenDialog::Menu { actions, cursor }) => match actions.get(cursor) {
                Some(key) => self.begin_named(key),
                None => Vec::new(),
            },
            Some(ScreenDialog::Form(form)) => self.plan_form(form),
            Some(ScreenDialog::Search { .. }) => {
                if self.shown.is_empty() {
                    self.tell(
                        MessageKind::Warning,
                        "nothing has that in its name, tags or machines",
                    );
                }
                Vec::new()
            }
            Some(dialog) => {
                self.view.dialog = Some(dialog);
                Vec::new()
            }
            None => {
                self.open_row();
                Vec::new()
            }
        }
    }

    /// Shows the answer of the job under the cursor.
    fn open_row(&mut self) {
        match self.cursor_row().map(|row| row.subject) {
            Some(RowSubject::Job(number)) => {
                self.view.answer = Some(number);
                self.view.answer_top = 0;
            }
            Some(RowSubject::Nothing) | None => {
                self.tell(MessageKind::Note, "there is nothing more to show of this");
            }
            Some(_) => self.tell(MessageKind::Note, "a lists what can be done to it"),
        }
    }

    fn confirm_dialog(&mut self) -> TerminalEffects {
        match self.view.dialog.take() {
            Some(ScreenDialog::Quit { .. }) => vec![TerminalEffect::Quit],
            Some(ScreenDialog::Plan(sheet)) => self.do_plan(sheet),
            other => {
                self.view.dialog = other;
                Vec::new()
            }
        }
    }
}

/// A cursor that was at `at`, after a step in what ends at `last`.
fn stepped(at: usize, step: CursorStep, page: usize, last: usize) -> usize {
    let to = match step {
        CursorStep::Up => at.saturating_sub(1),
        CursorStep::Down => at + 1,
        CursorStep::PageUp => at.saturating_sub(page),
        CursorStep::PageDown => at + page,
        CursorStep::First => 0,
        CursorStep::Last => last,
    };
    to.min(last)
}
