//! The rows of the pages beside the tree, the details of a node, and the lines of sheets: texts
//! alone.

use super::folded_rows::fold_rows;
use super::key_table::{ScreenPage, all_bindings};
use super::model::{ScreenDialog, TerminalModel};
use super::page_row::{PageRow, RowSubject};
use crate::action_table::ACTIONS;
use crate::actions::find_action;
use crate::jobs::{CommandJob, age_text, now_ms, seconds_text, shell_line};
use crate::operations::{
    ChangedCells, GuestPart, MachineFacts, NodeFacts, NodeHolding, NodeKind, NodeLink,
    RepositoryFacts, message_lines,
};

/// Names of a list that are told of a node.
const LINKS_MAX: usize = 50;
/// Parts of the strip that shows where a disk differs from another.
pub(crate) const STRIP_CELLS: usize = 60;
impl TerminalModel {
    /// The rows of the present page, if it is not the tree.
    pub(crate) fn page_rows(&self) -> Vec<PageRow> {
        match self.view.page {
            ScreenPage::Tree => Vec::new(),
            ScreenPage::Jobs => self.job_rows(),
            ScreenPage::Store => self.store_rows(),
            ScreenPage::Machines => self.machine_rows(),
            ScreenPage::Backups => self.backup_rows(),
        }
    }

    fn job_rows(&self) -> Vec<PageRow> {
        let own = self.jobs.iter().map(|job| {
            let text = format!("{:<34} {}", job.title, self.job_state(job));
            PageRow::of_subject(text, RowSubject::Job(job.number))
        });
        let shells = self.shells.iter().map(|shell| {
            let began = (self.words.format_time)(shell.began_ms);
            PageRow::plain(format!("in a shell since {began}: {}", shell.line))
        });
        let mut rows: Vec<PageRow> = own.chain(shells).collect();
        if rows.is_empty() {
            rows.push(PageRow::plain("Nothing was done yet."));
        }
        rows
    }

    /// The state of a job in a few words.
    pub(crate) fn job_state(&self, job: &CommandJob) -> String {
        let began = (self.words.format_time)(job.began_ms);
        if let Some(end) = job.job_end() {
            let took = seconds_text(end.ended_ms.saturating_sub(job.began_ms));
            return format!("{} after {took}, {began}", end.end_word().1);
        }
        let share = job.progress_share();
        let share = share.map_or(String::new(), |share| format!(" {share} %"));
        let stopping = if job.watch.is_stopped() {
            ", asked to stop"
        } else {
            ""
        };
        let note = job.watch.last_progress().unwrap_or_default().text;
        format!("running{share}{stopping} {note}")
    }

    fn store_rows(&self) -> Vec<PageRow> {
        let facts = &self.facts;
        let count = |kind| self.lines.iter().filter(|line| line.kind == kind).count();
        let in_use = self.lines.iter().filter(|line| line.is_attached).count();
        let mut rows = vec![
            PageRow::fact("folder", &facts.folder),
            PageRow::fact("images", &count(NodeKind::Image).to_string()),
            PageRow::fact("snapshots", &count(NodeKind::Snapshot).to_string()),
            PageRow::fact("in use", &in_use.to_string()),
            PageRow::fact("guests", &format!("{} requests/s", self.guest_rate)),
            PageRow::fact("vellum", &facts.version),
        ];
        if let Some(reason) = &facts.read_only_reason {
            rows.push(PageRow::plain(format!(
                "Nothing can be changed here: {reason}"
            )));
        }
        rows.push(PageRow::heading("Figures"));
        match &self.usage {
            None if self.is_counting => rows.push(PageRow::plain("counting...")),
            None => rows.push(PageRow::plain("u counts them")),
            Some(usage) => {
                let figure = |(name, value, meaning): &(String, String, String)| {
                    PageRow::plain(format!("{name:24} {value:>12}  {meaning}"))
                };
                rows.extend(usage.totals.iter().map(figure));
                if usage.dead_bytes > 0 {
                    rows.push(PageRow::plain(format!(
                        "{} belong to nothing any more; giving space back (a) frees them",
                        (self.words.format_bytes)(usage.dead_bytes)
                    )));
                }
            }
        }
        rows
    }

    fn machine_rows(&self) -> Vec<PageRow> {
        if self.machines.is_empty() {
            return vec![PageRow::plain(
                "There is no machine; vellum machine create makes one.",
            )];
        }
        let rows_of = |machine: &MachineFacts| {
            let running = if machine.is_running { ", running" } else { "" };
            let disks = machine.disks.join(", ");
            let text = format!("{}{running}: {disks}", machine.name);
            let own = PageRow::of_subject(text, RowSubject::Machine(machine.name.clone()));
            let snapshots = machine.snapshots.iter().map(|(name, created_ms)| {
                let created = (self.words.format_time)(*created_ms);
                let subject = RowSubject::MachineSnapshot(name.clone());
                PageRow::of_subject(format!("  {name:30} {created}"), subject)
            });
            std::iter::once(own).chain(snapshots).collect::<Vec<_>>()
        };
        self.machines.iter().flat_map(rows_of).collect()
    }

    fn backup_rows(&self) -> Vec<PageRow> {
        match &self.backups {
            None => vec![PageRow::plain("reading...")],
            Some(backups) if backups.is_empty() => vec![PageRow::plain(
                "No repository is known: VELLUM_REPOSITORY names one.",
            )],
            Some(backups) => backups
                .iter()
                .flat_map(|repository| self.repository_rows(repository))
                .collect(),
        }
    }

    fn repository_rows(&self, repository: &RepositoryFacts) -> Vec<PageRow> {
        let moment = |ms: Option<u64>| {
            ms.map_or("never from here".to_owned(), |ms| {
                (self.words.format_time)(ms)
            })
        };
        let mut rows = vec![
            PageRow::heading(repository.place.clone()),
            PageRow::fact("last push", &moment(repository.pushed_ms)),
            PageRow::fact("verified", &moment(repository.verified_ms)),
            PageRow::fact("all data read", &moment(repository.read_ms)),
        ];
        rows.extend(message_lines(&repository.messages).map(PageRow::plain));
        let now_ms = now_ms();
        let unsaved = repository
            .local
            .iter()
            .filter(|node| node.taken_ms.is_none());
        let (unsaved, all) = (unsaved.count(), repository.local.len());
        rows.push(PageRow::plain(format!(
            "{unsaved} of {all} images and snapshots of the store have no point here"
        )));
        rows.extend(repository.points.iter().map(|point| {
            let taken = (self.words.format_time)(point.taken_ms);
            let local = if point.is_local {
                "here too"
            } else {
                "not here"
            };
            let age = age_text(point.taken_ms, now_ms);
            let text = format!("  {:30} {taken}  {age} ago, {local}", point.name);
            PageRow::of_subject(text, RowSubject::Point(point.name.clone()))
        }));
        rows
    }

    /// The details of the line under the cursor, folded to their part of the screen.
    pub(crate) fn detail_lines(&self) -> Vec<PageRow> {
        let width = self.layout().details.map_or(0, |part| part.width);
        fold_rows(&self.detail_rows(), width.into())
    }

    fn detail_rows(&self) -> Vec<PageRow> {
        let Some(line) = self.cursor_line() else {
            return Vec::new();
        };
        if line.kind == NodeKind::Base {
            return vec![
                PageRow::heading(line.title.clone()),
                PageRow::plain("Several share this, although it has no name."),
            ];
        }
        match &self.node {
            Some((key, Ok(facts))) if *key == line.key => self.node_lines(facts),
            Some((key, Err(fault))) if *key == line.key => {
                let hint = fault.hint.iter().map(|hint| format!("hint: {hint}"));
                let lines = std::iter::once(format!("error: {}", fault.message)).chain(hint);
                lines.map(PageRow::plain).collect()
            }
            _ => Vec::new(),
        }
    }

    fn node_lines(&self, facts: &NodeFacts) -> Vec<PageRow> {
        let kind = if facts.is_snapshot {
            "Snapshot"
        } else {
            "Image"
        };
        let in_use = if facts.is_attached { ", in use" } else { "" };
        let bytes = |bytes| (self.words.format_bytes)(bytes);
        let mut rows = vec![
            PageRow::heading(format!("{kind} {}{in_use}", facts.name)),
            PageRow::fact(
                "size",
                &format!("{} ({} bytes)", bytes(facts.size), facts.size),
            ),
        ];
        if let Some(created) = facts.created_ms {
            rows.push(PageRow::fact("created", &(self.words.format_time)(created)));
        }
        let fields = facts.fields.iter();
        rows.extend(fields.map(|(name, value)| PageRow::fact(name, value)));
        if !facts.tags.is_empty() {
            rows.push(PageRow::fact("tags", &facts.tags.join(", ")));
        }
        if facts.is_pinned {
            rows.push(PageRow::fact("pinned", "yes"));
        }
        rows.extend(link_rows("stands on", &facts.chain));
        rows.extend(link_rows("snapshots", &facts.snapshots));
        rows.extend(link_rows("carries", &facts.children));
        rows.extend(self.holding_rows(&facts.name));
        if let Some((name, changed)) = &self.changed
            && *name == facts.name
        {
            rows.extend(self.strip_rows(changed));
        }
        rows.extend(self.guest_rows(&facts.name));
        let exports = facts.exports.iter();
        rows.extend(exports.map(|place| PageRow::fact(place.label, &place.text)));
        rows
    }

    fn holding_rows(&self, name: &str) -> Vec<PageRow> {
        let nodes = self.usage.iter().flat_map(|usage| &usage.nodes);
        let Some(holding) = nodes.into_iter().find(|node| node.name == name) else {
            let text = if self.is_counting {
                "counting..."
            } else {
                "u counts it"
            };
            return vec![PageRow::fact("holds", text)];
        };
        let NodeHolding {
            alone,
            with_lineage,
            with_siblings,
            with_others,
            ..
        } = holding;
        let bytes = |bytes: &u64| (self.words.format_bytes)(*bytes);
        vec![
            PageRow::fact(
                "holds alone",
                &format!("{}; deleting it frees that, after gc", bytes(alone)),
            ),
            PageRow::fact(
                "shares",
                &format!(
                    "{} with its lineage, {} with its image, {} with others",
                    bytes(with_lineage),
                    bytes(with_siblings),
                    bytes(with_others)
                ),
            ),
        ]
    }

    fn guest_rows(&self, name: &str) -> Vec<PageRow> {
        let Some((_, parts)) = self.guest.as_ref().filter(|(read, _)| read == name) else {
            return vec![PageRow::fact("file systems", "f reads them")];
        };
        let bytes = |bytes| (self.words.format_bytes)(bytes);
        let row = |part: &GuestPart| {
            let used = match (part.free, &part.remark) {
                (Some(free), _) => {
                    let used = part.len.saturating_sub(free);
                    format!("{} used, {} free", bytes(used), bytes(free))
                }
                (None, remark) => remark.clone().unwrap_or_default(),
            };
            let text = format!(
                "{}, {} of {}: {used}",
                part.kind,
                part.name,
                bytes(part.len)
            );
            PageRow::fact("holds", &text)
        };
        if parts.is_empty() {
            return vec![PageRow::fact("file systems", "nothing on it is known")];
        }
        parts.iter().map(row).collect()
    }

    fn strip_rows(&self, changed: &ChangedCells) -> Vec<PageRow> {
        let signs = self.look.degree_signs();
        let degree = |cell: &u64| {
            let share = (*cell as f64 / changed.cell_len.max(1) as f64).min(1.0);
            // The root makes little changes visible: most changes are little.
            signs[(5.0 * share.sqrt()).ceil() as usize]
        };
        let mut rows = vec![PageRow::fact("differs by", &self.difference_text(changed))];
        if changed.cells.iter().any(|cell| *cell > 0) {
            rows.push(PageRow::plain("from front to back:"));
            rows.push(PageRow::plain(
                changed.cells.iter().map(degree).collect::<String>(),
            ));
        }
        rows
    }

    /// The amount by which a disk differs from another.
    pub(crate) fn difference_text(&self, changed: &ChangedCells) -> String {
        let cells = changed.cells.iter();
        let sum = cells.fold(0_u64, |sum, cell| sum.saturating_add(*cell));
        if sum == 0 {
            return format!("nothing: it is as {} is", changed.from);
        }
        format!("{} from {}", (self.words.format_bytes)(sum), changed.from)
    }

    /// The answer of a job, or how far it is, folded to the screen.
    pub(crate) fn answer_lines(&self) -> Vec<PageRow> {
        fold_rows(&self.answer_rows(), self.size.0.into())
    }

    fn answer_rows(&self) -> Vec<PageRow> {
        let job = self.view.answer.and_then(|number| self.find_job(number));
        let Some(job) = job else {
            return vec![PageRow::plain("This job is not remembered any more.")];
        };
        let mut rows = vec![
            PageRow::heading(job.title.clone()),
            PageRow::plain(job.command_line()),
            PageRow::plain(self.job_state(job)),
            PageRow::plain(""),
        ];
        if let Some(end) = job.job_end() {
            rows.extend(end.end.output.lines().map(PageRow::plain));
            rows.extend(message_lines(&end.end.messages).map(PageRow::plain));
        }
        rows
    }

    /// The lines of the plan that is shown.
    pub(crate) fn plan_lines(&self) -> Vec<PageRow> {
        let Some(ScreenDialog::Plan(sheet)) = &self.view.dialog else {
            return Vec::new();
        };
        let planned = &sheet.planned;
        let mut rows: Vec<PageRow> = planned.sentences.iter().map(PageRow::plain).collect();
        match (&sheet.preview, &planned.preview) {
            (Some(preview), _) => {
                rows.extend(preview.output.lines().map(PageRow::plain));
                rows.extend(message_lines(&preview.messages).map(PageRow::plain));
            }
            (None, Some(_)) => rows.push(PageRow::plain("the plan is being made...")),
            (None, None) => {}
        }
        rows.push(PageRow::plain(""));
        rows.push(PageRow::plain(shell_line(&planned.words)));
        let is_fine = sheet.preview.as_ref().is_none_or(|preview| preview.is_fine);
        let is_loss = find_action(sheet.action).is_ok_and(|action| action.is_destructive);
        let question = match (is_fine, is_loss) {
            (false, _) => "It cannot be done. n leads back.",
            (true, true) => "This loses something. y does it, n leaves it.",
            (true, false) => "y does it, n leaves it.",
        };
        rows.push(PageRow::heading(question));
        rows
    }

    /// The sheet of keys and signs.
    pub(crate) fn help_lines(&self) -> Vec<PageRow> {
        use super::key_table::KeyScope;
        let scopes = [
            (KeyScope::Tree, "In the tree"),
            (KeyScope::Pages, "On every page"),
            (KeyScope::Details, "In the details"),
            (KeyScope::List, "On other pages"),
            (KeyScope::Machines, "On the page of machines"),
            (KeyScope::Form, "In a form"),
            (KeyScope::Plan, "On a plan"),
        ];
        let mut rows = Vec::new();
        for (scope, title) in scopes {
            rows.push(PageRow::heading(title));
            let heard = all_bindings().filter(|binding| binding.scope == scope);
            rows.extend(heard.map(|binding| {
                PageRow::plain(format!("  {:10} {}", binding.label, binding.meaning))
            }));
            if scope == KeyScope::Tree {
                let actions = ACTIONS
                    .iter()
                    .filter_map(|action| Some((action.letter?, action)));
                rows.extend(actions.map(|(letter, action)| {
                    PageRow::plain(format!("  {letter:<10} {}", action.title))
                }));
            }
        }
        rows.push(PageRow::heading("Signs"));
        let signs = [
            (NodeKind::Image, "image: it goes on changing"),
            (NodeKind::Snapshot, "snapshot: it does not"),
            (
                NodeKind::Base,
                "what several still share although it has no name",
            ),
        ];
        rows.extend(signs.map(|(kind, meaning)| {
            PageRow::plain(format!("  {:10} {meaning}", self.look.node_sign(kind)))
        }));
        rows
    }
}

fn link_rows(title: &str, links: &[NodeLink]) -> Vec<PageRow> {
    let more = links.len().saturating_sub(LINKS_MAX);
    let rows = links.iter().take(LINKS_MAX).enumerate().map(|(nth, link)| {
        let label = if nth == 0 { title } else { "" };
        PageRow::fact(label, &link.title)
    });
    let more = (more > 0).then(|| PageRow::fact("", &format!("and {more} more")));
    rows.chain(more).collect()
}
