//! Signing in with the token, and out.

use axum::extract::{Request, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{RouteContext, first_value, html_answer, line_answer, read_form};
use crate::pages::sign_in::sign_in_page;
use crate::server::opening_url;

/// Exchanges the token for a session.
pub(super) async fn begin_session(
    State(context): State<RouteContext>,
    request: Request,
) -> Response {
    let pairs = match read_form(request).await {
        Ok(pairs) => pairs,
        Err(refused) => return refused,
    };
    let state = &context.state;
    let session = match state
        .sessions
        .exchange_token(first_value(&pairs, "token").trim())
    {
        Ok(Some(session)) => session,
        Ok(None) => return sign_in_answer(StatusCode::FORBIDDEN, true),
        Err(error) => {
            return line_answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("no chance: {error}"),
            );
        }
    };
    (state.announce)(opening_url(
        state.names.own_host(),
        &state.sessions.token_text(),
    ));
    let cookie = format!(
        "{}={session}; Path=/; HttpOnly; SameSite=Strict",
        state.names.cookie_name()
    );
    let headers = [(SET_COOKIE, cookie), (LOCATION, "/".to_owned())];
    (StatusCode::SEE_OTHER, headers).into_response()
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
    let cookie = format!(
        "{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",
        state.names.cookie_name()
    );
    let headers = [(SET_COOKIE, cookie), (LOCATION, "/".to_owned())];
    (StatusCode::SEE_OTHER, headers).into_response()
}

pub(super) fn sign_in_answer(status: StatusCode, is_refused: bool) -> Response {
    let mut answer = html_answer(sign_in_page(is_refused));
    *answer.status_mut() = status;
    answer
}
