//! Jobs: what runs, how far it is, and how everything ended.

use std::sync::Arc;

use maud::{Markup, html};

use super::{node_address, show_messages, show_time};
use crate::jobs::{CommandJob, seconds_text};
use crate::operations::ShellCommand;

pub(crate) fn jobs_pane(jobs: &[Arc<CommandJob>], shells: &[ShellCommand]) -> Markup {
    html! {
        h1 { "Jobs" }
        div data-live="jobs" { (jobs_table(jobs, shells)) }
        p.quiet { "Jobs of this page, until the manager ends." }
    }
}

/// The part of the page that changes by itself.
pub(crate) fn jobs_table(jobs: &[Arc<CommandJob>], shells: &[ShellCommand]) -> Markup {
    html! {
        @if !shells.is_empty() {
            h2 { "In shells, now" }
            table.list {
                thead { tr { th { "Command" } th { "Began" } } }
                tbody {
                    @for command in shells {
                        tr { td { code { (command.line) } } td { (show_time(command.began_ms)) } }
                    }
                }
            }
            h2 { "Of this page" }
        }
        @if jobs.is_empty() { p { "Nothing was done yet." } }
        @else {
            table.list {
                thead { tr { th { "Job" } th { "State" } th { "Began" } } }
                tbody {
                    @for job in jobs {
                        tr {
                            td { a href={ "/jobs/" (job.number) } data-pane { (job.title) } }
                            td { (job_state(job)) }
                            td { (show_time(job.began_ms)) }
                        }
                    }
                }
            }
        }
    }
}

fn job_state(job: &CommandJob) -> Markup {
    if let Some(end) = job.job_end() {
        let (class, word) = end.end_word();
        return html! { span class={ "state " (class) } { (word) } };
    }
    html! {
        span.state.running { "running" }
        @if let Some(share) = job.progress_share() { " " (share) " %" }
    }
}

/// One job, whole.
pub(crate) fn job_pane(job: &CommandJob, next: Option<&str>) -> Markup {
    html! {
        h1 { (job.title) }
        div data-live={ "jobs/" (job.number) } { (job_body(job)) }
        p.command { code { (job.command_line()) } }
        @if let Some(next) = next.filter(|_| has_done(job)) {
            p { a href=(node_address(next)) data-pane { "Show " (next) } }
        }
        p { a href="/jobs" data-pane { "All jobs" } }
    }
}

fn has_done(job: &CommandJob) -> bool {
    job.job_end().is_some_and(|end| end.end.code == 0)
}

/// The part of a job's page that changes by itself.
pub(crate) fn job_body(job: &CommandJob) -> Markup {
    let Some(end) = job.job_end() else {
        let note = job.watch.last_progress().unwrap_or_default();
        return html! {
            p { span.state.running { "running" } " since " (show_time(job.began_ms)) }
            progress max=[note.total] value=[note.total.map(|_| note.done)]
                aria-label="Progress" {}
            p.progress-text { (note.text) }
            @if job.watch.is_stopped() { p { "It was asked to stop." } }
            @else {
                form method="post" action={ "/jobs/" (job.number) "/stop" } data-pane {
                    button type="submit" { "Cancel" }
                }
            }
        };
    };
    let (class, word) = end.end_word();
    html! {
        p {
            span class={ "state " (class) } { (word) }
            " after " (seconds_text(end.ended_ms.saturating_sub(job.began_ms)))
        }
        @if !end.end.output.is_empty() { pre.answer { (end.end.output) } }
        div.messages { (show_messages(&end.end.messages)) }
        @if job.download.is_some() && end.end.code == 0 {
            p {
                a.button.primary href={ "/jobs/" (job.number) "/file" } download
                    { "Download the file" }
            }
        }
    }
}

/// The answer of a job that has just ended, above what it changed.
pub(crate) fn told_answer(job: &CommandJob) -> Markup {
    let end = job.job_end();
    let Some(end) = end else { return html! {} };
    let (class, _) = end.end_word();
    html! {
        div class={ "told " (class) } role="status" {
            @for line in end.end.output.lines() { p { (line) } }
            (show_messages(&end.end.messages))
        }
    }
}
