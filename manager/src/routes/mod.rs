//! Routes: which request gets which answer. Every request passes the gate first, and every answer
//! has the headers that keep other pages away.

mod acting;
mod reading;
mod session;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Form, Router};
use maud::Markup;
use tokio::sync::watch;

use crate::listener::ConnectionPeer;
use crate::news_look::NewsState;
use crate::pages;
use crate::request_check::RequestRefusal;
use crate::state::ManagerState;

/// The longest form: a thousand names.
const FORM_LEN_MAX: usize = 1 << 20;
/// The longest time in which a form comes.
const FORM_TIMEOUT: Duration = Duration::from_secs(20);
/// The mark of requests that want the pane alone.
const PART_HEADER: &str = "x-vellum-part";

/// Nothing but what is served here, and no frame around it.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// The context of all handlers.
#[derive(Clone)]
pub(crate) struct RouteContext {
    pub(crate) state: Arc<ManagerState>,
    pub(crate) news: watch::Receiver<NewsState>,
    pub(crate) windows: Arc<AtomicUsize>,
}

/// The pairs of a query or a form, in order; a key may come again.
pub(crate) type FormPairs = Vec<(String, String)>;

/// The routes of the manager.
pub(crate) fn build_routes(state: Arc<ManagerState>, news: watch::Receiver<NewsState>) -> Router {
    let context = RouteContext {
        state,
        news,
        windows: Arc::default(),
    };
    Router::new()
        .route("/", get(reading::show_store))
        .route("/store", get(reading::show_store))
        .route("/node", get(reading::show_node))
        .route("/rows", get(reading::show_rows))
        .route("/holding", get(reading::show_holding))
        .route("/guest", get(reading::show_guest))
        .route("/strip", get(reading::show_strip))
        .route("/figures", get(reading::show_figures))
        .route("/picture", get(reading::show_picture))
        .route("/compare", get(reading::show_comparison))
        .route("/backups", get(reading::show_backups))
        .route("/machines", get(reading::show_machines))
        .route("/folder", get(reading::show_folder))
        .route("/keys", get(reading::show_keys))
        .route("/jobs", get(reading::show_jobs))
        .route("/jobs/{number}", get(reading::show_job))
        .route("/jobs/{number}/stop", post(acting::stop_job))
        .route("/jobs/{number}/file", get(transfer::download_file))
        .route("/events", get(reading::show_events))
        .route("/act", get(acting::show_form).post(acting::show_form_again))
        .route("/plan", post(acting::show_plan))
        .route("/run", post(acting::run_action))
        .route("/branches", post(acting::change_branches))
        .route(
            "/download",
            get(transfer::download_raw).post(transfer::prepare_download),
        )
        .route("/uploads", post(transfer::begin_upload))
        .route(
            "/uploads/{number}",
            get(transfer::show_upload).post(transfer::add_piece),
        )
        .route("/session", post(session::begin_session))
        .route("/session/end", post(session::end_session))
        .route(
            "/app.js",
            get(|| async { asset_answer("text/javascript", include_str!("../assets/app.js")) }),
        )
        .route(
            "/app.css",
            get(|| async { asset_answer("text/css", include_str!("../assets/app.css")) }),
        )
        .route(
            "/icon.svg",
            get(|| async { asset_answer("image/svg+xml", include_str!("../assets/icon.svg")) }),
        )
        .fallback(|| async { line_answer(StatusCode::NOT_FOUND, "there is no such page") })
        .layer(from_fn_with_state(context.clone(), guard_request))
        .with_state(context)
}

/// A file that is part of the program.
fn asset_answer(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text).into_response()
}

/// Lets a request through to its route if the gate does, and puts the headers on the answer.
async fn guard_request(
    State(context): State<RouteContext>,
    Extension(peer): Extension<ConnectionPeer>,
    request: Request,
    next: Next,
) -> Response {
    let state = &context.state;
    let checked = state.names.check_request(&request);
    let answer = match checked {
        Err(refused) => refused_answer(refused),
        Ok(()) if is_public(&request) => next.run(request).await,
        Ok(()) => match state.names.check_session(&request, &state.sessions) {
            Ok(()) => {
                peer.mark_known();
                next.run(request).await
            }
            // The page that asks for the token, or the password, is no failure.
            Err(_) if request.method() == Method::GET && request.uri().path() == "/" => {
                session::sign_in_answer(state, StatusCode::OK, false)
            }
            // Somebody comes back to a page after the session has ended.
            Err(refused) if state.door.is_some() && is_navigation(&request) => {
                session::sign_in_answer(state, refused.status_code(), false)
            }
            Err(refused) => refused_answer(refused),
        },
    };
    with_guard_headers(answer)
}

/// True if a window shows what comes, as the browser says.
fn is_navigation(request: &Request) -> bool {
    let wanted = request.headers().get("sec-fetch-dest");
    *request.method() == Method::GET && wanted.is_some_and(|wanted| wanted == "document")
}

/// True if nobody has to sign in for it: files that are the same everywhere, and signing in.
fn is_public(request: &Request) -> bool {
    let (method, path) = (request.method(), request.uri().path());
    match path {
        "/app.js" | "/app.css" | "/icon.svg" => *method == Method::GET,
        "/session" => *method == Method::POST,
        _ => false,
    }
}

fn refused_answer(refused: RequestRefusal) -> Response {
    let mut answer = line_answer(refused.status_code(), refused.reason_text());
    // Whatever else came on this connection is not looked at.
    answer
        .headers_mut()
        .insert("connection", HeaderValue::from_static("close"));
    answer
}

/// An answer of one line.
pub(crate) fn line_answer(status: StatusCode, reason: &str) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
    (status, kind, format!("{reason}\n")).into_response()
}

fn with_guard_headers(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    let mut put = |name: HeaderName, value: &'static str| {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    };
    put(CONTENT_SECURITY_POLICY, CONTENT_POLICY);
    put(X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(X_FRAME_OPTIONS, "DENY");
    put(REFERRER_POLICY, "no-referrer");
    put(CACHE_CONTROL, "no-store");
    put(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    put(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    put(
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    );
    answer
}

/// A page as HTML.
pub(crate) fn html_answer(markup: Markup) -> Response {
    let kind = [(CONTENT_TYPE, "text/html; charset=utf-8")];
    (kind, markup.into_string()).into_response()
}

/// Runs what may wait for a disk where it holds up nobody else.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let reason = "this met a fault in vellum; the manager goes on";
        line_answer(StatusCode::INTERNAL_SERVER_ERROR, reason)
    })
}

/// The pairs of a form, within bounds of time and length.
pub(crate) async fn read_form(request: Request) -> Result<FormPairs, Response> {
    let declared = request
        .headers()
        .get("content-length")
        .and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > FORM_LEN_MAX as u64) {
        return Err(line_answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the form is too long",
        ));
    }
    let limited = request.map(|body| Body::new(http_body_util::Limited::new(body, FORM_LEN_MAX)));
    let form = tokio::time::timeout(FORM_TIMEOUT, Form::<FormPairs>::from_request(limited, &()));
    match form.await {
        Ok(Ok(Form(pairs))) => Ok(pairs),
        Ok(Err(refused)) => Err(line_answer(
            refused.status(),
            "this is no form of these pages",
        )),
        Err(_) => Err(line_answer(
            StatusCode::REQUEST_TIMEOUT,
            "the form did not arrive",
        )),
    }
}

/// The first value of `key`.
pub(crate) fn first_value<'p>(pairs: &'p [(String, String)], key: &str) -> &'p str {
    let found = pairs.iter().find(|(name, _)| name == key);
    found.map_or("", |(_, value)| value)
}

/// True if only the pane is wanted.
pub(crate) fn wants_part(headers: &HeaderMap) -> bool {
    headers.get(PART_HEADER).is_some_and(|part| part == "pane")
}

/// A pane that says why something was refused, in the frame of a page.
pub(crate) async fn refusal_page(
    context: &RouteContext,
    headers: &HeaderMap,
    status: StatusCode,
    message: &str,
    hint: Option<&str>,
) -> Response {
    let pane = pages::refusal_pane(message, hint);
    let mut answer = reading::framed_answer(context, headers, "Not done", pane, None).await;
    *answer.status_mut() = status;
    answer
}
