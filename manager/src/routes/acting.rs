//! Answers that lead to a change: a form, its plan, and the job that does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::reading::framed_answer;
use super::{
    FormPairs, RouteContext, first_value, line_answer, read_form, refusal_page, run_blocking,
};
use crate::actions::{ActionInput, ActionSpec, FieldKind, PlanPreview, PlannedAction, find_action};
use crate::files::{existing_path, new_path};
use crate::jobs::{CommandJob, JobAftermath, JobOrder};
use crate::operations::CommandSink;
use crate::pages::actions::{FormPlaces, action_form, plan_pane};
use crate::pages::node_address;
use crate::state::ManagerState;

/// The wait for short work, so that its result is the next page.
const SHORT_WORK: Duration = Duration::from_millis(1500);
/// The beginning of a source that is an upload.
const UPLOAD_WORD: &str = "upload:";

/// An action with what was filled in, checked as far as the manager can.
struct ReadyAction {
    action: &'static ActionSpec,
    input: ActionInput,
    planned: PlannedAction,
    /// The upload that it takes.
    upload: Option<u64>,
}

fn split_pairs(pairs: FormPairs) -> (String, ActionInput) {
    let (mut key, mut nodes, mut fields) = (String::new(), Vec::new(), BTreeMap::new());
    for (name, value) in pairs {
        match name.as_str() {
            "do" => key = value,
            "node" => nodes.push(value),
            _ => drop(fields.insert(name, value)),
        }
    }
    (key, ActionInput { nodes, fields })
}

/// The form of an action.
pub(super) async fn show_form(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(pairs): Query<FormPairs>,
) -> Response {
    form_answer(&context, &headers, pairs).await
}

/// The same with fields that were filled in, or nodes that were picked.
pub(super) async fn show_form_again(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    match read_form(request).await {
        Ok(pairs) => form_answer(&context, &headers, pairs).await,
        Err(refused) => refused,
    }
}

async fn form_answer(context: &RouteContext, headers: &HeaderMap, pairs: FormPairs) -> Response {
    if let Some(refused) = read_only_refusal(context, headers).await {
        return refused;
    }
    let (key, input) = split_pairs(pairs);
    match find_action(&key) {
        Ok(action) if input.nodes.is_empty() && !action.fits_store() => {
            let message = "nothing is selected";
            let hint = Some("select images or snapshots in the tree first");
            refusal_page(context, headers, StatusCode::BAD_REQUEST, message, hint).await
        }
        Ok(action)
            if !input
                .nodes
                .iter()
                .all(|node| action.fits_node(node.contains('@'))) =>
        {
            let message = format!("\"{}\" is not for this", action.title);
            let status = StatusCode::BAD_REQUEST;
            refusal_page(context, headers, status, &message, None).await
        }
        Ok(action) => form_page(context, headers, action, &input, None).await,
        Err(fault) => {
            let status = StatusCode::NOT_FOUND;
            refusal_page(context, headers, status, &fault.to_string(), None).await
        }
    }
}

async fn form_page(
    context: &RouteContext,
    headers: &HeaderMap,
    action: &ActionSpec,
    input: &ActionInput,
    fault: Option<&str>,
) -> Response {
    let state = &context.state;
    let places = FormPlaces {
        folders: state
            .folders
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        uploads: state.spool.list_uploads(),
        upload_limit: state.operations.format_bytes(state.spool.limit()),
    };
    let pane = action_form(action, input, &places, fault);
    let selected = selected_node(action, input);
    let mut answer = framed_answer(context, headers, action.title, pane, selected).await;
    if fault.is_some() {
        *answer.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    }
    answer
}

/// The node that is shown as the chosen one in the tree.
fn selected_node<'i>(action: &ActionSpec, input: &'i ActionInput) -> Option<&'i str> {
    let first = input.nodes.first().map(String::as_str);
    first.filter(|_| !action.fits_machine())
}

async fn read_only_refusal(context: &RouteContext, headers: &HeaderMap) -> Option<Response> {
    let reason = context.state.facts.read_only_reason.as_ref()?;
    let message = format!("nothing can be changed here: {reason}");
    Some(refusal_page(context, headers, StatusCode::FORBIDDEN, &message, None).await)
}

/// The action of a form, or the answer that says what is wrong with it.
async fn ready_action(
    context: &RouteContext,
    headers: &HeaderMap,
    request: Request,
) -> Result<ReadyAction, Response> {
    let pairs = read_form(request).await?;
    if let Some(refused) = read_only_refusal(context, headers).await {
        return Err(refused);
    }
    let (key, input) = split_pairs(pairs);
    let action = match find_action(&key) {
        Ok(action) => action,
        Err(fault) => {
            let status = StatusCode::NOT_FOUND;
            return Err(refusal_page(context, headers, status, &fault.to_string(), None).await);
        }
    };
    let state = Arc::clone(&context.state);
    let asked = input.clone();
    let planned = run_blocking(move || plan_with_files(action, &asked, &state)).await?;
    match planned {
        Ok((planned, upload)) => Ok(ReadyAction {
            action,
            input,
            planned,
            upload,
        }),
        Err(fault) => Err(form_page(context, headers, action, &input, Some(&fault)).await),
    }
}

/// The plan of an action, with files as they really are, and the upload that it takes.
fn plan_with_files(
    action: &ActionSpec,
    input: &ActionInput,
    state: &ManagerState,
) -> Result<(PlannedAction, Option<u64>), String> {
    let (mut input, mut upload) = (input.clone(), None);
    let files = action
        .fields
        .iter()
        .filter(|field| matches!(field.kind, FieldKind::Source | FieldKind::Target));
    for field in files {
        let text = input
            .fields
            .get(field.key)
            .map_or("", |text| text.trim())
            .to_owned();
        let number = text
            .strip_prefix(UPLOAD_WORD)
            .and_then(|number| number.parse().ok());
        let path = match (field.kind, number) {
            (FieldKind::Source, Some(number)) => {
                upload = Some(number);
                state
                    .spool
                    .file_path(number)
                    .map_err(|refused| refused.to_string())
            }
            (FieldKind::Source, None) => {
                existing_path(&state.folders, &text).map_err(|refused| refused.to_string())
            }
            _ => new_path(&state.folders, &text).map_err(|refused| refused.to_string()),
        };
        let path = path?.into_os_string().into_string();
        let path = path.map_err(|_| "the path is no text".to_owned())?;
        input.fields.insert(field.key.to_owned(), path);
    }
    let planned = action
        .plan_action(&input)
        .map_err(|fault| fault.to_string())?;
    Ok((planned, upload))
}

/// Shows the effects of an action, and the button that does it.
pub(super) async fn show_plan(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let ready = match ready_action(&context, &headers, request).await {
        Ok(ready) => ready,
        Err(refused) => return refused,
    };
    let operations = Arc::clone(&context.state.operations);
    let words = ready.planned.preview.clone();
    let preview = run_blocking(move || {
        words.map(|words| PlanPreview::run_preview(operations.as_ref(), &words))
    });
    match preview.await {
        Ok(preview) => {
            let pane = plan_pane(ready.action, &ready.input, &ready.planned, preview.as_ref());
            let selected = selected_node(ready.action, &ready.input);
            framed_answer(&context, &headers, ready.action.title, pane, selected).await
        }
        Err(fault) => fault,
    }
}

/// Begins an action, and shows its result, or how far it is.
pub(super) async fn run_action(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let ready = match ready_action(&context, &headers, request).await {
        Ok(ready) => ready,
        Err(refused) => return refused,
    };
    let state = Arc::clone(&context.state);
    let (action, next) = (ready.action, ready.planned.next.clone());
    let order = match action_order(&state, ready) {
        Ok(order) => order,
        Err(refused) => {
            let status = StatusCode::CONFLICT;
            return refusal_page(&context, &headers, status, &refused, None).await;
        }
    };
    let begun = run_blocking(move || {
        let job = state.jobs.begin_job(&state.operations, order)?;
        let end = job.await_end(SHORT_WORK);
        Ok::<_, crate::jobs::JobRefusal>((job, end))
    });
    match begun.await {
        Ok(Ok((job, Some(end)))) if end.end.code == 0 && !action.has_long_answer() => {
            see_other(&told_address(action, next.as_deref(), &job))
        }
        Ok(Ok((job, _))) => see_other(&format!("/jobs/{}", job.number)),
        Ok(Err(refused)) => {
            let hint = Some("wait for one to end, or cancel one");
            let status = StatusCode::TOO_MANY_REQUESTS;
            refusal_page(&context, &headers, status, &refused.to_string(), hint).await
        }
        Err(fault) => fault,
    }
}

fn told_address(action: &ActionSpec, next: Option<&str>, job: &CommandJob) -> String {
    match next {
        _ if action.fits_machine() => format!("/machines?told={}", job.number),
        Some(name) => format!("{}&told={}", node_address(name), job.number),
        None => format!("/?told={}", job.number),
    }
}

/// The job of an action. An upload is held while it is read, and goes once it is stored.
fn action_order(state: &Arc<ManagerState>, ready: ReadyAction) -> Result<JobOrder, String> {
    let next = ready.planned.next.as_deref();
    let title = ready.action.job_title(&ready.input, next);
    let aftermath = match ready.upload {
        Some(number) => {
            let held = state.spool.hold_file(number);
            held.map_err(|refused| refused.to_string())?;
            let state = Arc::clone(state);
            Some(Box::new(move |end: &crate::operations::CommandEnd| {
                if end.code == 0 {
                    state.spool.remove_upload(number);
                } else {
                    state.spool.release_file(number);
                }
            }) as JobAftermath)
        }
        None => None,
    };
    Ok(JobOrder {
        title,
        words: ready.planned.words,
        sink: CommandSink::Kept,
        next: ready.planned.next,
        download: None,
        aftermath,
    })
}

/// Asks a job to stop.
pub(super) async fn stop_job(
    State(context): State<RouteContext>,
    Path(number): Path<u64>,
) -> Response {
    match context.state.jobs.find_job(number) {
        Some(job) => {
            job.watch.stop_command();
            see_other(&format!("/jobs/{number}"))
        }
        None => line_answer(StatusCode::NOT_FOUND, "there is no such job"),
    }
}

/// Opens and closes branches of the tree.
pub(super) async fn change_branches(
    State(context): State<RouteContext>,
    request: Request,
) -> Response {
    let pairs = match read_form(request).await {
        Ok(pairs) => pairs,
        Err(refused) => return refused,
    };
    let state = Arc::clone(&context.state);
    let change = move || match first_value(&pairs, "close") {
        "none" => state.replace_closed(std::iter::empty()),
        "all" => {
            let lines = state.tree_lines();
            let above = lines.iter().filter_map(|line| line.hangs_from);
            let above: std::collections::BTreeSet<usize> = above.collect();
            state.replace_closed(above.into_iter().map(|line| lines[line].key.clone()));
        }
        "these" => {
            let keys = pairs.iter().filter(|(name, _)| name == "branch");
            state.replace_closed(keys.map(|(_, key)| key.clone()));
        }
        _ => state.toggle_branch(first_value(&pairs, "branch")),
    };
    match run_blocking(change).await {
        Ok(()) => see_other("/"),
        Err(fault) => fault,
    }
}

/// Leads on to `address`, which is one of this server.
pub(super) fn see_other(address: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, address.to_owned())]).into_response()
}
