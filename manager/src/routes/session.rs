//! Signing in with the token or the password, and out.

use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{FormPairs, RouteContext, first_value, html_answer, line_answer, read_form};
use crate::listener::ConnectionPeer;
use crate::pages::sign_in::sign_in_page;
use crate::remote_access::PasswordDoor;
use crate::state::ManagerState;

/// Exchanges the token, or the password, for a session.
pub(super) async fn begin_session(
    State(context): State<RouteContext>,
    Extension(peer): Extension<ConnectionPeer>,
    request: Request,
) -> Response {
    let pairs = match read_form(request).await {
        Ok(pairs) => pairs,
        Err(refused) => return refused,
    };
    let state = &context.state;
    let session = match &state.door {
        Some(door) => session_for_password(state, door, pairs, &peer).await,
        None => session_for_token(state, &pairs),
    };
    match session {
        Ok(Some(session)) => session_answer(state, &session, ""),
        Ok(None) => sign_in_answer(state, StatusCode::FORBIDDEN, true),
        Err(error) => line_answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("no chance: {error}"),
        ),
    }
}

fn session_for_token(state: &ManagerState, pairs: &FormPairs) -> std::io::Result<Option<String>> {
    let token = first_value(pairs, "token").trim();
    let session = state.sessions.exchange_token(token)?;
    if session.is_some() {
        (state.announce)(state.opening_url());
    }
    Ok(session)
}

async fn session_for_password(
    state: &ManagerState,
    door: &PasswordDoor,
    pairs: FormPairs,
    peer: &ConnectionPeer,
) -> std::io::Result<Option<String>> {
    let password = first_value(&pairs, "password").to_owned();
    if !door.lets_in(password, peer.address()).await {
        return Ok(None);
    }
    state.sessions.begin_session(Instant::now()).map(Some)
}

/// Ends the session.
pub(super) async fn end_session(
    State(context): State<RouteContext>,
    headers: HeaderMap,
) -> Response {
    let state = &context.state;
    if let Some(session) = state.names.session_of(&headers) {
        state.sessions.end_session(session);
    }
    session_answer(state, "", "; Max-Age=0")
}

/// Leads to the first page, with `session` in the cookie.
fn session_answer(state: &ManagerState, session: &str, age: &str) -> Response {
    let (name, attributes) = (
        state.names.cookie_name(),
        state.names.transport().cookie_attributes(),
    );
    let cookie = format!("{name}={session}; {attributes}{age}");
    let headers = [(SET_COOKIE, cookie), (LOCATION, "/".to_owned())];
    (StatusCode::SEE_OTHER, headers).into_response()
}

pub(super) fn sign_in_answer(
    state: &ManagerState,
    status: StatusCode,
    is_refused: bool,
) -> Response {
    let mut answer = html_answer(sign_in_page(state.door.is_some(), is_refused));
    *answer.status_mut() = status;
    answer
}
