//! The effects of news on the state of the program: a tree that changed, jobs that ended, answers.
//! Pure.

use std::sync::Arc;

use super::model::{AwaitedJob, MessageKind, ScreenDialog, TerminalAnswer, TerminalModel};
use crate::jobs::CommandJob;
use crate::operations::{MachineFacts, TreeLine, message_lines};

impl TerminalModel {
    /// Takes news.
    pub(crate) fn take_answer(&mut self, answer: TerminalAnswer) {
        match answer {
            TerminalAnswer::Tree(lines, machines) => self.take_tree(lines, machines),
            TerminalAnswer::Jobs(jobs, shells) => {
                (self.jobs, self.shells) = (jobs, shells);
                self.tell_ended_jobs();
            }
            TerminalAnswer::Preview(number, preview) => {
                if let Some(ScreenDialog::Plan(sheet)) = &mut self.view.dialog
                    && sheet.number == number
                {
                    sheet.preview = Some(preview);
                }
            }
            TerminalAnswer::Begun(Ok(number), has_long_answer) => {
                self.view.marked.clear();
                self.awaited.push(AwaitedJob {
                    number,
                    has_long_answer,
                });
                self.tell(MessageKind::Note, "it runs; 2 shows jobs");
            }
            TerminalAnswer::Begun(Err(refused), _) => {
                let text = format!("{refused}; wait for one to end, or cancel one");
                self.tell(MessageKind::Error, text);
            }
            TerminalAnswer::Usage(usage) => {
                self.is_counting = false;
                match usage {
                    Ok(usage) => self.usage = Some(usage),
                    Err(fault) => self.tell(MessageKind::Error, fault.message),
                }
            }
            TerminalAnswer::Backups(backups) => {
                self.is_reading_backups = false;
                self.backups = Some(backups);
            }
            TerminalAnswer::Changed(name, Ok(changed)) => {
                let text = format!("{name} differs by {}", self.difference_text(&changed));
                self.tell(MessageKind::Note, text);
                self.changed = Some((name, changed));
            }
            TerminalAnswer::Changed(_, Err(fault)) => self.tell(MessageKind::Error, fault.message),
            TerminalAnswer::Guest(name, Ok(parts)) => self.guest = Some((name, parts)),
            TerminalAnswer::Guest(_, Err(fault)) => self.tell(MessageKind::Error, fault.message),
            TerminalAnswer::GuestRate(rate) => self.guest_rate = rate,
            TerminalAnswer::Notice(line) => self.tell(MessageKind::Warning, line),
        }
        let last = self.page_rows().len().saturating_sub(1);
        self.view.row = self.view.row.min(last);
    }

    fn take_tree(&mut self, lines: Arc<Vec<TreeLine>>, machines: Vec<MachineFacts>) {
        let key = self.cursor_line().map(|line| line.key.clone());
        self.lines = lines;
        self.machines = machines;
        // What was counted is of another state.
        self.usage = None;
        self.changed = None;
        self.guest = None;
        self.refresh_lines(key.as_deref());
        self.go_to_next();
    }

    /// Puts the cursor on what a job made, once the tree has it.
    fn go_to_next(&mut self) {
        let lines = &self.lines;
        let is_there = |name: &mut String| lines.iter().any(|line| line.key == *name);
        if let Some(next) = self.next.take_if(is_there) {
            self.reveal_line(&next);
        }
    }

    /// Tells of jobs of this program that have ended.
    fn tell_ended_jobs(&mut self) {
        let awaited = std::mem::take(&mut self.awaited);
        for awaited in awaited {
            match self.find_job(awaited.number).cloned() {
                Some(job) if job.job_end().is_some() => self.tell_end(&job, awaited),
                Some(_) => self.awaited.push(awaited),
                None => {}
            }
        }
    }

    fn tell_end(&mut self, job: &CommandJob, awaited: AwaitedJob) {
        let Some(end) = job.job_end() else { return };
        let (_, word) = end.end_word();
        let is_done = end.end.code == 0;
        let told = end.end.output.lines().next().map(str::to_owned);
        let error = message_lines(&end.end.messages).next().map(str::to_owned);
        let text = if is_done {
            told.unwrap_or_else(|| format!("{}: {word}", job.title))
        } else {
            error.unwrap_or_else(|| format!("{}: {word}", job.title))
        };
        let kind = match end.end.code {
            0 => MessageKind::Note,
            3 | 130 | 143 => MessageKind::Warning,
            _ => MessageKind::Error,
        };
        self.tell(kind, text);
        if is_done {
            self.next.clone_from(&job.next);
            self.go_to_next();
        }
        let is_stopped = matches!(end.end.code, 130 | 143);
        let is_worth_showing = (awaited.has_long_answer || !is_done) && !is_stopped;
        if is_worth_showing && self.view.dialog.is_none() {
            self.view.answer = Some(job.number);
            self.view.answer_top = 0;
        }
    }
}
