//! The store: what it is, its figures, and the repositories that it is pushed to.

use maud::{Markup, html};

use super::node::lazy_section;
use super::{node_address, query_value, show_messages, show_time};
use crate::action_table::ACTIONS;
use crate::actions::ActionSubject;
use crate::jobs::{age_text, now_ms};
use crate::operations::{
    BackupPoint, LocalBackup, NodeKind, Operations, RepositoryFacts, StoreFacts, StoreUsage,
    TreeLine,
};

/// Images and snapshots whose backups are told: those that need one most.
const LOCAL_MAX: usize = 200;

/// The facts that are told at once, without counting.
pub(crate) fn overview_pane(
    facts: &StoreFacts,
    lines: &[TreeLine],
    is_counted: bool,
    told: Markup,
) -> Markup {
    let count = |kind| lines.iter().filter(|line| line.kind == kind).count();
    let in_use = lines.iter().filter(|line| line.is_attached).count();
    html! {
        (told)
        h1 { "The store" }
        dl.facts {
            dt { "folder" } dd { (facts.folder) }
            dt { "images" } dd { (count(NodeKind::Image)) }
            dt { "snapshots" } dd { (count(NodeKind::Snapshot)) }
            dt { "in use" } dd { (in_use) }
            dt { "guests" } dd { span #guest-rate { "0" } " requests/s" }
            dt { "vellum" } dd { (facts.version) }
        }
        @if let Some(reason) = &facts.read_only_reason {
            p.warning { "Nothing can be changed here: " (reason) }
        }
        @else {
            (subject_buttons(ActionSubject::Store))
        }
        (lazy_section("Figures", "Count them", "/figures", is_counted))
    }
}

/// The figures and pictures of the store.
pub(crate) fn figures_part(usage: &StoreUsage, operations: &dyn Operations) -> Markup {
    html! {
        h2 { "Figures" }
        dl.facts {
            @for (name, value, meaning) in &usage.totals {
                dt { (name) }
                dd { (value) " " span.quiet { (meaning) } }
            }
        }
        @if usage.dead_bytes > 0 {
            p {
                (operations.format_bytes(usage.dead_bytes))
                " belong to nothing any more; giving space back frees them."
            }
        }
        @for (nth, (title, _)) in usage.pictures.iter().enumerate() {
            figure {
                figcaption { (title) }
                img src={ "/picture?nth=" (nth) } alt=(title) loading="lazy";
            }
        }
    }
}

/// The repositories that this store knows.
pub(crate) fn backups_pane(repositories: &[RepositoryFacts], is_read_only: bool) -> Markup {
    html! {
        h1 { "Backups" }
        @if repositories.is_empty() {
            p { "This store knows of no repository. Name one when the manager starts:" }
            p.command { code { "VELLUM_REPOSITORY=/mnt/backup vellum manager" } }
        }
        @for repository in repositories {
            section aria-label=(repository.place) {
                h2 { (repository.place) }
                @if !is_read_only { (subject_buttons(ActionSubject::Repository)) }
                dl.facts {
                    dt { "last push" } dd { (moment_or_never(repository.pushed_ms)) }
                    dt { "last verified" } dd { (moment_or_never(repository.verified_ms)) }
                    dt { "last data read" } dd { (moment_or_never(repository.read_ms)) }
                }
                div.messages { (show_messages(&repository.messages)) }
                (local_table(&repository.local))
                (points_table(&repository.points, is_read_only))
            }
        }
    }
}

/// The images and snapshots of the store, those without a backup first, then the oldest backups.
fn local_table(local: &[LocalBackup]) -> Markup {
    let mut local: Vec<&LocalBackup> = local.iter().collect();
    local.sort_by_key(|node| (node.taken_ms, node.name.clone()));
    let missing = local.iter().filter(|node| node.taken_ms.is_none()).count();
    let now_ms = now_ms();
    html! {
        @if !local.is_empty() {
            h3 { "In the store" }
            p { (missing) " of " (local.len()) " images and snapshots have no point here." }
            table.list {
                thead { tr { th { "Name" } th { "Last backup" } th { "Age" } } }
                tbody {
                    @for node in local.iter().take(LOCAL_MAX) {
                        tr {
                            td { a href=(node_address(&node.name)) data-pane { (node.name) } }
                            @match node.taken_ms {
                                Some(taken) => {
                                    td { (show_time(taken)) }
                                    td { (age_text(taken, now_ms)) }
                                }
                                None => { td { "never" } td {} }
                            }
                        }
                    }
                }
            }
            @if local.len() > LOCAL_MAX {
                p.quiet { "and " (local.len() - LOCAL_MAX) " more, whose backups are younger" }
            }
        }
    }
}

fn points_table(points: &[BackupPoint], is_read_only: bool) -> Markup {
    let address = |key: &str, point: &BackupPoint| {
        format!("/act?do={key}&point={}", query_value(&point.name))
    };
    html! {
        @if !points.is_empty() {
            h3 { "In the repository" }
            table.list {
                thead {
                    tr {
                        th { "Point" } th { "Taken" } th { "In the store" }
                        @if !is_read_only { th { "Bring it back" } }
                    }
                }
                tbody {
                    @for point in points {
                        tr {
                            td { (point.name) }
                            td { (show_time(point.taken_ms)) }
                            td { @if point.is_local { "yes" } @else { "no" } }
                            @if !is_read_only {
                                td {
                                    a href=(address("pull", point)) data-pane
                                        aria-label={ "Pull " (point.name) } { "pull" }
                                    " "
                                    a href=(address("restore-file", point)) data-pane
                                        aria-label={ "Restore " (point.name) " to a file" }
                                        { "to a file" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The buttons of all actions on `subject`.
fn subject_buttons(subject: ActionSubject) -> Markup {
    html! {
        div.actions role="group" aria-label="Actions" {
            @for action in ACTIONS.iter().filter(|action| action.subject == subject) {
                a.button.grave[action.is_destructive] href={ "/act?do=" (action.key) }
                    data-letter=[action.letter] data-pane { (action.title) }
            }
        }
    }
}

fn moment_or_never(moment: Option<u64>) -> Markup {
    moment.map_or_else(|| html! { "never from here" }, show_time)
}
