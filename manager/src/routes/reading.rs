//! Answers that only show something.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::{
    FormPairs, RouteContext, first_value, html_answer, line_answer, refusal_page, run_blocking,
    wants_part,
};
use crate::events::open_stream;
use crate::files::{existing_path, list_folder};
use crate::operations::OperationFault;
use crate::pages::node::NodeView;
use crate::pages::{self, PageFrame, tree::TreePart};
use crate::state::ManagerState;
use crate::tree_view::{TreeWish, place_window};

/// Lines of the tree in a page that is loaded whole: more than a screen has.
const FIRST_LINES: usize = 100;
/// Cells of a strip: on a desk each is some pixels wide.
const STRIP_CELLS: usize = 192;

/// A picture has its colours in itself, and nothing else.
const PICTURE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'";

type PageQuery = Query<FormPairs>;

/// The whole page around `pane`, or the pane alone if that is what is wanted.
pub(super) async fn framed_answer(
    context: &RouteContext,
    headers: &HeaderMap,
    title: &str,
    pane: Markup,
    selected: Option<&str>,
) -> Response {
    frame_with(context, headers, title, pane, selected, Vec::new()).await
}

async fn frame_with(
    context: &RouteContext,
    headers: &HeaderMap,
    title: &str,
    pane: Markup,
    selected: Option<&str>,
    query: FormPairs,
) -> Response {
    if wants_part(headers) {
        let mut answer = html_answer(pane);
        let title = pages::query_value(title);
        if let Ok(title) = title.parse() {
            answer
                .headers_mut()
                .insert(HeaderName::from_static("x-vellum-title"), title);
        }
        return answer;
    }
    let state = Arc::clone(&context.state);
    let (selected, title) = (selected.map(str::to_owned), title.to_owned());
    let frame = move || {
        let (tree, _, _) = tree_markup(&state, &query, selected.as_deref(), FIRST_LINES, true);
        let frame = PageFrame {
            facts: &state.facts,
            title: &title,
            tree,
            pane,
            is_pane_first: selected.is_some() || title != "Store",
            running: state.jobs.running_jobs().len(),
            can_sign_out: state.door.is_some(),
        };
        frame.render_frame()
    };
    match run_blocking(frame).await {
        Ok(document) => html_answer(document),
        Err(fault) => fault,
    }
}

/// The tree, whole or its lines alone; where the window begins, and how many lines there are.
fn tree_markup(
    state: &ManagerState,
    query: &[(String, String)],
    selected: Option<&str>,
    count: usize,
    is_whole: bool,
) -> (Markup, usize, usize) {
    let wish = TreeWish::new(
        first_value(query, "search"),
        first_value(query, "order"),
        first_value(query, "reversed") == "on",
    );
    let lines = state.tree_lines();
    let shown = wish.shown_lines(&lines, &state.closed_branches());
    let from = first_value(query, "from").parse().unwrap_or(0);
    let around = first_value(query, "around");
    let around = Some(around).filter(|key| !key.is_empty());
    let around = around.or(selected.filter(|_| is_whole));
    let window = place_window(&lines, &shown, from, count, around);
    let part = TreePart {
        operations: state.operations.as_ref(),
        lines: &lines,
        shown: &shown,
        window: window.clone(),
        wish: &wish,
        selected,
        is_read_only: state.is_read_only(),
    };
    let markup = if is_whole {
        part.render_tree()
    } else {
        part.render_lines()
    };
    (markup, window.start, shown.len())
}

/// The store's page.
pub(super) async fn show_store(
    State(context): State<RouteContext>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    let state = Arc::clone(&context.state);
    let told = told_job(&state, &query);
    // The first page of all comes at once, whatever the store has.
    let is_counted = uri.path() == "/store" && state.counts_quickly();
    let pane =
        move || pages::store::overview_pane(&state.facts, &state.tree_lines(), is_counted, told);
    match run_blocking(pane).await {
        Ok(pane) => frame_with(&context, &headers, "Store", pane, None, query).await,
        Err(fault) => fault,
    }
}

/// The answer of the job that led here.
fn told_job(state: &ManagerState, query: &[(String, String)]) -> Markup {
    let number = first_value(query, "told").parse().ok();
    let job = number.and_then(|number| state.jobs.find_job(number));
    job.map_or_else(|| html! {}, |job| pages::jobs::told_answer(&job))
}

/// One node's page.
pub(super) async fn show_node(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    let state = Arc::clone(&context.state);
    let name = first_value(&query, "name").to_owned();
    let (told, asked) = (told_job(&state, &query), name.clone());
    let pane = move || {
        let facts = state.operations.node_facts(&asked)?;
        let operations = state.operations.as_ref();
        Ok(pages::node::node_pane(
            &facts,
            operations,
            NodeView {
                is_read_only: state.is_read_only(),
                counts_quickly: state.counts_quickly(),
            },
            told,
        ))
    };
    match run_blocking(pane).await {
        Ok(Ok(pane)) => frame_with(&context, &headers, &name, pane, Some(&name), query).await,
        Ok(Err(fault)) => fault_page(&context, &headers, StatusCode::NOT_FOUND, &fault).await,
        Err(fault) => fault,
    }
}

async fn fault_page(
    context: &RouteContext,
    headers: &HeaderMap,
    status: StatusCode,
    fault: &OperationFault,
) -> Response {
    refusal_page(
        context,
        headers,
        status,
        &fault.message,
        fault.hint.as_deref(),
    )
    .await
}

/// A window of the tree's lines.
pub(super) async fn show_rows(
    State(context): State<RouteContext>,
    Query(query): PageQuery,
) -> Response {
    let state = Arc::clone(&context.state);
    let rows = move || {
        let count = first_value(&query, "count").parse().unwrap_or(FIRST_LINES);
        let selected = Some(first_value(&query, "selected")).filter(|key| !key.is_empty());
        let (lines, from, total) = tree_markup(&state, &query, selected, count, false);
        let all = state.tree_lines().len();
        let headers = [("from", from), ("total", total), ("all", all)];
        (lines, headers)
    };
    match run_blocking(rows).await {
        Ok((lines, figures)) => {
            let mut answer = html_answer(lines);
            for (name, figure) in figures {
                let name = HeaderName::try_from(format!("x-vellum-{name}"));
                if let Ok(name) = name {
                    answer.headers_mut().insert(name, figure.into());
                }
            }
            answer
        }
        Err(fault) => fault,
    }
}

/// A part that is counted when it is looked at: alone for a script, else in a page of its own.
async fn lazy_answer(
    context: RouteContext,
    headers: HeaderMap,
    title: &'static str,
    work: impl FnOnce(&ManagerState) -> Result<Markup, OperationFault> + Send + 'static,
) -> Response {
    let state = Arc::clone(&context.state);
    match run_blocking(move || work(&state)).await {
        Ok(Ok(part)) => framed_answer(&context, &headers, title, part, None).await,
        Ok(Err(fault)) => fault_page(&context, &headers, StatusCode::CONFLICT, &fault).await,
        Err(fault) => fault,
    }
}

pub(super) async fn show_holding(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "What it holds", move |state| {
        let name = first_value(&query, "name");
        let usage = state.store_usage()?;
        let holding = usage.nodes.iter().find(|node| node.name == name);
        let holding = holding.ok_or_else(|| OperationFault {
            message: format!("there is no {name} any more"),
            hint: None,
        })?;
        Ok(pages::node::holding_part(
            holding,
            state.operations.as_ref(),
        ))
    })
    .await
}

pub(super) async fn show_guest(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "File systems", move |state| {
        let parts = state.operations.guest_parts(first_value(&query, "name"))?;
        Ok(pages::node::guest_part(&parts, state.operations.as_ref()))
    })
    .await
}

pub(super) async fn show_strip(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "Where it changed", move |state| {
        let name = first_value(&query, "name");
        let facts = state.operations.node_facts(name)?;
        let named = facts.chain.iter().find_map(|link| link.name.clone());
        let Some(parent) = named else {
            return Ok(html! {
                h2 { "Where it changed" }
                p.quiet { "It stands on nothing that has a name." }
            });
        };
        let changed = state.operations.changed_cells(&parent, name, STRIP_CELLS)?;
        Ok(html! {
            h2 { "Where it changed" }
            (pages::node::strip_part(&changed, state.operations.as_ref()))
        })
    })
    .await
}

pub(super) async fn show_figures(
    State(context): State<RouteContext>,
    headers: HeaderMap,
) -> Response {
    lazy_answer(context, headers, "Figures", |state| {
        let usage = state.store_usage()?;
        Ok(pages::store::figures_part(
            &usage,
            state.operations.as_ref(),
        ))
    })
    .await
}

/// One of the report's pictures.
pub(super) async fn show_picture(
    State(context): State<RouteContext>,
    Query(query): PageQuery,
) -> Response {
    let state = Arc::clone(&context.state);
    let nth = first_value(&query, "nth")
        .parse::<usize>()
        .unwrap_or(usize::MAX);
    match run_blocking(move || state.store_usage()).await {
        Ok(Ok(usage)) => match usage.pictures.get(nth) {
            Some((_, svg)) => {
                let headers = [
                    (CONTENT_TYPE, "image/svg+xml"),
                    (CONTENT_SECURITY_POLICY, PICTURE_POLICY),
                ];
                (headers, svg.clone()).into_response()
            }
            None => line_answer(StatusCode::NOT_FOUND, "there is no such picture"),
        },
        Ok(Err(fault)) => line_answer(StatusCode::CONFLICT, &fault.message),
        Err(fault) => fault,
    }
}

pub(super) async fn show_comparison(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "Compare", move |state| {
        let (from, to) = (first_value(&query, "from"), first_value(&query, "to"));
        let changed = state.operations.changed_cells(from, to, STRIP_CELLS)?;
        let operations = state.operations.as_ref();
        Ok(pages::compare::compare_pane(from, to, &changed, operations))
    })
    .await
}

pub(super) async fn show_backups(
    State(context): State<RouteContext>,
    headers: HeaderMap,
) -> Response {
    lazy_answer(context, headers, "Backups", |state| {
        let repositories = state.operations.known_repositories();
        Ok(pages::store::backups_pane(
            &repositories,
            state.is_read_only(),
        ))
    })
    .await
}

pub(super) async fn show_machines(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "Machines", move |state| {
        let (machines, told) = (state.operations.machine_facts(), told_job(state, &query));
        Ok(pages::machines::machines_pane(
            &machines,
            state.is_read_only(),
            told,
        ))
    })
    .await
}

pub(super) async fn show_folder(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    lazy_answer(context, headers, "Folder", move |state| {
        let fail = |error: crate::files::PathRefusal| OperationFault {
            message: error.to_string(),
            hint: Some("`vellum manager --files DIR` names a folder".to_owned()),
        };
        let folder = existing_path(&state.folders, first_value(&query, "path")).map_err(fail)?;
        let entries = list_folder(&folder).map_err(fail)?;
        Ok(pages::folder::folder_pane(
            &folder,
            &entries,
            state.operations.as_ref(),
        ))
    })
    .await
}

pub(super) async fn show_keys(State(context): State<RouteContext>, headers: HeaderMap) -> Response {
    framed_answer(&context, &headers, "Keys", pages::keys::keys_pane(), None).await
}

pub(super) async fn show_jobs(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    let jobs = context.state.jobs.list_jobs();
    let shells = context.state.operations.shell_commands();
    if first_value(&query, "live") == "on" {
        return html_answer(pages::jobs::jobs_table(&jobs, &shells));
    }
    framed_answer(
        &context,
        &headers,
        "Jobs",
        pages::jobs::jobs_pane(&jobs, &shells),
        None,
    )
    .await
}

pub(super) async fn show_job(
    State(context): State<RouteContext>,
    Path(number): Path<u64>,
    headers: HeaderMap,
    Query(query): PageQuery,
) -> Response {
    let Some(job) = context.state.jobs.find_job(number) else {
        let status = StatusCode::NOT_FOUND;
        return refusal_page(&context, &headers, status, "there is no such job", None).await;
    };
    if first_value(&query, "live") == "on" {
        return html_answer(pages::jobs::job_body(&job));
    }
    let pane = pages::jobs::job_pane(&job, job.next.as_deref());
    framed_answer(&context, &headers, &job.title, pane, None).await
}

/// The stream of news.
pub(super) async fn show_events(
    State(context): State<RouteContext>,
    headers: HeaderMap,
) -> Response {
    let state = Arc::clone(&context.state);
    let session = state
        .names
        .session_of(&headers)
        .unwrap_or_default()
        .to_owned();
    let is_signed_in = move || state.sessions.is_session(&session, Instant::now());
    let stream = open_stream(context.news.clone(), &context.windows, is_signed_in);
    stream.unwrap_or_else(|| {
        line_answer(StatusCode::SERVICE_UNAVAILABLE, "too many windows are open")
    })
}
