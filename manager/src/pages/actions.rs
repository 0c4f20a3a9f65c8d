//! The form of an action, and its plan: what it will do, and the button that does it.

use maud::{Markup, html};

use super::{node_address, show_messages};
use crate::actions::{ActionField, ActionInput, ActionSpec, FieldKind, PlanPreview, PlannedAction};
use crate::jobs::shell_line;
use crate::uploads::UploadStatus;

/// The places from which a disk may come, and to which one may go.
pub(crate) struct FormPlaces {
    /// Folders on the server's machine that may be named.
    pub(crate) folders: Vec<String>,
    /// Uploads that have arrived.
    pub(crate) uploads: Vec<UploadStatus>,
    /// The longest file that may be uploaded, for people.
    pub(crate) upload_limit: String,
}

/// Names of a selection that are shown.
const NAMES_MAX: usize = 50;

pub(crate) fn action_form(
    action: &ActionSpec,
    input: &ActionInput,
    places: &FormPlaces,
    fault: Option<&str>,
) -> Markup {
    html! {
        (way_back(action, input))
        h1 { (action.title) }
        (subject_list(input))
        p { (action.meaning) }
        @if let Some(fault) = fault { div.messages role="alert" { p.error { (fault) } } }
        form.fields method="post" action="/plan" data-pane {
            input type="hidden" name="do" value=(action.key);
            @for node in &input.nodes { input type="hidden" name="node" value=(node); }
            @for field in action.fields { (form_field(field, input, places)) }
            div.buttons { button.primary type="submit" { "Continue" } }
        }
    }
}

fn way_back(action: &ActionSpec, input: &ActionInput) -> Markup {
    html! {
        p.back {
            @match input.nodes.as_slice() {
                _ if action.fits_machine() => a href="/machines" data-pane { "‹ Machines" },
                [node] => a href=(node_address(node)) data-pane { "‹ " (node) },
                _ => a href="/" data-pane { "‹ Tree" },
            }
        }
    }
}

fn subject_list(input: &ActionInput) -> Markup {
    html! {
        @if !input.nodes.is_empty() {
            ul.subjects {
                @for node in input.nodes.iter().take(NAMES_MAX) { li { (node) } }
                @if input.nodes.len() > NAMES_MAX {
                    li.quiet { "and " (input.nodes.len() - NAMES_MAX) " more" }
                }
            }
        }
    }
}

fn form_field(field: &ActionField, input: &ActionInput, places: &FormPlaces) -> Markup {
    let id = format!("field-{}", field.key);
    let value = input.fields.get(field.key).map_or("", String::as_str);
    let hint_id = format!("{id}-hint");
    let hint = (!field.hint.is_empty()).then_some(hint_id.as_str());
    html! {
        div.field {
            @match field.kind {
                FieldKind::Check => {
                    label.check {
                        input type="checkbox" name=(field.key) value="on" checked[value == "on"];
                        (field.label)
                    }
                }
                FieldKind::Choice(choices) => {
                    label for=(id) { (field.label) }
                    select id=(id) name=(field.key) {
                        @for (choice, words) in choices {
                            option value=(choice) selected[*choice == value] { (words) }
                        }
                    }
                }
                FieldKind::Text => {
                    label for=(id) { (field.label) }
                    (text_input(&id, field, value, hint))
                }
                FieldKind::Source => {
                    (source_field(&id, field, value, places))
                }
                FieldKind::Target => {
                    label for=(id) { (field.label) }
                    (text_input(&id, field, value, hint))
                    (folder_links(&places.folders))
                }
            }
            @if hint.is_some() { p.quiet id=(hint_id) { (field.hint) } }
        }
    }
}

fn text_input(id: &str, field: &ActionField, value: &str, hint: Option<&str>) -> Markup {
    html! {
        input id=(id) type="text" name=(field.key) value=(value) autocomplete="off"
            spellcheck="false" required[field.is_required] aria-describedby=[hint];
    }
}

/// A path on the server's machine, or an upload.
fn source_field(id: &str, field: &ActionField, value: &str, places: &FormPlaces) -> Markup {
    html! {
        label for=(id) { (field.label) }
        input id=(id) type="text" name=(field.key) value=(value) autocomplete="off"
            spellcheck="false" required aria-describedby="source-hint";
        p.quiet #source-hint {
            "A whole path on the server's machine, or an upload."
        }
        (folder_links(&places.folders))
        @for upload in places.uploads.iter().filter(|upload| upload.arrived == upload.len) {
            p { code { "upload:" (upload.number) } " " (upload.name) }
        }
        div.drop #drop data-limit=(places.upload_limit) hidden {
            label for="upload-file" {
                "Or drop a disk here, or choose one (up to " (places.upload_limit) ")"
            }
            input #upload-file type="file";
            progress #upload-progress max="1" value="0" aria-label="Upload" hidden {}
            p #upload-text role="status" {}
        }
    }
}

fn folder_links(folders: &[String]) -> Markup {
    html! {
        @if folders.is_empty() {
            p.quiet { "No folder of the server was named with " code { "--files" } "." }
        } @else {
            p.quiet {
                "Folders: "
                @for folder in folders {
                    @let address = format!("/folder?path={}", super::query_value(folder));
                    a href=(address) target="_blank" { (folder) }
                    " "
                }
            }
        }
    }
}

/// The plan: what the action will do, and the button that does it.
pub(crate) fn plan_pane(
    action: &ActionSpec,
    input: &ActionInput,
    planned: &PlannedAction,
    preview: Option<&PlanPreview>,
) -> Markup {
    let is_possible = preview.is_none_or(|preview| preview.is_fine);
    html! {
        (way_back(action, input))
        h1 { (action.title) }
        div.plan {
            @for sentence in &planned.sentences { p { (sentence) } }
            @if let Some(preview) = preview {
                @for line in preview.output.lines() { p { (line) } }
                div.messages { (show_messages(&preview.messages)) }
            }
        }
        p.command { "Command: " code { (shell_line(&planned.words)) } }
        @if is_possible {
            form method="post" action="/run" data-pane {
                (hidden_input(action, input))
                div.buttons {
                    button.primary.grave[action.is_destructive] type="submit"
                        { (action.title) }
                }
            }
        }
        form method="post" action="/act" data-pane {
            (hidden_input(action, input))
            button.plain type="submit" { "Change it" }
        }
    }
}

fn hidden_input(action: &ActionSpec, input: &ActionInput) -> Markup {
    html! {
        input type="hidden" name="do" value=(action.key);
        @for node in &input.nodes { input type="hidden" name="node" value=(node); }
        @for (key, value) in &input.fields { input type="hidden" name=(key) value=(value); }
    }
}
