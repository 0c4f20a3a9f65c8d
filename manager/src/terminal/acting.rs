//! The way of an action: what it is done to, its form, its plan, and the wish to do it. Pure.

use super::action_form::ActionForm;
use super::key_table::ScreenPage;
use super::model::{
    MessageKind, PlanSheet, ScreenDialog, TerminalEffect, TerminalEffects, TerminalModel,
};
use super::page_row::RowSubject;
use crate::action_table::ACTIONS;
use crate::actions::{ActionSpec, ActionSubject, find_action};
use crate::operations::NodeKind;

impl TerminalModel {
    pub(super) fn do_plan(&mut self, sheet: PlanSheet) -> TerminalEffects {
        let fault = match (&sheet.preview, &sheet.planned.preview) {
            (Some(preview), _) if !preview.is_fine => Some("the plan says why it cannot be done"),
            (None, Some(_)) => Some("the plan is still being made"),
            _ => None,
        };
        if let Some(fault) = fault {
            self.view.dialog = Some(ScreenDialog::Plan(sheet));
            self.tell(MessageKind::Warning, fault);
            return Vec::new();
        }
        let Ok(action) = find_action(sheet.action) else {
            return Vec::new();
        };
        let next = sheet.planned.next.clone();
        vec![TerminalEffect::BeginJob {
            title: action.job_title(&sheet.input, next.as_deref()),
            words: sheet.planned.words,
            next,
            has_long_answer: action.has_long_answer(),
        }]
    }

    /// Opens the list of what can be done here.
    pub(super) fn open_menu(&mut self) {
        let row = self.cursor_row().map(|row| row.subject);
        let node = self
            .cursor_facts()
            .filter(|_| self.view.page == ScreenPage::Tree);
        let fits = |action: &&ActionSpec| match (action.subject, self.view.page) {
            (ActionSubject::Store, ScreenPage::Tree | ScreenPage::Store) => true,
            (ActionSubject::Repository, ScreenPage::Backups) => true,
            (ActionSubject::Machine, _) => matches!(row, Some(RowSubject::Machine(_))),
            (ActionSubject::MachineSnapshot, _) => {
                matches!(row, Some(RowSubject::MachineSnapshot(_)))
            }
            _ => node.is_some_and(|node| action.suits_node(node)),
        };
        let actions: Vec<_> = ACTIONS
            .iter()
            .filter(fits)
            .map(|action| action.key)
            .collect();
        if let Some(reason) = &self.facts.read_only_reason {
            let text = format!("nothing can be changed here: {reason}");
            return self.tell(MessageKind::Warning, text);
        }
        if actions.is_empty() {
            return self.tell(MessageKind::Note, "nothing can be done to this");
        }
        self.view.dialog = Some(ScreenDialog::Menu { actions, cursor: 0 });
    }

    pub(super) fn begin_named(&mut self, key: &str) -> TerminalEffects {
        match find_action(key) {
            Ok(action) => self.begin_action(action),
            Err(fault) => {
                self.tell(MessageKind::Error, fault.to_string());
                Vec::new()
            }
        }
    }

    /// Opens the form of an action, or its plan if it asks for nothing.
    pub(super) fn begin_action(&mut self, action: &'static ActionSpec) -> TerminalEffects {
        if let Some(reason) = &self.facts.read_only_reason {
            let text = format!("nothing can be changed here: {reason}");
            self.tell(MessageKind::Warning, text);
            return Vec::new();
        }
        let nodes = match self.action_nodes(action) {
            Ok(nodes) => nodes,
            Err(fault) => {
                self.tell(MessageKind::Warning, fault);
                return Vec::new();
            }
        };
        let mut form = ActionForm::new(action, nodes);
        if let Some(RowSubject::Point(point)) = self.cursor_row().map(|row| row.subject) {
            form.fill_field("point", point);
        }
        if action.fields.is_empty() {
            return self.plan_form(form);
        }
        self.view.dialog = Some(ScreenDialog::Form(form));
        Vec::new()
    }

    /// The names that an action is done to.
    fn action_nodes(&self, action: &ActionSpec) -> Result<Vec<String>, String> {
        let refused = |thing: &str| format!("\"{}\" is not for {thing}", action.title);
        if action.fits_store() {
            return Ok(Vec::new());
        }
        if action.fits_machine() {
            let row = self.cursor_row().map(|row| row.subject);
            return match (action.subject, row) {
                (ActionSubject::Machine, Some(RowSubject::Machine(name)))
                | (ActionSubject::MachineSnapshot, Some(RowSubject::MachineSnapshot(name))) => {
                    Ok(vec![name])
                }
                (ActionSubject::Machine, _) => Err(refused("this; choose a machine")),
                _ => Err(refused("this; choose a machine's snapshot")),
            };
        }
        if action.subject == ActionSubject::Nodes && !self.view.marked.is_empty() {
            return Ok(self.view.marked.iter().cloned().collect());
        }
        match self.cursor_line() {
            None => Err("there is nothing to do that to".to_owned()),
            Some(line) if line.kind == NodeKind::Base => Err(refused("a shared base")),
            Some(line) => {
                let is_snapshot = line.kind == NodeKind::Snapshot;
                if action.fits_node(is_snapshot) {
                    Ok(vec![line.key.clone()])
                } else {
                    Err(refused(if is_snapshot {
                        "a snapshot"
                    } else {
                        "an image"
                    }))
                }
            }
        }
    }

    pub(super) fn plan_form(&mut self, mut form: ActionForm) -> TerminalEffects {
        let Ok(action) = find_action(form.action) else {
            return Vec::new();
        };
        let input = form.action_input(&self.folder);
        let planned = match action.plan_action(&input) {
            Ok(planned) => planned,
            Err(fault) => {
                form.fault = Some(fault.to_string());
                self.tell(MessageKind::Warning, fault.to_string());
                self.view.dialog = Some(ScreenDialog::Form(form));
                return Vec::new();
            }
        };
        self.plans += 1;
        let (number, words) = (self.plans, planned.preview.clone());
        self.view.dialog = Some(ScreenDialog::Plan(PlanSheet {
            action: action.key,
            input,
            planned,
            number,
            preview: None,
            top: 0,
        }));
        let preview = words.map(|words| TerminalEffect::Preview { number, words });
        preview.into_iter().collect()
    }
}
